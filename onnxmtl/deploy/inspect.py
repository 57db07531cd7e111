"""What is in a model file: a backbone of the user, or a model of ours. No torch, no onnxruntime."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnxmtl import ops
from onnxmtl.analysis.features import read_features
from onnxmtl.analysis.sites import site_table
from onnxmtl.cost.count import Costs, count
from onnxmtl.cost.sharing import sharing
from onnxmtl.deploy.report import LayerRow
from onnxmtl.errors import ModelError
from onnxmtl.frontends.onnx import load
from onnxmtl.ir import Role, diagnostics, is_supermodel, role_of
from onnxmtl.kinds import TaskSet
from onnxmtl.passes.normalize import normalize


@dataclasses.dataclass(frozen=True)
class Port:
    """An input or output: name, element type, shape (numbers, or names of free dimensions)."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


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
        costs: Parameters and multiply-adds at batch 1; None for a supermodel, which has no fixed ones.
        trainable: Role of a weight -> number of trainable elements.
        sharing: How the tasks use each layer, for a multi-task model.
        sites: Of a supermodel.
        remarks: What the import had to say.
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
    costs: Costs | None
    trainable: dict[str, int]
    sharing: tuple[LayerRow, ...]
    sites: tuple[SiteRow, ...]
    remarks: tuple[str, ...]


def inspect_model(path: str | os.PathLike[str]) -> Inspection:
    """Read a model file and say what is in it.

    Args:
        path: An ONNX file, or a directory with a ``model.onnx``.

    Raises:
        ModelError: The file is no usable model.
    """
    file = Path(path) / "model.onnx" if Path(path).is_dir() else Path(path)
    model = load(file)
    kind = model.metadata_props.get("onnxmtl.kind", "backbone")
    opset = model.graph.opset_imports.get("", 0)
    inputs = _ports([value for value in model.graph.inputs if not value.is_initializer()])
    outputs = _ports(model.graph.outputs)
    if kind == "backbone":
        model = normalize(model)
    choices = is_supermodel(model)
    tasks = _tasks(model)
    return Inspection(
        file=str(file),
        kind=kind,
        opset=opset,
        inputs=inputs,
        outputs=outputs,
        features=_features(model) if kind == "backbone" else (),
        tasks=tasks,
        nodes=len(model.graph),
        operators=_operators(model),
        normalizations=sum(spec.norm for node in model.graph if (spec := ops.spec(node)) is not None),
        costs=None if choices else count(model, file_bytes=_file_bytes(file)),
        trainable=_trainable(model),
        sharing=tuple(LayerRow.of(row) for row in sharing(model)) if tasks and not choices else (),
        sites=_sites(model) if choices else (),
        remarks=tuple(str(remark) for remark in diagnostics(model)),
    )


def _ports(values: Any) -> tuple[Port, ...]:
    ports = []
    for value in values:
        shape = () if value.shape is None else tuple(dim if isinstance(dim, int) else str(dim) for dim in value.shape)
        ports.append(Port(str(value.name), "unknown" if value.dtype is None else value.dtype.name.lower(), shape))
    return tuple(ports)


def _features(model: ir.Model) -> tuple[FeatureRow, ...]:
    return tuple(FeatureRow(row.name, row.stride, row.channels) for row in read_features(model))


def _tasks(model: ir.Model) -> tuple[TaskRow, ...]:
    text = model.metadata_props.get("onnxmtl.tasks")
    if not text:
        return ()
    return tuple(TaskRow(task.name, task.kind, task.channels, task.output) for task in TaskSet.from_json(text))


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


def _file_bytes(file: Path) -> int:
    """Of the file and of the weights beside it, if they are there."""
    data = file.with_name(f"{file.name}.data")
    try:
        return file.stat().st_size + (data.stat().st_size if data.is_file() else 0)
    except OSError as error:
        msg = f"{file}: cannot be read ({error.strerror})"
        raise ModelError(msg) from error
