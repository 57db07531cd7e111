"""Latencies of many models that are to be compared with each other: measured in turns, few at a time."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from onnxmtl import runtime
from onnxmtl.deploy.bench.timing import SETTINGS, Run, interleaved

Feeds: TypeAlias = Mapping[str, runtime.Array] | runtime.Array

_AT_ONCE = 2**30  # bytes of models that are open together


def latencies(
    models: Sequence[Callable[[], bytes]],
    feeds: Feeds | Sequence[Feeds],
    *,
    seconds: float = 0.5,
    rounds: int = 20,
    threads: int | None = None,
    worked: bool = False,
) -> list[float]:
    """Milliseconds of one run of each model, as :func:`passed_and_worked` measures them.

    Args:
        models: As there.
        feeds: As there.
        seconds: As there.
        rounds: As there.
        threads: As there.
        worked: Processor time of all threads instead of the time that passes.

    Raises:
        ModelError: ONNX Runtime does not load or does not run one.
    """
    return passed_and_worked(models, feeds, seconds=seconds, rounds=rounds, threads=threads)[worked]


def passed_and_worked(
    models: Sequence[Callable[[], bytes]],
    feeds: Feeds | Sequence[Feeds],
    *,
    seconds: float = 0.5,
    rounds: int = 20,
    threads: int | None = None,
) -> tuple[list[float], list[float]]:
    """Milliseconds of one run of each model, by the clock and of the processor.

    The first one runs in every round with the others; what the machine does meanwhile is divided out by it.

    Args:
        models: Each makes a serialised model; only some are held at a time.
        feeds: What all are run on, or what each is.
        seconds: How long each is measured.
        rounds: How often at least.
        threads: As for :func:`onnxmtl.runtime.session`.

    Raises:
        ModelError: ONNX Runtime does not load or does not run one.
    """
    if not models:
        return [], []
    fed = [feeds] * len(models) if isinstance(feeds, Mapping | np.ndarray) else feeds
    reference = models[0]()
    ratios: tuple[list[float], list[float]] = ([1.0], [1.0])
    base: tuple[list[float], list[float]] = ([], [])
    for group in _groups(models[1:], len(reference)):
        begin = len(ratios[0])
        their = (fed[0], *fed[begin : begin + len(group)])
        works = [[_open(model, one, threads)] for model, one in zip((reference, *group), their, strict=True)]
        found = interleaved(works, seconds=seconds * len(works), rounds=rounds)
        for which in (0, 1):
            first, *others = (times.totals[which] for times in found)
            base[which].extend(first)
            ratios[which].extend(_median_ratio(one, first) for one in others)
    passed, worked = ([statistics.median(base[which]) * ratio for ratio in ratios[which]] for which in (0, 1))
    return passed, worked


def _median_ratio(times: Sequence[float], others: Sequence[float]) -> float:
    """Of what was measured in the same rounds; 0 where the clock is too coarse for both."""
    return statistics.median([a / b if b else 0.0 for a, b in zip(times, others, strict=True)])


def _groups(models: Sequence[Callable[[], bytes]], held: int) -> Iterator[list[bytes]]:
    """The models in groups of :data:`_AT_ONCE` bytes with what is `held` besides, of one model at least; one group at
    least."""
    group: list[bytes] = []
    for make in models:
        model = make()
        if group and held + sum(map(len, group)) + len(model) > _AT_ONCE:
            yield group
            group = []
        group.append(model)
    yield group


def _open(model: bytes, feeds: Feeds, threads: int | None) -> Run:
    session = runtime.session(model, threads=threads, settings=SETTINGS)
    runtime.run(session, feeds)  # tells in one line if it cannot be run
    arrays = dict(feeds) if isinstance(feeds, Mapping) else {session.get_inputs()[0].name: feeds}
    return functools.partial(session.run, None, arrays)
