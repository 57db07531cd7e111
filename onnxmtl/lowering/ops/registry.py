"""The registry of lowerings: operator type -> a function that turns a node into a torch kernel."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import onnx_ir as ir
import torch

from onnxmtl.errors import ModelError
from onnxmtl.ir.choice import is_choice

# From this opset on the operators mean what the kernels compute (Softmax, Squeeze and Split changed at 13).
LOWEST_OPSET = 13


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


class UnsupportedError(Exception):
    """Raised by a lowering that does not cover this form of its operator. The text says what is not covered."""


_LOWERINGS: dict[tuple[str, str], Lowering] = {}


def lowers(*op_types: str, domain: str = "") -> Callable[[Lowering], Lowering]:
    """Register a function as the lowering of the operators `op_types`.

    The function gets the node once, reads attributes and constant inputs, and returns the kernel that is
    called at every execution. Weights arrive as inputs of the kernel.

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
    kernel, problem = _build(node)
    if kernel is None:
        raise ModelError(_message([(node, problem)]))
    return kernel


def unsupported(graph: ir.Graph) -> list[ir.Node]:
    """The nodes that cannot be lowered, in graph order; Choices are no operators to lower."""
    return [node for node, _ in _problems(graph)]


def check_supported(graph: ir.Graph) -> None:
    """Make sure every node can be lowered.

    Raises:
        ModelError: Lists all nodes that cannot, at once, by name, operator and opset.
    """
    if problems := _problems(graph):
        raise ModelError(_message(problems))


def _problems(graph: ir.Graph) -> list[tuple[ir.Node, str]]:
    return [
        (node, problem) for node in graph if not is_choice(node) for kernel, problem in [_build(node)] if kernel is None
    ]


def _build(node: ir.Node) -> tuple[Kernel | None, str]:
    """The kernel, or None and what is in its way."""
    lowering = _LOWERINGS.get((node.domain, node.op_type))
    if lowering is None:
        return None, ""
    opset = _opset(node)
    if node.domain == "" and opset is not None and opset < LOWEST_OPSET:
        return None, f"needs opset {LOWEST_OPSET} or newer"
    try:
        return lowering(node), ""
    except UnsupportedError as e:
        return None, str(e)


def _opset(node: ir.Node) -> int | None:
    if node.version is not None:
        return node.version
    owner = node.graph
    return None if owner is None else owner.opset_imports.get(node.domain)


def _message(problems: Sequence[tuple[ir.Node, str]]) -> str:
    found = []
    for node, problem in problems:
        operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        opset = _opset(node)
        details = "opset unknown" if opset is None else f"opset {opset}"
        found.append(f"{operator} {node.name!r} ({details}{': ' + problem if problem else ''})")
    noun = "1 node" if len(found) == 1 else f"{len(found)} nodes"
    return (
        f"{noun} cannot be trained: {', '.join(found)}; "
        "cut the model before them with --features, or export it without these operators"
    )
