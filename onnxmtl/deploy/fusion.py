"""What could be searched in the space ``fusion``: the layers of the networks, and the candidate edges between them."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Sequence

import onnx_ir as ir

from onnxmtl.analysis.networks import (
    Edge,
    Layer,
    backbone_layers,
    candidate_edges,
    network_layers,
    without_stem,
)
from onnxmtl.deploy.reading import open_model
from onnxmtl.errors import ModelError
from onnxmtl.frontends.source import Dialect
from onnxmtl.ir import clone, head_of, is_supermodel
from onnxmtl.passes.spaces.separate import Separate


@dataclasses.dataclass(frozen=True)
class LayerEdges:
    """A layer of one task's network, and the candidate edges into the unit behind it.

    Attributes:
        task: Whose network.
        layer: The layer.
        edges: ``task/layer`` of every source, in order.
        stem: Whether it is left out because it is the stem of a residual network.
    """

    task: str
    layer: Layer
    edges: tuple[str, ...]
    stem: bool


@dataclasses.dataclass(frozen=True)
class FusionCandidates:
    """What :func:`fusion_candidates` found.

    Attributes:
        file: The file.
        tasks: Names of the tasks; of a backbone ``task1`` and so on.
        alike: Whether every task has a copy of the same network, so that one of them tells all.
        layers: Of all tasks, each from the image on.
        directions: "source -> target" -> number of candidate edges.
        with_stem: The same if a stem counts as a stage of its own.
        total: Number of candidate edges in all: so many decisions with two options each.
    """

    file: str
    tasks: tuple[str, ...]
    alike: bool
    layers: tuple[LayerEdges, ...]
    directions: dict[str, int]
    with_stem: dict[str, int]
    total: int


def fusion_candidates(
    path: str | os.PathLike[str],
    *,
    tasks: int = 2,
    weights: str | os.PathLike[str] | None = None,
    dialect: Dialect = "auto",
    features: Sequence[str] = (),
    input_size: tuple[int, int] | None = None,
    within: int = 3,
    same_stage: bool = True,
) -> FusionCandidates:
    """The layers and candidate edges of the space ``fusion`` for a backbone, or for a multi-task model.

    Args:
        path: An ONNX file, a ``.prototxt``, or a directory with a ``model.onnx``.
        tasks: Of a backbone: how many tasks get a copy of it. A multi-task model has its own.
        weights, dialect, features, input_size: As of :func:`onnxmtl.deploy.inspect.inspect_model`.
        within, same_stage: The rule, see :func:`onnxmtl.analysis.networks.candidate_edges`.

    Raises:
        ModelError: The file is no model, or a supermodel already; there are fewer than two tasks.
    """
    opened = open_model(path, weights=weights, dialect=dialect, features=features, input_size=input_size)
    layers, alike = _layers(opened.model, opened.kind, tasks)
    if len(layers) < 2:
        msg = f"fusion is between the networks of two tasks or more, {opened.file.name} has {len(layers)}"
        raise ModelError(msg)
    edges = candidate_edges(layers, within=within, same_stage=same_stage)
    more = candidate_edges(layers, within=within, same_stage=same_stage, stem=True)
    into: dict[tuple[str, str], list[str]] = {}
    for edge in edges:
        into.setdefault((edge.target_task, edge.target_layer), []).append(f"{edge.source_task}/{edge.source_layer}")
    rows = [
        LayerEdges(task, layer, tuple(into.get((task, layer.name), ())), layer not in without_stem(found))
        for task, found in layers.items()
        for layer in found
    ]
    counted = _directions(edges)
    return FusionCandidates(
        str(opened.file), tuple(layers), alike, tuple(rows), counted, _directions(more), sum(counted.values())
    )


def _layers(model: ir.Model, kind: str, tasks: int) -> tuple[dict[str, tuple[Layer, ...]], bool]:
    """Task -> layers, and whether all are the same."""
    if is_supermodel(model):
        raise ModelError("this is a supermodel already: without --space, inspect lists its sites")
    if kind == "backbone":
        found = backbone_layers(model)
        return {f"task{i + 1}": found for i in range(tasks)}, True
    if not any(head_of(node) is not None for node in model.graph):
        msg = f"the layers of a {kind} model cannot be told from its heads; give the backbone, or a multi-task model"
        raise ModelError(msg)
    copy = clone(model)
    Separate()(copy)
    return network_layers(copy), False


def _directions(edges: Sequence[Edge]) -> dict[str, int]:
    return dict(Counter(f"{edge.source_task} -> {edge.target_task}" for edge in edges))
