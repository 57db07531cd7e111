"""Heads: a backbone with features becomes a multi-task model with one output per task.

Requires a backbone model: ``onnxmtl.kind`` = "backbone", graph outputs = its features, ``onnxmtl.features`` in the
metadata. Ensures a multi-task model: outputs named after the tasks, in their order, raw (logits) and, unless a task
says ``resolution="native"``, as large as the image; every head node marked ``onnxmtl.head``; weights with role HEAD
(running statistics STATISTIC), drawn from the seed and their name alone. The part of the backbone that no task reads
is removed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnxmtl.analysis.features import KEY, KIND_KEY, read_features
from onnxmtl.ir import Namer, shape_text
from onnxmtl.ir.passes import InPlacePass, PassResult, Refused, RemoveUnusedNodesPass
from onnxmtl.kinds import DECODER_HEADS, Task, TaskSet, close_match
from onnxmtl.passes._blocks import aspp, joined, light, pooled
from onnxmtl.passes._builder import Builder, static_size
from onnxmtl.passes._decoders import FINE_STRIDE, deeplabv3plus, fine_and_coarse, raspp
from onnxmtl.passes._user_heads import RefusedTask, call_function, insert_file, load_function

__all__ = ["AttachHeads", "Builder", "RefusedTask", "features_of"]

TASKS_KEY = "onnxmtl.tasks"


class AttachHeads(InPlacePass):
    """Attach one head per task.

    Args:
        tasks: The tasks; their channels must be known (:meth:`TaskSet.with_classes`).
        seed: Each weight is drawn from ``derive_seed(seed, its name)``.
        sizes: Name of a feature -> (height, width) that its heads are designed for, where that is not its own: the same
            heads are attached to a network for images of another size.

    Raises:
        Refused: The model is no backbone with features.
        RefusedTask: A task names an unknown feature, has no number of classes, or its own head does not fit.
    """

    changes_outputs = True

    def __init__(self, tasks: TaskSet, seed: int = 0, sizes: Mapping[str, tuple[int, int]] | None = None) -> None:
        super().__init__()
        self.tasks = tasks
        self.seed = seed
        self.sizes = dict(sizes or {})

    def requires(self, model: ir.Model) -> None:
        """Check the model's features, and every task against them."""
        _check_backbone(model)
        names = [feature.name for feature in read_features(model)]
        inputs = {value.name for value in model.graph.inputs}
        for task in self.tasks:
            if task.name in inputs:
                msg = f"task {task.name!r}: the model's input has that name: give the task another one"
                raise RefusedTask(msg)
            if not task.channels:
                msg = f"task {task.name!r}: the number of classes is missing: write {task.name}={task.kind}:N"
                raise RefusedTask(msg)
            for feature in task.features:
                if feature not in names:
                    hint = close_match(feature, names)
                    msg = f"task {task.name!r}: no feature {feature!r}{hint}; the features are: {', '.join(names)}"
                    raise RefusedTask(msg)
            if ":" in task.head and not task.head.endswith(".onnx"):
                load_function(task)

    def call(self, model: ir.Model) -> PassResult:
        """Build the heads and replace the outputs."""
        graph = model.graph
        image = graph.inputs[0]
        outputs = {str(value.name): value for value in graph.outputs}
        names = [feature.name for feature in read_features(model)]
        chosen = {task.name: [outputs[name] for name in features_of(task, names)] for task in self.tasks}
        _make_room(model, {task.name for task in self.tasks})
        namer = Namer(graph)
        for task in self.tasks:
            namer.unique(task.name)  # taken: no head may call anything else so
        results = []
        for task in self.tasks:
            builder = Builder(graph, f"{task.name}_head", task.name, self, self.seed, namer, sizes={**self.sizes})
            raw = _prediction(builder, chosen[task.name], task, image)
            if raw.producer() not in builder.created or raw in results:
                raw = builder.op("Identity", [raw], name="out")
            raw.name = task.name
            results.append(raw)
        graph.outputs[:] = results
        RemoveUnusedNodesPass()(model)
        model.metadata_props[KIND_KEY] = "multitask"
        model.metadata_props[TASKS_KEY] = portable(self.tasks).to_json()
        return PassResult(model, modified=True)

    def ensures(self, model: ir.Model) -> None:
        """Check that the outputs are the tasks."""
        found = tuple(value.name for value in model.graph.outputs)
        assert found == self.tasks.names, f"outputs {found} are not the tasks {self.tasks.names}"


def features_of(task: Task, features: Sequence[str]) -> tuple[str, ...]:
    """The features that a task's head reads.

    Args:
        task: The task.
        features: Names of the backbone's features, from the input on.
    """
    return task.features or tuple(features if task.head in DECODER_HEADS else features[-1:])


