"""Small networks of sites as programs, their tables, and an oracle that executes every architecture."""

from __future__ import annotations

import dataclasses

import numpy as np

from onnxmtl.analysis.table import CostItem, Option, Site, SiteTable, WeightItem

OWN = {"own", "own_projection"}


@dataclasses.dataclass
class Step:
    """One node of the network as the user drew it: fixed, with weights per task, or decided by a site."""

    inputs: list[int]  # earlier steps; empty: the image
    cost: int
    weights: int
    kind: str = "fixed"  # or "per_task", or "site"
    site: int = -1
    realise: tuple[str, ...] = ()  # per option: shared, own, identity, free, own_projection, shared_projection


@dataclasses.dataclass
class Program:
    tasks: int
    sites: list[int]  # number of options of each
    steps: list[Step]
    features: list[int]  # per task: the step its head reads

    def above(self, step: int) -> set[int]:
        found: set[int] = set()
        stack = list(self.steps[step].inputs)
        while stack:
            current = stack.pop()
            if current not in found:
                found.add(current)
                stack.extend(self.steps[current].inputs)
        return found

    def reach(self, step: int) -> tuple[int, ...]:
        return tuple(t for t, f in enumerate(self.features) if step == f or step in self.above(f))

    def cost(self, step: int, option: int) -> int:
        how = self.steps[step].realise[option]
        return {"identity": 0, "free": 1}.get(how, self.steps[step].cost + option)

    def weights(self, step: int, option: int) -> int:
        how = self.steps[step].realise[option]
        return 0 if how in ("identity", "free") else self.steps[step].weights + 10 * how.endswith("projection")

    # -- the oracle ------------------------------------------------------------------------------------------------

    def execute(self, draw: dict[tuple[int, int], int]) -> tuple[int, int]:
        """(multiply-adds, parameters) of the selected model. `draw`: (site, task) -> option."""
        computed: dict[object, int] = {}
        used: dict[object, int] = {}
        for task in range(self.tasks):
            values: dict[int, object] = {}
            for i, step in enumerate(self.steps):
                if task not in self.reach(i):
                    continue
                inputs = tuple(values[j] for j in step.inputs)
                if step.kind == "site":
                    option = draw[step.site, task]
                    how, cost, size = step.realise[option], self.cost(i, option), self.weights(i, option)
                    if how == "identity":
                        values[i] = inputs[0]
                        continue
                    weight = (i, option, task) if how in OWN else (i, "shared" if how == "shared" else option)
                    value = (i, option, weight, inputs)
                else:
                    cost, size = step.cost, step.weights
                    weight = (i, "fixed", task) if step.kind == "per_task" else (i, "fixed")
                    value = (i, weight, inputs)
                values[i] = value
                computed[value] = cost
                if size:
                    used[weight] = size
        return sum(computed.values()), sum(used.values())

    # -- the table, as the analysis would write it -----------------------------------------------------------------

    def table(self) -> SiteTable:
        costs, weights = [], []
        for i, step in enumerate(self.steps):
            above, reach = self.above(i), self.reach(i)
            upstream = sorted({self.steps[j].site for j in above if self.steps[j].kind == "site"} - {step.site})
            agree = {
                u: tuple(
                    o
                    for o in range(self.sites[u])
                    if not any(self.steps[j].site == u and self.steps[j].realise[o] in OWN for j in above)
                )
                for u in upstream
            }
            split = any(self.steps[j].kind == "per_task" for j in above | {i})
            if not reach:
                continue
            if step.kind != "site":
                groups = [(t,) for t in reach] if split else [reach]
                if step.cost:
                    costs += [CostItem(step.cost, None, None, g, agree) for g in groups]
                if step.weights:
                    groups = [(t,) for t in reach] if step.kind == "per_task" else [reach]
                    weights += [WeightItem(step.weights, None, (), g) for g in groups]
                continue
            shared = [o for o in range(self.sites[step.site]) if step.realise[o] == "shared"]
            if shared and step.weights:
                uses = tuple((t, step.site, o) for t in reach for o in shared)
                weights.append(WeightItem(step.weights, step.site, uses))
            for o in range(self.sites[step.site]):
                mine = any(self.steps[j].site == step.site and self.steps[j].realise[o] in OWN for j in above | {i})
                groups = [(t,) for t in reach] if split or mine else [reach]
                if cost := self.cost(i, o):
                    costs += [CostItem(cost, step.site, o, g, agree) for g in groups]
                if (size := self.weights(i, o)) and o not in shared:
                    groups = [(t,) for t in reach] if step.realise[o] in OWN else [reach]
                    weights += [WeightItem(size, step.site, tuple((t, step.site, o) for t in g)) for g in groups]
        sites = []
        for s, count in enumerate(self.sites):
            members = [i for i, step in enumerate(self.steps) if step.kind == "site" and step.site == s]
            options = tuple(
                Option(
                    name=f"o{o}",
                    multiply_adds=sum(self.cost(i, o) for i in members),
                    parameters_shared=0,
                    parameters_own=0,
                    equal_across_tasks=all(self.steps[i].realise[o] not in OWN for i in members),
                    identity=all(self.steps[i].realise[o] == "identity" for i in members),
                )
                for o in range(count)
            )
            passing = tuple(sorted({t for i in members for t in self.reach(i)}))
            sites.append(Site(f"s{s}", s, 0, "vcn", tuple(map(str, members)), options, passing))
        names = tuple(f"t{t}" for t in range(self.tasks))
        return SiteTable(names, tuple(sites), tuple(costs), tuple(weights))


