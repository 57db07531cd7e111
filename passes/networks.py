"""Several networks, one per task, beside each other in one multi-task graph.

Every network keeps its weights under names of its own, ``<task>/<name>``, and what it does to an image before its
first layer. All read one image. What comes out is a multi-task model like any other, whose tasks share nothing yet:
the spaces that mix features of separate networks start from it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxmtl.analysis.features import KIND_KEY, write_features
from onnxmtl.analysis.frontiers import passive_values, reads
from onnxmtl.errors import ModelError
from onnxmtl.ir import (
    Diagnostic,
    Namer,
    carry,
    clone,
    copy_initializer,
    copy_nodes,
    diagnostics,
    head_of,
    new_initializer,
    report,
    set_sources,
    sources,
    stamp,
)
from onnxmtl.ir.metadata import json_names
from onnxmtl.ir.passes import RemoveUnusedNodesPass
from onnxmtl.kinds import Task, TaskSet
from onnxmtl.ops import mark_constant
from onnxmtl.passes._builder import infer_outputs
from onnxmtl.passes.heads import TASKS_KEY, portable
from onnxmtl.passes.normalize.opset import ConvertOpset

NETWORKS_KEY = "onnxmtl.networks"
"""On a graph of networks that were given one per task: JSON list of the tasks."""

_MADE_BY = "join_networks"


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What a network does to the images of a data set before its first layer: y = scale · x + shift, per channel.

    Attributes:
        scale: One per channel of the network.
        shift: One per channel of the network.
        reverse: Whether its channels are those of the image in reverse (BGR of RGB); before scale and shift.
    """

    scale: tuple[float, ...]
    shift: tuple[float, ...]
    reverse: bool = False

    @property
    def neutral(self) -> bool:
        """Whether it changes nothing."""
        return not self.reverse and all(s == 1 for s in self.scale) and not any(self.shift)


@dataclasses.dataclass(frozen=True)
class TaskNetwork:
    """A network for one task.

    Attributes:
        task: The task; its channels may still be open.
        model: Canonical, with a head; one image input, one output, the raw prediction; not changed.
        preprocessing: Of its own; None: it takes the images as they are.
    """

    task: Task
    model: ir.Model
    preprocessing: Preprocessing | None = None

    @property
    def channels(self) -> int:
        """Of the prediction."""
        shape = self.model.graph.outputs[0].shape
        assert shape is not None and isinstance(shape[1], int), "a head has a known number of channels"
        return shape[1]


def join_networks(networks: Sequence[TaskNetwork]) -> ir.Model:
    """One multi-task model of several networks; each output is what its network computes of the same image.

    Args:
        networks: One per task, in the order of the outputs; all for images of one size and number of channels.

    Returns:
        A model of kind "multitask", with :data:`NETWORKS_KEY`. Nodes, weights and their ``onnxmtl.source`` are called
        ``<task>/<name>``; nodes and weights of attached heads keep their names, which begin with the task's already.
        Diagnostics of the networks are told with the task's name.

    Raises:
        ModelError: The networks take images of different size or number of channels, or different versions of a
            library of operators.
    """
    opset = max(network.model.graph.opset_imports.get("", 0) for network in networks)
    models = [_at_opset(network.model, opset) for network in networks]
    first = models[0].graph.inputs[0]
    image = ir.Value(type=first.type, shape=None if first.shape is None else first.shape.copy())
    graph = ir.Graph([image], [], nodes=[], opset_imports={"": opset}, name="networks")
    namer = Namer(graph)
    for network in networks:
        namer.unique(network.task.name)  # taken: the outputs' names are the contract
    image.name = namer.unique(str(first.name))
    joined = ir.Model(graph, ir_version=max(model.ir_version for model in models))
    for network, model in zip(networks, models, strict=True):
        _check_image(image, model.graph.inputs[0], networks[0].task, network.task)
        _add(joined, network, model, namer)
    names = [network.task.name for network in networks]
    joined.metadata_props[KIND_KEY] = "multitask"
    joined.metadata_props[NETWORKS_KEY] = json.dumps(names)
    joined.metadata_props[TASKS_KEY] = portable(TaskSet(tuple(network.task for network in networks))).to_json()
    return joined


def given_networks(model: ir.Model) -> tuple[str, ...]:
    """The tasks whose networks were given one by one; empty for a model that comes from one backbone."""
    return json_names(model.metadata_props, NETWORKS_KEY)


