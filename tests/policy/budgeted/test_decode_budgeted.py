"""Budgeted decoding against enumeration of all architectures, on any kind of table."""

import re

import numpy as np
import pytest
from helpers import backbones
from helpers.architectures import every_architecture, log_probabilities, number_of_architectures, random_policy
from helpers.graphs import random_model
from helpers.programs import Program, Step, random_program
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onnxmtl.analysis.sites import site_table
from onnxmtl.analysis.table import SiteTable
from onnxmtl.cost.count import count
from onnxmtl.cost.selected import SelectedCost
from onnxmtl.errors import BudgetError
from onnxmtl.ir.passes import Refused
from onnxmtl.passes.pipelines import Pipeline
from onnxmtl.passes.select import select_passes
from onnxmtl.passes.spaces import SelectOrSkip, Vcn
from onnxmtl.policy import Policy, argmax
from onnxmtl.policy.budget import Absolute
from onnxmtl.policy.budgeted import decode_budgeted, exact, milp
from onnxmtl.policy.budgeted.decode import _decoded
from onnxmtl.policy.budgeted.fallback import cheap_then_climb
from onnxmtl.policy.budgeted.problem import make_problem

VCN = ("shared", "own", "identity")
QUANTITIES = (("parameters",), ("multiply_adds",), ("parameters", "multiply_adds"))


def site(inputs: list[int], number: int, kinds: tuple[str, ...] = VCN) -> Step:
    return Step(inputs, 10 + 7 * number, 5 + 3 * number, "site", number, kinds)


def chain(tasks: int) -> Program:
    """Three sites, one of them with a projection of each task's own and a shared one."""
    kinds = ("shared", "own", "own_projection", "shared_projection")
    steps = [Step([], 3, 2), site([0], 0), site([1], 1, kinds), site([2], 2), Step([3], 5, 4)]
    return Program(tasks, [3, 4, 3], steps, [4] * tasks)


def residual(tasks: int) -> Program:
    """Two sites on the path and a site on the shortcut, an addition, a site behind."""
    steps = [Step([], 3, 2), site([0], 0), site([1], 1), site([0], 2, ("shared", "own")), Step([2, 3], 1, 0)]
    return Program(tasks, [3, 3, 2, 2], [*steps, site([4], 3, ("shared", "own"))], [5] * tasks)


def parallel(tasks: int) -> Program:
    """Branches of one, two and no sites between a split and a join, with something fixed on a branch."""
    steps = [Step([], 3, 2), site([0], 0, ("shared", "own")), Step([1], 9, 1), site([2], 1, ("shared", "identity"))]
    steps += [site([0], 2), Step([0], 4, 0), Step([3, 4, 5], 2, 1)]
    return Program(tasks, [2, 2, 3], steps, [6] * tasks)


def crossed(tasks: int) -> Program:
    """Two branches that read each other's middle: neither chain nor parallel."""
    two = ("shared", "own")
    steps = [Step([], 3, 2), site([0], 0, two), site([0], 1, two), site([1, 2], 2, two), site([2], 3, two)]
    return Program(tasks, [2, 2, 2, 2], [*steps, Step([3, 4], 2, 1)], [5] * tasks)


STRUCTURED = {"chain": chain, "residual": residual, "parallel": parallel}


def limits_of(costs, quantities: tuple[str, ...], row: int) -> list[Absolute]:
    """What one architecture costs is the limit."""
    return [Absolute(quantity, float(getattr(costs, quantity)[row])) for quantity in quantities]


def check(policy: Policy, rng: np.random.Generator, *, by_both: bool = True) -> None:
    """Every kind of limit, at what a random architecture costs: the decoder's answer and HiGHS's are the best."""
    picks = every_architecture(policy.table)
    costs = SelectedCost(policy.table)(picks)
    values = log_probabilities(policy, picks)
    for quantities in QUANTITIES:
        limits = limits_of(costs, quantities, int(rng.integers(0, len(picks))))
        best = values[make_problem(policy, limits).fits(costs)].max()
        found = decode_budgeted(policy, limits)
        assert found.log_probability == pytest.approx(best, rel=1e-9, abs=1e-9)
        assert found.gap == 0.0
        assert all(getattr(found, limit.quantity) <= limit.bound for limit in limits)
        assert found == decode_budgeted(policy, limits)
        if by_both:
            problem = make_problem(policy, limits)
            solution = milp.solve(problem, 60.0)
            assert solution.picks is not None
            assert problem.best - problem.loss(solution.picks) == pytest.approx(best, rel=1e-9, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 2.0, 20.0, 700.0, 1e5]))
