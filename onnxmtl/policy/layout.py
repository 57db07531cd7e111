"""A layout: where each task branches off. Per block of the backbone, which tasks share it (TreeMTL, Definition 3.1).

Blocks count from 0; with B blocks there are the branching points 0 (separate from the image on) to B (all shared).
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxmtl.errors import ModelError, OnnxMTLError
from onnxmtl.policy.enumeration import Group, Groups, count_layouts, groups_of_number, number_of_groups
from onnxmtl.policy.layout_text import text_tree
from onnxmtl.policy.parts import Part, whole_blocks

__all__ = ["Group", "Groups", "Layout", "count_layouts"]


@dataclasses.dataclass(frozen=True)
class Layout:
    """A tree of tasks over the blocks of a backbone; several trees if tasks have no block in common.

    Groups are put into their canonical order (tasks ascending, groups by their first task), so that equal layouts are
    equal. A layout that is made is valid.

    Attributes:
        tasks: Names of the tasks; groups have their indices.
        groups: Per block a partition of the tasks, each refining the one before.
        blocks: Names of the blocks, or none.

    Raises:
        ModelError: Some block has no partition of the tasks, or joins tasks that are apart before it; names are
            missing or used twice.
    """

    tasks: tuple[str, ...]
    groups: Groups
    blocks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", tuple(self.tasks))
        object.__setattr__(self, "blocks", tuple(self.blocks))
        canonical = tuple(tuple(sorted(tuple(sorted(group)) for group in block)) for block in self.groups)
        object.__setattr__(self, "groups", canonical)
        self._check()

    @classmethod
    def shared(cls, tasks: Sequence[str], blocks: int) -> Layout:
        """All tasks share all blocks."""
        return cls(tuple(tasks), ((tuple(range(len(tasks))),),) * blocks)

    @classmethod
    def separate(cls, tasks: Sequence[str], blocks: int) -> Layout:
        """A network per task."""
        return cls(tuple(tasks), (tuple((task,) for task in range(len(tasks))),) * blocks)

    @classmethod
    def from_branch_points(
        cls,
        tasks: Sequence[str],
        blocks: int,
        points: Mapping[tuple[int | str, int | str], int] | Sequence[Sequence[int]] | np.ndarray[Any, Any],
    ) -> Layout:
        """The layout in which two tasks are together in the blocks before their branching point.

        Args:
            tasks: Names.
            blocks: B.
            points: For each pair of tasks (indices or names, in either order) its branching point, 0 … B; or a
                symmetric matrix of them, whose diagonal does not matter.

        Raises:
            ModelError: A pair is missing, is given twice with different points, or is out of range; or the points make
                no tree: of three tasks, the two earliest points have to be equal.
        """
        matrix = _matrix(tuple(tasks), blocks, points)
        for a, b, c in itertools.combinations(range(len(tasks)), 3):
            (low, _), (middle, pair), _ = sorted(
                (int(matrix[x, y]), (tasks[x], tasks[y])) for x, y in ((a, b), (a, c), (b, c))
            )
            if low != middle:
                msg = (
                    f"no tree has these branching points: {pair[0]!r} and {pair[1]!r} part at block {middle}, but of "
                    f"{tasks[a]!r}, {tasks[b]!r} and {tasks[c]!r} another pair parts at block {low} already, so it "
                    f"has to be {low}"
                )
                raise ModelError(msg)
        groups = tuple(
            tuple({tuple(int(u) for u in np.flatnonzero(row > block)): None for row in matrix})
            for block in range(blocks)
        )
        return cls(tuple(tasks), groups)

    @classmethod
    def from_choices(cls, tasks: Sequence[str], choices: Sequence[Sequence[int]]) -> Layout:
        """The layout of a branch architecture (BMTAS): tasks are together at a block if they agree up to it.

        Args:
            tasks: Names.
            choices: Per block the candidate that each task takes; [B][T].
        """
        groups = []
        for block in range(len(choices)):
            together: dict[tuple[int, ...], list[int]] = {}
            for task in range(len(tasks)):
                together.setdefault(tuple(taken[task] for taken in choices[: block + 1]), []).append(task)
            groups.append(tuple(map(tuple, together.values())))
        return cls(tuple(tasks), tuple(groups))

    @classmethod
    def from_id(cls, tasks: Sequence[str], blocks: int, number: int) -> Layout:
        """The layout with this number in the order in which TreeMTL's code enumerates them; 0: all shared.

        Raises:
            ModelError: No layout has this number.
        """
        return cls(tuple(tasks), groups_of_number(len(tasks), blocks, number))

    @classmethod
    def from_json(cls, text: str) -> Layout:
        """Read what :meth:`to_json` wrote.

        Raises:
            ModelError: Not JSON, not of that form, or no layout.
        """
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            msg = f"the layout is not JSON: {error}"
            raise ModelError(msg) from error
        return cls.from_dict(content)

    @classmethod
    def from_dict(cls, content: Any) -> Layout:
        """Read what :meth:`to_dict` made.

        Raises:
            ModelError: Not of that form, or no layout.
        """
        found = content.get("layout") if isinstance(content, dict) else None
        tasks = found.get("tasks") if isinstance(found, dict) else None
        blocks = found.get("blocks") if isinstance(found, dict) else None
        if not _is_list_of(tasks, str) or not _is_list_of(blocks, dict):
            msg = (
                'the layout needs the form {"layout": {"tasks": ["seg", "depth"], '
                '"blocks": [{"name": "layer1", "groups": [["seg"], ["depth"]]}, …]}}'
            )
            raise ModelError(msg)
        assert isinstance(tasks, list) and isinstance(blocks, list)
        index = {name: i for i, name in enumerate(tasks)}
        groups = tuple(_groups_of(block, number, index) for number, block in enumerate(blocks))
        names = [block["name"] for block in blocks if "name" in block]
        if names and (len(names) < len(blocks) or not _is_list_of(names, str)):
            msg = "either every block of the layout has a name, or none has"
            raise ModelError(msg)
        return cls(tuple(tasks), groups, tuple(names))

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Layout:
        """Read a layout file.

        Raises:
            ModelError: It cannot be read, or is no layout; the message names the file.
        """
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            msg = f"cannot read the layout {path}: {error}"
            raise ModelError(msg) from error
        except OnnxMTLError as error:
            msg = f"{path}: {error}"
            raise ModelError(msg) from error

    @property
    def number(self) -> int:
        """Its place in the order in which TreeMTL's code enumerates layouts of as many tasks and blocks; from 0."""
        return number_of_groups(self.groups)

    def branch_point(self, task: int, other: int) -> int:
        """The first block in which two tasks are apart; B if they share all."""
        together = (any(task in group and other in group for group in block) for block in self.groups)
        return sum(together)  # once apart, they stay apart

    def trees(self) -> tuple[Group, ...]:
        """The tasks of each tree: as many as there are backbones from the image on."""
        return self.groups[0]

    def cost(
        self,
        block_costs: Sequence[float],
        probability: Callable[[Group], float] = lambda group: 1.0,
        parts: Sequence[Part] | None = None,
    ) -> float:
        """What the blocks of all groups cost together.

        Args:
            block_costs: Per block the cost of one copy, in any unit; with `parts`, that of one copy of each part.
            probability: How likely it is that one of these tasks has to be computed, by default always.
            parts: Which tasks need which part of a block; None: all need all of every block.

        Raises:
            ModelError: There are not as many costs as blocks, or as parts.
        """
        known = whole_blocks(len(self.tasks), len(self.groups)) if parts is None else parts
        if len(block_costs) != len(known):
            what = f"{len(known)} blocks" if parts is None else f"blocks of {len(known)} parts"
            msg = f"the layout has {what}, but {len(block_costs)} costs are given"
            raise ModelError(msg)
        return sum(
            cost * probability(group)
            for cost, part in zip(block_costs, known, strict=True)
            for group in part.needing(self.groups[part.block])
        )

    def expand(self, counts: Sequence[int]) -> Layout:
        """The same tree on finer blocks: block b becomes `counts[b]` blocks. Names of blocks are dropped.

        Raises:
            ModelError: There are not as many counts as blocks, or one is below 1.
        """
        if len(counts) != len(self.groups) or any(count < 1 for count in counts):
            msg = f"to expand {len(self.groups)} blocks takes as many counts from 1 on, not {list(counts)}"
            raise ModelError(msg)
        finer = tuple(block for block, count in zip(self.groups, counts, strict=True) for _ in range(count))
        return Layout(self.tasks, finer)

    def with_blocks(self, names: Sequence[str]) -> Layout:
        """The same layout with these names of its blocks."""
        return dataclasses.replace(self, blocks=tuple(names))

    def for_tasks(self, tasks: Sequence[str]) -> Layout:
        """The same layout with its tasks in this order.

        Raises:
            ModelError: These are not its tasks.
        """
        if sorted(tasks) != sorted(self.tasks):
            msg = f"the layout is for the tasks {', '.join(self.tasks)}, not for {', '.join(tasks)}"
            raise ModelError(msg)
        new = [list(tasks).index(name) for name in self.tasks]
        groups = tuple(tuple(tuple(new[task] for task in group) for group in block) for block in self.groups)
        return Layout(tuple(tasks), groups, self.blocks)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as in JSON."""
        names: list[dict[str, Any]] = [{"name": name} for name in self.blocks] or [{} for _ in self.groups]
        blocks = [
            name | {"groups": [[self.tasks[task] for task in group] for group in block]}
            for name, block in zip(names, self.groups, strict=True)
        ]
        return {"layout": {"tasks": list(self.tasks), "blocks": blocks}}

    def to_json(self) -> str:
        """Readable JSON, a line per block; equal layouts give equal text."""
        content = self.to_dict()["layout"]
        lines = ",\n".join(f"      {json.dumps(block, ensure_ascii=False)}" for block in content["blocks"])
        tasks = json.dumps(content["tasks"], ensure_ascii=False)
        return f'{{\n  "layout": {{\n    "tasks": {tasks},\n    "blocks": [\n{lines}\n    ]\n  }}\n}}\n'

    def text(self) -> str:
        """A drawing of the tree for a terminal: per branch its blocks and its tasks."""
        return text_tree(self.tasks, self.groups, self.blocks)

    def _check(self) -> None:
        for name, given in (("task", self.tasks), ("block", self.blocks)):
            twice = sorted({value for value in given if given.count(value) > 1})
            if twice or not all(given):
                what = f"{name} {twice[0]!r} is there twice" if twice else f"a {name} has an empty name"
                raise ModelError(f"this is no layout: {what}")
        if not self.tasks or not self.groups:
            msg = f"this is no layout: it has no {'blocks' if self.tasks else 'tasks'}"
            raise ModelError(msg)
        if self.blocks and len(self.blocks) != len(self.groups):
            msg = f"this is no layout: it has {len(self.groups)} blocks but names for {len(self.blocks)}"
            raise ModelError(msg)
        for number, block in enumerate(self.groups):
            wrong = self._what_is_wrong(number, block)
            if wrong:
                where = f"{number} ({self.blocks[number]!r})" if self.blocks else str(number)
                raise ModelError(f"this is no layout: in block {where} {wrong}")

    def _what_is_wrong(self, number: int, block: tuple[Group, ...]) -> str | None:
        listed = [task for group in block for task in group]
        unknown = [task for task in listed if not 0 <= task < len(self.tasks)]
        if unknown:
            return f"there is a task {unknown[0]}, but there are {len(self.tasks)} tasks, from 0 on"
        for task, name in enumerate(self.tasks):
            if listed.count(task) != 1:
                return f"task {name!r} is in {listed.count(task)} groups instead of one"
        if () in block:
            return "a group is empty"
        before = self.groups[number - 1] if number else ()
        for group in block if number else ():
            if not any(set(group) <= set(other) for other in before):
                apart = next(t for t in group if not any({group[0], t} <= set(other) for other in before))
                names = f"{self.tasks[group[0]]!r} and {self.tasks[apart]!r}"
                return f"{names} share again, but they parted before; give each a group of its own from there on"
        return None


def _matrix(
    tasks: tuple[str, ...],
    blocks: int,
    points: Mapping[tuple[int | str, int | str], int] | Sequence[Sequence[int]] | np.ndarray[Any, Any],
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """[T, T] branching points, B on the diagonal."""
    count = len(tasks)
    given: dict[tuple[int, int], int] = {}
    if isinstance(points, Mapping):
        pairs = [(_task(tasks, a), _task(tasks, b), int(point)) for (a, b), point in points.items()]
    else:
        if len(points) != count or any(len(row) != count for row in points):
            msg = f"branching points of {count} tasks are a matrix of {count} rows and columns"
            raise ModelError(msg)
        pairs = [(a, b, int(points[a][b])) for a in range(count) for b in range(count) if a != b]
    for one, other, point in pairs:
        a, b = min(one, other), max(one, other)
        names = f"{tasks[a]!r} and {tasks[b]!r}"
        if not 0 <= point <= blocks:
            msg = f"the branching point of {names} is {point}, which is not between 0 and {blocks}"
            raise ModelError(msg)
        if given.setdefault((a, b), point) != point:
            msg = f"there are two branching points of {names}: {given[a, b]} and {point}"
            raise ModelError(msg)
    matrix = np.full((count, count), blocks + 1, np.int64)  # a task is with itself in every block
    for a, b in itertools.combinations(range(count), 2):
        if (a, b) not in given:
            msg = f"the branching point of {tasks[a]!r} and {tasks[b]!r} is missing"
            raise ModelError(msg)
        matrix[a, b] = matrix[b, a] = given[a, b]
    return matrix


def _task(tasks: tuple[str, ...], task: int | str) -> int:
    if isinstance(task, str) and task in tasks:
        return tasks.index(task)
    if isinstance(task, int) and 0 <= task < len(tasks):
        return task
    msg = f"there is no task {task!r}; there are: {', '.join(tasks)}"
    raise ModelError(msg)


def _groups_of(block: dict[str, Any], number: int, index: Mapping[str, int]) -> tuple[Group, ...]:
    """The groups of one block of a file."""
    groups = block.get("groups")
    if not _is_list_of(groups, list) or not all(_is_list_of(group, str) for group in groups or ()):
        msg = f'block {number} of the layout needs "groups", lists of task names'
        raise ModelError(msg)
    assert isinstance(groups, list)
    unknown = [name for group in groups for name in group if name not in index]
    if unknown:
        msg = f"block {number} of the layout has a task {unknown[0]!r}, which is not among its tasks {', '.join(index)}"
        raise ModelError(msg)
    return tuple(tuple(index[name] for name in group) for group in groups)


def _is_list_of(value: object, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)
