"""Random architectures: as many of each option, or as many multiply-adds; and equally likely."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from helpers.graphs import GraphBuilder, random_model
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from onnxmtl.analysis.sites import site_table
from onnxmtl.analysis.table import Option, Site, SiteTable
from onnxmtl.cost import count_architecture
from onnxmtl.cost.count import count
from onnxmtl.errors import ModelError
from onnxmtl.ir.passes import InPlacePass, Refused, RemoveUnusedNodesPass, Sequential
from onnxmtl.passes.select import select_passes
from onnxmtl.passes.spaces import SelectOrSkip, Vcn
from onnxmtl.policy import Architecture, Policy, random_at_cost, random_like, sample


def handmade(*options: str, tasks: tuple[str, ...] = ("a", "b")) -> SiteTable:
    """Sites that offer these options, one letter each; they cost nothing."""
    sites = [
        Site(f"s{i}", i, i, "choice", (), tuple(Option(name, 0, 0, 0, True, True) for name in names))
        for i, names in enumerate(options)
    ]
    return SiteTable(tasks, tuple(sites))


def residual_table(space: InPlacePass, tasks: int = 2, blocks: int = 4) -> SiteTable:
    """A chain of residual blocks that differ in cost."""
    b = GraphBuilder()
    x = b.block(b.image, 4, name="stem")
    for i in range(blocks):
        x = b.residual(x, 4 + i)
    model = b.heads(x, {f"t{i}": 1 for i in range(tasks)})
    space(model)
    return site_table(model)


def options_of(architecture: Architecture, task: str | None = None) -> Counter[str]:
    return Counter(
        option for picks in architecture.choices.values() for name, option in picks.items() if task in (None, name)
    )


def all_of(table: SiteTable) -> list[Architecture]:
    cells = [(site.index, t) for site in table.sites for t in range(len(table.tasks))]
    ranges = [range(len(table.sites[site].options)) for site, _ in cells]
    every = itertools.product(*ranges)
    return [Architecture.from_indices(table, dict(zip(cells, picks, strict=True))) for picks in every]


def looks_uniform(drawn: list[Architecture], population: list[Architecture]) -> bool:
    """Pearson's test at 99.9 %."""
    assert set(drawn) <= set(population)
    expected = len(drawn) / len(population)
    counts = Counter(drawn)
    statistic = sum((counts[architecture] - expected) ** 2 / expected for architecture in population)
    return bool(statistic < chi2.ppf(0.999, len(population) - 1))


def test_the_test_of_uniformity_can_fail() -> None:
    population = all_of(handmade("xy", "xy"))
    rng = np.random.default_rng(0)
    assert looks_uniform([population[i] for i in rng.integers(len(population), size=800)], population)
    tilted = np.linspace(1, 2, len(population))
    skewed = rng.choice(len(population), size=800, p=tilted / tilted.sum())
    assert not looks_uniform([population[i] for i in skewed], population)


# -- the same numbers of options -------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.sampled_from([Vcn(), Vcn(skip="none"), SelectOrSkip()]))
def test_numbers_of_options_are_kept(seed: int, tasks: int, space: InPlacePass) -> None:
    model = random_model(seed, tasks=tasks, layers=5)
    RemoveUnusedNodesPass()(model)
    try:
        space(model)
    except Refused:
        assume(False)
    table = site_table(model)
    (architecture,) = sample(Policy.uniform(table), 1, seed)
    total = random_like(table, architecture, seed, "total").validate(table)
    each = random_like(table, architecture, seed, "per-task").validate(table)
    assert options_of(total) == options_of(each) == options_of(architecture)
    assert all(options_of(each, task) == options_of(architecture, task) for task in table.tasks)
    assert random_like(table, architecture, seed, "total") == total


def test_total_moves_options_between_tasks_and_per_task_does_not() -> None:
    table = residual_table(SelectOrSkip(), blocks=6)
    picks = {s.id: {"t0": "skip", "t1": "select"} for s in table.sites}
    architecture = Architecture(picks)
    assert all(random_like(table, architecture, seed, "per-task") == architecture for seed in range(5))
    drawn = [random_like(table, architecture, seed) for seed in range(20)]
    assert len(set(drawn)) == 20
    assert {options_of(each)["skip"] for each in drawn} == {6}
    assert len({options_of(each, "t0")["skip"] for each in drawn}) > 1


@pytest.mark.parametrize(
    ("options", "nested"), [(("xy", "xy", "xyz"), True), (("x", "xy", "xyz"), True), (("xy", "yz", "xy"), False)]
)
def test_every_assignment_is_equally_likely(options: tuple[str, ...], nested: bool) -> None:
    table = handmade(*options)
    last = options[2][-1]
    picks = {
        "s0": {"a": "x", "b": "x"},
        "s1": {"a": options[1][0], "b": options[1][-1]},
        "s2": {"a": last, "b": options[2][0]},
    }
    start = Architecture(picks)
    population = [each for each in all_of(table) if options_of(each) == options_of(start)]
    if not nested:  # what the sites {x, y} have together stays with them

        def outer(each: Architecture) -> Counter[str]:
            return Counter((*each.choices["s0"].values(), *each.choices["s2"].values()))

        population = [each for each in population if outer(each) == outer(start)]
    assert len(population) >= 6
    assert looks_uniform([random_like(table, start, seed) for seed in range(1500)], population)


