"""Expected cost against brute force: every architecture of random small DAGs of sites, executed with hash-consing.

The oracle below knows nothing of inclusion-exclusion: it runs each task's network symbolically, one task after the
other, and counts a computation once if the same operator with the same weights meets the same inputs.
"""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from helpers.programs import Program, Step, random_probabilities, random_program
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmtl.analysis.table import CostItem, SiteTable, WeightItem
from onnxmtl.cost import expected
from onnxmtl.cost.expected import ExpectedCost, expected_multiply_adds, expected_parameters
from onnxmtl.errors import ModelError


def brute_force(program: Program, p: list[np.ndarray]) -> tuple[float, float]:
    places = [(s, t) for s in range(len(program.sites)) for t in range(program.tasks)]
    multiply_adds = parameters = 0.0
    for options in itertools.product(*(range(program.sites[s]) for s, _ in places)):
        draw = dict(zip(places, options, strict=True))
        chance = float(np.prod([p[s][t, o] for (s, t), o in draw.items()]))
        if chance:
            found = program.execute(draw)
            multiply_adds += chance * found[0]
            parameters += chance * found[1]
    return multiply_adds, parameters


def chain(tasks: int, length: int, kinds: tuple[str, ...] = ("shared", "own", "identity")) -> Program:
    steps = [Step([], 7, 5)]
    for s in range(length):
        steps.append(Step([s], 10 + s, 20 + s, "site", s, kinds))
    return Program(tasks, [len(kinds)] * length, steps, [length] * tasks)