def test_any_table(seed, spread):
    rng = np.random.default_rng(seed)
    table = random_program(rng).table()
    assume(table.sites)
    check(random_policy(table, rng, spread), rng)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(STRUCTURED)), st.integers(1, 3))
def test_structured_tables_by_the_exact_programs(seed, name, tasks):
    rng = np.random.default_rng(seed)
    table = STRUCTURED[name](tasks).table()
    policy = random_policy(table, rng, 2.0)
    check(policy, rng, by_both=False)
    for quantity in ("parameters", "multiply_adds"):
        for load in make_problem(policy, [Absolute(quantity, 60.0)]).loads:
            assert exact.solve_load(make_problem(policy, [Absolute(quantity, 60.0)]), load) is not None


@pytest.mark.parametrize("seed", range(3))
def test_four_tasks(seed):
    rng = np.random.default_rng(seed)
    table = Program(4, [3, 3], [Step([], 3, 2), site([0], 0), site([1], 1)], [2] * 4).table()
    check(random_policy(table, rng, 1.0), rng)


@pytest.mark.parametrize("seed", range(3))
def test_other_tables_by_highs(seed):
    rng = np.random.default_rng(seed)
    policy = random_policy(crossed(3).table(), rng, 1.0)
    check(policy, rng)
    picks = every_architecture(policy.table)
    least = float(SelectedCost(policy.table)(picks).multiply_adds.min())
    problem = make_problem(policy, [Absolute("multiply_adds", least)])
    assert exact.solve_load(problem, problem.loads[0]) is None
    assert decode_budgeted(policy, [Absolute("multiply_adds", least)]).method == "milp"
    with pytest.raises(BudgetError, match=f"madds can be {least:,.0f} at the least"):
        decode_budgeted(policy, [Absolute("multiply_adds", least - 1)])


SPACES = (Vcn(), Vcn(norm="per_task"), Vcn(skip="dense1x1"), Vcn(granularity="block"), Vcn(shared_prefix=1),
          SelectOrSkip())  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 3), st.sampled_from(SPACES), st.booleans())
def test_the_figures_are_those_of_the_selected_graph(seed, tasks, space, trunk):
    model = random_model(seed, tasks=tasks, layers=3)
    try:
        space(model)
    except Refused:
        assume(False)
    table = site_table(model)
    assume(table.sites)
    rng = np.random.default_rng(seed)
    policy = random_policy(table, rng, 1.0)
    counter = SelectedCost(table)
    drawn = make_problem(random_policy(table, rng, 1.0), []).first  # fits its own costs
    costs = counter(drawn[None])
    names = [f"{quantity}_trunk" if trunk else quantity for quantity in ("parameters", "multiply_adds")]
    chosen = names[: 1 + seed % 2] if seed % 3 else names[1:]
    limits = [Absolute(name.removesuffix("_trunk"), float(getattr(costs, name)[0]), trunk) for name in chosen]
    found = decode_budgeted(policy, limits)
    assert found.log_probability >= log_probabilities(policy, drawn[None])[0] - 1e-9
    if number_of_architectures(table) < 5000:
        picks = every_architecture(table)
        fitting = make_problem(policy, limits).fits(counter(picks))
        best = log_probabilities(policy, picks)[fitting].max()
        assert found.log_probability == pytest.approx(best, rel=1e-9, abs=1e-9)
    Pipeline(select_passes(found.architecture))(model)
    counted = count(model)
    assert (found.parameters, found.multiply_adds) == (counted.parameters, counted.multiply_adds)
    assert all(limit.allows(limit.of(counted)) for limit in limits)


NETWORKS = (
    (backbones.resnet34, Vcn(), 3),
    (backbones.mobilenet_v2, Vcn(skip="dense1x1"), 3),
    (backbones.inception, Vcn(granularity="block"), 4),
    (backbones.resnet34, SelectOrSkip(), 4),
)


