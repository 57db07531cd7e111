"""What is measured: one model file, or several that are run one after the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx_ir as ir

from onnxmtl import ops
from onnxmtl.deploy.bench.feeds import Dims
from onnxmtl.errors import ModelError, OnnxMTLError
from onnxmtl.frontends import onnx as files
from onnxmtl.frontends.source import MODEL_FILE
from onnxmtl.ir.passes import PassError
from onnxmtl.passes.normalize.shapes import infer_shapes


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Something that does the whole job: one multi-task model, or a model per task.

    Attributes:
        name: What tables call it.
        files: ONNX files; all are run for every batch of images, one after the other.
        labels: What reports call the files, where their paths say little; empty: their paths.
    """

    name: str
    files: tuple[Path, ...]
    labels: tuple[str, ...] = ()


def multiply_adds(file: Path, shapes: Mapping[str, Dims]) -> int:
    """Multiply-adds of convolutions and matrix products for one image, as :func:`onnxmtl.ops.multiply_adds` counts.

    Args:
        file: The model.
        shapes: As for :func:`feeds_for`.

    Raises:
        ModelError: A shape cannot be inferred, or the file has operators of which nothing is known.
    """
    model = files.load(file)
    for value in model.graph.inputs:
        given = shapes.get(str(value.name))
        if given is not None and value.shape is not None and len(given) == len(value.shape):
            value.shape = ir.Shape(["N" if size is None else size for size in given])
    try:
        infer_shapes(model)
        return sum(ops.multiply_adds(node) for node in model.graph)
    except (OnnxMTLError, PassError) as error:
        msg = f"{file}: its multiply-adds cannot be counted: {' '.join(str(error).split())}"
        raise ModelError(msg) from error


def named(paths: Sequence[Path]) -> tuple[Candidate, ...]:
    """A candidate per model file, or per directory that has a ``model.onnx``; called after what tells them apart.

    Raises:
        ModelError: The same file twice.
    """
    chosen = [path / MODEL_FILE if path.is_dir() else path for path in paths]
    words = [_words(file.resolve()) for file in chosen]
    for depth in range(1, max(map(len, words), default=0) + 1):
        names = ["/".join(parts[-depth:]) for parts in words]
        if len(set(names)) == len(names):
            return tuple(Candidate(name, (file,)) for name, file in zip(names, chosen, strict=True))
    twice = next(file for file, parts in zip(chosen, words, strict=True) if words.count(parts) > 1)
    msg = f"{twice}: is given twice (with what lies beside it); name every model once"
    raise ModelError(msg)


def _words(file: Path) -> tuple[str, ...]:
    """The parts of a path that can tell it from others: ``model.onnx`` is called after its directory."""
    parts = file.with_suffix("").parts
    return parts[:-1] if file.name == MODEL_FILE and len(parts) > 1 else parts


def separate(paths: Sequence[Path], others: Sequence[Candidate]) -> Candidate:
    """Models that are run one after the other, as the candidate that others are compared with."""
    files = [path / MODEL_FILE if path.is_dir() else path for path in paths]
    name = "separate models" if len(files) > 1 else _words(files[0].resolve())[-1]
    taken = {one.name for one in others}
    return Candidate(f"{name} (baseline)" if name in taken else name, tuple(files))
