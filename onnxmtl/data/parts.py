"""Disjoint data sets: each labels some of the tasks, and no image has labels of two sets.

:class:`Parts` is their concatenation, so that all that reads samples by index goes on working; a sample has the labels
of its own set only. Training takes a batch of each (:func:`onnxmtl.data.batches_at`), and evaluation goes through one
after the other, so that each task is measured on its own set.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from collections.abc import Mapping, Sequence

from onnxmtl.data.dataset import Array, Dataset, Subset, drawn, split
from onnxmtl.errors import DataError
from onnxmtl.kinds import TaskSet


@dataclasses.dataclass(frozen=True)
class Part:
    """A data set and the tasks it is taken for.

    Attributes:
        dataset: Its samples.
        tasks: What is asked of it.
        stream: Ending for the names of random streams: two sets, or one set twice, do not move in step.
    """

    dataset: Dataset
    tasks: TaskSet
    stream: str = ""


class Parts:
    """Data sets laid end to end, each with the names of the tasks it labels.

    Args:
        parts: (data set, names of its tasks). A task may be labelled by several.
    """

    def __init__(self, parts: Sequence[tuple[Dataset, Sequence[str]]]) -> None:
        self.parts = tuple((dataset, tuple(names)) for dataset, names in parts)
        self._ends = tuple(itertools.accumulate(len(dataset) for dataset, _ in self.parts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int, /) -> tuple[Array, Mapping[str, Array | None]]:
        dataset, names, place = self._find(index)
        return _only(dataset[place], names)

    def draw(self, index: int, seed: int) -> tuple[Array, Mapping[str, Array | None]]:
        """An augmented sample, if its data set has them; else the plain one."""
        dataset, names, place = self._find(index)
        return _only(drawn(dataset, place, seed), names)

    def own_split(self, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
        """Each data set in two, each two put together again."""
        halves = [(split(dataset, fraction, seed), names) for dataset, names in self.parts]
        first, second = ([(pair[i], names) for pair, names in halves] for i in (0, 1))
        return Parts(first), Parts(second)

    def _find(self, index: int) -> tuple[Dataset, tuple[str, ...], int]:
        if not 0 <= index < len(self):
            msg = f"index {index} is outside the {len(self)} samples"
            raise IndexError(msg)
        which = bisect.bisect_right(self._ends, index)
        dataset, names = self.parts[which]
        return dataset, names, index - (self._ends[which - 1] if which else 0)


def parts_of(dataset: Dataset, tasks: TaskSet) -> list[Part]:
    """The data sets that label some of `tasks`, each with those: the data set itself, if it is not :class:`Parts`.

    Raises:
        DataError: No part labels one of the tasks.
    """
    if not isinstance(dataset, Parts):
        return [Part(dataset, tasks)]
    found = []
    for place, (part, names) in enumerate(dataset.parts):
        of_part = tuple(task for task in tasks if task.name in names)
        if of_part:
            found.append(Part(part, TaskSet(of_part), f"/{place}:{'+'.join(names)}"))
    labelled = {name for part in found for name in part.tasks.names}
    for task in tasks:
        if task.name not in labelled:
            msg = f"none of the data sets labels task {task.name!r}: name one for it, as in {task.name}=NAME:PATH"
            raise DataError(msg)
    return found


def limited(dataset: Dataset, most: int) -> Dataset:
    """At most `most` samples of a data set (of each of disjoint ones), spread evenly over it."""
    if isinstance(dataset, Parts):
        return Parts([(limited(part, most), names) for part, names in dataset.parts])
    n = len(dataset)
    return dataset if n <= most else Subset(dataset, [place * n // most for place in range(most)])


def _only(
    sample: tuple[Array, Mapping[str, Array | None]], names: Sequence[str]
) -> tuple[Array, Mapping[str, Array | None]]:
    image, targets = sample
    return image, {name: targets[name] for name in names if name in targets}
