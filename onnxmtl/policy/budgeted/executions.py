"""Multiply-adds on chains of sites with residual and parallel segments: a program over subsets of tasks.

What counts is the set S of tasks that still hold the same value. A site splits S: the tasks that take one option that
keeps them equal stay together, the others go on alone; each part pays for itself from there on, as tasks that differ
once never hold the same value again. So along a chain (mathematics of the architecture document):

    W_l(S) = ⋃_{A ⊎ B ⊎ Q = S}  [c_A + W_{l+1}(A)] ⊗ [c_B + W_{l+1}(B)] ⊗ ⨂_{t∈Q} [c_t + W_{l+1}({t})]

option after option, 2^|S| ways each. Where paths part and join again, every branch gets a map from the partition it
makes of S to its node; branches are joined by the meet of their partitions.

The structure follows from the sets of sites above the joint executions: sites D behind a set ``base`` of sites fall
into components that no set links; a component has a *cut* C if all that lies behind a part of C lies behind all of
it; the sites of C come first, then the rest for every part of S. An identity shortcut needs no branch: what lies
behind the addition lies behind both sites on the path, and that is a chain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from onnxmtl.policy.budgeted.circuit import NOTHING, Alternative, Circuit, TooLargeError
from onnxmtl.policy.budgeted.problem import Load, Problem, Use

Partition = tuple[int, ...]  # bit sets of tasks, ascending

_MOST_ESTIMATED = 1_000_000  # alternatives
_MOST_JOINED = 100_000  # pairs of partitions


class NotStructuredError(Exception):
    """The sites do not fall into chains, residual and parallel segments. Not an error of the user."""


class _Rest(NamedTuple):
    """What lies behind a set of sites: more sites, and executions outside sites (by number)."""

    sites: int
    items: tuple[int, ...]
    base: int


def execution_circuit(problem: Problem, load: Load) -> tuple[Circuit, int]:
    """(The graph, its root); labels are tuples of uses.

    Raises:
        NotStructuredError: There is no such structure.
        TooLargeError: Too many tasks or partitions.
    """
    builder = _Builder(problem, load)
    circuit = builder.circuit
    free = [
        builder.alone(site, 1 << task, range(len(problem.table.sites[site].options)), None)
        for site in range(len(problem.table.sites))
        if not builder.involved >> site & 1
        for task in problem.tasks_at(site)
    ]
    everything = _Rest(builder.involved, tuple(range(len(builder.outside))), 0)
    tasks = (1 << len(problem.table.tasks)) - 1
    return circuit, circuit.product([builder.value(everything, tasks), *free])


class _Builder:
    def __init__(self, problem: Problem, load: Load) -> None:
        self.problem, self.load = problem, load
        self.circuit = Circuit()
        self.present = [_bits(problem.tasks_at(site.index)) for site in problem.table.sites]
        self.same: dict[int, tuple[int, ...]] = {}  # site -> the options that keep tasks equal
        self.joint: dict[tuple[int, int], list[tuple[int, int]]] = {}  # (site, option) -> (cost, tasks)
        self.outside: list[tuple[int, int, int]] = []  # (cost, tasks, sites above)
        self.above: dict[int, int] = {}  # site -> sites above its executions
        self._read()
        self.involved = _bits([*self.same, *self.above])
        self._place_the_others()
        ways = sum(2 * 3 ** self.present[site].bit_count() for site in _members(self.involved))
        if ways > _MOST_ESTIMATED:
            raise TooLargeError
        self._values: dict[_Rest, dict[int, int]] = {}
        self._splits: dict[tuple[int, _Rest | None], _Split] = {}
        self._taking: dict[tuple[int, tuple[int, ...], int], int] = {}
        self._maps: dict[tuple[_Rest, int], dict[Partition, int]] = {}

    def _read(self) -> None:
        for item in self.load.joint:
            above = 0
            part: int | None = item.above
            while part is not None:
                part, added = self.problem.parts[part]
                for site, options in added:
                    above |= 1 << site
                    if self.same.setdefault(site, options) != options:
                        raise NotStructuredError
            tasks = _bits(item.tasks)
            if item.site < 0:
                self.outside.append((item.cost, tasks, above))
                continue
            if self.above.setdefault(item.site, above) != above:
                raise NotStructuredError
            self.joint.setdefault((item.site, item.option), []).append((item.cost, tasks))

    def _place_the_others(self) -> None:
        """Sites that split tasks but execute nothing together: behind all that lies above whatever they lie above."""
        sets = [*self.above.values(), *(above for _, _, above in self.outside)]
        for site in _members(self.involved):
            if site not in self.above:
                common = (1 << site) - 1
                for above in sets:
                    if above >> site & 1:
                        common &= above
                self.above[site] = common

    # -- structure -------------------------------------------------------------------------------------------------

    def _components(self, rest: _Rest) -> list[_Rest]:
        """Sites and executions that no set of sites above links."""
        groups: list[tuple[int, list[int]]] = []

        def link(sites: int, items: list[int]) -> None:
            nonlocal groups
            apart = [group for group in groups if not group[0] & sites]
            for group in groups:
                if group[0] & sites:
                    sites |= group[0]
                    items = [*group[1], *items]
            groups = [*apart, (sites, items)]

        for site in _members(rest.sites):
            link(1 << site | self.above[site] & rest.sites, [])
        for item in rest.items:
            link(self.outside[item][2] & rest.sites, [item])
        return [_Rest(sites, tuple(sorted(items)), rest.base) for sites, items in sorted(groups)]

    def _cut(self, rest: _Rest, *, whole: bool) -> tuple[_Rest, _Rest]:
        """(What comes first, what lies behind all of it) of a component; `whole`: all its sites may come first.

        Raises:
            NotStructuredError: There is no cut.
        """
        every = rest.base | rest.sites
        sets = {self.above[site] for site in _members(rest.sites)} | {self.outside[i][2] for i in rest.items}
        for cut in sorted(sets, key=lambda bits: (bits.bit_count(), bits)):
            if cut == rest.base or cut & ~every or (cut == every and not whole):
                continue
            behind = [site for site in _members(rest.sites) if not cut >> site & 1]
            later = tuple(i for i in rest.items if not cut & ~self.outside[i][2])
            inner = tuple(i for i in rest.items if i not in later)
            closed = not any(self.above[site] & ~cut for site in _members(cut & rest.sites))
            apart = not any(self.outside[i][2] & ~cut for i in inner)
            if not closed or not apart or any(cut & ~self.above[site] for site in behind):
                continue
            return _Rest(cut & ~rest.base, inner, rest.base), _Rest(_bits(behind), later, cut)
        raise NotStructuredError

    def _here(self, rest: _Rest, tasks: int) -> tuple[int, list[_Rest]]:
        """(Cost of what lies right behind the base, the components behind it)."""
        here = [i for i in rest.items if self.outside[i][2] == rest.base]
        cost = sum(self.outside[i][0] for i in here if self.outside[i][1] & tasks)
        later = tuple(i for i in rest.items if i not in here)
        return cost, self._components(_Rest(rest.sites, later, rest.base))

    def _reach(self, rest: _Rest) -> int:
        """The tasks that anything in `rest` concerns."""
        tasks = 0
        for site in _members(rest.sites):
            tasks |= self.present[site]
        for item in rest.items:
            tasks |= self.outside[item][1]
        return tasks

    # -- the least for tasks that hold one value -------------------------------------------------------------------

    def value(self, rest: _Rest | None, tasks: int) -> int:
        """The node of all that lies behind a base for tasks that hold the same value there."""
        if rest is None:
            return NOTHING
        nodes = self._values.setdefault(rest, {})
        if tasks not in nodes:
            concerned = tasks & self._reach(rest)
            if concerned != tasks:
                nodes[tasks] = self.value(rest, concerned)
            elif not tasks:
                nodes[tasks] = NOTHING
            else:
                cost, components = self._here(rest, tasks)
                node = self.circuit.product([self._component(part, tasks) for part in components])
                nodes[tasks] = self.circuit.add([Alternative(cost, 0.0, node)]) if cost else node
        return nodes[tasks]

    def _component(self, rest: _Rest, tasks: int) -> int:
        if rest.sites.bit_count() == 1 and not rest.items:
            return self._site(rest.sites.bit_length() - 1, tasks, None)
        first, behind = self._cut(rest, whole=True)
        if first.sites.bit_count() == 1:
            return self._site(first.sites.bit_length() - 1, tasks, behind)
        alternatives = [
            Alternative(0, 0.0, node, self.circuit.product([self.value(behind, part) for part in partition]))
            for partition, node in self.maps(first, tasks).items()
        ]
        return self.circuit.add(alternatives)

    def _site(self, site: int, tasks: int, behind: _Rest | None) -> int:
        if (site, behind) not in self._splits:
            self._splits[site, behind] = _Split(self, site, behind)
        return self._splits[site, behind].node(0, tasks & self.present[site])

    def collective(self, site: int) -> tuple[list[int], list[int]]:
        """(The options that tasks gain from taking together, the others)."""
        options = range(len(self.problem.table.sites[site].options))
        together = [o for o in options if (site, o) in self.joint or o in self.same.get(site, ())]
        return together, [o for o in options if o not in together]

    def keeps_equal(self, site: int, option: int) -> bool:
        """Whether tasks that hold one value and take the option still hold one."""
        return option in self.same.get(site, ())

    def taken(self, site: int, option: int, tasks: int) -> tuple[int, float, tuple[Use, ...] | None]:
        """(Cost, loss, label): all of `tasks`, which hold one value, take an option."""
        uses = tuple(Use(t, site, option) for t in _members(tasks))
        cost = sum(cost for cost, who in self.joint.get((site, option), ()) if who & tasks)
        cost += sum(self.load.single.get(use, 0) for use in uses)
        loss = sum(float(self.problem.losses[site][use.task, option]) for use in uses)
        return cost, loss, uses or None

    def alone(self, site: int, task: int, options: Iterable[int], behind: _Rest | None) -> int:
        """One task (a bit) takes one of `options`, and goes on alone."""
        child = self.value(behind, task)
        taken = [self.taken(site, option, task) for option in options]
        return self.circuit.add([Alternative(cost, loss, child, NOTHING, uses) for cost, loss, uses in taken])

    # -- branches --------------------------------------------------------------------------------------------------

    def maps(self, rest: _Rest, tasks: int) -> dict[Partition, int]:
        """Of tasks that hold one value before `rest`: the partitions they can have behind it -> node."""
        key = (rest, tasks)
        if key not in self._maps:
            cost, components = self._here(rest, tasks)
            joined = self._map_component(components[0], tasks)
            for part in components[1:]:
                joined = self._join(joined, self._map_component(part, tasks), _meet)
            if cost:
                joined = {p: self.circuit.add([Alternative(cost, 0.0, node)]) for p, node in joined.items()}
            self._maps[key] = joined
        return self._maps[key]

    def _map_component(self, rest: _Rest, tasks: int) -> dict[Partition, int]:
        if rest.sites.bit_count() == 1:
            return self._map_site(rest.sites.bit_length() - 1, tasks)
        first, behind = self._cut(rest, whole=False)
        found: dict[Partition, list[Alternative]] = {}
        for partition, node in self.maps(first, tasks).items():
            after: dict[Partition, int] = {(): NOTHING}
            for part in partition:
                after = self._join(after, self.maps(behind, part), lambda a, b: tuple(sorted(a + b)))
            for result, child in after.items():
                found.setdefault(result, []).append(Alternative(0, 0.0, node, child))
        return {partition: self.circuit.add(ways) for partition, ways in found.items()}

    def _join(
        self, left: dict[Partition, int], right: dict[Partition, int], how: Callable[[Partition, Partition], Partition]
    ) -> dict[Partition, int]:
        if len(left) * len(right) > _MOST_JOINED:
            raise TooLargeError
        found: dict[Partition, list[Alternative]] = {}
        for a, first in left.items():
            for b, second in right.items():
                found.setdefault(how(a, b), []).append(Alternative(0, 0.0, first, second))
        return {partition: self.circuit.add(ways) for partition, ways in found.items()}

    def _map_site(self, site: int, tasks: int) -> dict[Partition, int]:
        collective, others = self.collective(site)
        found: dict[Partition, dict[int, Alternative]] = {}

        def go(position: int, left: int, parts: Partition, nodes: tuple[int, ...]) -> None:
            if position == len(collective):
                if left and not others:
                    return
                singles = tuple(_each(left))
                alone = [self._one_of(site, others, t) for t in singles]
                node = self.circuit.product([*nodes, *alone])
                found.setdefault(tuple(sorted(parts + singles)), {})[node] = Alternative(0, 0.0, node)
                return
            option = collective[position]
            for part in _subsets(left):
                if not part:
                    go(position + 1, left, parts, nodes)
                    continue
                more = (part,) if self.keeps_equal(site, option) else tuple(_each(part))
                taken = self._one_of(site, [option], part)
                go(position + 1, left & ~part, parts + more, (*nodes, taken))

        go(0, tasks & self.present[site], (), ())
        return {partition: self.circuit.add(list(ways.values())) for partition, ways in found.items()}

    def _one_of(self, site: int, options: Sequence[int], tasks: int) -> int:
        """`tasks`, which hold one value, all take the same one of `options`."""
        key = (site, tuple(options), tasks)
        if key not in self._taking:
            taken = [self.taken(site, option, tasks) for option in options]
            self._taking[key] = self.circuit.add([Alternative(c, v, label=uses) for c, v, uses in taken])
        return self._taking[key]


class _Split:
    """One site, and what lies behind it: sets of tasks take its options, one collective option after the other."""

    def __init__(self, builder: _Builder, site: int, behind: _Rest | None) -> None:
        self.builder, self.site, self.behind = builder, site, behind
        self.options, self.others = builder.collective(site)
        self._nodes: list[dict[int, int]] = [{} for _ in range(len(self.options) + 1)]
        self._taken: list[dict[int, tuple[int, float, int, tuple[Use, ...] | None]]] = [{} for _ in self.options]
        self._alone: dict[int, int] = {}

    def node(self, position: int, tasks: int) -> int:
        """`tasks`, which hold one value, take the options from `position` on, or others each alone; -1: they cannot."""
        known = self._nodes[position]
        if tasks not in known:
            known[tasks] = self._alone_each(tasks) if position == len(self.options) else self._divide(position, tasks)
        return known[tasks]

    def _alone_each(self, tasks: int) -> int:
        if tasks and not self.others:
            return -1
        for t in _each(tasks):
            if t not in self._alone:
                self._alone[t] = self.builder.alone(self.site, t, self.others, self.behind)
        return self.builder.circuit.product([self._alone[t] for t in _each(tasks)])

    def _divide(self, position: int, tasks: int) -> int:
        if not tasks:
            return NOTHING
        taken, later = self._taken[position], self._nodes[position + 1]
        alternatives = []
        for part in _subsets(tasks):
            left = tasks ^ part
            other = later[left] if left in later else self.node(position + 1, left)
            if other < 0:
                continue
            if part not in taken:
                taken[part] = self._together(position, part)
            cost, loss, child, uses = taken[part]
            alternatives.append(Alternative(cost, loss, child, other, uses))
        return self.builder.circuit.add(alternatives)

    def _together(self, position: int, tasks: int) -> tuple[int, float, int, tuple[Use, ...] | None]:
        option = self.options[position]
        cost, loss, uses = self.builder.taken(self.site, option, tasks)
        groups = [tasks] if self.builder.keeps_equal(self.site, option) else list(_each(tasks))
        child = self.builder.circuit.product([self.builder.value(self.behind, group) for group in groups])
        return cost, loss, child, uses


def _bits(numbers: Iterable[int]) -> int:
    found = 0
    for number in numbers:
        found |= 1 << number
    return found


def _members(bits: int) -> Iterable[int]:
    while bits:
        last = bits & -bits
        yield last.bit_length() - 1
        bits ^= last


def _each(bits: int) -> Iterable[int]:
    """The single bits of a set."""
    return (1 << number for number in _members(bits))


def _subsets(bits: int) -> Iterable[int]:
    """All subsets, the whole first, the empty one last."""
    part = bits
    while True:
        yield part
        if not part:
            return
        part = (part - 1) & bits


def _meet(a: Partition, b: Partition) -> Partition:
    """The partition whose parts are together in both; tasks that one of them lacks are left out."""
    return tuple(sorted(p & q for p in a for q in b if p & q))
