"""Times that can be compared: everything in turns, on the same cores, and nothing left running behind.

Three things would make one candidate look better than another. The machine's speed drifts, so all candidates are
measured in every round, in a new order each time, and ratios are taken within a round. Worker threads of one session
spin for a while after it is done and take the next one's cores, so they are told to stop. A candidate that runs after
another finds the caches full of the other's weights, so the first run of every turn is not counted.

On a machine that does other work, no time that passes can be believed, and the processor time of one thread still can.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from onnxmtl.ir import collection_paused

SETTINGS = {"session.force_spinning_stop": "1"}
"""Of every session: its threads wait actively while it runs, and stop when it is done."""

_TURN = 0.01  # seconds that are timed in one turn, at least
_SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"

Run = Callable[[], object]


@dataclasses.dataclass(frozen=True)
class Times:
    """Milliseconds of one work, [part][round].

    Attributes:
        passed: By the clock.
        worked: Of the processor, all threads of this process together.
    """

    passed: list[list[float]]
    worked: list[list[float]]

    @property
    def totals(self) -> tuple[list[float], list[float]]:
        """Both over all parts, one number per round."""
        passed, worked = ([sum(parts) for parts in zip(*of, strict=True)] for of in (self.passed, self.worked))
        return passed, worked


def interleaved(
    works: Sequence[Sequence[Run]], *, seconds: float, rounds: int = 20, warmup: int = 3, seed: int = 0
) -> list[Times]:
    """Measure several works in turns.

    Args:
        works: Each a sequence of parts, run one after the other.
        seconds: How long to measure, all works together.
        rounds: Rounds at least, however long they take.
        warmup: Rounds before those, not counted.
        seed: Of the order within the rounds.

    Returns:
        One of each work.
    """
    shuffled = random.Random(seed)
    order = list(range(len(works)))
    repeats = [1] * len(works)
    for _ in range(warmup):
        for i, work in enumerate(works):
            spent = sum(passed for passed, _ in _turn(work, 1)) / 1e3
            repeats[i] = max(1, min(100, round(_TURN / spent))) if spent > 0 else 100
    times = [Times([[] for _ in work], [[] for _ in work]) for work in works]
    end = time.perf_counter() + seconds
    done = 0
    with collection_paused():
        while done < rounds or time.perf_counter() < end:
            shuffled.shuffle(order)
            for i in order:
                _turn(works[i], 1)
                for part, (passed, worked) in enumerate(_turn(works[i], repeats[i])):
                    times[i].passed[part].append(passed)
                    times[i].worked[part].append(worked)
            done += 1
    return times


def _turn(work: Sequence[Run], repeats: int) -> list[tuple[float, float]]:
    """Milliseconds of each part, passed and worked: the medians over `repeats` times all parts in sequence."""
    found: list[tuple[list[float], list[float]]] = [([], []) for _ in work]
    for _ in range(repeats):
        for run, (passed, worked) in zip(work, found, strict=True):
            begin, working = time.perf_counter(), time.process_time()
            run()
            worked.append(1e3 * (time.process_time() - working))
            passed.append(1e3 * (time.perf_counter() - begin))
    return [(statistics.median(passed), statistics.median(worked)) for passed, worked in found]


@contextlib.contextmanager
def pinned(threads: int) -> Iterator[tuple[int, ...]]:
    """Inside, this thread and those that it starts run on the same `threads` cores, where the system lets us choose.

    Yields:
        Their numbers; empty where they cannot be chosen, or fewer are there than asked for.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield ()
        return
    before = os.sched_getaffinity(0)
    chosen = _cores(sorted(before))[:threads]
    if len(chosen) < threads:
        yield ()
        return
    os.sched_setaffinity(0, chosen)
    try:
        yield tuple(chosen)
    finally:
        os.sched_setaffinity(0, before)


def _cores(allowed: Sequence[int]) -> list[int]:
    """The logical processors, those first that share their core with none before them."""
    first: list[int] = []
    others: list[int] = []
    taken: set[str] = set()
    for cpu in allowed:
        try:
            siblings = Path(_SIBLINGS.format(cpu)).read_text().strip()
        except OSError:
            siblings = str(cpu)
        (others if siblings in taken else first).append(cpu)
        taken.add(siblings)
    return first + others