@pytest.mark.parametrize(("network", "space", "tasks"), NETWORKS)
def test_published_shapes_are_decoded_exactly(network, space, tasks):
    """As good as HiGHS, and proven so without it."""
    model = network(tasks)
    space(model)
    table = site_table(model)
    rng = np.random.default_rng(0)
    policy = random_policy(table, rng, 1.0)
    first = SelectedCost(table)(make_problem(policy, []).first[None])
    for quantity in ("parameters", "multiply_adds"):
        limits = [Absolute(quantity, 0.8 * float(getattr(first, quantity)[0]))]
        found = decode_budgeted(policy, limits)
        assert (found.method, found.gap) == ("exact", 0.0)
        problem = make_problem(policy, limits)
        solution = milp.solve(problem, 60.0)
        assert solution.picks is not None
        assert found.log_probability == pytest.approx(problem.best - problem.loss(solution.picks), abs=1e-9)


def test_what_fits_already_is_the_argmax():
    policy = random_policy(chain(3).table(), np.random.default_rng(0), 1.0)
    for limits in ([], [Absolute("parameters", 1e9), Absolute("multiply_adds", 1e9)]):
        found = decode_budgeted(policy, limits)
        assert found.architecture == argmax(policy)
        assert (found.method, found.gap) == ("exact", 0.0)
        assert found.log_probability == pytest.approx(
            log_probabilities(policy, make_problem(policy, []).first[None])[0], rel=1e-12
        )


def test_nothing_fits():
    policy = random_policy(chain(2).table(), np.random.default_rng(0), 1.0)
    costs = SelectedCost(policy.table)(every_architecture(policy.table))
    least = {quantity: int(getattr(costs, quantity).min()) for quantity in ("parameters", "multiply_adds")}
    for quantity, name in (("parameters", "params"), ("multiply_adds", "madds")):
        text = f"{name}<=0.1x"
        with pytest.raises(BudgetError) as error:
            decode_budgeted(policy, [Absolute(quantity, least[quantity] - 0.5, text=text)])
        assert str(error.value) == (
            f"{text}: no architecture of the supermodel is that small; {name} can be {least[quantity]} at the least, "
            f"allowed are {least[quantity] - 1}"
        )


def test_each_limit_alone_but_not_together():
    """One option has few weights, the other few multiply-adds."""
    steps = [Step([], 0, 0), Step([0], 100, 1, "site", 0, ("shared", "shared"))]
    table = Program(2, [2], steps, [1, 1]).table()
    weights = [size.uses for size in table.weight_items]
    assert len(weights) == 1  # both options use one weight; make the second one dearer and cheaper
    first, second = ([use for use in weights[0] if use[2] == option] for option in (0, 1))
    item = type(table.weight_items[0])
    table = SiteTable(
        table.tasks, table.sites, table.cost_items, (item(50, 0, tuple(first)), item(90, 0, tuple(second)))
    )
    costs = SelectedCost(table)(every_architecture(table))
    policy = Policy.uniform(table)
    parameters, multiply_adds = int(costs.parameters.min()), int(costs.multiply_adds.min())
    assert decode_budgeted(policy, [Absolute("multiply_adds", float(multiply_adds))]).multiply_adds == multiply_adds
    both = [Absolute("parameters", float(parameters)), Absolute("multiply_adds", 150.0)]
    assert decode_budgeted(policy, both).parameters == parameters
    swapped = Program(2, [2], [Step([], 0, 0), Step([0], 100, 0, "site", 0, ("shared", "free"))], [1, 1]).table()
    dear = SiteTable(swapped.tasks, swapped.sites, swapped.cost_items, (item(90, 0, tuple(second)),))
    with pytest.raises(BudgetError, match=r"each limit can be kept, but not all together; params can be 0 .* madds"):
        decode_budgeted(Policy.uniform(dear), [Absolute("parameters", 89.0), Absolute("multiply_adds", 99.0)])


