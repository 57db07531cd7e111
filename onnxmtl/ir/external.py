"""Weights in a file beside the model: mapped when they are read, written once however many initializers hold them.

A task's own copy of a weight is a value of its own with the *same* tensor until it is trained. Files keep it that way:
several initializers may point to one place of the external file, so a supermodel on disk is as large as its backbone.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
import onnx_ir as ir

from onnxmtl.errors import ModelError
from onnxmtl.ir.choice import attach_functions


class MappedFile:
    """A file that is mapped once, when somebody first asks for it, for all tensors in it.

    onnx_ir maps the whole file for every tensor, which takes a file descriptor each: a few hundred are allowed.
    """

    def __init__(self, source: ir.ExternalTensor) -> None:
        self._location, self._base_dir, self._path = source.location, source.base_dir, source.path
        self._whole: ir.ExternalTensor | None = None

    @property
    def mapped(self) -> bool:
        """Whether anybody has asked for it yet."""
        return self._whole is not None

    def buffer(self) -> mmap.mmap:
        """The file's bytes. That the file lies below the model's folder is checked again here."""
        if self._whole is None:
            size = os.path.getsize(self._path)
            shape = ir.Shape([size])
            self._whole = ir.ExternalTensor(
                self._location, 0, size, ir.DataType.UINT8, shape=shape, name="", base_dir=self._base_dir
            )
            self._whole.numpy()  # maps it
        assert self._whole.raw is not None
        return self._whole.raw


class MappedTensor(ir.LazyTensor):
    """Memory-mapped data of another file, as a tensor that belongs to no file: written anywhere, it is complete.

    Attributes:
        source: The external tensor: where the data is.
        file: The mapped file; its own one if None was given.
    """

    def __init__(self, source: ir.ExternalTensor, file: MappedFile | None = None) -> None:
        mapped = file if file is not None else MappedFile(source)
        # No method of this object: the tensor would hold itself, and its repr would not end.
        read = lambda: _read(source, mapped)  # noqa: E731
        super().__init__(read, dtype=source.dtype, shape=source.shape, name=source.name, cache=True)
        self.source = source
        self.file = mapped

    def tofile(self, file: BinaryIO) -> None:
        """Copy the bytes from file to file, past this process's memory."""
        self.source.tofile(file)


def _read(source: ir.ExternalTensor, file: MappedFile) -> ir.TensorProtocol:
    if source.dtype.bitwidth < 8 or source.size == 0:  # several elements share a byte
        return source
    kind = np.dtype(source.dtype.numpy()).newbyteorder("<")
    array = np.frombuffer(file.buffer(), kind, source.size, source.offset or 0)
    return ir.Tensor(array.reshape(source.shape.numpy()), dtype=source.dtype, name=source.name)


def map_external(model: ir.Model) -> None:
    """Turn all external tensors of `model` into mapped ones, which take their data along when they are saved.

    onnx_ir writes an ``ExternalTensor`` as a reference to its file, which lies beside the first model only. Tensors
    at one place of one file become one tensor.
    """
    files: dict[str, MappedFile] = {}
    tensors: dict[object, MappedTensor] = {}

    def mapped(source: ir.ExternalTensor) -> MappedTensor:
        file = files.setdefault(source.path, MappedFile(source))
        key = (source.path, source.offset, source.nbytes, source.dtype, tuple(source.shape.numpy()))
        return tensors.setdefault(key, MappedTensor(source, file))

    for graph in model.graphs():
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                value.const_value = mapped(value.const_value)
    for node in all_nodes(model):
        for name, attribute in list(node.attributes.items()):
            if not attribute.is_ref() and isinstance(attribute.value, ir.ExternalTensor):
                node.attributes[name] = ir.AttrTensor(name, mapped(attribute.value))


def external_tensors(model: ir.Model) -> Iterator[ir.ExternalTensor]:
    """All tensors of the model that lie in other files: initializers and attributes, subgraphs and functions too."""
    found = [value.const_value for graph in model.graphs() for value in graph.initializers.values()]
    for node in all_nodes(model):
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


