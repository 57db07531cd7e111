"""The table of operators with weights or multiply-adds. An operator that is not in it has neither."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import onnx_ir as ir

from onnxmtl.errors import ModelError
from onnxmtl.ops import counting


@dataclasses.dataclass(frozen=True)
class Slot:
    """A node input that a weight may feed.

    Attributes:
        index: Index among the node's inputs.
        name: "weight", "bias", "scale", "shift", "mean" or "variance".
        trainable: Whether an optimizer changes it; running statistics are no trainable slots.
    """

    index: int
    name: str
    trainable: bool = True


@dataclasses.dataclass(frozen=True)
class OpSpec:
    """What is known about one operator.

    Attributes:
        op_type: ONNX operator name.
        domain: ONNX domain; "" is the standard one.
        slots: The inputs that weights may feed.
        linear: Whether the output is linear in the weights (bias included) for a fixed input, so that
            Σ pᵢ f(x, Wᵢ) = f(x, Σ pᵢ Wᵢ).
        norm: Whether it is a normalization with its own scale and shift.
        multiply_adds: Counts the multiply-adds of a node at batch 1; None means it has none.
        variadic: Whether every input is a slot like the one of `slots`.
    """

    op_type: str
    domain: str = ""
    slots: tuple[Slot, ...] = ()
    linear: bool = False
    norm: bool = False
    multiply_adds: Callable[[ir.Node], int] | None = None
    variadic: bool = False

    def slots_of(self, node: ir.Node) -> tuple[Slot, ...]:
        """The slots a node has."""
        if not self.variadic:
            return self.slots
        (slot,) = self.slots
        return tuple(dataclasses.replace(slot, index=i) for i in range(len(node.inputs)))


_WEIGHT_BIAS = (Slot(1, "weight"), Slot(2, "bias"))
_SCALE_SHIFT = (Slot(1, "scale"), Slot(2, "shift"))
_STATISTICS = (Slot(3, "mean", trainable=False), Slot(4, "variance", trainable=False))


def _table() -> Iterable[OpSpec]:
    yield OpSpec("Conv", slots=_WEIGHT_BIAS, linear=True, multiply_adds=counting.conv)
    yield OpSpec("ConvTranspose", slots=_WEIGHT_BIAS, linear=True, multiply_adds=counting.conv_transpose)
    # The weight of a matrix product may stand on either side.
    yield OpSpec(
        "Gemm",
        slots=(Slot(0, "weight"), Slot(1, "weight"), Slot(2, "bias")),
        linear=True,
        multiply_adds=counting.gemm,
    )
    yield OpSpec("MatMul", slots=(Slot(0, "weight"), Slot(1, "weight")), linear=True, multiply_adds=counting.matmul)
    # Trained, but no sites: mixing knows neither.
    yield OpSpec("DeformConv", slots=(Slot(1, "weight"), Slot(3, "bias")), multiply_adds=counting.conv)
    yield OpSpec("Einsum", slots=(Slot(0, "weight"), Slot(1, "weight")), multiply_adds=counting.einsum)
    yield OpSpec("Attention", multiply_adds=counting.attention)
    yield OpSpec("BatchNormalization", slots=_SCALE_SHIFT + _STATISTICS, norm=True)
    for op_type in ("InstanceNormalization", "LayerNormalization", "GroupNormalization"):
        yield OpSpec(op_type, slots=_SCALE_SHIFT, norm=True)
    yield OpSpec("RMSNormalization", slots=(Slot(1, "scale"),), norm=True)
    yield OpSpec("PRelu", slots=(Slot(1, "weight"),))
    # A bias or a layer scale that the exporter left as arithmetic; see weights.weight_slots for what is excluded.
    for op_type, name in (("Add", "shift"), ("Sub", "shift"), ("Mul", "scale"), ("Div", "scale")):
        yield OpSpec(op_type, slots=(Slot(0, name), Slot(1, name)))

    # A table that is looked up (relative positions), and tokens that are repeated for, or joined to, every image.
    for op_type in ("Gather", "GatherND"):
        yield OpSpec(op_type, slots=(Slot(0, "table"),))
    for op_type in ("Expand", "Tile"):
        yield OpSpec(op_type, slots=(Slot(0, "token"),))
    yield OpSpec("Concat", slots=(Slot(0, "token"),), variadic=True)


# Elementwise functions between layers; a slope (PRelu) may be a weight.
ACTIVATIONS = frozenset(
    [
        "Relu",
        "LeakyRelu",
        "PRelu",
        "Elu",
        "Selu",
        "Sigmoid",
        "HardSigmoid",
        "HardSwish",
        "Tanh",
        "Gelu",
        "Softplus",
        "Clip",
        "Mish",
        "Celu",
        "Swish",
    ]
)

_SPECS: dict[tuple[str, str], OpSpec] = {(entry.domain, entry.op_type): entry for entry in _table()}


def spec(node: ir.Node) -> OpSpec | None:
    """The entry of the node's operator, or None if it has neither weights nor multiply-adds."""
    return _SPECS.get((node.domain, node.op_type))


def spec_of(op_type: str, domain: str = "") -> OpSpec | None:
    """The entry of an operator by name; None as in :func:`spec`."""
    return _SPECS.get((domain, op_type))


def registered() -> tuple[OpSpec, ...]:
    """All entries, in the table's order."""
    return tuple(_SPECS.values())


def multiply_adds(node: ir.Node) -> int:
    """Multiply-adds of `node` for one image: 0 for all but convolutions and matrix products.

    Raises:
        ModelError: A shape it needs is unknown, or the operator cannot work on its inputs.
    """
    entry = spec(node)
    if entry is None or entry.multiply_adds is None:
        return 0
    try:
        return entry.multiply_adds(node)
    except (ValueError, IndexError, TypeError) as error:
        msg = f"cannot count what {node.op_type} {node.name!r} costs: its inputs do not fit the operator"
        raise ModelError(msg) from error
