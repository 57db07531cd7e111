"""The tree that an architecture of the space ``branch`` selects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from onnxmtl.analysis.table import SiteTable
from onnxmtl.errors import ModelError
from onnxmtl.ir.choice import BLOCKS_KEY
from onnxmtl.ir.metadata import json_names
from onnxmtl.policy.architecture import Architecture
from onnxmtl.policy.layout import Layout


def block_names(supermodel: ir.Model) -> tuple[str, ...]:
    """The names of all blocks of a branch supermodel, those without a Choice too; empty for other models.

    Raises:
        ModelError: The metadata is damaged.
    """
    return json_names(supermodel.metadata_props, BLOCKS_KEY)


def layout_of(table: SiteTable, architecture: Architecture, blocks: Sequence[str] = ()) -> Layout:
    """The layout of a branch architecture: tasks are together in a block if they took the same in all up to it.

    A task that does not come by a block, because its head reads an earlier feature, stays there with the first task of
    its group that does.

    Args:
        table: A table of grouped sites.
        architecture: What every task takes.
        blocks: Names of all blocks of the backbone in order (:func:`block_names`), if there are more than sites: the
            first ones shared by all, or the last ones left to a single task.

    Raises:
        ModelError: The sites are not those of the space ``branch`` or not among `blocks`, or the architecture does not
            fit the table.
    """
    others = [site.id for site in table.sites if not site.grouped]
    if others or not table.sites:
        what = f"the site {others[0]!r} is no block with branches" if others else "the table has no sites"
        msg = f"there is no layout: {what}; layouts are those of the space 'branch'"
        raise ModelError(msg)
    picks = architecture.indices(table)
    names = tuple(blocks) or tuple(site.id for site in table.sites)
    missing = [site.id for site in table.sites if site.id not in names]
    if missing:
        msg = f"there is no layout: the site {missing[0]!r} is not among the blocks {', '.join(names)}"
        raise ModelError(msg)
    index = {site.id: site.index for site in table.sites}
    groups: list[tuple[int, ...]] = [tuple(range(len(table.tasks)))]
    found = []
    for name in names:
        if name in index:
            site = index[name]
            taken = {task: option for (at, task), option in picks.items() if at == site}
            groups = [part for group in groups for part in _split(group, taken)]
        found.append(tuple(groups))
    return Layout(table.tasks, tuple(found), names)


def _split(group: tuple[int, ...], taken: Mapping[int, int]) -> list[tuple[int, ...]]:
    present = [task for task in group if task in taken]
    if not present:
        return [group]
    parts: dict[int, list[int]] = {}
    for task in group:
        parts.setdefault(taken.get(task, taken[present[0]]), []).append(task)
    return [tuple(part) for part in parts.values()]
