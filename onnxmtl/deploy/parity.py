"""Do two files compute the same? Both are run in ONNX Runtime on random inputs and compared in bits and in ulp."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from onnxmtl.errors import ModelError
from onnxmtl.passes.instruments import relative_error
from onnxmtl.runtime import run, session

Array: TypeAlias = np.ndarray[Any, Any]

_BATCH, _OPEN = 2, 64  # what an open first dimension, and any other, is taken to be
_KINDS = {
    "tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16, "tensor(bool)": np.bool_,
    "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(int16)": np.int16, "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8, "tensor(uint16)": np.uint16, "tensor(uint32)": np.uint32, "tensor(uint64)": np.uint64,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Parity:
    """One output of two files, compared.

    Attributes:
        output: Its name in the file that is judged.
        reference: The file it is compared with.
        identical: Whether all bits are equal with ONNX Runtime's optimizations off.
        error: max|Δ| / max|y| then.
        ulps: The largest distance then, in units in the last place; None for anything but floats.
        optimized_error, optimized_ulps: The same with the optimizations on, in both files.
    """

    output: str
    reference: str
    identical: bool
    error: float
    ulps: int | None
    optimized_error: float
    optimized_ulps: int | None


@dataclasses.dataclass(frozen=True)
class Reference:
    """A file that some outputs are compared with.

    Attributes:
        name: For people.
        model: Its path, or its bytes.
        inputs: Its inputs' names -> those in the file that is judged.
        outputs: Its outputs' names -> those in the file that is judged.
    """

    name: str
    model: str | os.PathLike[str] | bytes
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


def compare_outputs(
    model: str | os.PathLike[str] | bytes, references: Sequence[Reference], *, seed: int = 0
) -> tuple[Parity, ...]:
    """Run `model` and all references on the same random inputs.

    Args:
        model: The file that is judged.
        references: What its outputs are compared with.
        seed: Of the inputs: floats are drawn from [0, 1), integers are 0 or 1; an open batch is 2, any other open
            dimension 64.

    Raises:
        ModelError: A file cannot be loaded or run, is random, or nothing is known to feed an input with.
    """
    found: list[dict[str, tuple[Array, Array]]] = []  # optimizations off, on: output -> (judged, reference)
    for optimize in (False, True):
        judged = session(model, optimize=optimize)
        feeds = random_feeds(judged, seed)
        ours = run(judged, feeds)
        for value in judged.get_outputs():
            if not value.type.startswith("tensor("):
                msg = f"the output {value.name!r} is a {value.type}, which cannot be compared; leave the check out"
                raise ModelError(msg)
        pairs = {}
        for reference in references:
            opened = session(reference.model, optimize=optimize)
            given = {theirs: feeds[name] for theirs, name in reference.inputs.items()}
            answers = run(opened, given, list(reference.outputs))
            _check_repeatable(reference, answers, run(opened, given, list(reference.outputs)))
            pairs.update({name: (ours[name], answers[theirs]) for theirs, name in reference.outputs.items()})
        found.append(pairs)
    compared = []
    for reference in references:
        for name in reference.outputs.values():
            (plain, expected), (optimized, optimized_expected) = found[0][name], found[1][name]
            compared.append(
                Parity(
                    output=name,
                    reference=reference.name,
                    identical=same_bits(plain, expected),
                    error=relative_error(plain, expected),
                    ulps=ulps(plain, expected),
                    optimized_error=relative_error(optimized, optimized_expected),
                    optimized_ulps=ulps(optimized, optimized_expected),
                )
            )
    return tuple(compared)


def _check_repeatable(reference: Reference, first: Mapping[str, Array], again: Mapping[str, Array]) -> None:
    for name, answer in first.items():
        if not same_bits(answer, again[name]):
            msg = (
                f"{reference.name} computes something else each time (output {name!r}), as Dropout in training mode "
                "does: export it in evaluation mode, or leave the check out"
            )
            raise ModelError(msg)


def random_feeds(opened: Any, seed: int = 0) -> dict[str, Array]:
    """Arrays for all inputs of a session; see :func:`compare_outputs`.

    Raises:
        ModelError: An input is of a type that nothing is known to feed with, as text.
    """
    rng = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    for value in opened.get_inputs():
        kind = _KINDS.get(value.type)
        if kind is None:
            msg = (
                f"the input {value.name!r} is a {value.type}, which nothing is known to feed with; leave the check out"
            )
            raise ModelError(msg)
        shape = [dim if isinstance(dim, int) else _OPEN if i else _BATCH for i, dim in enumerate(value.shape)]
        floats = rng.random(shape)
        feeds[value.name] = (floats if np.issubdtype(kind, np.floating) else np.round(floats)).astype(kind)
    return feeds


def same_bits(one: Array, two: Array) -> bool:
    """Whether type, shape and all bits are equal; nan is equal to the same nan, 0 is not equal to -0."""
    return one.dtype == two.dtype and one.shape == two.shape and one.tobytes() == two.tobytes()


def ulps(one: Array, two: Array) -> int | None:
    """The largest number of floats that lie between two arrays' elements, plus one where they differ.

    nan is at distance 0 from nan, 0 from -0. None for anything but floats of one type and shape.
    """
    if one.dtype != two.dtype or one.shape != two.shape or one.dtype.kind != "f" or one.itemsize > 8:
        return None
    if not one.size:
        return 0
    places = [_places(array) for array in (one, two)]
    distance = np.maximum(*places) - np.minimum(*places)  # unsigned: nothing overflows
    distance[(one == two) | (np.isnan(one) & np.isnan(two))] = 0
    return int(distance.max())


def _places(array: Array) -> Array:
    """Unsigned numbers in the order of the floats, neighbours one apart."""
    array = np.ascontiguousarray(array)
    kind = np.dtype(f"u{array.itemsize}")
    bits = array.view(kind)
    sign = kind.type(1 << (8 * array.itemsize - 1))
    places: Array = np.where(bits & sign, ~bits, bits | sign)
    return places
