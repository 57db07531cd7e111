"""Parameters as a knapsack: sites that have no weight in common do not touch each other.

Within sites that have weights in common (one site, as a rule), decide first which of the weights that several uses
need may be used, and pay for them; then every task takes its options among those that need no other. For ``vcn`` that
is: with the shared weights or without, and each task on its own. No subsets of tasks occur, so any number of them will
do.
"""

from __future__ import annotations

from onnxmtl.policy.budgeted.circuit import Alternative, Circuit, TooLargeError
from onnxmtl.policy.budgeted.problem import Load, Problem, Use

_MOST_SHARED = 10  # weights decided on together: 2^10 ways


def parameter_circuit(problem: Problem, load: Load) -> tuple[Circuit, int]:
    """(The graph, its root); labels are tuples of uses.

    Raises:
        TooLargeError: Too many weights are in common to the same sites.
    """
    circuit = Circuit()
    needs: dict[Use, int] = {}  # bit sets of the weights of its cluster
    parts: list[int] = []
    for sites in _clusters(problem, load):
        weights = [(size, uses) for size, uses in load.weights if uses[0].site in sites]
        if len(weights) > _MOST_SHARED:
            raise TooLargeError
        for bit, (_, uses) in enumerate(weights):
            for use in uses:
                needs[use] = needs.get(use, 0) | 1 << bit
        places = [(site, task) for site in sites for task in problem.tasks_at(site)]
        if not weights:
            parts += [_place(circuit, problem, load, needs, place, 0) for place in places]
            continue
        alternatives = []
        nodes: dict[tuple[tuple[int, int], int], int] = {}
        for allowed in range(1 << len(weights)):
            children = []
            for place in places:
                usable = allowed & _all_needs(problem, needs, place)
                if (place, usable) not in nodes:
                    nodes[place, usable] = _place(circuit, problem, load, needs, place, usable)
                children.append(nodes[place, usable])
            if min(children) < 0:
                continue
            cost = sum(size for bit, (size, _) in enumerate(weights) if allowed >> bit & 1)
            alternatives.append(Alternative(cost, 0.0, circuit.product(children)))
        parts.append(circuit.add(alternatives))
    return circuit, circuit.product(parts)


def _clusters(problem: Problem, load: Load) -> list[tuple[int, ...]]:
    """The sites, those with a weight in common together; in order of their first."""
    leader = list(range(len(problem.table.sites)))

    def find(site: int) -> int:
        while leader[site] != site:
            site = leader[site]
        return site

    for _, uses in load.weights:
        for use in uses[1:]:
            a, b = sorted((find(uses[0].site), find(use.site)))
            leader[b] = a
    members: dict[int, list[int]] = {}
    for site in range(len(leader)):
        members.setdefault(find(site), []).append(site)
    return [tuple(sites) for sites in members.values()]


def _all_needs(problem: Problem, needs: dict[Use, int], place: tuple[int, int]) -> int:
    site, task = place
    found = 0
    for option in range(len(problem.table.sites[site].options)):
        found |= needs.get(Use(task, site, option), 0)
    return found


def _place(
    circuit: Circuit, problem: Problem, load: Load, needs: dict[Use, int], place: tuple[int, int], allowed: int
) -> int:
    """One task at one site, with the options that need allowed weights only; -1 if there are none."""
    site, task = place
    alternatives = []
    for option in range(len(problem.table.sites[site].options)):
        use = Use(task, site, option)
        if not needs.get(use, 0) & ~allowed:
            loss = float(problem.losses[site][task, option])
            alternatives.append(Alternative(load.single.get(use, 0), loss, label=(use,)))
    return circuit.add(alternatives) if alternatives else -1
