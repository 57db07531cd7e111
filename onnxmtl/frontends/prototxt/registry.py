"""What a layer is to its converter, and the table of converters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from onnxmtl.errors import ModelError

if TYPE_CHECKING:
    from onnxmtl.frontends.prototxt.builder import Builder


@dataclasses.dataclass(frozen=True)
class Blob:
    """A tensor of the network.

    Attributes:
        value: In the graph.
        shape: As Caffe computes it, with the batch size that the file names.
        batched: Whether axis 0 is the batch, which is left free in the graph.
    """

    value: ir.Value
    shape: tuple[int, ...]
    batched: bool = True


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer that is being converted.

    Attributes:
        message: Its ``LayerParameter``.
        name: Its name, "" replaced by its type.
        file: Path of the prototxt.
        line: Where it begins.
        bottoms: What it reads.
        automtl: Whether the file is in AutoMTL's dialect.
        scale: The Scale layer right behind a BatchNorm, when the two become one operator.
    """

    message: Any
    name: str
    file: str
    line: int
    bottoms: tuple[Blob, ...]
    automtl: bool = False
    scale: Layer | None = None

    @property
    def type(self) -> str:
        """The layer type as written."""
        return str(self.message.type)

    @property
    def tops(self) -> tuple[str, ...]:
        """Names of what it writes."""
        return tuple(self.message.top)

    def error(self, what: str) -> ModelError:
        """An error with file, line and name of this layer."""
        return ModelError(f"{self.file}:{self.line}: layer {self.name!r} ({self.type}): {what}")

    def axis(self, axis: int, rank: int | None = None) -> int:
        """An axis that may count from the end, as one that does not.

        Raises:
            ModelError: There is no such axis.
        """
        rank = len(self.bottoms[0].shape) if rank is None else rank
        if not -rank <= axis < rank:
            raise self.error(f"axis {axis} of a blob with {rank} axes")
        return axis % rank


class UnsupportedLayerError(Exception):
    """A layer, or one of its settings, that has no counterpart; the message says which, in a few words."""


Converter = Callable[[Layer, "Builder"], Sequence[Blob]]


@dataclasses.dataclass(frozen=True)
class Entry:
    """A converter and the fields that it reads (all others are listed as ignored).

    Attributes:
        convert: Emits nodes and returns one blob for each top that it can fill.
        reads: Paths of fields, from the layer down; a path stands for all below it.
        bottoms: Fewest and most bottoms it takes.
    """

    convert: Converter
    reads: frozenset[str]
    bottoms: tuple[int, int]


_ENTRIES: dict[str, Entry] = {}
MANY = 1 << 16


def converts(*types: str, reads: str = "", bottoms: tuple[int, int] = (1, 1)) -> Callable[[Converter], Converter]:
    """Register the converter of layer types.

    Args:
        types: Layer types.
        reads: ``"convolution_param: num_output pad; other_param: x"``, the fields it reads.
        bottoms: Fewest and most bottoms.
    """

    def register(function: Converter) -> Converter:
        paths: set[str] = set()
        for part in filter(None, map(str.strip, reads.split(";"))):
            param, _, names = part.partition(":")
            paths.update(f"{param.strip()}.{name}" for name in names.split())
        for name in types:
            if name in _ENTRIES:
                msg = f"two converters for {name}"
                raise ValueError(msg)
            _ENTRIES[name] = Entry(function, frozenset(paths), bottoms)
        return function

    return register


def entry(layer_type: str) -> Entry | None:
    """The converter of a layer type, or None."""
    return _ENTRIES.get(layer_type)


def layer_types() -> tuple[str, ...]:
    """All layer types that are converted, sorted."""
    return tuple(sorted(_ENTRIES))
