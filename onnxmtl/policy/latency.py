"""What the parts of a model take on this machine: a table from runs of whole models, so that times can be added up.

A part timed alone tells little of what it takes within a model: the caches are full of other things, and what lies
between the parts is missing. Whole models tell what they take all together. So the times of parts start from a guess
(multiply-adds, or each operator timed alone), and are moved, each by as little of itself as will do, to what explains
measurements of some whole models: with a_L the copies that a model L has of each part, m_L its time and t₀ the guess,

    c = argmin_c Σ_L ((c·a_L·t₀ − m_L) / m_L)²,     s_j = max(c·t₀_j, a tenth of their mean)
    t = argmin_{t ≥ 0} Σ_L ((a_L·t − m_L) / m_L)² + λ Σ_j ((t_j − c·t₀_j) / s_j)²

λ is the variance of a measurement over that of the guess: the one by which each of these models is told best from the
others. Such a table serves as any other: expected cost, decoders, counts. Only a measurement of the emitted model says
whether a limit is kept (:mod:`onnxmtl.policy.measured`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from onnxmtl.analysis.table import Site, SiteTable
from onnxmtl.cost.selected import SelectedCost, picks_of
from onnxmtl.errors import ModelError
from onnxmtl.policy.architecture import Architecture

Float64 = np.ndarray[Any, np.dtype[np.float64]]

CALIBRATING = 9
"""Whole models that a table is made from."""

_TRUSTS = (1.0, 0.1, 0.01, 1e-3, 1e-4, 1e-5)  # λ; the first of equally good ones is taken
_LEAST = 0.1  # of the mean: a part that is guessed to take nothing may take something


@dataclasses.dataclass(frozen=True)
class Times:
    """Microseconds of one image on this machine.

    Attributes:
        operators: Of one execution of each form of operator.
        rest: Of all else.
        measured: Of the whole models that the table was made from.
        explained: Of the same models, by the table.
    """

    operators: Mapping[str, float]
    rest: float
    measured: Sequence[float] = ()
    explained: Sequence[float] = ()


def calibrated(
    guess: Sequence[float], copies: Sequence[Sequence[float]] | Float64, measured: Sequence[float]
) -> Float64:
    """The times of parts that explain what whole models took, see the module.

    Args:
        guess: A time per part, in any unit.
        copies: Per whole model how many copies of each part it has, [models, parts].
        measured: Per whole model what it took, above 0.

    Returns:
        A time per part, in the unit of `measured`; none is below 0.

    Raises:
        ModelError: A model took no time.
    """
    before, took = np.array(guess, np.float64), np.array(measured, np.float64)
    if not len(before) or not len(took):
        return before
    if not (took > 0).all():
        msg = f"a model that takes {took.min():g} ms was not measured; times have to be above 0"
        raise ModelError(msg)
    shares = np.array(copies, np.float64) / took[:, None]
    if not (shares @ before).all():
        before = np.ones(len(before))  # of some model nothing is known: all parts alike

    def missed(trust: float) -> float:
        rows = range(len(took)) if len(took) > 1 else ()
        others = ((row, _moved(before, np.delete(shares, row, 0), trust)) for row in rows)
        return sum(float(shares[row] @ times - 1) ** 2 for row, times in others)

    return _moved(before, shares, min(_TRUSTS, key=missed))


def _moved(before: Float64, shares: Float64, trust: float) -> Float64:
    guessed = shares @ before
    before = before * (guessed.sum() / (guessed @ guessed))
    scale = np.maximum(before, _LEAST * before.mean())
    pull = np.sqrt(trust)
    rows = np.vstack([shares * scale, pull * np.eye(len(before))])
    wanted = np.concatenate([np.ones(len(shares)), pull * before / scale])
    moved: Float64 = scale * nonnegative(rows, wanted)
    return moved


def nonnegative(rows: Float64, wanted: Float64) -> Float64:
    """argmin_{x ≥ 0} ‖rows·x − wanted‖², by active sets (Lawson and Hanson 1974, chapter 23).

    Args:
        rows: [equations, unknowns], of full column rank.
        wanted: [equations].
    """
    size = rows.shape[1]
    x, free = np.zeros(size), np.zeros(size, bool)
    least = 1e-12 * float(np.abs(rows.T @ wanted).max(initial=0.0))
    for _ in range(10 * size):  # in practice about `size`; each turn lowers the sum
        gain = np.where(free, -np.inf, rows.T @ (wanted - rows @ x))
        if free.all() or gain.max() <= least:
            break
        free[int(gain.argmax())] = True
        while True:
            best = np.zeros(size)
            best[free] = np.linalg.lstsq(rows[:, free], wanted, rcond=None)[0]
            below = free & (best <= 0)
            if not below.any():
                x = best
                break
            step = float((x[below] / (x[below] - best[below])).min())
            x = x + step * (best - x)
            free &= ~(below & (x <= 1e-15 * np.abs(x).max(initial=1.0)))
            x[~free] = 0.0
    return x


def executions(coded: SiteTable, architectures: Sequence[Architecture], parts: int) -> Float64:
    """How often each part is executed, [architectures, parts].

    Args:
        coded: A table in which the cost of an item is the number of its part, from 1 on.
        architectures: One or more.
        parts: How many there are.
    """
    picks = np.stack([picks_of(coded, one) for one in architectures])
    found = np.zeros((len(picks), parts))
    for part in range(parts):
        items = tuple(dataclasses.replace(item, cost=1) for item in coded.cost_items if item.cost == 1 + part)
        counter = SelectedCost(dataclasses.replace(coded, cost_items=items, weight_items=()))
        found[:, part] = counter(picks).multiply_adds
    return found


def calibrating(table: SiteTable, count: int = CALIBRATING, seed: int = 0) -> list[Architecture]:
    """Architectures to measure, the same ones every time: the first options for all, all tasks apart, random ones.

    A random one takes the first options up to a random site, as tasks share the first layers most; behind it it has
    its own weights of the options (by name), and its own share of places where all tasks take the same.
    """
    rng = np.random.default_rng(seed)
    found = [_of(table, lambda site, task: 0), _of(table, _apart)]
    found += [_of(table, _random(table, rng)) for _ in range(4 * count)]
    return list(dict.fromkeys(found))[:count]


def _apart(site: Site, task: int) -> int:
    if site.grouped:
        return task % len(site.options)
    return site.option_names.index("own") if "own" in site.option_names else len(site.options) - 1


def _random(table: SiteTable, rng: np.random.Generator) -> Callable[[Site, int], int]:
    names = list(dict.fromkeys(name for site in table.sites for name in site.option_names))
    weights = dict(zip(names, rng.exponential(size=len(names)), strict=True))
    begin, together = rng.integers(0, len(table.sites) + 1), rng.random()

    def drawn(site: Site) -> int:
        own = np.array([weights[name] for name in site.option_names])
        return int(rng.choice(len(own), p=own / own.sum()))

    common = {site.index: drawn(site) for site in table.sites}

    def pick(site: Site, task: int) -> int:
        if site.index < begin:
            return 0
        return common[site.index] if rng.random() < together else drawn(site)

    return pick


def _of(table: SiteTable, pick: Callable[[Site, int], int]) -> Architecture:
    everyone = range(len(table.tasks))
    picks = {(s.index, t): pick(s, t) for s in table.sites for t in s.tasks or everyone}
    return Architecture.from_indices(table, picks)