def random_rows(rng: np.random.Generator, program: Program) -> list[np.ndarray]:
    return [rng.dirichlet(np.ones(count), program.tasks) for count in program.sites]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_equals_enumeration(seed):
    rng = np.random.default_rng(seed)
    program = random_program(rng)
    p = random_probabilities(rng, program)
    evaluator = ExpectedCost(program.table())
    multiply_adds, parameters = brute_force(program, p)
    anchor = np.zeros(0)
    assert float(evaluator.multiply_adds(p, anchor)) == pytest.approx(multiply_adds, rel=1e-12, abs=1e-12)
    assert float(evaluator.parameters(p, anchor)) == pytest.approx(parameters, rel=1e-12, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_certain_draws_cost_what_execution_counts(seed):
    """One-hot probabilities give the count of that one architecture, for more tasks than enumeration allows."""
    rng = np.random.default_rng(seed)
    program = dataclasses.replace(random_program(rng), tasks=6)
    program.features = [len(program.steps) - 1] * 6
    draw = {(s, t): int(rng.integers(0, n)) for s, n in enumerate(program.sites) for t in range(6)}
    p = [np.eye(n)[[draw[s, t] for t in range(6)]] for s, n in enumerate(program.sites)]
    evaluator = ExpectedCost(program.table())
    expected_numbers = program.execute(draw)
    assert float(evaluator.multiply_adds(p, np.zeros(0))) == pytest.approx(expected_numbers[0], rel=1e-12)
    assert float(evaluator.parameters(p, np.zeros(0))) == pytest.approx(expected_numbers[1], rel=1e-12)


def test_one_task_pays_for_what_it_computes():
    program = chain(1, 4)
    p = random_rows(np.random.default_rng(0), program)
    wanted = 7 + sum((10 + s) * p[s][0, 0] + (11 + s) * p[s][0, 1] for s in range(4))
    assert float(expected_multiply_adds(program.table(), p)) == pytest.approx(wanted, rel=1e-13)


@pytest.mark.parametrize("tasks", [1, 2, 5])
def test_all_shared_is_one_backbone_and_all_own_is_one_each(tasks):
    program = chain(tasks, 5)
    table = program.table()
    shared = [np.eye(3)[[0] * tasks]] * 5
    own = [np.eye(3)[[1] * tasks]] * 5
    assert float(expected_multiply_adds(table, shared)) == 7 + sum(range(10, 15))
    assert float(expected_multiply_adds(table, own)) == 7 + tasks * sum(range(11, 16))
    assert float(expected_parameters(table, shared)) == 5 + sum(range(20, 25))
    assert float(expected_parameters(table, own)) == 5 + tasks * sum(range(20, 25))
    skipped = [np.eye(3)[[2] * tasks]] * 5
    assert float(expected_multiply_adds(table, skipped)) == 7
    assert float(ExpectedCost(table).multiply_adds_unshared(shared)) == tasks * (7 + sum(range(10, 15)))


def test_an_early_own_copy_makes_what_follows_dearer():
    """The trap: with an upstream factor on single tasks, an own copy would make everything after it look free."""
    program = chain(2, 6)
    table = program.table()
    logits = [torch.zeros(2, 3, dtype=torch.float64, requires_grad=True) for _ in range(6)]
    expected_multiply_adds(table, [x.softmax(1) for x in logits]).backward()
    first = logits[0].grad
    assert first is not None and (first[:, 1] > first[:, 0]).all() and (first[:, 1] > 0).all()


def test_nothing_is_shared_after_a_norm_per_task():
    steps = [Step([], 4, 1), Step([0], 3, 2, "per_task"), Step([1], 10, 20, "site", 0, ("shared", "own"))]
    table = Program(3, [2], steps, [2] * 3).table()
    shared = [np.eye(2)[[0] * 3]]
    assert float(expected_multiply_adds(table, shared)) == 4 + 3 * 3 + 3 * 10
    assert float(expected_parameters(table, shared)) == 1 + 3 * 2 + 20


def test_parameters_of_a_site_are_the_papers_closed_form():
    rng = np.random.default_rng(1)
    for how in ("own_projection", "shared_projection"):
        program = chain(4, 1, ("shared", "own", how))
        (p,) = random_rows(rng, program)
        some_skip = p[:, 2].sum() if how == "own_projection" else 1 - np.prod(1 - p[:, 2])
        wanted = 5 + 20 * (p[:, 1].sum() + 1 - np.prod(1 - p[:, 0])) + 30 * some_skip
        assert float(expected_parameters(program.table(), [p])) == pytest.approx(wanted, rel=1e-13)


def test_branches_equal_the_sum_over_groupings():
    """BMTAS: T parallel copies per layer; the expected number of groups by enumeration of set partitions."""
    rng = np.random.default_rng(2)
    steps = [Step([s - 1] if s else [], 1, 0, "site", s, ("free",) * 3) for s in range(2)]
    program = Program(3, [3, 3], steps, [1] * 3)
    p = random_rows(rng, program)
    wanted = 0.0
    for options in itertools.product(range(3), repeat=6):
        draw = np.array(options).reshape(2, 3)
        chance = np.prod([p[s][t, draw[s, t]] for s in range(2) for t in range(3)])
        wanted += chance * (len(set(draw[0])) + len(set(zip(*draw, strict=True))))
    assert float(expected_multiply_adds(program.table(), p)) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_gradients_and_torch_values(seed):
    rng = np.random.default_rng(seed)
    program = dataclasses.replace(chain(3, 3, ("shared", "own", "free", "own_projection")))
    evaluator = ExpectedCost(program.table())
    p = random_rows(rng, program)
    tensors = [torch.tensor(x, requires_grad=True) for x in p]
    assert evaluator.multiply_adds(tensors).item() == pytest.approx(float(evaluator.multiply_adds(p)), rel=1e-14)
    assert evaluator.parameters(tensors).item() == pytest.approx(float(evaluator.parameters(p)), rel=1e-14)
    assert torch.autograd.gradcheck(lambda *x: evaluator.multiply_adds(x), tensors, rtol=1e-7, atol=1e-6)
    assert torch.autograd.gradcheck(lambda *x: evaluator.parameters(x), tensors, rtol=1e-7, atol=1e-6)


def test_gradients_at_certain_draws_are_exact():
    """At zeros products have to be differentiated without dividing by themselves."""
    program = chain(3, 4)
    evaluator = ExpectedCost(program.table())
    p = [torch.eye(3, dtype=torch.float64)[[0, 2, 0]].requires_grad_() for _ in range(4)]
    evaluator.multiply_adds(p).backward()
    base = [x.detach().numpy().copy() for x in p]
    for s, t, o in itertools.product(range(4), range(3), range(3)):
        up, down = [x.copy() for x in base], [x.copy() for x in base]
        up[s][t, o] += 1.0
        down[s][t, o] -= 1.0
        # The cost is linear in every single probability, so this difference is exact.
        slope = (float(evaluator.multiply_adds(up)) - float(evaluator.multiply_adds(down))) / 2
        assert p[s].grad is not None and p[s].grad[t, o].item() == pytest.approx(slope, abs=1e-9)


def test_single_precision_probabilities_are_summed_in_double():
    program = chain(2, 3)
    p = [x.astype(np.float32) for x in random_rows(np.random.default_rng(3), program)]
    result = expected_multiply_adds(program.table(), p)
    assert result.dtype == np.float64
    tensors = [torch.from_numpy(x).requires_grad_() for x in p]
    total = expected_multiply_adds(program.table(), tensors)
    total.backward()
    assert total.dtype == torch.float64 and tensors[0].grad is not None and tensors[0].grad.dtype == torch.float32


def test_a_table_without_sites_has_a_constant_cost():
    table = Program(2, [], [Step([], 4, 3)], [0, 0]).table()
    assert float(expected_multiply_adds(table, [])) == 4
    assert float(expected_parameters(table, [])) == 3
    assert ExpectedCost(table).multiply_adds([], torch.zeros(1)).dtype == torch.float64


def test_wrong_shapes_and_too_many_tasks_are_refused():
    table = chain(2, 2).table()
    with pytest.raises(ValueError, match="shapes"):
        expected_multiply_adds(table, [np.ones((2, 3))])
    with pytest.raises(ModelError, match="the model has 13"):
        ExpectedCost(chain(expected.MAX_TASKS + 1, 1).table())


def test_table_rejects_contradictions():
    with pytest.raises(ValueError, match="its own site 0"):
        CostItem(1, 0, 0, (0,), {0: (0,)})
    with pytest.raises(ValueError, match="no such"):
        SiteTable(("a",), (), (CostItem(1, None, None, (1,)),))
    with pytest.raises(ValueError, match="no such"):
        SiteTable(("a",), (), (), (WeightItem(1, 0, ((0, 0, 0),)),))
