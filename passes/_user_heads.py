"""Heads of users: a Python callable ``module:name``, or an ONNX file with one input (the feature) and one output."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import onnx_ir as ir

from onnxmtl.errors import TaskError
from onnxmtl.ir import Role, copy_initializer, copy_nodes, set_role
from onnxmtl.ir.passes import (
    InlinePass,
    LiftConstantsToInitializersPass,
    PreconditionError,
    RemoveInitializersFromInputsPass,
    RemoveUnusedNodesPass,
    Sequential,
)
from onnxmtl.kinds import Task, load_callable, one_line
from onnxmtl.passes._builder import Builder, static_channels

HeadFunction = Callable[[Builder, ir.Value, Task, ir.Value], ir.Value]


class RefusedTask(TaskError, PreconditionError):
    """A task that does not fit the model: worded for the user, and passed on by whoever runs the pass."""


def load_function(task: Task) -> HeadFunction:
    """Import the callable that ``task.head`` names.

    Raises:
        RefusedTask: The module or the name does not exist, or it is not callable.
        MissingDependencyError: The module needs a library that is not installed.
    """
    try:
        found: HeadFunction = load_callable(task.head, f"task {task.name!r}: the head")
    except TaskError as error:
        raise RefusedTask(str(error)) from error
    return found


def call_function(builder: Builder, feature: ir.Value, task: Task, image: ir.Value) -> ir.Value:
    """Let a user's function build the head.

    Raises:
        RefusedTask: It raises, or returns no value of this graph.
    """
    function = load_function(task)
    try:
        raw: object = function(builder, feature, task, image)
    except Exception as error:  # whatever the user's code raises
        msg = f"task {task.name!r}: the head {task.head!r} failed: {one_line(error)}"
        raise RefusedTask(msg) from error
    if not isinstance(raw, ir.Value):
        msg = f"task {task.name!r}: the head {task.head!r} returned {type(raw).__name__}, not an onnx_ir.Value"
        raise RefusedTask(msg)
    return raw


def insert_file(builder: Builder, feature: ir.Value, task: Task) -> ir.Value:
    """Copy the nodes of an ONNX file onto `feature`; its weights become the head's.

    Raises:
        RefusedTask: The file cannot be read, does not have one input and one output, wants other channels, or
            needs a newer opset than the model's.
    """
    head = _load(Path(task.head), task, builder.graph.opset_imports.get("", 0))
    entry = head.graph.inputs[0]
    wanted = entry.shape[1] if entry.shape is not None and len(entry.shape) > 1 else None
    if isinstance(wanted, int) and wanted != static_channels(feature):
        msg = (
            f"task {task.name!r}: the head {task.head} takes {wanted} channels, "
            f"the feature {feature.name!r} has {static_channels(feature)}"
        )
        raise RefusedTask(msg)
    if entry.dtype is not None and feature.dtype is not None and entry.dtype != feature.dtype:
        msg = f"task {task.name!r}: the head {task.head} takes {entry.dtype}, the feature is {feature.dtype}"
        raise RefusedTask(msg)
    statistics = {value for node in head.graph if node.op_type == "BatchNormalization" for value in node.inputs[3:5]}
    value_map: dict[ir.Value, ir.Value] = {entry: feature}
    for name, value in head.graph.initializers.items():
        copy = copy_initializer(builder.graph, value, builder.name(name))
        assert copy.const_value is not None
        copy.type, copy.shape = ir.TensorType(copy.const_value.dtype), ir.Shape(copy.const_value.shape.numpy())
        value_map[value] = set_role(copy, Role.STATISTIC if value in statistics else Role.HEAD)
    for domain, version in head.graph.opset_imports.items():
        builder.graph.opset_imports.setdefault(domain, version)
    nodes = copy_nodes(head.graph, value_map, builder.name)
    try:
        for node in nodes:
            for value in node.outputs:
                value.shape = None  # of the file's own example size
            builder.append(node)
    except ValueError as error:
        msg = f"task {task.name!r}: the head {task.head} does not fit the feature {feature.name!r}: {error}"
        raise RefusedTask(msg) from error
    return value_map.get(head.graph.outputs[0], head.graph.outputs[0])


def _load(path: Path, task: Task, opset: int) -> ir.Model:
    """Read a head: functions inlined, constants lifted, at the model's opset."""
    where = f"task {task.name!r}: the head {path}"
    try:
        proto = onnx.load(path)
        found = next((entry.version for entry in proto.opset_import if entry.domain == ""), opset)
        if found < opset:
            proto = onnx.version_converter.convert_version(proto, opset)
        model = ir.from_proto(proto)
        Sequential(
            InlinePass(),
            RemoveInitializersFromInputsPass(),
            LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
            RemoveUnusedNodesPass(),
        )(model)
    except Exception as error:  # protobuf, onnx and the file system each have their own
        msg = f"{where} cannot be read: {one_line(error)}"
        raise RefusedTask(msg) from error
    if found > opset:
        msg = f"{where} uses opset {found}, the model {opset}: export the head at opset {opset} or below"
        raise RefusedTask(msg)
    inputs, outputs = len(model.graph.inputs), len(model.graph.outputs)
    if inputs != 1 or outputs != 1:
        msg = f"{where} has {inputs} inputs and {outputs} outputs: it needs one (the feature) and one (the prediction)"
        raise RefusedTask(msg)
    return model
