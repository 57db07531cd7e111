"""The branches of a layout, and the layout as a tree of text."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from onnxmtl.policy.enumeration import Group, Groups

__all__ = ["Branch", "branches", "text_tree"]


@dataclasses.dataclass(frozen=True)
class Branch:
    """A run of blocks that one group of tasks shares.

    Attributes:
        first: Its first block.
        last: Its last block.
        tasks: The group.
        children: The branches that start behind its last block; none if it ends with the backbone.
    """

    first: int
    last: int
    tasks: Group
    children: tuple[Branch, ...]


def branches(groups: Groups) -> tuple[Branch, ...]:
    """The trees of a layout: per group of the first block the branch it starts with."""
    return tuple(_branch(groups, 0, group) for group in groups[0])


def text_tree(tasks: Sequence[str], groups: Groups, blocks: Sequence[str] = ()) -> str:
    """A line per branch: its blocks, the name of the last one, its tasks. Ends with a newline."""
    lines: list[str] = []
    for tree in branches(groups):
        lines.append(_label(tree, tasks, blocks))
        lines.extend(_below(tree, tasks, blocks, ""))
    return "\n".join(lines) + "\n"


def _branch(groups: Groups, first: int, tasks: Group) -> Branch:
    last = first
    while last + 1 < len(groups) and tasks in groups[last + 1]:
        last += 1
    behind = groups[last + 1] if last + 1 < len(groups) else ()
    parts = [group for group in behind if set(group) <= set(tasks)]
    return Branch(first, last, tasks, tuple(_branch(groups, last + 1, part) for part in parts))


def _below(branch: Branch, tasks: Sequence[str], blocks: Sequence[str], indent: str) -> Iterator[str]:
    for child in branch.children:
        final = child is branch.children[-1]
        yield f"{indent}{'└─' if final else '├─'} {_label(child, tasks, blocks)}"
        yield from _below(child, tasks, blocks, indent + ("   " if final else "│  "))


def _label(branch: Branch, tasks: Sequence[str], blocks: Sequence[str]) -> str:
    where = f"block {branch.first}" if branch.first == branch.last else f"blocks {branch.first}-{branch.last}"
    end = f" (to {blocks[branch.last]})" if blocks else ""
    return f"{where}{end}: {', '.join(tasks[task] for task in branch.tasks)}"