def test_ties_are_broken_the_same_way_every_time():
    policy = Policy.uniform(residual(3).table())
    costs = SelectedCost(policy.table)(every_architecture(policy.table))
    for quantity in ("parameters", "multiply_adds"):
        limits = [Absolute(quantity, float(np.median(getattr(costs, quantity))))]
        found = [decode_budgeted(policy, limits) for _ in range(3)]
        assert found[0] == found[1] == found[2]


def test_time_runs_out(monkeypatch):
    """Without time, HiGHS has nothing; an architecture is found all the same and the gap is told."""
    policy = random_policy(crossed(3).table(), np.random.default_rng(1), 1.0)
    picks = every_architecture(policy.table)
    costs = SelectedCost(policy.table)(picks)
    limits = [Absolute("multiply_adds", float(np.quantile(costs.multiply_adds, 0.2)))]
    monkeypatch.setattr(milp, "solve", lambda problem, time_limit: milp.Solution(None, 0.0))
    found = decode_budgeted(policy, limits, time_limit=0.0)
    best = log_probabilities(policy, picks)[costs.multiply_adds <= limits[0].bound].max()
    assert found.multiply_adds <= limits[0].bound
    assert found.log_probability - 1e-9 <= best <= found.log_probability + found.gap + 1e-9
    assert re.fullmatch(r"no other is more probable by more than \S+ in log-probability, by HiGHS", found.message)
    tight = [Absolute("multiply_adds", float(costs.multiply_adds.min() - 1))]
    with pytest.raises(BudgetError, match="was found in 0 s; give more time or a larger budget"):
        decode_budgeted(policy, tight, time_limit=0.0)


def test_climbing_without_a_solver():
    policy = random_policy(chain(3).table(), np.random.default_rng(2), 1.0)
    counter = SelectedCost(policy.table)
    problem = make_problem(policy, [Absolute("parameters", 60.0)])
    (picks,) = cheap_then_climb(problem, counter)
    assert bool(problem.fits(counter(picks[None]))[0])
    for s, losses in enumerate(problem.losses):  # no single better option fits
        for t, o in np.argwhere(losses < np.take_along_axis(losses, picks[s][:, None], 1)):
            changed = picks.copy()
            changed[s, t] = o
            assert not bool(problem.fits(counter(changed[None]))[0])


def test_an_answer_of_highs_that_does_not_fit_is_forbidden(monkeypatch):
    policy = random_policy(crossed(2).table(), np.random.default_rng(0), 1.0)
    picks = every_architecture(policy.table)
    costs = SelectedCost(policy.table)(picks)
    limits = [Absolute("multiply_adds", float(np.quantile(costs.multiply_adds, 0.4)))]
    best = log_probabilities(policy, picks)[costs.multiply_adds <= limits[0].bound].max()
    rows = milp.Program.limit

    def lax(self, load):
        """A row that lets too much through, as rounding might."""
        rows(self, load)
        row, lower, upper = self.rows[-1]
        self.rows[-1] = (row, lower, upper * 1.05)

    monkeypatch.setattr(milp.Program, "limit", lax)
    problem = make_problem(policy, limits)
    solution = milp.solve(problem, 60.0)
    assert problem.best - problem.loss(solution.picks) == pytest.approx(best, abs=1e-9)


def test_latency_is_for_the_measured_module():
    with pytest.raises(ValueError, match="measured"):
        decode_budgeted(Policy.uniform(chain(1).table()), [Absolute("latency", 4.0)])


def test_a_table_without_sites():
    table = Program(2, [], [Step([], 7, 5)], [0, 0]).table()
    assert decode_budgeted(Policy.uniform(table), [Absolute("multiply_adds", 7.0)]).log_probability == 0.0
    with pytest.raises(BudgetError, match="madds can be 7 at the least, allowed are 6"):
        decode_budgeted(Policy.uniform(table), [Absolute("multiply_adds", 6.0)])


def test_decoded_is_counted_anew():
    policy = random_policy(chain(2).table(), np.random.default_rng(0), 1.0)
    problem = make_problem(policy, [])
    found = _decoded(problem, SelectedCost(policy.table), problem.first, "exact", 0.0, "")
    costs = SelectedCost(policy.table)(problem.first[None])
    assert (found.parameters, found.multiply_adds) == (costs.parameters[0], costs.multiply_adds[0])
