"""Latencies of many models that are to be compared with each other: measured in turns, few at a time."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence

from onnxmtl import runtime
from onnxmtl.deploy.bench.timing import SETTINGS, Run, interleaved

_AT_ONCE = 2**30  # bytes of models that are open together


def latencies(
    models: Sequence[Callable[[], bytes]],
    feeds: Mapping[str, runtime.Array] | runtime.Array,
    *,
    seconds: float = 0.5,
    rounds: int = 20,
    threads: int | None = None,
    worked: bool = False,
) -> list[float]:
    """Milliseconds of one run of each model.

    The first one runs in every round with the others; what the machine does meanwhile is divided out by it.

    Args:
        models: Each makes a serialised model; only some are held at a time.
        feeds: What all are run on.
        seconds: How long each is measured.
        rounds: How often at least.
        threads: As for :func:`onnxmtl.runtime.session`.
        worked: Processor time of all threads instead of the time that passes.

    Raises:
        ModelError: ONNX Runtime does not load or does not run one.
    """
    if not models:
        return []
    reference = models[0]()
    ratios: list[float] = [1.0]
    base: list[float] = []
    for group in _groups(models[1:], len(reference)):
        works = [[_open(model, feeds, threads)] for model in (reference, *group)]
        found = interleaved(works, seconds=seconds * len(works), rounds=rounds)
        first, *others = (times.totals[worked] for times in found)
        base += first
        ratios += [statistics.median([a / b for a, b in zip(one, first, strict=True)]) for one in others]
    middle = statistics.median(base)
    return [middle * ratio for ratio in ratios]


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


def _open(model: bytes, feeds: Mapping[str, runtime.Array] | runtime.Array, threads: int | None) -> Run:
    session = runtime.session(model, threads=threads, settings=SETTINGS)
    runtime.run(session, feeds)  # tells in one line if it cannot be run
    arrays = dict(feeds) if isinstance(feeds, Mapping) else {session.get_inputs()[0].name: feeds}
    return functools.partial(session.run, None, arrays)
