"""The numbers that are always reported, counted on the graph itself: weights, multiply-adds, what runs once."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import onnx_ir as ir

from onnxmtl import ops
from onnxmtl.errors import ModelError
from onnxmtl.ir import Role, head_of, is_supermodel, role_of, tasks_of_nodes


@dataclasses.dataclass(frozen=True)
class Costs:
    """What a model without Choices costs, all its outputs (tasks) together, at batch 1.

    Attributes:
        parameters_trunk: Elements of the unique trainable weights that something other than a head uses.
        parameters: Elements of all unique trainable weights.
        multiply_adds: Executed by one run that computes every output.
        multiply_adds_unshared: If every task ran alone: the sum over the tasks of what each needs.
        executed_once: Share of the executed multiply-adds whose result serves two tasks or more, 0 to 1.
        parameters_paper: AutoMTL's "#params": kernels of the backbone's convolutions alone, a shared one counted once
            and every own copy; no biases, normalizations, heads or skips.
        file_bytes: Size of the model file with its weights; None if it was not asked for.
        multiply_adds_trunk: The executed multiply-adds of all nodes but those of heads.
    """

    parameters_trunk: int
    parameters: int
    multiply_adds: int
    multiply_adds_unshared: int
    executed_once: float
    parameters_paper: int
    file_bytes: int | None = None
    multiply_adds_trunk: int = 0

    def to_json(self) -> dict[str, Any]:
        """All numbers as a JSON-ready dictionary."""
        return dataclasses.asdict(self)


def count(model: ir.Model, *, file_bytes: int | None = None) -> Costs:
    """Count one model. Nodes and weights no output needs are left out.

    Args:
        model: A backbone, a multi-task model or an emitted model; its outputs are the tasks.
        file_bytes: Size of its file, if it was written; only passed on.

    Raises:
        ModelError: The model is a supermodel, or a shape is unknown.
    """
    if is_supermodel(model):
        msg = "a supermodel has no fixed cost: select an architecture first, or ask for the expected cost"
        raise ModelError(msg)
    trunk: set[ir.Value] = set()
    weights: set[ir.Value] = set()
    kernels: set[ir.Value] = set()
    executed = unshared = together = outside_heads = 0
    for node, tasks in tasks_of_nodes(model.graph).items():
        if not tasks:
            continue
        used = trainable(node)
        weights.update(used)
        if head_of(node) is None:
            trunk.update(used)
            if node.op_type == "Conv":
                kernels.update(v for v in used if v is node.inputs[1] and role_of(v) is not Role.SKIP)
        work = ops.multiply_adds(node)
        executed += work
        outside_heads += work if head_of(node) is None else 0
        unshared += work * len(tasks)
        together += work if len(tasks) > 1 else 0
    return Costs(
        parameters_trunk=_elements(trunk),
        parameters=_elements(weights),
        multiply_adds=executed,
        multiply_adds_unshared=unshared,
        executed_once=together / executed if executed else 0.0,
        parameters_paper=_elements(kernels),
        file_bytes=file_bytes,
        multiply_adds_trunk=outside_heads,
    )


def trainable(node: ir.Node) -> list[ir.Value]:
    """The trainable weights that feed `node`."""
    return [
        value
        for slot, value in ops.weight_slots(node)
        if slot.trainable and role_of(value) not in (Role.STATISTIC, Role.LOGITS)
    ]


def elements(value: ir.Value) -> int:
    """Number of elements of an initializer."""
    shape = value.shape if value.const_value is None else value.const_value.shape
    return 0 if shape is None else math.prod(dim if isinstance(dim, int) else 0 for dim in shape)


def _elements(values: set[ir.Value]) -> int:
    return sum(map(elements, values))
