"""The registry of lowerings: operator type -> a function that turns a node into a torch kernel."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import onnx_ir as ir
import torch

from onnxmtl.errors import ModelError
from onnxmtl.ops.support import refusal, refusal_message, refusals, supported


@dataclasses.dataclass
class Context:
    """What a kernel has to know about the execution it is part of.

    Attributes:
        training: Batch statistics and dropout, or running statistics and none. The nodes' own
            ``training_mode`` is not looked at.
    """

    training: bool = False


# The inputs of a kernel: one torch.Tensor (or None) per node input. Any, for the kernels know which they need.
Inputs: TypeAlias = Sequence[Any]
Result: TypeAlias = torch.Tensor | tuple[torch.Tensor, ...]
Kernel: TypeAlias = Callable[[Inputs, Context], Result]
Lowering: TypeAlias = Callable[[ir.Node], Kernel]


_LOWERINGS: dict[tuple[str, str], Lowering] = {}


def lowers(*op_types: str, domain: str = "") -> Callable[[Lowering], Lowering]:
    """Register a function as the lowering of the operators `op_types`.

    The function gets the node once, which :func:`onnxmtl.ops.supported` has let pass, reads attributes and
    constant inputs, and returns the kernel that is called at every execution. Weights arrive as inputs of the kernel.

    Raises:
        ValueError: One of the operators has a lowering already.
    """

    def register(lowering: Lowering) -> Lowering:
        for op_type in op_types:
            if (domain, op_type) in _LOWERINGS:
                msg = f"{op_type} has a lowering already"
                raise ValueError(msg)
            _LOWERINGS[domain, op_type] = lowering
        return lowering

    return register


def supported_operators() -> tuple[tuple[str, str], ...]:
    """All (domain, op_type) with a lowering, sorted."""
    return tuple(sorted(_LOWERINGS))


def kernel_for(node: ir.Node) -> Kernel:
    """The torch kernel of a node.

    Raises:
        ModelError: The operator, or this form of it, has no lowering.
    """
    lowering = _LOWERINGS.get((node.domain, node.op_type))
    # A lowering registered for another domain than ONNX's own knows by itself what it takes.
    reason = None if lowering is not None and node.domain else supported(node)
    if lowering is None or reason is not None:
        raise ModelError(refusal_message([refusal(node, reason or "no such operator")]))
    return lowering(node)


def check_supported(graph: ir.Graph) -> None:
    """Make sure every node can be lowered; Choices are no operators to lower.

    Raises:
        ModelError: Names all that cannot, at once, with operator and opset, and says what to do.
    """
    if found := refusals(graph, known={key for key in _LOWERINGS if key[0]}):
        raise ModelError(refusal_message(found))
