"""The phase ``times``: what the parts of a supermodel take on this machine, for the search and the budget decoder.

Every operator that has multiply-adds is measured alone, those of equal form once; then some whole models, as they would
be emitted; all in turns. The whole models correct the operators' times (:mod:`onnxmtl.policy.latency`), and with them
what lies between operators: normalizations and activations, which are folded or fused, additions, the heads' resizing.

Measured once, before the search, and written into the run: a run that goes on after a kill reads what it had measured.
Two runs measure two tables. Whether a limit on latency is kept is none of this: the emitted model is measured.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxmtl import ir as graphs
from onnxmtl import ops, runtime
from onnxmtl.analysis.sites import site_table
from onnxmtl.analysis.table import CostItem, SiteTable
from onnxmtl.deploy.bench.together import latencies
from onnxmtl.errors import RunError
from onnxmtl.ops.counting import shape_at_one
from onnxmtl.policy.architecture import Architecture
from onnxmtl.policy.budget import Absolute
from onnxmtl.policy.latency import Times, calibrated, calibrating, executions
from onnxmtl.runs import read_json, write_json
from onnxmtl.search.regularizers import TIMED
from onnxmtl.workflows.phases.job import Graphs, Job

TIMES_FILE = "times.json"

_SECONDS = 0.1  # of one operator
_WHOLE = 0.3  # of one model
_ROUNDS = 10

_Alone = tuple[bytes, dict[str, runtime.Array]]  # a model, and what it is run on


def timed(job: Job, table: SiteTable, limits: Sequence[Absolute] = ()) -> SiteTable | None:
    """The table of the supermodel with microseconds in the place of multiply-adds; None if nothing asks for it.

    Args:
        job: The run.
        table: Its sites.
        limits: Its budget.

    Raises:
        RunError: What the run has measured is of another version.
        ModelError: ONNX Runtime does not run a part of the model.
    """
    pulled = TIMED in job.recipe.regularizers and bool(job.recipe.search_stages)
    if not table.sites or not (pulled or any(limit.quantity == "latency" for limit in limits)):
        return None

    def measure(folder: Path) -> None:
        write_json(folder / TIMES_FILE, dataclasses.asdict(_measured(job.graphs)))

    file = job.session.phase("times", measure) / TIMES_FILE
    found = read_json(file)
    if set(found) != {field.name for field in dataclasses.fields(Times)}:
        msg = f"{file} was written by another version of onnxmtl: compile again"
        raise RunError(msg)
    job.graphs.clock[:] = [Times(**found)]
    return times_table(job.graphs)


def times_table(made: Graphs) -> SiteTable:
    """The same, measured once in a process, or as the run has it.

    Raises:
        ModelError: ONNX Runtime does not run a part of the model.
    """
    times = _measured(made)
    table = site_table(made.supermodel, lambda node: round(times.operators.get(_form(node), 0.0)))
    rest = [CostItem(round(times.rest), None, None, (0,))] if round(times.rest) else []
    return dataclasses.replace(table, cost_items=(*table.cost_items, *rest))


def _measured(made: Graphs) -> Times:
    if not made.clock:
        made.clock.append(_measure(made))
    return made.clock[0]


def _measure(made: Graphs) -> Times:
    nodes: dict[str, ir.Node] = {}
    for node in made.supermodel.graph:
        if ops.multiply_adds(node):
            nodes.setdefault(_form(node), node)
    number = {form: 1 + i for i, form in enumerate(nodes)}
    coded = site_table(made.supermodel, lambda node: number.get(_form(node), 0))
    tried = calibrating(coded)
    spec = made.input
    image = np.zeros((1, spec.channels, spec.height, spec.width), np.float32)
    models = [functools.partial(_emitted, made, one) for one in tried]
    measured = _by_the_users_clock(models, latencies(models, image, seconds=_WHOLE, rounds=_ROUNDS), image)
    copies = np.column_stack([executions(coded, tried, len(nodes)), np.ones(len(tried))])
    found = 1e3 * calibrated(_alone_milliseconds(list(nodes.values())), copies, measured)
    *operators, rest = found.tolist()
    return Times(
        dict(zip(nodes, operators, strict=True)), rest, [1e3 * ms for ms in measured], (copies @ found).tolist()
    )


def _by_the_users_clock(
    models: Sequence[Callable[[], bytes]], measured: Sequence[float], image: runtime.Array
) -> list[float]:
    """What was measured in turns, as a model takes that runs alone: limits are about that.

    In turns threads stop after each run and have to be woken; on a busy machine that takes much longer.
    """
    alone = [runtime.latency(model(), image) / ms for model, ms in zip(models[:2], measured, strict=False)]
    return [statistics.mean(alone) * ms for ms in measured]


def _emitted(made: Graphs, architecture: Architecture) -> bytes:
    return graphs.to_bytes(made.as_emitted(architecture))


def _alone_milliseconds(nodes: Sequence[ir.Node]) -> list[float]:
    """Of each operator, less what a model takes that does nothing; and that."""
    models = [*map(_node_alone, nodes), _alone("Identity", [np.zeros(1, np.float32)], [True])]
    most = max(range(len(nodes)), key=lambda i: ops.multiply_adds(nodes[i]), default=0)
    order = [most, *(i for i in range(len(models)) if i != most)]  # the others' drift is told by the longest
    found = latencies(
        [functools.partial(_first, models[i]) for i in order],
        [models[i][1] for i in order],
        seconds=_SECONDS,
        rounds=_ROUNDS,
    )
    *alone, idle = (ms for _, ms in sorted(zip(order, found, strict=True)))
    return [*(max(0.0, ms - idle) for ms in alone), idle]


def _first(alone: _Alone) -> bytes:
    return alone[0]


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