def restricted(model: ir.Model, tasks: TaskSet) -> ir.Model:
    """A copy of a multi-task model with the outputs of `tasks`, and only what they need."""
    made = clone(model)
    outputs = {str(value.name): value for value in made.graph.outputs}
    made.graph.outputs[:] = [outputs[name] for name in tasks.names]
    RemoveUnusedNodesPass()(made)
    made.metadata_props[TASKS_KEY] = portable(tasks).to_json()
    carry(model, made)
    return made


def without_heads(model: ir.Model) -> ir.Model:
    """A copy of a multi-task model without its heads: outputs and ``onnxmtl.features`` are what the heads read.

    Raises:
        ModelError: A head reads something else than maps [N, C, H, W].
    """
    made = clone(model)
    graph = made.graph
    heads = [node for node in graph if head_of(node) is not None]
    passive = passive_values(graph)
    wanted = {value for node in heads for value in reads(node) if value not in passive}
    graph.outputs[:] = [v for node in graph if head_of(node) is None for v in node.outputs if v in wanted]
    graph.remove(heads, safe=False)
    RemoveUnusedNodesPass()(made)
    made.metadata_props.pop(TASKS_KEY, None)
    write_features(made)
    carry(model, made)
    return made


def _at_opset(model: ir.Model, opset: int) -> ir.Model:
    """A copy of the model at `opset`, which is not below its own."""
    copy = clone(model)
    carry(model, copy)
    ConvertOpset(opset)(copy)
    return copy


def _check_image(image: ir.Value, other: ir.Value, first: Task, task: Task) -> None:
    dims, found = ([] if value.shape is None else list(value.shape)[1:] for value in (image, other))
    if dims != found or image.dtype != other.dtype:
        msg = (
            f"the network of task {task.name!r} takes images of {_image_text(found)}, that of task {first.name!r} of "
            f"{_image_text(dims)}; networks are joined if they take the same images: export them for one size"
        )
        raise ModelError(msg)


def _image_text(dims: Sequence[object]) -> str:
    return f"{dims[0]} channels, {dims[1]}x{dims[2]}" if len(dims) == 3 else str(list(dims))


def _add(joined: ir.Model, network: TaskNetwork, model: ir.Model, namer: Namer) -> None:
    """Put one network into the joined graph."""
    graph, task = joined.graph, network.task.name
    for domain, version in model.graph.opset_imports.items():
        if graph.opset_imports.setdefault(domain, version) != version:
            msg = (
                f"the network of task {task!r} uses version {version} of the operators {domain!r}, another one "
                f"{graph.opset_imports[domain]}: export them with one version"
            )
            raise ModelError(msg)
    attached = f"{task}_head/"

    def rename(name: str) -> str:
        return namer.unique(name if name.startswith(attached) else f"{task}/{name}")

    values: dict[ir.Value, ir.Value] = {}
    for name, value in model.graph.initializers.items():
        values[value] = copy_initializer(graph, value, rename(name))
    values[model.graph.inputs[0]] = _prepared(graph, network, namer)
    nodes = copy_nodes(model.graph, values, rename)
    for node in nodes:
        if names := sources(node):
            set_sources(node, [f"{task}/{name}" for name in names])
    graph.extend(nodes)
    raw = values[model.graph.outputs[0]]
    raw.name = task
    graph.outputs.append(raw)
    for remark in diagnostics(model):
        where = f"{task}/{remark.node}" if remark.node else ""
        report(joined, Diagnostic(remark.code, f"{task}: {remark.message}", where, remark.hint))


def _prepared(graph: ir.Graph, network: TaskNetwork, namer: Namer) -> ir.Value:
    """The image as the network takes it."""
    value, own, task = graph.inputs[0], network.preprocessing, network.task.name
    if own is None or own.neutral:
        return value
    if own.reverse:
        order = np.arange(len(own.scale))[::-1].astype(np.int64)
        value = _step(graph, "Gather", value, f"{task}/reverse", order, namer, axis=1)
    for op_type, name, numbers in (("Mul", "scale", own.scale), ("Add", "shift", own.shift)):
        column = np.array(numbers, np.float64).astype(np.float32).reshape(1, -1, 1, 1)
        value = _step(graph, op_type, value, f"{task}/{name}", column, namer)
    return value


def _step(
    graph: ir.Graph, op_type: str, x: ir.Value, name: str, numbers: np.ndarray, namer: Namer, **attributes: int
) -> ir.Value:
    constant = new_initializer(graph, namer.unique(f"{name}.numbers"), numbers)
    mark_constant(constant, "preprocessing")
    output = ir.Value(name=namer.unique(f"{name}_out"))
    node = ir.node(op_type, [x, constant], attributes, outputs=[output], name=namer.unique(name))
    graph.append(stamp(node, _MADE_BY))
    infer_outputs(node, graph.opset_imports)
    return output
