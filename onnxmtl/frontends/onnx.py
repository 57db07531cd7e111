"""ONNX files of the user in, ONNX files with external weights out.

Everything that can be wrong with a file is found here, before any pass sees the model. Weights in external files
stay where they are: they are memory-mapped when somebody reads them. Bringing the model into the canonical form is
the next step: :func:`onnxmtl.passes.normalize.normalize`.
"""

from __future__ import annotations

import os
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped,unused-ignore]

from onnxmtl.errors import ModelError
from onnxmtl.frontends.wellformed import check_nodes
from onnxmtl.ir.external import MappedTensor, external_tensors, map_external, save_external

__all__ = ["MappedTensor", "from_proto", "load", "save_external"]

_REEXPORT = "export or download it again"


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
    return _checked(_parse(file), file)


def from_proto(proto: onnx.ModelProto) -> ir.Model:
    """Read an ONNX model in memory; `proto` is left unchanged.

    Raises:
        ModelError: As :func:`load`; and if weights lie in other files, of which a proto does not say where they are.
    """
    name = Path("ModelProto")
    for tensor in proto.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            msg = f"{name}: the weight {tensor.name!r} lies in another file; give the path of the .onnx file instead"
            raise ModelError(msg)
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    return _checked(copy, name)


def _checked(proto: onnx.ModelProto, file: Path) -> ir.Model:
    """Check a proto and turn it into a model; `file` says where it came from, and where its weights lie."""
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
    check_nodes(model, str(file))
    folder = file.absolute().parent
    for tensor in external_tensors(model):
        # An absolute base directory: onnx_ir checks for escapes again when the weights are mapped, unless it is "".
        tensor.base_dir = str(folder)
        _check_external(tensor, folder, file)
    map_external(model)
    return model


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
    """A tensor stored in the file has a type, and as many elements as its shape says."""
    if tensor.data_type == onnx.TensorProto.UNDEFINED:
        msg = f"{file}: the weight {tensor.name!r} has no type, the file is damaged; {_REEXPORT}"
        raise ModelError(msg)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return
    try:
        stored = ir.TensorProtoTensor(tensor)
        if not tensor.HasField("raw_data"):
            stored.numpy()  # numbers one by one: copied on reading anyway, and checked by that
            return
        expected = stored.nbytes
    except Exception as e:  # arbitrary bytes: whatever trips over them, the file is at fault
        msg = f"{file}: the weight {tensor.name!r} cannot be read ({_first_line(e)}); {_REEXPORT}"
        raise ModelError(msg) from e
    if len(tensor.raw_data) != expected:
        msg = (
            f"{file}: the weight {tensor.name!r} has {len(tensor.raw_data)} bytes, its shape needs {expected}; the "
            f"file is damaged, {_REEXPORT}"
        )
        raise ModelError(msg)


def _check_external(tensor: ir.ExternalTensor, folder: Path, file: Path) -> None:
    """The external file lies below the model's folder, really, and is long enough."""
    location = os.fspath(tensor.location)
    where = f"{file}: the weight {tensor.name!r} is stored in {location!r}"
    outside = f"{where}, outside the model's folder, which is refused; copy the weights into {folder} and save again"
    if "\0" in location:
        msg = f"{where}, which is no file name; {_REEXPORT}"
        raise ModelError(msg)
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
