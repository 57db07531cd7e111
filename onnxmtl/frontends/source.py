"""Whatever the user has, a file or an object, to one raw model: :func:`read`.

torch and onnx-graphsurgeon are imported only if an object of theirs comes in; which that is, is told by the modules
that its classes come from.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import onnx
import onnx_ir as ir

from onnxmtl.errors import ModelError
from onnxmtl.frontends import onnx as files
from onnxmtl.ir import carry

Dialect: TypeAlias = Literal["auto", "caffe", "automtl"]
Kind: TypeAlias = Literal["onnx", "prototxt", "model", "proto", "graphsurgeon", "torch"]
MODEL_FILE = "model.onnx"  # what a run directory calls its model

_KNOWN = "a path (.onnx, .prototxt), a torch.nn.Module, an onnx.ModelProto, an onnx_ir.Model or a graphsurgeon Graph"

# What people have in their hands instead of a model, and what to do with it.
_OTHER_FILES = {
    ".caffemodel": "holds weights; give the network's .prototxt and this file as its weights (--weights)",
    ".data": "holds weights of an ONNX model; give the .onnx file beside it",
    **dict.fromkeys(
        (".pt", ".pth", ".ckpt", ".bin", ".safetensors"),
        "holds torch weights, not a network; build the module, load them and call onnxmtl.load(module, example_input)",
    ),
    ".pt2": "is an exported torch program; write it with torch.onnx.export(program, f='net.onnx') and give that file",
    **dict.fromkeys((".pb", ".h5", ".keras", ".tflite"), "is a TensorFlow model; convert it with tf2onnx"),
    **dict.fromkeys((".pdmodel", ".pdiparams"), "is a Paddle model; convert it with paddle2onnx"),
    ".ort": "is onnxruntime's own format; give the .onnx file that it was made from",
    **dict.fromkeys((".engine", ".plan", ".trt"), "is a TensorRT engine; give the .onnx file that it was built from"),
}


def kind_of(source: Any) -> Kind:
    """What `source` is, told without importing anything or opening a file.

    Raises:
        ModelError: It is nothing that :func:`read` takes.
    """
    if isinstance(source, ir.Model):
        return "model"
    if isinstance(source, onnx.ModelProto):
        return "proto"
    if isinstance(source, (str, os.PathLike)):
        return _kind_of_file(Path(source))
    if _is_a(source, "torch.nn.modules.module", "Module"):
        return "torch"
    if _is_a(source, "onnx_graphsurgeon.ir.graph", "Graph"):
        return "graphsurgeon"
    msg = f"{_name(type(source))} is no model: give {_KNOWN}"
    if isinstance(source, Mapping) and any(_is_a(value, "torch", "Tensor") for value in source.values()):
        msg = f"{_name(type(source))} holds weights, not a network; load them into the torch module and give that"
    if isinstance(source, type) and any(
        _is_class(base, "torch.nn.modules.module", "Module") for base in source.__mro__
    ):
        msg = f"{source.__name__} is a class, not a network; give an instance, {source.__name__}()"
    raise ModelError(msg)


def read(
    source: Any,
    example_input: Any = None,
    *,
    weights: str | os.PathLike[str] | None = None,
    dialect: Dialect = "auto",
) -> ir.Model:
    """Read a network from where it is.

    Args:
        source: A path (``.onnx``, ``.prototxt``, or a directory with ``model.onnx`` in it), a ``torch.nn.Module``, an
            ``onnx.ModelProto``, an ``onnx_ir.Model`` or an ``onnx_graphsurgeon.Graph``. Objects are left unchanged.
        example_input: For a torch module, and only for one: a tensor, or a tuple of them, as its forward takes them.
        weights: For a prototxt, and only for one: its ``.caffemodel``.
        dialect: Of a prototxt; ``auto`` tells by the fields in it.

    Returns:
        The raw model, not yet normalized; remarks are in :func:`onnxmtl.ir.diagnostics`.

    Raises:
        ModelError: It cannot be read, or an argument does not fit it; one line that says why and what to do.
    """
    kind = kind_of(source)
    shown = _shown(source, kind)
    if dialect not in get_args(Dialect):
        msg = f"dialect {dialect!r} is unknown; known are {', '.join(get_args(Dialect))}"
        raise ModelError(msg)
    if kind != "prototxt" and dialect != "auto":
        msg = f"{shown}: only a .prototxt has a dialect; leave it out"
        raise ModelError(msg)
    if kind != "prototxt" and weights is not None:
        msg = f"{shown}: weights are given for a .prototxt only, this model brings its own; leave {weights} out"
        raise ModelError(msg)
    if kind == "torch" and example_input is None:
        msg = f"{shown}: an example input is needed, as onnxmtl.load(module, torch.zeros(1, 3, 224, 224))"
        raise ModelError(msg)
    if kind != "torch" and example_input is not None:
        msg = f"{shown}: an example input is for torch modules only; leave it out"
        raise ModelError(msg)
    return _read(source, kind, example_input, weights, dialect)


def file_of(path: str | os.PathLike[str]) -> Path:
    """The file that a path stands for: itself, or the ``model.onnx`` in a directory."""
    file = Path(path)
    return file / MODEL_FILE if file.is_dir() and (file / MODEL_FILE).exists() else file


def _read(
    source: Any, kind: Kind, example_input: Any, weights: str | os.PathLike[str] | None, dialect: Dialect
) -> ir.Model:
    match kind:
        case "onnx":
            return files.load(file_of(source))
        case "prototxt":
            from onnxmtl.frontends import prototxt

            return prototxt.load(source, weights=weights, dialect=dialect)
        case "model":
            copy = source.clone()
            carry(source, copy)
            return copy  # type: ignore[no-any-return]
        case "proto":
            return files.from_proto(source)
        case "graphsurgeon":
            from onnxmtl.frontends.graphsurgeon import from_graphsurgeon

            return from_graphsurgeon(source)
        case "torch":
            from onnxmtl.frontends.torch import export

            return export(source, example_input)


def _kind_of_file(path: Path) -> Kind:
    if path.is_dir():
        if (path / MODEL_FILE).exists():
            return "onnx"
        msg = f"{path}: is a directory without a {MODEL_FILE}; give the model's file"
        raise ModelError(msg)
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        return "onnx"
    if suffix == ".prototxt":
        return "prototxt"
    if not path.exists():
        msg = f"{path}: no such file"
        raise ModelError(msg)
    hint = _OTHER_FILES.get(suffix)
    msg = f"{path}: {hint}" if hint else f"{path}: {suffix or 'no suffix'} is unknown; read are .onnx and .prototxt"
    raise ModelError(msg)


def _shown(source: Any, kind: Kind) -> str:
    """How errors call the source."""
    if kind in ("onnx", "prototxt"):
        return str(source)
    return type(source).__name__ if kind == "torch" else _name(type(source))


def _is_a(source: Any, module: str, name: str) -> bool:
    return any(_is_class(base, module, name) for base in type(source).__mro__)


def _is_class(found: type, module: str, name: str) -> bool:
    return found.__module__ == module and found.__qualname__ == name


def _name(found: type) -> str:
    return found.__qualname__ if found.__module__ == "builtins" else f"{found.__module__}.{found.__qualname__}"
