"""The phase ``times``: what the parts of a supermodel take on this machine, for the regularizer ``latency``.

Of the space ``branch`` the blocks are measured within whole models (:mod:`onnxmtl.policy.latency`). Of other spaces
each operator that has multiply-adds is measured alone, those of equal form once, less what a model takes that does
nothing; what lies between operators (normalizations, activations) is folded or fused into them when a model is emitted.

Measured once, before the search, and written into the run: a run that goes on after a kill reads what it had measured.
Two runs measure two tables. A limit on latency is none of this: it is kept by the emitted model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxmtl import ir as graphs
from onnxmtl import ops, runtime
from onnxmtl.analysis.sites import site_table
from onnxmtl.analysis.table import SiteTable
from onnxmtl.ops.counting import shape_at_one
from onnxmtl.policy.latency import Times, in_microseconds, measured_times
from onnxmtl.policy.random_trees import is_tree_space
from onnxmtl.runs import read_json, write_json
from onnxmtl.search.regularizers import TIMED
from onnxmtl.workflows.phases import limits as budgets
from onnxmtl.workflows.phases.job import Graphs, Job

TIMES_FILE = "times.json"

_SECONDS = 0.1  # of one operator


def timed(job: Job, table: SiteTable) -> SiteTable | None:
    """The table of the supermodel with microseconds in the place of multiply-adds; None if nothing asks for it.

    Raises:
        ModelError: ONNX Runtime does not run a part of the model.
    """
    if TIMED not in job.recipe.regularizers or not job.recipe.search_stages or not table.sites:
        return None
    made = job.graphs

    def measure(folder: Path) -> None:
        found = _blocks(made, table) if is_tree_space(table) else _operators(made.supermodel.graph)
        write_json(folder / TIMES_FILE, found)

    folder = job.session.phase("times", measure)
    found = read_json(folder / TIMES_FILE)
    if is_tree_space(table):
        return in_microseconds(table, Times(found["blocks"], found["rest"]))
    return site_table(made.supermodel, lambda node: max(1, round(found["operators"][_form(node)])))


def _blocks(made: Graphs, table: SiteTable) -> dict[str, object]:
    times = measured_times(table, lambda taken: budgets.measure(made, made.as_emitted(taken)))
    return {"blocks": dict(times.blocks), "rest": times.rest}


def _operators(graph: ir.Graph) -> dict[str, dict[str, float]]:
    """Microseconds of every form of operator in the graph."""
    idle = _microseconds(_alone("Identity", [np.zeros(1, np.float32)], [True]))
    found: dict[str, float] = {}
    for node in graph:
        if ops.multiply_adds(node) and (form := _form(node)) not in found:
            found[form] = max(0.0, _microseconds(_node_alone(node)) - idle)
    return {"operators": found}


def _form(node: ir.Node) -> str:
    """What the time of an operator depends on, in words: its name, the shapes of its inputs, its attributes."""
    inputs = [
        "-" if value is None else "x".join(map(str, _shape(node, value))) + ("" if _given(value) else "?")
        for value in node.inputs
    ]
    attributes = [f"{name}={attr.value}" for name, attr in sorted(node.attributes.items())]
    return f"{node.op_type} {', '.join(inputs)}; {', '.join(attributes)}"


def _given(value: ir.Value) -> bool:
    """Whether it is in the file, so that ONNX Runtime can prepare it before it runs."""
    return value.is_initializer() and value.const_value is not None


def _shape(node: ir.Node, value: ir.Value) -> tuple[int, ...]:
    return shape_at_one(node, value, batched=not _given(value))


_Alone = tuple[bytes, dict[str, runtime.Array]]  # a model, and what it is run on


def _node_alone(node: ir.Node) -> _Alone:
    arrays: list[runtime.Array | None] = []
    for value in node.inputs:
        if value is None:
            arrays.append(None)
        elif value.const_value is not None and _given(value):
            arrays.append(value.const_value.numpy())
        else:
            dtype = np.float32 if value.dtype is None else value.dtype.numpy()
            arrays.append(np.random.default_rng(0).random(_shape(node, value)).astype(dtype))
    run = [value is not None and not _given(value) for value in node.inputs]
    opsets = {} if node.graph is None else dict(node.graph.opset_imports)
    return _alone(node.op_type, arrays, run, list(node.attributes.values()), len(node.outputs), opsets)


def _alone(
    op_type: str,
    arrays: Sequence[runtime.Array | None],
    fed: Sequence[bool],
    attributes: Sequence[ir.Attr] = (),
    outputs: int = 1,
    opsets: dict[str, int] | None = None,
) -> _Alone:
    """A model of one operator; `fed` says which of its inputs are given when it runs."""
    inputs: list[ir.Value | None] = []
    for number, array in enumerate(arrays):
        if array is None:
            inputs.append(None)
            continue
        tensor = ir.tensor(array, name=f"x{number}")
        value = ir.Value(name=f"x{number}", type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape))
        value.const_value = None if fed[number] else tensor
        inputs.append(value)
    node = ir.Node("", op_type, inputs, attributes, num_outputs=outputs, name="alone")
    for number, output in enumerate(node.outputs):
        output.name, output.type = f"y{number}", ir.TensorType(ir.DataType.FLOAT)
    read = [value for value in inputs if value is not None]
    graph = ir.Graph(
        [value for value in read if value.const_value is None],
        [node.outputs[0]],
        nodes=[node],
        initializers=[value for value in read if value.const_value is not None],
        opset_imports={"": 21, **(opsets or {})},
        name="alone",
    )
    feeds = {f"x{number}": array for number, array in enumerate(arrays) if array is not None and fed[number]}
    return graphs.to_bytes(ir.Model(graph, ir_version=10)), feeds


def _microseconds(alone: _Alone) -> float:
    model, feeds = alone
    return 1e3 * runtime.latency(model, feeds, seconds=_SECONDS)
