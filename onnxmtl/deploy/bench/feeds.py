"""What models are run on: their inputs, and arrays for them. Needs numpy and the runner only."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from onnxmtl import runtime
from onnxmtl.errors import ModelError

Feeds = dict[str, runtime.Array]
Dims = tuple[int | None, ...]  # None: the batch

_MOST = 2**31  # elements of one input: more is a slip of the keyboard
_REALS = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}
_COUNTS = {
    f"tensor({name})": name for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
} | {"tensor(bool)": "bool"}


@dataclasses.dataclass(frozen=True)
class Port:
    """An input of a model file.

    Attributes:
        name: Its name.
        kind: Element type as ONNX Runtime calls it.
        shape: Numbers, and names (or None) of free dimensions.
    """

    name: str
    kind: str
    shape: tuple[int | str | None, ...]


def ports_of(session: runtime.Session) -> tuple[Port, ...]:
    """The inputs of a session."""
    return tuple(Port(value.name, value.type, tuple(value.shape)) for value in session.get_inputs())


def parse_shape(text: str) -> tuple[str, Dims]:
    """``"image=Nx3x224x224"`` -> ("image", (None, 3, 224, 224)).

    Raises:
        ModelError: It is no such text.
    """
    name, equals, sizes = text.rpartition("=")
    parts = sizes.strip().lower().split("x")
    if not equals or not name or not all(part == "n" or (part.isdecimal() and int(part) > 0) for part in parts):
        msg = f"a shape is given as NAME=Nx3x224x224 (N: the batch), not {text!r}"
        raise ModelError(msg)
    return name.strip(), tuple(None if part == "n" else int(part) for part in parts)


def feeds_for(file: Path, ports: Sequence[Port], batch: int, shapes: Mapping[str, Dims]) -> Feeds:
    """Arrays for all inputs of a model: noise for numbers with a point, zeros for others; equal calls, equal arrays.

    Args:
        file: The model, for messages.
        ports: Its inputs.
        batch: Images at once: the size of a free first dimension.
        shapes: Name of an input -> its dimensions, where the file leaves some open.

    Raises:
        ModelError: The model has a fixed batch that is another one, or a dimension that nobody gave.
    """
    _check_batch(file, ports, batch)
    made: Feeds = {}
    for port in ports:
        sizes = _sizes(file, port, batch, shapes.get(port.name))
        if port.kind in _REALS:
            noise = np.random.default_rng(0).standard_normal(sizes, np.float32)
            made[port.name] = noise.astype(_REALS[port.kind])
        elif port.kind in _COUNTS:
            made[port.name] = np.zeros(sizes, _COUNTS[port.kind])
        else:
            msg = f"{file}: the input {port.name!r} is {port.kind}; only numbers can be made up for a measurement"
            raise ModelError(msg)
    return made


def _check_batch(file: Path, ports: Sequence[Port], batch: int) -> None:
    """Refuse another batch than that of a file in which every first dimension is a number."""
    first = [port.shape[0] for port in ports if port.shape]
    if first and all(isinstance(dim, int) for dim in first) and first[0] != batch:
        msg = (
            f"{file}: the input {ports[0].name!r} has a fixed batch of {first[0]}, not {batch}; "
            f"take --batch {first[0]}, or export it with a free batch"
        )
        raise ModelError(msg)


def _sizes(file: Path, port: Port, batch: int, given: Dims | None) -> tuple[int, ...]:
    asked = (None,) * len(port.shape) if given is None else given
    if len(asked) != len(port.shape):
        msg = f"{file}: the input {port.name!r} has {len(port.shape)} dimensions, --shape gives {len(asked)}"
        raise ModelError(msg)
    sizes = []
    for axis, (dim, size) in enumerate(zip(port.shape, asked, strict=True)):
        if isinstance(dim, int):
            if size not in (None, dim):
                msg = f"{file}: the input {port.name!r} has {dim} in dimension {axis}, not {size}; mend --shape"
                raise ModelError(msg)
            sizes.append(dim)
        elif size is None and given is None and axis:
            known = (str(d) if isinstance(d, int) else "?" for d in port.shape[1:])
            msg = (
                f"{file}: the input {port.name!r} leaves dimension {axis} ({dim or '?'}) open; "
                f"give its size: --shape {port.name}={'x'.join(['N', *known])}"
            )
            raise ModelError(msg)
        else:
            sizes.append(batch if size is None else size)
    if math.prod(sizes) > _MOST:
        count = f"{math.prod(sizes):,}"
        msg = f"{file}: the input {port.name!r} would have {count} elements; take a smaller --shape or --batch"
        raise ModelError(msg)
    return tuple(sizes)
