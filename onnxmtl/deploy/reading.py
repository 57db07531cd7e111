"""A model file opened to be looked at: as far into canonical form as it goes."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import onnx_ir as ir

from onnxmtl import ops
from onnxmtl.errors import ModelError, OnnxMTLError
from onnxmtl.frontends.source import Dialect, file_of, read
from onnxmtl.ir import diagnostics, dims_of, listed
from onnxmtl.ir.passes import PassBase, PassError
from onnxmtl.passes.normalize import normalize
from onnxmtl.passes.normalize.features import CutAtFeatures
from onnxmtl.passes.normalize.shapes import infer_node
from onnxmtl.passes.pipelines import import_pipeline

_OURS = frozenset({"multitask", "final", "supermodel"})


@dataclasses.dataclass(frozen=True)
class Port:
    """An input or output: name, element type, shape (numbers, names of free dimensions, "?"); None if it is unknown."""

    name: str
    dtype: str
    shape: tuple[int | str, ...] | None


@dataclasses.dataclass(frozen=True)
class Opened:
    """A model, and what its file said before anything was changed.

    Attributes:
        model: A normalized backbone; where that failed, the network as far as it could be understood; or a model of
            ours as it is.
        file: The file.
        kind: "backbone", "multitask", "final" or "supermodel".
        opset: Of the standard operators, as in the file.
        inputs, outputs: As in the file.
        unsupported: Nodes of `model` that cannot be trained.
        file_bytes: Of the file, and of the weights beside it.
        remarks: What the import had to say, and why the network could not be normalized.
    """

    model: ir.Model
    file: Path
    kind: str
    opset: int
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    unsupported: tuple[str, ...]
    file_bytes: int
    remarks: tuple[str, ...]


def open_model(
    path: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    dialect: Dialect = "auto",
    features: Sequence[str] = (),
    input_size: tuple[int, int] | None = None,
) -> Opened:
    """Read a model, and normalize it if it is a backbone.

    Args:
        path: An ONNX file, a ``.prototxt``, or a directory with a ``model.onnx``.
        weights: The ``.caffemodel`` of a prototxt.
        dialect: Of a prototxt.
        features: Names of a backbone's features; empty: they are found.
        input_size: (height, width) of a backbone's images, where it is to differ from the exported one.

    Raises:
        ModelError: The file is no model, or the backbone has no such features.
    """
    file = file_of(path)
    raw = read(file, weights=weights, dialect=dialect)
    kind = raw.metadata_props.get("onnxmtl.kind", "backbone")
    kind = kind if kind in _OURS else "backbone"
    if (features or input_size) and kind != "backbone":
        option = "--features" if features else "--input-size"
        msg = f"{file}: is a {kind} model of onnxmtl, {option} is for backbones only; leave it out"
        raise ModelError(msg)
    facts = (raw.graph.opset_imports.get("", 0), _ports(v for v in raw.graph.inputs if not v.is_initializer()))
    outputs = _ports(raw.graph.outputs)
    if kind != "backbone":
        model, unsupported, remarks = raw, ops.refusals(raw.graph), []
    else:
        unsupported = ops.refusals_in(raw)
        try:
            model = normalize(raw, features=list(features) or None, input_size=input_size)
        except (OnnxMTLError, PassError) as error:
            if features or input_size:
                raise
            model = _as_far_as_it_goes(read(file, weights=weights, dialect=dialect))
            remarks = [f"this cannot be used as a backbone as it is: {_line(error)}"]
            # What the import would have rewritten, and did not (an If on data); an old opset is no node's fault.
            named = {refusal.node for refusal in unsupported}
            left = [refusal for refusal in ops.refusals(model.graph) if "opset" not in refusal.reason]
            unsupported += [refusal for refusal in left if refusal.node not in named]
        else:
            behind = unsupported
            unsupported = ops.refusals(model.graph)
            remarks = []
            left_over = {refusal.node for refusal in unsupported}
            gone = [str(refusal) for refusal in behind if refusal.node not in left_over]
            if gone:
                remarks.append(f"cannot be trained, but is cut off behind the features, or folded away: {listed(gone)}")
    remarks += [str(remark) for remark in diagnostics(model)]
    if unsupported:
        remarks.append(ops.refusal_message(unsupported))
    return Opened(
        model=model,
        file=file,
        kind=kind,
        opset=facts[0],
        inputs=facts[1],
        outputs=outputs,
        unsupported=tuple(ops.refusal_texts(unsupported)),
        file_bytes=_file_bytes([file, file.with_name(f"{file.name}.data"), *([Path(weights)] if weights else [])]),
        remarks=tuple(remarks),
    )


def _as_far_as_it_goes(model: ir.Model) -> ir.Model:
    """The steps of the import up to the features, without those that fail; then shapes, where they can be inferred."""
    for step in _before_features():
        try:
            model = step(model).model
        except (OnnxMTLError, PassError):
            continue  # the reason was told already: the import stops at the same place
    opsets = dict(model.graph.opset_imports)
    opsets.setdefault("", 21)
    for node in model.graph:
        try:
            infer_node(node, opsets)
        except ModelError:
            continue
    return model


def _before_features() -> Iterable[PassBase]:
    for step in import_pipeline().passes:
        if isinstance(step, CutAtFeatures):
            return
        yield step


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _ports(values: Iterable[ir.Value]) -> tuple[Port, ...]:
    ports = []
    for value in values:
        kind = "unknown" if value.dtype is None else value.dtype.name.lower()
        ports.append(Port(str(value.name), kind, dims_of(value)))
    return tuple(ports)


def _file_bytes(files: Iterable[Path]) -> int:
    """Of those files that are there."""
    try:
        return sum(file.stat().st_size for file in files if file.is_file())
    except OSError as error:
        msg = f"{error.filename}: cannot be read ({error.strerror})"
        raise ModelError(msg) from error
