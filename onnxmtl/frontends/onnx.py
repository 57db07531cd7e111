"""ONNX files of the user in, ONNX files with external weights out.

Everything that can be wrong with a file is found here, before any pass sees the model. Weights in external files
stay where they are: they are memory-mapped when somebody reads them. Bringing the model into the canonical form is
the next step: :func:`onnxmtl.passes.normalize.normalize`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped,unused-ignore]

from onnxmtl.errors import ModelError

_REEXPORT = "export or download it again"


class MappedTensor(ir.LazyTensor):
    """Memory-mapped data of another file, as a tensor that belongs to no file: written anywhere, it is complete.

    Attributes:
        source: The external tensor; read when the data is first asked for.
    """

    def __init__(self, source: ir.ExternalTensor) -> None:
        super().__init__(lambda: source, dtype=source.dtype, shape=source.shape, name=source.name)
        self.source = source


def load(path: str | os.PathLike[str]) -> ir.Model:
    """Read an ONNX file.

    Args:
        path: The ``.onnx`` file (protobuf). External weights must lie in its folder or below it.

    Returns:
        The model as it is in the file; external weights are mapped, not read.

    Raises:
        ModelError: The file does not exist, is no file, no ONNX model, truncated, empty, newer than this installation
            understands, or its external weights are missing, too short or outside the model's folder.
    """
    file = Path(path)
    proto = _parse(file)
    _check_versions(proto, file)
    _check_graph(proto.graph, file)
    try:
        model = ir.from_proto(proto)
    except Exception as e:  # deserialisation meets arbitrary input; whatever it trips over, the file is at fault
        msg = f"{file}: cannot be read as an ONNX model ({_first_line(e)}); {_REEXPORT}"
        raise ModelError(msg) from e
    try:
        model.graph.sort()  # stable: a file that is in order stays in order
    except ValueError as e:
        msg = f"{file}: the graph has a cycle; {_REEXPORT}"
        raise ModelError(msg) from e
    folder = file.absolute().parent
    for tensor in _external_tensors(model):
        # An absolute base directory: onnx_ir checks for escapes again when the weights are mapped, unless it is "".
        tensor.base_dir = str(folder)
        _check_external(tensor, folder, file)
    _detach(model)
    return model


def save_external(model: ir.Model, path: str | os.PathLike[str], *, threshold: int = 1024) -> Path:
    """Write `model` with its weights in ``<path>.data`` beside it.

    The pair is written file by file; to make it appear at once, write into a fresh directory and rename that
    (:func:`onnxmtl.runs.atomic_directory`). Models that fit into one file are written by :func:`onnxmtl.ir.save`.

    Args:
        model: Any model; left unchanged.
        path: The ``.onnx`` file to write. Must not be the file that `model`'s own weights are mapped from.
        threshold: Tensors up to this many bytes stay inside the ``.onnx`` file.

    Raises:
        ModelError: `path`'s data file is the one the weights are mapped from.
    """
    target = Path(path)
    data = target.with_name(f"{target.name}.data")
    for tensor in _external_tensors(model):
        if data.exists() and os.path.exists(tensor.path) and os.path.samefile(tensor.path, data):
            msg = f"{data}: holds the weights of the model being saved; choose another file name"
            raise ModelError(msg)
    ir.save(model, target, external_data=data.name, size_threshold_bytes=threshold)
    return target


def _parse(file: Path) -> onnx.ModelProto:
    """Bytes -> ModelProto with a graph."""
    if not file.exists():
        msg = f"{file}: no such file"
        raise ModelError(msg)
    if not file.is_file():
        msg = f"{file}: is a directory; give the .onnx file in it" if file.is_dir() else f"{file}: is not a file"
        raise ModelError(msg)
    try:
        content = file.read_bytes()
    except OSError as e:
        msg = f"{file}: cannot be read ({e.strerror})"
        raise ModelError(msg) from e
    if not content:
        msg = f"{file}: the file is empty; {_REEXPORT}"
        raise ModelError(msg)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
    except DecodeError as e:
        msg = f"{file}: is not an ONNX model, or is truncated; {_REEXPORT}"
        raise ModelError(msg) from e
    if not proto.ir_version or not proto.HasField("graph"):
        msg = f"{file}: is not an ONNX model (no graph in it), or is truncated; {_REEXPORT}"
        raise ModelError(msg)
    return proto


def _check_versions(proto: onnx.ModelProto, file: Path) -> None:
    """IR version and opset are ones the installed onnx knows."""
    if proto.ir_version > onnx.IR_VERSION:
        msg = (
            f"{file}: has IR version {proto.ir_version}, the installed onnx {onnx.__version__} knows {onnx.IR_VERSION} "
            "at most; upgrade onnx or export with a lower opset"
        )
        raise ModelError(msg)
    opsets = {entry.domain: entry.version for entry in proto.opset_import}
    opset = opsets.get("", opsets.get("ai.onnx", 0))
    known = onnx.defs.onnx_opset_version()
    if opset > known:
        msg = (
            f"{file}: uses opset {opset}, the installed onnx {onnx.__version__} knows {known} at most; upgrade onnx or "
            "export with a lower opset"
        )
        raise ModelError(msg)
    if opset < 1 and any(node.domain in ("", "ai.onnx") for node in proto.graph.node):
        msg = f"{file}: does not say which opset it uses; {_REEXPORT}"
        raise ModelError(msg)


def _check_graph(graph: onnx.GraphProto, file: Path) -> None:
    """There are nodes and outputs, and every value that is used exists (a file cut between two fields parses)."""
    if not graph.node:
        msg = f"{file}: the graph is empty; {_REEXPORT}"
        raise ModelError(msg)
    if not graph.output:
        msg = f"{file}: the graph has no outputs, the file may be truncated; {_REEXPORT}"
        raise ModelError(msg)
    known = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    known |= {tensor.values.name for tensor in graph.sparse_initializer}
    known |= {name for node in graph.node for name in node.output} | {""}
    for node in graph.node:
        for name in node.input:
            if name not in known:
                msg = (
                    f"{file}: node {node.name or node.op_type!r} uses {name!r}, which nothing produces; the file may "
                    f"be truncated, {_REEXPORT}"
                )
                raise ModelError(msg)
    for value in graph.output:
        if value.name not in known:
            msg = f"{file}: nothing produces the output {value.name!r}; the file may be truncated, {_REEXPORT}"
            raise ModelError(msg)
    for tensor in graph.initializer:
        _check_inside(tensor, file)


def _check_inside(tensor: onnx.TensorProto, file: Path) -> None:
    """A tensor stored in the file has as many bytes as its shape says."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL or not tensor.HasField("raw_data"):
        return
    try:
        expected = ir.TensorProtoTensor(tensor).nbytes
    except Exception as e:  # arbitrary bytes: whatever trips over them, the file is at fault
        msg = f"{file}: the weight {tensor.name!r} cannot be read ({_first_line(e)}); {_REEXPORT}"
        raise ModelError(msg) from e
    if len(tensor.raw_data) != expected:
        msg = (
            f"{file}: the weight {tensor.name!r} has {len(tensor.raw_data)} bytes, its shape needs {expected}; the "
            f"file is damaged, {_REEXPORT}"
        )
        raise ModelError(msg)


