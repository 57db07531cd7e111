"""What is in a model file: a backbone of the user, or a model of ours. No torch, no onnxruntime."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

import onnx_ir as ir

from onnxmtl import ops
from onnxmtl.analysis.blocks import Block, blocks
from onnxmtl.analysis.features import read_features
from onnxmtl.analysis.sites import site_table
from onnxmtl.cost.count import Costs, count
from onnxmtl.cost.profile import NodeCost, group_cost, peak_activation_bytes
from onnxmtl.cost.sharing import sharing
from onnxmtl.deploy.blocks import BlockRow, BoundaryRow, block_rows, boundary_rows
from onnxmtl.deploy.reading import Opened, Port, open_model
from onnxmtl.deploy.report import LayerRow
from onnxmtl.errors import ModelError, OnnxMTLError
from onnxmtl.frontends.source import Dialect
from onnxmtl.ir import Role, is_supermodel, role_of
from onnxmtl.kinds import TaskSet
from onnxmtl.passes.finalize import separated
from onnxmtl.passes.finalize.half import FLOAT16, PRECISION_KEY
from onnxmtl.passes.spaces.tree import LAYOUT_KEY
from onnxmtl.policy.layout import Layout


@dataclasses.dataclass(frozen=True)
class FeatureRow:
    """A feature of a backbone: its name, stride relative to the image, channels."""

    name: str
    stride: int
    channels: int


@dataclasses.dataclass(frozen=True)
class TaskRow:
    """A task of one of our models: its output's name, kind, number of channels, form of the output."""

    name: str
    kind: str
    channels: int
    output: str


@dataclasses.dataclass(frozen=True)
class SiteRow:
    """A site of a supermodel: its id, kind, options, and how many Choices it has."""

    id: str
    kind: str
    options: tuple[str, ...]
    choices: int