def all_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """The nodes of the graph, of its subgraphs and of the functions."""
    holders: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    return (node for holder in holders for node in holder.all_nodes())


def save_external(model: ir.Model, path: str | os.PathLike[str], *, threshold: int = 1024) -> Path:
    """Write `model` with its weights in ``<path>.data`` beside it; initializers with one tensor share its bytes there.

    Both files are written beside their targets and renamed, one after the other; to make the pair appear at once,
    write into a fresh directory and rename that (:func:`onnxmtl.runs.atomic_directory`). Models that fit into one
    file are written by :func:`onnxmtl.ir.save`.

    Args:
        model: Any model; its weights stay where they are.
        path: The ``.onnx`` file to write. Must not be the file that `model`'s own weights are mapped from.
        threshold: Tensors up to this many bytes stay inside the ``.onnx`` file; sizes, axes and pads do in any case,
            because ONNX Runtime wants to read them while it loads the graph.

    Raises:
        ModelError: `path`'s data file is the one the weights are mapped from.
    """
    target = Path(path)
    data = target.with_name(f"{target.name}.data")
    for place in {tensor.path for tensor in external_tensors(model)}:
        if data.exists() and os.path.exists(place) and os.path.samefile(place, data):
            msg = f"{data}: holds the weights of the model being saved; choose another file name"
            raise ModelError(msg)
    attach_functions(model)
    beside = {file: file.with_name(f".{file.name}.{os.getpid()}.tmp") for file in (data, target)}
    inside: list[tuple[ir.Value, ir.TensorProtocol]] = []  # what was in the model, to be put back
    try:
        with beside[data].open("wb") as file:
            weights = WeightsFile(file, data.name, threshold=threshold)
            for value in [value for graph in model.graphs() for value in graph.initializers.values()]:
                outside = weights.place(value)
                if outside is not None and value.const_value is not None:
                    inside.append((value, value.const_value))
                    value.const_value = outside
        proto: onnx.ModelProto = ir.to_proto(model)
        beside[target].write_bytes(proto.SerializeToString(deterministic=True))
        for file_, temporary in beside.items():
            temporary.replace(file_)
    finally:
        for value, tensor in inside:
            value.const_value = tensor
        for temporary in beside.values():
            temporary.unlink(missing_ok=True)
    return target


class WeightsFile:
    """Tensors in one file, written once however many initializers hold them.

    Args:
        file: Open for writing.
        location: Its name, as models beside it refer to it.
        threshold: As for :func:`save_external`.
        align: Every tensor begins at a multiple of this many bytes.
    """

    def __init__(self, file: BinaryIO, location: str, *, threshold: int = 1024, align: int = 1) -> None:
        self._file, self._location, self._threshold, self._align = file, location, threshold, align
        self._written: dict[int, tuple[int, ir.TensorProtocol]] = {}  # by the tensor's id, and the tensor to keep it

    def place(self, value: ir.Value) -> ir.ExternalTensor | None:
        """Where `value`'s tensor is in the file, written there if it is not yet; None if it stays in the model."""
        tensor = value.const_value
        if tensor is None or _stays_inside(tensor, self._threshold):
            return None
        if id(tensor) not in self._written:
            self._file.write(b"\0" * (-self._file.tell() % self._align))
            self._written[id(tensor)] = (self._file.tell(), tensor)
            _write(tensor, self._file)
        offset, _ = self._written[id(tensor)]
        shape = ir.Shape(tensor.shape.numpy())
        return ir.ExternalTensor(self._location, offset, tensor.nbytes, tensor.dtype, shape=shape, name=str(value.name))


def _write(tensor: ir.TensorProtocol, file: BinaryIO) -> None:
    to_file = getattr(tensor, "tofile", None)  # all tensors of onnx_ir have it, its protocol does not name it
    if to_file is not None:
        to_file(file)
    else:
        file.write(tensor.tobytes())


def _stays_inside(tensor: ir.TensorProtocol, threshold: int) -> bool:
    if tensor.dtype is ir.DataType.STRING:
        return True
    return tensor.nbytes <= (threshold if tensor.dtype.is_floating_point() else max(threshold, 1024))
