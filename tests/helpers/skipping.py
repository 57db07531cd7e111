"""Residual networks to skip in, and the two ways to run an architecture: in the supermodel, and selected."""

from __future__ import annotations

import random

import onnx_ir as ir
import torch

from helpers.graphs import GraphBuilder
from onnxmtl.analysis.table import SiteTable
from onnxmtl.ir.passes import Refused, Sequential
from onnxmtl.lowering import Draw
from onnxmtl.passes.select import select_passes
from onnxmtl.passes.spaces import SelectOrSkip
from onnxmtl.policy import Architecture


def chain(blocks: int = 3, tasks: dict[str, int] | None = None, size: int = 8) -> ir.Model:
    """A stem and so many residual blocks; every second one halves the map."""
    b = GraphBuilder(size=size)
    x = b.block(b.image, 4, name="stem")
    for i in range(blocks):
        x = b.residual(x, 4 + 2 * ((i + 1) // 2), 1 + i % 2)
    return b.heads(x, tasks or {"seg": 3, "depth": 1})


def draw_of(architecture: Architecture, table: SiteTable) -> Draw:
    """What the supermodel is told to run this architecture."""
    picks = architecture.choices
    return Draw(options={(s.id, t): s.option_index(picks[s.id][t]) for s in table.sites for t in table.tasks_at(s)})


def random_architecture(table: SiteTable, seed: int) -> Architecture:
    """Every option is equally probable, for every site and task."""
    rng = random.Random(seed)
    return Architecture({s.id: {task: rng.choice(s.option_names) for task in table.tasks_at(s)} for s in table.sites})


def selected_from(model: ir.Model, architecture: Architecture) -> ir.Model:
    """A copy of the supermodel in which this is decided."""
    copy = model.clone()
    Sequential(*select_passes(architecture))(copy)
    return copy


def images_for(model: ir.Model, batch: int = 3, seed: int = 0) -> torch.Tensor:
    """A random batch [batch, C, H, W] in float64."""
    shape = [batch, *(int(d) for d in list(model.graph.inputs[0].shape)[1:])]
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def close(one: torch.Tensor, two: torch.Tensor, tolerance: float = 1e-9) -> bool:
    """Whether no value differs by more than this share of the largest."""
    return bool((one - two).abs().max() <= tolerance * two.abs().max().clamp_min(1e-12))


def built(model: ir.Model) -> bool:
    """Whether the model has a block to decide on; if so it is a supermodel now."""
    try:
        SelectOrSkip()(model)
    except Refused:
        return False
    return True
