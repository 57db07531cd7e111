"""Random architectures to compare found ones with: as many of each option, or as many multiply-adds.

A search is worth its time only if what it finds beats what chance finds at the same cost.

:func:`random_like` is AdaShare's pair of baselines (Sec. 4.1): *Random #1* keeps the number of skipped blocks of all
tasks together, *Random #2* that of every task; here the number of every option, so that it holds for any space.
Every assignment of options to places with these numbers is equally likely.

:func:`random_at_cost` keeps the multiply-adds. Architectures of a given cost are a vanishing part of all (a random one
shares next to nothing), so they are not drawn and thrown away but walked to. The walk goes from architecture to
architecture by symmetric moves (another option at one place; new options for all tasks at one site; two places
exchange theirs), each taken with the probability of Metropolis for the weight

    exp(−β · max(0, |cost / target − 1| − tolerance)),

which is the same for all architectures within the tolerance. Hence the visits of the walk to the tolerance are,
in the limit, uniform over the architectures there, whatever β is: β (set while the walk warms up, and left alone from
then on) only decides how much time it spends outside, where it has to go to come from one such architecture to
another. Each architecture returned is the last of ten visits per (site, task) of a walker of its own, so several are
practically independent; two can be equal where there are few. What is not guaranteed: that a walk of this length has
forgotten its start if the tolerance is so narrow that the architectures in it lie far apart.

In the space ``branch`` architectures stand for trees, some for one tree alone and others by the hundred for the same.
There both functions are about trees (:mod:`onnxmtl.policy.random_trees`): one keeps the number of groups at every
block, the other divides the weight by the number of architectures that are the same tree, so that trees are equally
likely.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal

import numpy as np

from onnxmtl.analysis.table import SiteTable
from onnxmtl.cost.selected import SelectedCost
from onnxmtl.errors import ModelError
from onnxmtl.policy.architecture import Architecture
from onnxmtl.policy.random_trees import is_tree_space, log_ways, random_tree_like
from onnxmtl.runs.seeds import derive_seed

_Int = np.ndarray[Any, np.dtype[np.int64]]
_Float = np.ndarray[Any, np.dtype[np.float64]]
_Bool = np.ndarray[Any, np.dtype[np.bool_]]
_Cell = tuple[int, int]  # (site, task)

Mode = Literal["total", "per-task"]

_WALKERS = 8  # in step: the cost of so many architectures takes hardly longer to count than that of one
_WARM_ROUNDS = 60  # of as many steps as there are places; β grows from round to round
_GROWTH = 1.5
_SHARE_INSIDE = 0.25  # of the steps, from which on β is left alone
_VISITS = 10  # per place
_MOST_STEPS = 400  # per place


def random_like(table: SiteTable, architecture: Architecture, seed: int, mode: Mode = "total") -> Architecture:
    """A random architecture with as many of each option as `architecture` has.

    In the space ``branch``: with as many groups of tasks at every block, whatever the mode.

    Uniform over all of them. (If the sites' sets of options are not nested, like {shared, own} in {shared, own, skip},
    options are exchanged only among sites that offer the same ones, and it is uniform over what that can give.)

    Args:
        table: The sites.
        architecture: What it is like.
        seed: Another one, another architecture.
        mode: ``total``: the numbers of all tasks together (AdaShare's Random #1); ``per-task``: of every task (#2).

    Raises:
        ModelError: The architecture does not fit the table.
    """
    picks = architecture.indices(table)
    if is_tree_space(table):
        rng = np.random.default_rng(derive_seed(seed, "random-like", mode, ""))
        return random_tree_like(table, architecture, rng)
    groups: dict[str, list[_Cell]] = {}
    for site, task in sorted(picks):
        groups.setdefault(table.tasks[task] if mode == "per-task" else "", []).append((site, task))
    dealt: dict[_Cell, int] = {}
    for name, cells in groups.items():
        rng = np.random.default_rng(derive_seed(seed, "random-like", mode, name))
        taken = {cell: table.sites[cell[0]].options[picks[cell]].name for cell in cells}
        offered = {cell: frozenset(table.sites[cell[0]].option_names) for cell in cells}
        for cell, option in _dealt(taken, offered, rng).items():
            dealt[cell] = table.sites[cell[0]].option_index(option)
    return Architecture.from_indices(table, dealt)


def _dealt(
    taken: Mapping[_Cell, str], offered: Mapping[_Cell, Collection[str]], rng: np.random.Generator
) -> dict[_Cell, str]:
    """The options of `taken`, given to the cells anew."""
    cells = sorted(taken)
    places = {option: [cell for cell in cells if option in offered[cell]] for option in _names(offered.values())}
    rarest = sorted(places, key=lambda option: (len(places[option]), option))
    nested = all(set(places[a]) <= set(places[b]) for a, b in itertools.pairwise(rarest))
    if not nested:
        found: dict[_Cell, str] = {}
        for options in sorted({tuple(sorted(names)) for names in offered.values()}):
            alike = [cell for cell in cells if tuple(sorted(offered[cell])) == options]
            order = rng.permutation(len(alike))
            found.update({cell: taken[alike[i]] for cell, i in zip(alike, order, strict=True)})
        return found
    # Rarest first: whichever of its places an option takes, all others have as many left to choose from.
    counts = Counter(taken.values())
    found = {}
    for option in rarest:
        free = [cell for cell in places[option] if cell not in found]
        chosen = rng.choice(len(free), counts[option], replace=False) if counts[option] else ()
        found.update({free[int(i)]: option for i in chosen})
    return found


def _names(offered: Iterable[Collection[str]]) -> list[str]:
    return sorted({option for options in offered for option in options})


def random_at_cost(
    table: SiteTable, multiply_adds: float, tolerance: float = 0.02, seed: int = 0, count: int = 1
) -> tuple[Architecture, ...]:
    """Random architectures that execute about `multiply_adds`, all tasks and heads together.

    Uniform over those within the tolerance, as far as a walk can be: see the module. The first ones do not depend on
    `count`. Some seconds for a ResNet-34 and three tasks.

    Args:
        table: The sites.
        multiply_adds: The target, as :func:`onnxmtl.cost.count_architecture` counts.
        tolerance: Largest relative difference.
        seed: Of everything random.
        count: How many.

    Raises:
        ModelError: No architecture was found within the tolerance; names the nearest cost that was met.
    """
    if not table.sites:
        msg = "the table has no sites, so there is nothing to draw"
        raise ModelError(msg)
    if not (multiply_adds > 0 and tolerance >= 0):
        msg = f"random architectures need a target of more than 0 multiply-adds, not {multiply_adds}"
        raise ModelError(f"{msg}, and a tolerance of 0 or more, not {tolerance}")
    found: list[Architecture] = []
    for group in range(-(-count // _WALKERS)):
        rng = np.random.default_rng(derive_seed(seed, "random-at-cost", group))
        walk = _Walk(table, float(multiply_adds), tolerance, rng)
        walk.warm_up()
        for picks in walk.visits():
            chosen = {(s, t): int(picks[s, t]) for s, t in walk.cells}
            found.append(Architecture.from_indices(table, chosen))
    return tuple(found[:count])


@dataclasses.dataclass
class _State:
    """Where the walkers are: options [walkers, sites, tasks], and how far from the target.

    `ways`: the logarithm of how many architectures are the same as this one.
    """

    picks: _Int
    distance: _Float
    ways: _Float

    def where(self, mask: _Bool, other: _State) -> _State:
        """This state, but for the walkers of `mask` the other one."""
        picks = np.where(mask[:, None, None], other.picks, self.picks)
        distance = np.where(mask, other.distance, self.distance)
        return _State(picks, distance, np.where(mask, other.ways, self.ways))


class _Walk:
    def __init__(self, table: SiteTable, target: float, tolerance: float, rng: np.random.Generator) -> None:
        self.table, self.target, self.tolerance, self.rng = table, target, tolerance, rng
        self.cells = [(site.index, t) for site in table.sites for t in site.tasks or range(len(table.tasks))]
        self._cells = np.array(self.cells)
        self._count = SelectedCost(table)
        self._sizes = np.array([len(site.options) for site in table.sites])
        kinds = {site.option_names: i for i, site in enumerate(table.sites)}
        self._kinds = np.array([kinds[site.option_names] for site in table.sites])  # equal: options can be exchanged
        self._all = np.arange(_WALKERS)
        self._trees = is_tree_space(table)
        self._absent = np.ones((len(table.sites), len(table.tasks)), bool)
        self._absent[self._cells[:, 0], self._cells[:, 1]] = False
        self.nearest = np.inf  # cost next to the target among all that were met
        drawn = rng.random((_WALKERS, *self._absent.shape)) * self._sizes[:, None]
        self.state = self._at(np.where(self._absent, -1, drawn.astype(np.int64)))
        self.beta = 1.0 / max(float(np.std(self.state.distance)), 1e-3)

    def _at(self, picks: _Int) -> _State:
        costs = self._count(picks).multiply_adds
        best = float(costs[np.argmin(abs(costs - self.target))])
        if abs(best - self.target) < abs(self.nearest - self.target):
            self.nearest = best
        distance = np.maximum(0.0, abs(costs - self.target) / self.target - self.tolerance)
        # The window's edge is meant as it is written, whatever the last bit says.
        ways = log_ways(self.table, picks) if self._trees else np.zeros(len(picks))
        return _State(picks, np.where(distance < 1e-12, 0.0, distance), ways)

    def _step(self) -> None:
        """One move of every walker, or none where it is refused."""
        proposed = self._at(self._proposal())
        worse = self.beta * (proposed.distance - self.state.distance) + proposed.ways - self.state.ways
        odds = np.exp(-np.maximum(0.0, worse))
        self.state = self.state.where(self.rng.random(_WALKERS) < odds, proposed)

    def _proposal(self) -> _Int:
        """A move of every walker; going back is as likely as going there."""
        picks = self.state.picks.copy()
        one, two = (self._cells[self.rng.integers(len(self._cells), size=_WALKERS)].T for _ in range(2))
        kind = self.rng.random(_WALKERS)
        fresh = (self.rng.random((_WALKERS, picks.shape[2])) * self._sizes[one[0], None]).astype(np.int64)
        old = picks[self._all, one[0], one[1]], picks[self._all, two[0], two[1]]
        single = kind < 0.5
        row = picks[self._all, one[0]]
        whole = np.where(self._absent[one[0]], -1, fresh)
        picks[self._all, one[0]] = np.where(((kind >= 0.5) & (kind < 0.75))[:, None], whole, row)
        swap = (kind >= 0.75) & (self._kinds[one[0]] == self._kinds[two[0]])
        picks[self._all[swap], one[0][swap], one[1][swap]] = old[1][swap]
        picks[self._all[swap], two[0][swap], two[1][swap]] = old[0][swap]
        picks[self._all[single], one[0][single], one[1][single]] = fresh[single, 0]
        return picks

    def warm_up(self) -> None:
        """Walk into the tolerance with growing β, until a fair share of the steps ends there.

        Raises:
            ModelError: No walker ever came there.
        """
        last = self.state
        seen = self.state.distance == 0.0
        for _ in range(_WARM_ROUNDS):
            inside = 0
            for _ in self.cells:
                self._step()
                here = self.state.distance == 0.0
                last, seen, inside = last.where(here, self.state), seen | here, inside + int(here.sum())
            if inside >= _SHARE_INSIDE * len(self.cells) * _WALKERS and seen.all():
                break
            self.beta *= _GROWTH
        if not seen.any():
            msg = (
                f"no architecture with {self.target:,.0f} multiply-adds ± {self.tolerance:.1%} was found; the nearest "
                f"that was met has {self.nearest:,.0f}: allow a larger tolerance or ask for another cost"
            )
            raise ModelError(msg)
        # Who never came there goes on from where another one was.
        others = np.flatnonzero(seen)
        source = np.where(seen, self._all, others[self.rng.integers(len(others), size=_WALKERS)])
        self.state = _State(last.picks[source], last.distance[source], last.ways[source])

    def visits(self) -> _Int:
        """For every walker the architecture of its last counted visit to the tolerance: [walkers, sites, tasks]."""
        wanted = _VISITS * len(self.cells)
        count = np.zeros(_WALKERS, np.int64)
        last = self.state
        for _ in range(_MOST_STEPS * len(self.cells)):
            self._step()
            here = (self.state.distance == 0.0) & (count < wanted)
            last, count = last.where(here, self.state), count + here
            if (count >= wanted).all():
                break
        return last.picks