def test_an_architecture_of_another_table_is_refused() -> None:
    with pytest.raises(ModelError, match="does not fit"):
        random_like(handmade("xy"), Architecture({"other": {"a": "x", "b": "y"}}), 0)


# -- the same cost -----------------------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3), st.sampled_from([Vcn(), Vcn(norm="per_task"), SelectOrSkip()]))
def test_costs_are_met_on_the_graph(seed: int, tasks: int, space: InPlacePass) -> None:
    model = random_model(seed, tasks=tasks, layers=5)
    RemoveUnusedNodesPass()(model)
    try:
        space(model)
    except Refused:
        assume(False)
    table = site_table(model)
    assume(table.sites)
    (start,) = sample(Policy.uniform(table), 1, seed)
    _, target = count_architecture(table, start)
    (found,) = random_at_cost(table, target, 0.03, seed)
    found.validate(table)
    Sequential(*select_passes(found))(model)
    assert abs(count(model).multiply_adds / target - 1) <= 0.03 + 1e-12


@pytest.mark.parametrize("share", [0.4, 1.0, 2.2])
@pytest.mark.parametrize("space", [Vcn(), SelectOrSkip()], ids=["vcn", "select_or_skip"])
def test_any_cost_between_nothing_and_separate_models(space: InPlacePass, share: float) -> None:
    table = residual_table(space, tasks=3, blocks=5)
    target = share * count_architecture(table, Architecture.uniform(table, table.sites[0].option_names[0]))[1]
    found = random_at_cost(table, target, 0.02, seed=1, count=8)
    assert all(abs(count_architecture(table, each)[1] / target - 1) <= 0.02 for each in found)
    assert len(set(found)) == 8


def test_the_one_architecture_of_its_cost_is_found() -> None:
    """All shared: dearer than many that skip, but no other does exactly as much."""
    table = residual_table(SelectOrSkip(), tasks=3, blocks=8)
    everything = Architecture.uniform(table, "skip")
    _, target = count_architecture(table, everything)
    assert random_at_cost(table, target, 0.0, count=3) == (everything,) * 3


def three_layers() -> SiteTable:
    """Three convolutions of different cost, two tasks, shared, own or skipped: 729 architectures."""
    b = GraphBuilder(channels=4)
    x = b.image
    for kernel in (3, 1, 5):
        x = b.relu(b.conv(x, 4, k=kernel))
    model = b.heads(x, {"a": 1, "b": 1})
    Vcn()(model)
    return site_table(model)


@pytest.mark.parametrize("name", [pytest.param("vcn", marks=pytest.mark.slow), "select_or_skip"])
def test_architectures_within_the_tolerance_are_equally_likely(name: str) -> None:
    table = three_layers() if name == "vcn" else residual_table(SelectOrSkip())
    every = all_of(table)
    costs = np.array([count_architecture(table, each)[1] for each in every])
    target, tolerance = float(np.median(costs)) * 0.95, 0.03
    population = [each for each, cost in zip(every, costs, strict=True) if abs(cost / target - 1) <= tolerance]
    assert 8 <= len(population) <= 60
    drawn = random_at_cost(table, target, tolerance, seed=2, count=10 * len(population))
    assert looks_uniform(list(drawn), population)


def test_the_first_draws_do_not_depend_on_how_many_there_are() -> None:
    table = residual_table(SelectOrSkip())
    target = 0.8 * count_architecture(table, Architecture.uniform(table, "select"))[1]
    nine = random_at_cost(table, target, 0.05, seed=3, count=9)
    assert random_at_cost(table, target, 0.05, seed=3, count=2) == nine[:2]
    assert random_at_cost(table, target, 0.05, seed=4, count=9) != nine
    assert random_at_cost(table, target, 0.05, count=0) == ()


def test_tasks_that_end_early_have_no_say_behind() -> None:
    b = GraphBuilder()
    early = b.residual(b.block(b.image, 4), 4)
    model = b.heads({"a": early, "b": b.residual(early, 4)}, {"a": 1, "b": 1})
    SelectOrSkip()(model)
    table = site_table(model)
    everything = Architecture({site.id: dict.fromkeys(table.tasks_at(site), "select") for site in table.sites})
    _, target = count_architecture(table, everything)
    (found,) = random_at_cost(table, target, 0.01)
    assert [table.tasks_at(site) for site in table.sites] == [("a", "b"), ("b",)]
    assert found == everything


def test_a_cost_that_nothing_has_is_refused_with_the_nearest() -> None:
    table = residual_table(SelectOrSkip())
    _, least = count_architecture(table, Architecture.uniform(table, "skip"))
    with pytest.raises(ModelError, match=f"no architecture with 10 multiply-adds ± 2.0% .* has {least:,}: allow"):
        random_at_cost(table, 10)
    with pytest.raises(ModelError, match="more than 0"):
        random_at_cost(table, 0)
    with pytest.raises(ModelError, match="tolerance of 0 or more, not -1"):
        random_at_cost(table, 10, -1)
    with pytest.raises(ModelError, match="no sites"):
        random_at_cost(SiteTable(("a",), ()), 10)
