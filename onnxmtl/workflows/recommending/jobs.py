"""The models that a recommendation needs, each as a name and what makes it what it is. No torch."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

from onnxmtl.errors import RunError
from onnxmtl.policy.layout import Groups, Layout
from onnxmtl.recommend.active import first_cells


@dataclasses.dataclass(frozen=True)
class TrainingJob:
    """One model to be trained, on its own and by any process.

    Attributes:
        name: Of its phase.
        title: For people.
        tasks: Names of its tasks.
        seed: Of its heads, the order of the data and dropout.
        groups: Which of its tasks share each block; (): a single task.
        keeps: Whether the trained network is kept, not only what it achieves.
    """

    name: str
    title: str
    tasks: tuple[str, ...]
    seed: int
    groups: Groups = ()
    keeps: bool = False

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> TrainingJob:
        """Read what :meth:`to_json` made."""
        groups = tuple(tuple(tuple(group) for group in block) for block in content["groups"])
        return cls(**{**content, "tasks": tuple(content["tasks"]), "groups": groups})


def single_jobs(tasks: Sequence[str], seeds: Sequence[int]) -> list[TrainingJob]:
    """A network per task: the reference of all relative numbers, branching point 0 of every pair."""
    return [
        TrainingJob(
            _name(f"single-task-{i + 1}", seed, seeds),
            _title(f"single {task}", seed, seeds),
            (task,),
            seed,
            keeps=True,
        )
        for seed in seeds
        for i, task in enumerate(tasks)
    ]


def pair_jobs(
    tasks: Sequence[str], blocks: int, wanted: Sequence[tuple[int, int, int]], seeds: Sequence[int]
) -> list[TrainingJob]:
    """Two-task models.

    Args:
        tasks: Names of all tasks.
        blocks: B.
        wanted: (task, other task, branching point) of each, by index.
        seeds: Each is trained once per seed.
    """
    jobs = []
    for a, b, point in wanted:
        pair = (tasks[a], tasks[b])
        groups = Layout.from_branch_points(pair, blocks, {(0, 1): point}).groups
        for seed in seeds:
            title = _title(f"{pair[0]}+{pair[1]} at {point}", seed, seeds)
            jobs.append(TrainingJob(_name(pair_name(a, b, point), seed, seeds), title, pair, seed, groups))
    return jobs


def pair_name(a: int, b: int, point: int) -> str:
    """Of the phase of a two-task model."""
    return f"two-task-{a + 1}-{b + 1}-at-{point}"


def layout_jobs(layouts: Sequence[Layout], seeds: Sequence[int]) -> list[TrainingJob]:
    """Models of all tasks."""
    return [
        TrainingJob(
            _name(f"layout-{layout.number}", seed, seeds),
            _title(f"layout {layout.number}", seed, seeds),
            layout.tasks,
            seed,
            layout.groups,
        )
        for layout in layouts
        for seed in seeds
    ]


def all_pairs(tasks: int, points: Sequence[int]) -> list[tuple[int, int, int]]:
    """Every pair of tasks at each of these branching points, pair by pair."""
    return [(a, b, point) for a, b in itertools.combinations(range(tasks), 2) for point in points]


def first_pairs(tasks: int, blocks: int, trainings: int) -> list[tuple[int, int, int]]:
    """What is trained in any case, before trainings are spent where they matter: every pair at B and B/2.

    (Branching point 0 needs no training of a pair: it is the two single-task networks.)

    Raises:
        RunError: There are not enough trainings for that.
    """
    first = list(first_cells(tasks, blocks))
    if trainings < len(first):
        points = sorted({point for _, _, point in first})
        msg = (
            f"--trainings {trainings}: {math.comb(tasks, 2)} pairs of tasks at the branching points "
            f"{' and '.join(map(str, points))} take {len(first)} trainings to begin with; give as many or more "
            f"(all are {math.comb(tasks, 2) * blocks})"
        )
        raise RunError(msg)
    return first


def _name(name: str, seed: int, seeds: Sequence[int]) -> str:
    return name if len(seeds) == 1 else f"{name}-seed-{seed}"


def _title(title: str, seed: int, seeds: Sequence[int]) -> str:
    return title if len(seeds) == 1 else f"{title}, seed {seed}"