@dataclasses.dataclass(frozen=True)
class Cuts:
    """How the network is to be cut into blocks; see :func:`onnxmtl.analysis.blocks.blocks`.

    Attributes:
        frontier: Largest number of live tensors at a boundary.
        groups: Number of groups of blocks of equal multiply-adds; None: all blocks.
        add, drop: Names of tensors or nodes to cut at too, or not to cut at.
        scopes: Depth of torch modules to cut between; None: everywhere.
    """

    frontier: int = 1
    groups: int | None = None
    add: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    scopes: int | None = None


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What :func:`inspect_model` found.

    Attributes:
        file: The file.
        kind: "backbone", "multitask", "final" or "supermodel".
        opset: Of the standard operators, as in the file.
        inputs: Of the graph, without weights.
        outputs: As in the file.
        features: Of a backbone: where heads can be attached.
        tasks: Of one of our models.
        nodes: Number of nodes, of a backbone up to its last feature.
        operators: Operator -> number of nodes.
        normalizations: Number of normalization nodes; 0 where they were folded away or never there.
        normalization_kinds: Operator -> number of nodes, of the normalizations alone.
        unsupported: Nodes that cannot be trained: operator, name, opset and reason.
        costs: Parameters and multiply-adds at batch 1; None for a supermodel, which has no fixed ones, and where
            shapes are unknown.
        activation_bytes: Of all activations for one image; None where shapes are unknown.
        peak_activation_bytes: The most that is alive at one moment, nodes run in order.
        file_bytes: Size of the file, and of the weights beside it.
        trainable: Role of a weight -> number of trainable elements.
        slots: What the weight is to its operator ("weight", "bias", "scale", …) -> number of trainable elements.
        blocks: What lies between two boundaries, in the order of the network.
        boundaries: Where it is cut.
        sharing: How the tasks use each layer, for a multi-task model.
        layout: The tree of tasks that the model is, where its metadata tells.
        sites: Of a supermodel.
        remarks: What the import had to say, and what could not be told.
    """

    file: str
    kind: str
    opset: int
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    features: tuple[FeatureRow, ...]
    tasks: tuple[TaskRow, ...]
    nodes: int
    operators: dict[str, int]
    normalizations: int
    normalization_kinds: dict[str, int]
    unsupported: tuple[str, ...]
    costs: Costs | None
    activation_bytes: int | None
    peak_activation_bytes: int | None
    file_bytes: int
    trainable: dict[str, int]
    slots: dict[str, int]
    blocks: tuple[BlockRow, ...]
    boundaries: tuple[BoundaryRow, ...]
    sharing: tuple[LayerRow, ...]
    layout: Layout | None
    sites: tuple[SiteRow, ...]
    remarks: tuple[str, ...]


def inspect_model(
    path: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    dialect: Dialect = "auto",
    features: Sequence[str] = (),
    input_size: tuple[int, int] | None = None,
    cuts: Cuts | None = None,
) -> Inspection:
    """Read a model file and say what is in it; where something cannot be told, a remark says why.

    Args:
        path: An ONNX file, a ``.prototxt``, or a directory with a ``model.onnx``.
        weights: The ``.caffemodel`` of a prototxt.
        dialect: Of a prototxt.
        features: Names of a backbone's feature tensors or nodes; empty: they are found.
        input_size: (height, width) of a backbone's images, where it is to differ from the exported one.
        cuts: How to cut it into blocks; default: at every boundary of one tensor.

    Raises:
        ModelError: The file is no model, a name is not in it, or it cannot be cut as asked.
    """
    opened = open_model(path, weights=weights, dialect=dialect, features=features, input_size=input_size)
    model, remarks = separated(opened.model), list(opened.remarks)
    if model is not opened.model:
        remarks.append("fused siblings are shown as the convolutions of the tasks that they are made of")
    if model.metadata_props.get(PRECISION_KEY) == FLOAT16:
        remarks.append("computes in float16 where that is safe; input and outputs are float32")
    choices = is_supermodel(model)
    found = _blocks(model, cuts, remarks)
    profile = _profile(model, remarks)
    norms = _normalizations(model)
    tasks = _tasks(model, remarks)
    return Inspection(
        file=str(opened.file),
        kind=opened.kind,
        opset=opened.opset,
        inputs=opened.inputs,
        outputs=opened.outputs,
        features=_features(model) if opened.kind == "backbone" else (),
        tasks=tasks,
        nodes=len(model.graph),
        operators=_operators(model),
        normalizations=sum(norms.values()),
        normalization_kinds=norms,
        unsupported=opened.unsupported,
        costs=None if choices else _costs(model, opened, profile),
        activation_bytes=None if profile is None else profile.activation_bytes,
        peak_activation_bytes=None if profile is None else peak_activation_bytes(model.graph),
        file_bytes=opened.file_bytes,
        trainable=_trainable(model),
        slots=_slots(model),
        blocks=block_rows(model.graph, found),
        boundaries=boundary_rows(found),
        sharing=tuple(LayerRow.of(row) for row in sharing(model)) if tasks and not choices else (),
        layout=_layout(model, remarks),
        sites=_sites(model) if choices else (),
        remarks=tuple(remarks),
    )


def _blocks(model: ir.Model, cuts: Cuts | None, remarks: list[str]) -> list[Block]:
    asked = cuts or Cuts()
    found = blocks(
        model.graph, k=asked.frontier, add=asked.add, drop=asked.drop, groups=asked.groups, scopes=asked.scopes
    )
    if is_supermodel(model):
        remarks.append("the blocks of a supermodel hold all options of all tasks, and so do their costs")
    return found


def _profile(model: ir.Model, remarks: list[str]) -> NodeCost | None:
    try:
        return group_cost(model.graph)
    except ModelError as error:
        remarks.append(f"multiply-adds and activations are unknown: {error}")
        return None


def _costs(model: ir.Model, opened: Opened, profile: NodeCost | None) -> Costs | None:
    return None if profile is None else count(model, file_bytes=opened.file_bytes)


def _features(model: ir.Model) -> tuple[FeatureRow, ...]:
    return tuple(FeatureRow(row.name, row.stride, row.channels) for row in read_features(model))


def _tasks(model: ir.Model, remarks: list[str]) -> tuple[TaskRow, ...]:
    text = model.metadata_props.get("onnxmtl.tasks")
    if not text:
        return ()
    try:
        found = TaskSet.from_json(text)
    except (OnnxMTLError, ValueError) as error:  # somebody edited the metadata
        remarks.append(f"the metadata onnxmtl.tasks cannot be read: {error}")
        return ()
    return tuple(TaskRow(task.name, task.kind, task.channels, task.output) for task in found)


def _layout(model: ir.Model, remarks: list[str]) -> Layout | None:
    text = model.metadata_props.get(LAYOUT_KEY)
    if not text:
        return None
    try:
        return Layout.from_json(text)
    except OnnxMTLError as error:  # somebody edited the metadata
        remarks.append(f"the metadata {LAYOUT_KEY} cannot be read: {error}")
        return None


def _sites(model: ir.Model) -> tuple[SiteRow, ...]:
    return tuple(SiteRow(site.id, site.kind, site.option_names, len(site.members)) for site in site_table(model).sites)


def _operators(model: ir.Model) -> dict[str, int]:
    found: dict[str, int] = {}
    for node in model.graph:
        found[node.op_type] = found.get(node.op_type, 0) + 1
    return dict(sorted(found.items()))


def _trainable(model: ir.Model) -> dict[str, int]:
    found: dict[Role, int] = {}
    for value in ops.trainable_values(model.graph):
        if value.const_value is not None:
            role = role_of(value)
            found[role] = found.get(role, 0) + value.const_value.size
    return {role.value: found[role] for role in Role if role in found}


def _slots(model: ir.Model) -> dict[str, int]:
    found: dict[str, int] = {}
    for value, slot in ops.trainable_values(model.graph).items():
        if value.const_value is not None:
            found[slot.name] = found.get(slot.name, 0) + value.const_value.size
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _normalizations(model: ir.Model) -> dict[str, int]:
    found: dict[str, int] = {}
    for node in model.graph:
        entry = ops.spec(node)
        if entry is not None and entry.norm:
            found[node.op_type] = found.get(node.op_type, 0) + 1
    return found
