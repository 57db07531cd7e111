"""``.caffemodel`` files: the weights of a network by layer name, V1 and today's form.

Only names and blobs are read (``WeightFile`` in the tables), packed numbers as bytes: a file of hundreds of megabytes
loads at the speed of a copy, and files of Caffe's relatives, whose other fields differ, load too.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError  # type: ignore[import-untyped,unused-ignore]

from onnxmtl.errors import ModelError
from onnxmtl.frontends.prototxt.schema import message
from onnxmtl.frontends.prototxt.upgrade import v1_types

Array = np.ndarray[Any, np.dtype[np.float32]]

MAX_BYTES = (1 << 31) - 1  # protobuf's own limit


@dataclasses.dataclass
class CaffeModel:
    """Weights that have been read, and which of them were asked for.

    Attributes:
        file: Path, for messages.
        layers: Layer name -> its blobs.
        types: Layer name -> its type in the file.
        used: Layer name -> how many of its blobs were taken.
    """

    file: str
    layers: dict[str, list[Any]]
    types: dict[str, str]
    used: dict[str, int] = dataclasses.field(default_factory=dict)

    def take(self, layer: str, index: int, shape: Sequence[int]) -> Array | None:
        """Blob `index` of a layer, or None if the file has no weights for that layer.

        Raises:
            ModelError: The blob is missing, damaged, or of another shape.
        """
        blobs = self.layers.get(layer)
        if not blobs:
            return None
        self.used[layer] = max(self.used.get(layer, 0), index + 1)
        if index >= len(blobs):
            msg = (
                f"{self.file}: layer {layer!r} has {len(blobs)} blobs, the network needs {index + 1}; "
                "the prototxt and the weights do not belong together"
            )
            raise ModelError(msg)
        found = self._shape(blobs[index])
        if _without_ones(found) != _without_ones(shape):
            msg = (
                f"{self.file}: layer {layer!r}, blob {index} has shape {_shown(found)}, the network needs "
                f"{_shown(shape)}; the prototxt and the weights do not belong together"
            )
            raise ModelError(msg)
        return self._array(layer, index, blobs[index], math.prod(found)).reshape(tuple(shape))

    def count(self, layer: str) -> int:
        """Number of blobs of a layer; 0 if the file does not have it."""
        return len(self.layers.get(layer, ()))

    def shape(self, layer: str, index: int) -> tuple[int, ...]:
        """Shape of a blob that exists."""
        return self._shape(self.layers[layer][index])

    def too_many(self) -> Iterator[str]:
        """Layers of the network that have more blobs in the file than the network reads."""
        for layer, taken in self.used.items():
            if self.count(layer) > taken:
                yield f"{layer!r} has {self.count(layer)} blobs, the network reads {taken}"

    def unused(self) -> list[str]:
        """Layers with blobs that nobody asked for."""
        return [name for name, blobs in self.layers.items() if blobs and name not in self.used]

    @staticmethod
    def _shape(blob: Any) -> tuple[int, ...]:
        if blob.HasField("shape"):
            return tuple(blob.shape.dim)
        return (blob.num, blob.channels, blob.height, blob.width)

    def _array(self, layer: str, index: int, blob: Any, count: int) -> Array:
        """The numbers; as many as the shape says (compared before anything is allocated)."""
        chunks, width = (blob.data, 4) if blob.data else (blob.double_data, 8)
        have = sum(map(len, chunks))
        if have != count * width:
            # Numbers that were not packed are no bytes: look at them the slow way.
            loose = message("BlobProto")
            loose.MergeFromString(blob.SerializeToString())
            numbers = loose.data or loose.double_data
            if len(numbers) != count:
                msg = (
                    f"{self.file}: layer {layer!r}, blob {index} has {len(numbers)} numbers, its shape says {count}; "
                    "the file is damaged, download it again"
                )
                raise ModelError(msg)
            return np.asarray(numbers, np.float32)
        content = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        return np.frombuffer(content, "<f4" if width == 4 else "<f8").astype(np.float32, copy=False)


def read(path: Path) -> CaffeModel:
    """Read a ``.caffemodel``.

    Raises:
        ModelError: No such file, HDF5, too large, truncated, or no weights in it.
    """
    if not path.is_file():
        msg = f"{path}: {'is a directory' if path.is_dir() else 'no such file'}; --weights takes a .caffemodel"
        raise ModelError(msg)
    try:
        if path.stat().st_size > MAX_BYTES:
            msg = f"{path}: is larger than 2 GiB, which protobuf cannot hold"
            raise ModelError(msg)
        content = path.read_bytes()
    except OSError as e:
        msg = f"{path}: cannot be read ({e.strerror})"
        raise ModelError(msg) from e
    if content.startswith(b"\x89HDF"):
        msg = f"{path}: is HDF5; save the weights as .caffemodel (net.save in pycaffe)"
        raise ModelError(msg)
    net = message("WeightFile")
    try:
        net.ParseFromString(content)
    except DecodeError as e:
        msg = f"{path}: is no .caffemodel, or is truncated; download it again"
        raise ModelError(msg) from e
    layers: dict[str, list[Any]] = {}
    types: dict[str, str] = {}
    old_types = v1_types()
    for layer in (*net.layers, *net.layer):
        kind: object = layer.type
        if layer.DESCRIPTOR.name == "WeightLayerV1":
            kind = old_types.get(layer.type, "")
            if layer.HasField("layer"):  # V0: name, type and blobs lie one level deeper
                layer = layer.layer
                kind = layer.type
        name = layer.name.decode(errors="replace")
        if layer.blobs or name not in layers:
            layers[name] = list(layer.blobs)
            types[name] = kind.decode(errors="replace") if isinstance(kind, bytes) else str(kind)
    if not any(layers.values()):
        msg = f"{path}: there are no weights in it; --weights takes a .caffemodel (not a .solverstate or a .prototxt)"
        raise ModelError(msg)
    return CaffeModel(str(path), layers, types)


def _without_ones(shape: Sequence[int]) -> tuple[int, ...]:
    """Older Caffe keeps every blob with four axes, ones in front."""
    dims = list(shape)
    while dims and dims[0] == 1:
        dims.pop(0)
    return tuple(dims)


def _shown(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape)) or "()"
