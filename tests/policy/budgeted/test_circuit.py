"""And-or graphs under a budget against enumeration."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmtl.policy.budgeted import circuit as circuits
from onnxmtl.policy.budgeted.circuit import NOTHING, Alternative, Circuit, TooLargeError, solve

MOST = 3000


def random_circuit(rng: np.random.Generator) -> tuple[Circuit, int, list[list[tuple[int, float, frozenset]]]]:
    """A graph, its root, and per node all its solutions by enumeration: (cost, loss, labels)."""
    circuit = Circuit()
    solutions: list[list[tuple[int, float, frozenset]]] = [[(0, 0.0, frozenset())]]
    for node in range(1, int(rng.integers(3, 9))):
        alternatives = []
        for i in range(int(rng.integers(1, 4))):
            cost, loss = int(rng.integers(0, 20)), float(np.round(rng.exponential(), int(rng.integers(0, 3))))
            first, second = (int(c) for c in rng.integers(0, node, 2))
            alternatives.append(Alternative(cost, loss, first, second, (node, i)))
        assert circuit.add(alternatives) == node
        below = (
            (cost + a[0] + b[0], loss + a[1] + b[1], frozenset({label}) | a[2] | b[2])
            for cost, loss, first, second, label in alternatives
            for a, b in itertools.product(solutions[first], solutions[second])
        )
        solutions.append(list(itertools.islice(below, MOST)))
    return circuit, len(solutions) - 1, solutions


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_equals_enumeration(seed):
    rng = np.random.default_rng(seed)
    circuit, root, solutions = random_circuit(rng)
    while max(map(len, solutions)) == MOST:  # too many to list them all
        circuit, root, solutions = random_circuit(rng)
    costs = [cost for cost, _, _ in solutions[root]]
    for budget in (min(costs) - 1, min(costs), int(rng.choice(costs)), max(costs)):
        best = solve(circuit, root, budget)
        assert best.least == min(costs)
        fitting = [solution for solution in solutions[root] if solution[0] <= budget]
        if not fitting:
            assert best.way is None and best.lower == math.inf
            continue
        least = min(loss for _, loss, _ in fitting)
        assert best.way is not None and best.lower == best.way.loss
        assert best.way.loss == pytest.approx(least, rel=1e-11, abs=1e-11)
        assert any(
            (cost, frozenset(best.way.labels)) == (best.way.cost, labels) and loss == pytest.approx(best.way.loss)
            for cost, loss, labels in fitting
        )
        assert solve(circuit, root, budget) == best


def knapsack(size: int) -> tuple[Circuit, int]:
    """Things of nearly equal worth per cost: bounds prune least."""
    circuit, rng = Circuit(), np.random.default_rng(0)
    costs = rng.integers(10**6, 10**7, size)
    things = [
        circuit.add([Alternative(int(c), 0.0), Alternative(0, float(c) * (1 + 1e-9 * rng.random()), label=i)])
        for i, c in enumerate(costs)
    ]
    return circuit, circuit.product(things)


def test_a_product_is_made_once():
    circuit = Circuit()
    a, b = circuit.add([Alternative(1, 0.0)]), circuit.add([Alternative(2, 0.0)])
    assert circuit.product([a, NOTHING, b]) == circuit.product([a, b])
    assert circuit.product([]) == circuit.product([NOTHING]) == NOTHING
    assert circuit.product([a]) == a


def test_sizes_are_bounded(monkeypatch):
    circuit, root = knapsack(60)
    monkeypatch.setattr(circuits, "_MOST_PAIRS", 2000)
    best = solve(circuit, root, 100_000_000)
    assert best.way is not None and best.way.cost <= 100_000_000
    assert best.lower < best.way.loss  # not the best, and it says so
    monkeypatch.setattr(circuits, "_MOST_ALTERNATIVES", 10)
    with pytest.raises(TooLargeError):
        knapsack(60)
