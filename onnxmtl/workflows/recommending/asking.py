"""What a user may ask of ``recommend``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from onnxmtl.errors import RunError

DEFAULT_BLOCKS = 5

DECODERS = ("exact", "greedy")


@dataclasses.dataclass(frozen=True)
class Question:
    """What is asked about the layouts; answered anew in moments once the trainings are done.

    Attributes:
        top: How many layouts.
        budget: Limits such as ``madds<=0.6x, models<=2``; "": none.
        task_weights: How tasks are weighed: ``equal``, ``svd-entropy``, ``svd-entropy:paper`` (TreeMTL's equations to
            the letter), or ``auto``: SVD entropy where the table has what it takes, else equal.
        decoder: ``exact``: the best ones of all layouts; ``greedy``: what splitting step by step finds.
        sweep: Whether the whole Pareto front is wanted.
        traffic: How often which tasks are asked for (:mod:`onnxmtl.recommend.traffic`); "": all tasks, always.
    """

    top: int = 5
    budget: str = ""
    task_weights: str = "auto"
    decoder: str = "exact"
    sweep: bool = False
    traffic: str = ""

    def __post_init__(self) -> None:
        if self.top < 1:
            msg = f"--top must be 1 or more, not {self.top}"
            raise RunError(msg)
        if self.decoder not in DECODERS:
            msg = f"--decoder takes {', '.join(DECODERS)}, not {self.decoder!r}"
            raise RunError(msg)


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Where the backbone may branch.

    Attributes:
        count: Number of blocks of about equal multiply-adds; 0: as many as the table has, or 5.
        sizes: How many of the network's own blocks make one, as (1, 3, 4, 6, 3); (): use `count`.
        at: Names of the tensors or nodes to cut at; (): use `count`.
    """

    count: int = 0
    sizes: tuple[int, ...] = ()
    at: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", tuple(self.sizes))
        object.__setattr__(self, "at", tuple(self.at))
        if self.count < 0 or any(size < 1 for size in self.sizes):
            msg = f"--blocks takes a number from 1 on, or several as 1,3,4,6,3, not {self.count or self.sizes}"
            raise RunError(msg)
        if sum(map(bool, (self.count, self.sizes, self.at))) > 1:
            msg = "--blocks and --at both say where to cut: leave one of them out"
            raise RunError(msg)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is trained.

    Attributes:
        estimator: What predicts a layout: ``two-task``, ``grouping``, ``rsa`` or ``rsa-max``.
        trainings: At most so many two-task models per seed, spent where the answer is undecided; 0: all of them.
        seeds: So many times everything is trained, from seed, seed + 1, …; values are averaged.
        train_top: The best so many layouts are trained, to compare with what was predicted.
        train_random: So many layouts drawn at random are trained, too.
        train_given: Layout files to be trained, too.
    """

    estimator: str = "two-task"
    trainings: int = 0
    seeds: int = 1
    train_top: int = 0
    train_random: int = 0
    train_given: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "train_given", tuple(map(str, self.train_given)))
        for name, lowest in (("trainings", 0), ("seeds", 1), ("train_top", 0), ("train_random", 0)):
            value = getattr(self, name)
            if value < lowest:
                msg = f"--{name.replace('_', '-')} must be {lowest} or more, not {value}"
                raise RunError(msg)

    @property
    def similarity_only(self) -> bool:
        """Whether single-task networks are enough."""
        return self.estimator.startswith("rsa")

    @property
    def trains_layouts(self) -> bool:
        """Whether layouts are trained, too."""
        return bool(self.train_top or self.train_random or self.train_given)


def split_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Options by name -> those of :class:`Question`, of :class:`Plan`, and the others."""
    parts: list[dict[str, Any]] = [{}, {}, {}]
    names = [{field.name for field in dataclasses.fields(kind)} for kind in (Question, Plan)]
    for name, value in options.items():
        parts[next((i for i, known in enumerate(names) if name in known), 2)][name] = value
    return parts[0], parts[1], parts[2]
