"""Chains of grouped sites (the space ``branch``): a program over subsets of tasks, a third of 3^T ways per site.

Candidates of a block cost the same, so only who shares matters, and of the candidates a group takes the most probable.
W_l(S), for tasks S that are together before site l, splits off the group A of the first task:

    W_l(S) = ⋃_{A ⊆ S, min S ∈ A}  [c_l(A) + min_j Σ_{t∈A} loss(t,l,j) + W_{l+1}(A)] ⊗ W_l(S ∖ A),     W_l(∅) = 0

which makes every partition of S once. Two groups of S may want the same candidate. Then they are one group in truth,
which costs less and gives away the same; the program has that case too, so its optimum is right.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnxmtl.policy.budgeted.circuit import NOTHING, Alternative, Circuit, TooLargeError
from onnxmtl.policy.budgeted.problem import Joint, Load, Problem, Use

_MOST_WAYS = 1_000_000


def is_grouped_chain(problem: Problem, load: Load) -> bool:
    """Whether all sites are grouped, each behind all before it, and all options of a site cost the same."""
    sites = problem.table.sites
    if not sites or load.weights or not all(site.grouped for site in sites):
        return False
    if any(item.site < 0 or not _behind_all(problem, item) for item in load.joint):
        return False
    costs: dict[tuple[int, int], dict[tuple[int, ...], int]] = {}
    for item in load.joint:
        of_option = costs.setdefault((item.site, item.option), {})
        of_option[item.tasks] = of_option.get(item.tasks, 0) + item.cost
    for use, cost in load.single.items():
        of_option = costs.setdefault((use.site, use.option), {})
        of_option[use.task,] = of_option.get((use.task,), 0) + cost
    return all(
        costs.get((site.index, option), {}) == costs.get((site.index, 0), {})
        for site in sites
        for option in range(len(site.options))
    )


def _behind_all(problem: Problem, item: Joint) -> bool:
    """Whether all sites before its own lie above an item, and every option of them keeps tasks together."""
    above: dict[int, tuple[int, ...]] = {}
    part: int | None = item.above
    while part is not None:
        part, added = problem.parts[part]
        above.update(added)
    return above == {site.index: tuple(range(len(site.options))) for site in problem.table.sites[: item.site]}


def chain_circuit(problem: Problem, load: Load) -> tuple[Circuit, int]:
    """(The graph, its root); labels are tuples of uses. See :func:`is_grouped_chain`.

    Raises:
        TooLargeError: Too many tasks or sites.
    """
    if 3 ** len(problem.table.tasks) * len(problem.table.sites) > 2 * _MOST_WAYS:
        raise TooLargeError
    chain = _Chain(problem, load)
    return chain.circuit, chain.node(0, (1 << len(problem.table.tasks)) - 1)


class _Chain:
    def __init__(self, problem: Problem, load: Load) -> None:
        self.problem = problem
        self.circuit = Circuit()
        self.present = [sum(1 << task for task in problem.tasks_at(site.index)) for site in problem.table.sites]
        self.costs: list[list[tuple[int, int]]] = [[] for _ in problem.table.sites]  # (cost, tasks) of option 0
        for item in load.joint:
            if item.option == 0:
                self.costs[item.site].append((item.cost, sum(1 << task for task in item.tasks)))
        for use, cost in load.single.items():
            if use.option == 0:
                self.costs[use.site].append((cost, 1 << use.task))
        self._nodes: dict[tuple[int, int], int] = {}
        self._groups: dict[tuple[int, int], tuple[int, float, tuple[Use, ...]]] = {}

    def node(self, site: int, tasks: int) -> int:
        """W of a site and the tasks that are together before it."""
        if site == len(self.present):
            return NOTHING
        tasks &= self.present[site]
        if not tasks:  # tasks that have ended; sites behind have none of them either
            return NOTHING
        key = (site, tasks)
        if key not in self._nodes:
            alternatives = []
            for group in _with_first(tasks):
                cost, loss, uses = self._group(site, group)
                child = self.node(site + 1, group)
                alternatives.append(Alternative(cost, loss, child, self.node(site, tasks ^ group), uses))
            self._nodes[key] = self.circuit.add(alternatives)
        return self._nodes[key]

    def _group(self, site: int, group: int) -> tuple[int, float, tuple[Use, ...]]:
        """(Cost, loss, who takes what) of a group at a site, with its most probable candidate."""
        key = (site, group)
        if key not in self._groups:
            tasks = [task for task in range(group.bit_length()) if group >> task & 1]
            losses = self.problem.losses[site][tasks].sum(axis=0)
            option = int(losses.argmin())
            cost = sum(cost for cost, who in self.costs[site] if who & group)
            self._groups[key] = cost, float(losses[option]), tuple(Use(task, site, option) for task in tasks)
        return self._groups[key]


def _with_first(tasks: int) -> Iterator[int]:
    """The subsets of `tasks` with its first task; the whole first."""
    first = tasks & -tasks
    rest = part = tasks ^ first
    while True:
        yield part | first
        if not part:
            return
        part = (part - 1) & rest