def random_program(rng: np.random.Generator) -> Program:
    """Chains, residual and parallel paths, joins, tied members, norms per task, early features."""
    tasks = int(rng.integers(1, 5))
    sites: list[int] = []
    architectures = 1
    while len(sites) < 4:
        count = int(rng.integers(1, 5))
        if architectures * count**tasks > 800:
            break
        architectures *= count**tasks
        sites.append(count)
    steps: list[Step] = [Step([], int(rng.integers(0, 9)), int(rng.integers(0, 9)))]
    for s, count in enumerate(sites):
        kinds = ["identity", *rng.choice(["shared", "own", "free", "own_projection", "shared_projection"], count)]
        first = tuple(str(k) for k in rng.permutation(kinds)[:count])
        if int(rng.integers(0, 2)):  # a fixed step before the site, with one or two inputs
            inputs = sorted({int(i) for i in rng.integers(0, len(steps), 2)})
            kind = "per_task" if rng.random() < 0.1 else "fixed"
            steps.append(Step(inputs, int(rng.integers(0, 9)), int(rng.integers(0, 5)), kind))
        source = len(steps) - 1 if rng.random() < 0.6 else int(rng.integers(0, len(steps)))
        steps.append(Step([source], int(rng.integers(1, 50)), int(rng.integers(1, 50)), "site", s, first))
        if rng.random() < 0.5:  # a tied member that follows, with something readable in between
            second = tuple(h if h == "identity" else str(rng.choice(["shared", "own", "free"])) for h in first)
            steps.append(Step([len(steps) - 1], int(rng.integers(0, 5)), 0))
            steps.append(Step([len(steps) - 1], int(rng.integers(1, 9)), int(rng.integers(1, 9)), "site", s, second))
        if rng.random() < 0.5:  # a join with something earlier
            steps.append(Step([len(steps) - 1, int(rng.integers(0, len(steps) - 1))], int(rng.integers(1, 9)), 0))
    # Everything ends in one join; some tasks leave earlier.
    used = {j for step in steps for j in step.inputs}
    steps.append(Step([i for i in range(len(steps)) if i not in used], 3, 2))
    early = [i for i in range(len(steps)) if not any(i in step.inputs and step.kind == "site" for step in steps)]
    features = [len(steps) - 1 if rng.random() < 0.8 else int(rng.choice(early)) for _ in range(tasks)]
    return Program(tasks, sites, steps, features)


def random_probabilities(rng: np.random.Generator, program: Program) -> list[np.ndarray]:
    """Dirichlet rows; some exactly one-hot, so that zeros occur."""
    arrays = []
    for count in program.sites:
        p = rng.dirichlet(np.ones(count), program.tasks)
        for t in range(program.tasks):
            if rng.random() < 0.2:
                p[t] = np.eye(count)[rng.integers(0, count)]
        arrays.append(p)
    return arrays