def _external_tensors(model: ir.Model) -> Iterator[ir.ExternalTensor]:
    """All tensors of the model that lie in other files: initializers and attributes, subgraphs and functions too."""
    found = [value.const_value for graph in model.graphs() for value in graph.initializers.values()]
    for node in _all_nodes(model):
        for attribute in node.attributes.values():
            if attribute.is_ref():
                continue
            if attribute.type is ir.AttributeType.TENSOR:
                found.append(attribute.value)
            elif attribute.type is ir.AttributeType.TENSORS:
                found.extend(attribute.value)
    for tensor in found:
        source = tensor.source if isinstance(tensor, MappedTensor) else tensor
        if isinstance(source, ir.ExternalTensor):
            yield source


def _all_nodes(model: ir.Model) -> Iterator[ir.Node]:
    holders: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    return (node for holder in holders for node in holder.all_nodes())


def _detach(model: ir.Model) -> None:
    """Forget where mapped weights came from: a model that is written elsewhere takes them along.

    onnx_ir writes an ``ExternalTensor`` as a reference to its file, which lies beside the user's model only.
    """
    for graph in model.graphs():
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                value.const_value = MappedTensor(value.const_value)
    for node in _all_nodes(model):
        for name, attribute in list(node.attributes.items()):
            if not attribute.is_ref() and isinstance(attribute.value, ir.ExternalTensor):
                node.attributes[name] = ir.AttrTensor(name, MappedTensor(attribute.value))


def _check_external(tensor: ir.ExternalTensor, folder: Path, file: Path) -> None:
    """The external file lies below the model's folder, really, and is long enough."""
    location = os.fspath(tensor.location)
    where = f"{file}: the weight {tensor.name!r} is stored in {location!r}"
    outside = f"{where}, outside the model's folder, which is refused; copy the weights into {folder} and save again"
    real = os.path.realpath(folder / location)
    lexical = os.path.normpath(folder / location)
    if os.path.isabs(location) or not location:
        raise ModelError(outside)
    if not _is_below(lexical, str(folder)) or not _is_below(real, os.path.realpath(folder)):
        raise ModelError(outside)
    if not os.path.isfile(real):
        msg = f"{where}, which does not exist; put that file beside the model"
        raise ModelError(msg)
    status = os.stat(real)
    if status.st_nlink > 1:
        msg = f"{where}, a file with several hard links, which is refused; make a copy of it"
        raise ModelError(msg)
    length = tensor.nbytes
    if tensor.length is not None and tensor.length != length:
        msg = f"{where} with {tensor.length} bytes, its shape needs {length}; {_REEXPORT}"
        raise ModelError(msg)
    if (tensor.offset or 0) < 0 or (tensor.offset or 0) + length > status.st_size:
        msg = f"{where}, which ends before it ({status.st_size} bytes); that file is truncated, {_REEXPORT}"
        raise ModelError(msg)


def _is_below(path: str, folder: str) -> bool:
    return os.path.commonpath([os.path.normpath(path), os.path.normpath(folder)]) == os.path.normpath(folder)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
