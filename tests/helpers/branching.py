"""Branch supermodels for tests: multi-task graphs of all shapes, tables by hand, and groups of tasks by meaning."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from helpers.graphs import GraphBuilder
from onnxmtl.analysis.table import CostItem, Option, Site, SiteTable, WeightItem
from onnxmtl.ir import clone
from onnxmtl.passes.instruments import CheckInvariants
from onnxmtl.passes.pipelines import Pipeline
from onnxmtl.passes.select import select_passes
from onnxmtl.passes.spaces import Branch
from onnxmtl.policy import Architecture


def line_model(
    tasks: int = 2, blocks: int = 3, *, early: int | None = None, inside: bool = False, size: int = 6
) -> ir.Model:
    """Blocks of conv-bn-relu in a row, "block0" and so on, and a head per task ("a", "b", …).

    Args:
        tasks: How many.
        blocks: How many; each is a channel wider than the one before.
        early: The first task's head reads the feature behind this block instead of the last one.
        inside: … or what the block's convolution makes, before its normalization.
        size: Of the image.
    """
    b = GraphBuilder(size=size)
    x, features = b.image, []
    for i in range(blocks):
        y = b.conv(x, 2 + i, name=f"conv{i}")
        x = b.relu(b.norm(y, name=f"norm{i}"))
        x.name = f"block{i}"
        features.append(y if inside else x)
    names = "abcdefgh"[:tasks]
    read = dict.fromkeys(names, x)
    if early is not None:
        read["a"] = features[early]
    return b.heads(read, dict.fromkeys(names, 1))


def unet_model(tasks: Sequence[str] = ("a", "b", "c")) -> ir.Model:
    """Down and up again; what the first block makes is read by the last one too."""
    b = GraphBuilder(size=8)
    first = b.relu(b.norm(b.conv(b.image, 4, name="one")))
    down = b.relu(b.norm(b.conv(first, 6, stride=2, name="two")))
    middle = b.relu(b.norm(b.conv(down, 6, name="three")))
    scales = b.weight("scales", np.array([1, 1, 2, 2], np.float32))
    up = b.node("Resize", [middle, None, scales], ["N", 6, 8, 8], "up", mode="nearest")
    side = b.relu(b.conv(first, 3, k=1, name="side"))
    out = b.relu(b.norm(b.conv(b.concat(up, side), 4, name="four")))
    return b.heads(out, dict.fromkeys(tasks, 1))


def branched(model: ir.Model, **settings: Any) -> ir.Model:
    """The branch supermodel of a multi-task graph, which stays as it is."""
    return Pipeline([Branch(**settings)], instruments=[CheckInvariants()])(clone(model)).model


def selected_from(model: ir.Model, architecture: Architecture) -> ir.Model:
    """What an architecture leaves of a supermodel, which stays as it is."""
    return Pipeline(select_passes(architecture), instruments=[CheckInvariants()])(clone(model)).model


def architecture_of(table: SiteTable, picks: np.ndarray) -> Architecture:
    """The architecture of options [sites, tasks]."""
    return Architecture.from_indices(table, {(s, t): int(o) for (s, t), o in np.ndenumerate(picks) if o >= 0})


def groups_of(picks: np.ndarray) -> list[list[list[int]]]:
    """Per site the groups of the tasks that come by: those that took the same at all sites so far."""
    found = []
    for site in range(len(picks)):
        groups: dict[tuple[int, ...], list[int]] = {}
        for task in np.flatnonzero(picks[site] >= 0):
            groups.setdefault(tuple(picks[: site + 1, task]), []).append(int(task))
        found.append(list(groups.values()))
    return found


def branch_table(
    tasks: int, costs: Sequence[int], sizes: Sequence[int] = (), ends: Mapping[int, int] | None = None
) -> SiteTable:
    """The table of a chain of blocks, written by hand, with heads of 7 multiply-adds and 5 weights.

    Args:
        tasks: How many, with as many candidates per block.
        costs: Multiply-adds of a candidate, per block.
        sizes: Its weights; default: twice the multiply-adds and one more.
        ends: Task -> the number of blocks it comes by, where these are not all.
    """
    everyone = tuple(range(tasks))
    sizes = sizes or [2 * cost + 1 for cost in costs]
    sites, items, weights = [], [], []
    for i, (cost, size) in enumerate(zip(costs, sizes, strict=True)):
        present = tuple(t for t in everyone if i < (ends or {}).get(t, len(costs)))
        options = tuple(Option(f"branch_{j}", cost, size, 0, True, False) for j in everyone)
        sites.append(Site(f"block{i}", i, i, "grouped", (), options, () if present == everyone else present))
        agree = {before: everyone for before in range(i)}
        items += [CostItem(cost, i, j, present, agree) for j in everyone]
        weights += [WeightItem(size, i, tuple((t, i, j) for t in present), agree=agree) for j in everyone]
    items += [CostItem(7, None, None, (t,), head=True) for t in everyone]
    weights += [WeightItem(5, None, (), (t,), True) for t in everyone]
    return SiteTable(tuple("abcdefgh"[:tasks]), tuple(sites), tuple(items), tuple(weights))


def with_rest(table: SiteTable, rest: int) -> SiteTable:
    """The table, and one more cost that is there always: as a table of times has it."""
    return dataclasses.replace(table, cost_items=(*table.cost_items, CostItem(rest, None, None, (0,))))
