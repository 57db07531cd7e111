"""BMTAS's released resource loss: as its code has it, and where it differs from the true cost."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from helpers.branching import branch_table

from onnxmtl.cost.expected import ExpectedCost
from onnxmtl.cost.released import MAX_TASKS, ReleasedCost
from onnxmtl.errors import ModelError, RunError
from onnxmtl.search.regularizers import PolicyView, regularizer


def probabilities(tasks: int, layers: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.dirichlet(np.ones(tasks), tasks) for _ in range(layers)]


def one_hot(config: list[list[int]]) -> list[np.ndarray]:
    return [np.eye(len(row))[row] for row in config]


def as_released(costs: list[int], p: list[np.ndarray]) -> float:
    """`BranchingLoss` by its algorithm: partitions as sorted lists, the finest one gets the rest."""
    tasks = len(p[0])

    def partition(assignment: tuple[int, ...]) -> list[list[int]]:
        return sorted([t for t in range(tasks) if assignment[t] == j] for j in sorted(set(assignment)))

    assignments = list(itertools.product(range(tasks), repeat=tasks))
    every: list[list[list[int]]] = []
    for assignment in assignments:
        if partition(assignment) not in every:
            every.append(partition(assignment))
    coarse = [k for k in every if len(k) < tasks]
    total, before = 0.0, [0.0] * len(coarse)
    for layer, (cost, q) in enumerate(zip(costs, p, strict=True)):
        here = []
        for k in coarse:
            made = [assignment for assignment in assignments if partition(assignment) == k]
            conditional = sum(np.prod([q[t, a[t]] for t in range(tasks)]) for a in made)
            ancestors = [i for i, a in enumerate(coarse) if all(any(set(x) <= set(y) for y in a) for x in k)]
            here.append(conditional * (sum(before[i] for i in ancestors) if layer else 1.0))
        total += cost * (sum(x * len(k) for x, k in zip(here, coarse, strict=True)) + (1 - sum(here)) * tasks)
        before = here
    return float(total)


@pytest.mark.parametrize("tasks", [2, 3, 4])
def test_equals_the_released_algorithm(tasks: int) -> None:
    costs = [5, 2, 9]
    p = probabilities(tasks, 3)
    assert float(ReleasedCost(branch_table(tasks, costs)).multiply_adds(p)) == pytest.approx(as_released(costs, p))


def test_36_true_against_87_charged() -> None:
    table = branch_table(5, [1] * 18)
    p = one_hot([[0, 0, 0, 0, 1]] + [[0] * 5] * 17)
    heads = 5 * 7
    assert float(ExpectedCost(table).multiply_adds(p)) - heads == 36
    assert float(ReleasedCost(table).multiply_adds(p)) == 87


def test_right_for_two_tasks_and_never_less() -> None:
    for tasks in (2, 3, 5):
        table = branch_table(tasks, [3, 8, 4, 6])
        p = probabilities(tasks, 4, seed=tasks)
        exact = float(ExpectedCost(table).multiply_adds(p)) - tasks * 7
        released = float(ReleasedCost(table).multiply_adds(p))
        assert released == pytest.approx(exact, rel=1e-12) if tasks == 2 else released > 1.01 * exact


def test_gradient() -> None:
    cost = ReleasedCost(branch_table(3, [3, 8]))
    logits = [torch.randn(3, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(lambda *z: cost.multiply_adds([torch.softmax(x, -1) for x in z]), logits)


def test_the_regularizer() -> None:
    table = branch_table(3, [10, 20])
    logits = [torch.randn(3, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    fresh = [torch.full((3, 3), 1 / 3, dtype=torch.float64) for _ in range(2)]  # the sample does not matter
    view = PolicyView(sample=fresh, logits=logits, active=(0, 1))
    cost = float(ReleasedCost(table).multiply_adds([torch.softmax(x, -1) for x in logits]).detach())
    separate = 3 * 30 + 3 * 7
    for options, expected in (
        ({}, cost / separate),
        ({"per_task": True}, 3 * cost / separate),
        ({"unit": "gflop"}, 2e-9 * cost),
    ):
        found = regularizer("bmtas_released", table, options)(view)
        assert float(found.detach()) == pytest.approx(expected, rel=1e-12)
        assert torch.autograd.grad(found, logits, retain_graph=True)[0].any()
    with pytest.raises(RunError, match="the units 'separate' and 'gflop', not 'mega'"):
        regularizer("bmtas_released", table, {"unit": "mega"})


def test_refusals() -> None:
    with pytest.raises(ModelError, match="takes up to 5 tasks, the model has 6; the exact one"):
        ReleasedCost(branch_table(MAX_TASKS + 1, [3]))
    with pytest.raises(ModelError, match="with all tasks in all blocks"):
        ReleasedCost(branch_table(3, [3, 4], ends={0: 1}))