def _check_backbone(model: ir.Model) -> None:
    """Refuse anything but a backbone whose features are its outputs, NCHW, with known channels."""
    kind = model.metadata_props.get(KIND_KEY)
    if kind != "backbone":
        msg = f"heads are attached to a backbone; this model is {kind or 'not imported yet'}: import it first"
        raise Refused(msg)
    outputs = {value.name: value for value in model.graph.outputs}
    features = read_features(model)
    if not features or len(model.graph.inputs) != 1:
        msg = f"a backbone needs one input and a feature, this one has {len(model.graph.inputs)} and {len(features)}"
        raise Refused(msg)
    for feature in features:
        value = outputs.get(feature.name)
        if value is None:
            msg = f"the feature {feature.name!r} is not an output of the backbone"
            raise Refused(msg)
        shape = value.shape
        if shape is None or len(shape) not in (2, 4) or not isinstance(shape[1], int) or value.dtype is None:
            found = shape_text(shape)
            msg = f"the feature {feature.name!r} has no usable shape ({found}): [N, channels, H, W] is needed"
            raise Refused(msg)
    image = model.graph.inputs[0]
    if image.shape is None or len(image.shape) != 4:
        msg = f"the input {image.name!r} is no image: its shape is {shape_text(image.shape)}, [N, C, H, W] is needed"
        raise Refused(msg)


def _make_room(model: ir.Model, taken: set[str]) -> None:
    """Rename values of the backbone that are called like a task; the output names are the contract."""
    graph = model.graph
    values = [value for node in graph for value in node.outputs] + list(graph.initializers.values())
    clashing = [value for value in values if value.name in taken]
    if not clashing:
        return
    namer = Namer(graph)
    renamed = {}
    for value in clashing:
        old = str(value.name)
        value.name = renamed[old] = namer.unique(f"{old}_backbone")
    entries: list[dict[str, Any]] = json.loads(model.metadata_props[KEY])
    for entry in entries:
        entry["name"] = renamed.get(entry["name"], entry["name"])
    model.metadata_props[KEY] = json.dumps(entries)


def _prediction(builder: Builder, features: list[ir.Value], task: Task, image: ir.Value) -> ir.Value:
    """The head's raw prediction, of the shape that the task promises."""
    if task.dense and any(feature.shape is None or len(feature.shape) != 4 for feature in features):
        msg = f"task {task.name!r}: {task.kind} needs a feature with height and width; {features[-1].name!r} has none"
        raise RefusedTask(msg)
    if task.head == "pooled":
        return pooled(builder, features, task)
    if task.head in DECODER_HEADS:
        pair = fine_and_coarse(features, image)
        if pair is None or (task.features and len(features) > 2):
            shown = ", ".join(str(feature.name) for feature in features)
            msg = (
                f"task {task.name!r}: the head {task.head} reads two features, a fine one (stride {FINE_STRIDE}) and a "
                f"coarse one, it has {shown}: name two of different size"
            )
            raise RefusedTask(msg)
        raw = (deeplabv3plus if task.head == "deeplabv3plus" else raspp)(builder, *pair, task)
    else:
        raw = _of_one(builder, _joined(builder, features, task), task, image)
    _check_shape(raw, task)
    if task.dense and task.resolution == "input":
        raw = builder.resize(raw, image, "to_input")
    return raw


def _of_one(builder: Builder, feature: ir.Value, task: Task, image: ir.Value) -> ir.Value:
    if task.head == "aspp":
        return aspp(builder, feature, task)
    if task.head == "light":
        return light(builder, feature, task)
    if task.head.endswith(".onnx"):
        return insert_file(builder, feature, task)
    return call_function(builder, feature, task, image)


def _joined(builder: Builder, features: list[ir.Value], task: Task) -> ir.Value:
    """Several features as one: resized to the largest and concatenated along the channels."""
    if len(features) == 1:
        return features[0]
    if any(feature.shape is None or len(feature.shape) != 4 for feature in features):
        msg = f"task {task.name!r}: features without height and width can be joined by the pooled head only"
        raise RefusedTask(msg)
    # Without known sizes the first is the largest: features are listed from the input on.
    sizes = [static_size(feature) or (0, 0) for feature in features]
    largest = features[max(range(len(features)), key=lambda i: (sizes[i][0] * sizes[i][1], -i))]
    parts = [
        feature if feature is largest else builder.resize(feature, largest, f"join{i}")
        for i, feature in enumerate(features)
    ]
    made = joined(builder, parts, "join")
    if str(largest.name) in builder.sizes:
        builder.sizes[str(made.name)] = builder.sizes[str(largest.name)]
    return made


def _check_shape(raw: ir.Value, task: Task) -> None:
    """Refuse a prediction whose rank or channels are not the task's (only users' heads can fail here)."""
    rank, layout = (4, "[N, C, H, W]") if task.dense else (2, "[N, C]")
    shape = raw.shape
    if shape is None or len(shape) != rank or shape[1] != task.channels:
        found, wanted = shape_text(shape), f"{layout} with C = {task.channels}"
        msg = f"task {task.name!r}: the head {task.head} gives {found}, {wanted} is needed"
        raise RefusedTask(msg)


def portable(tasks: TaskSet) -> TaskSet:
    """The tasks without the folders of head files: equal inputs give equal bytes wherever they lie."""
    return TaskSet(tuple(t.replace(head=Path(t.head).name) if t.head.endswith(".onnx") else t for t in tasks))
