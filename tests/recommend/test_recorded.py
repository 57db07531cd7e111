"""What TreeMTL's authors published, from their two-task trainings: scores, ranks, reductions, correlations."""

from __future__ import annotations

import ast
import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from helpers.layout_search import every_layout

from onnxmtl.analysis.blocks import backbone_blocks
from onnxmtl.cost.profile import group_cost
from onnxmtl.frontends import prototxt
from onnxmtl.policy.layout import Layout
from onnxmtl.recommend import active, program, weights
from onnxmtl.recommend.estimators import Measured, estimate
from onnxmtl.recommend.greedy import greedy
from onnxmtl.recommend.scores import branch_points
from onnxmtl.recommend.similarity import pearson, spearman
from onnxmtl.recommend.table import TwoTaskTable, as_estimates, read_csv, write_csv

SHARED = Path(os.environ.get("ONNXMTL_SHARED", "../shared")) / "data"
NYU = SHARED / "treemtl" / "NYUv2_2task_metrics_resnet_1129_val_acc.csv"
TASKS = ("segmentation", "normals", "depth")
pytestmark = pytest.mark.skipif(not NYU.is_file(), reason="the shared data are not there ($ONNXMTL_SHARED)")


@pytest.fixture(scope="module")
def nyu():
    return read_csv(NYU, TASKS)


@pytest.fixture(scope="module")
def nyu_scores(nyu):
    return estimate("two-task", Measured(nyu, weights.svd_entropy(nyu)))


@pytest.fixture(scope="module")
def recorded():
    with (SHARED / "treemtl" / "scores_NYUv2_2task_metrics_resnet_1129_val_acc.csv").open() as file:
        rows = list(csv.DictReader(file))
    canonical = []
    for row in rows:
        blocks = ast.literal_eval(row["layout"])
        groups = tuple(tuple(sorted(tuple(sorted(group)) for group in block)) for block in blocks)
        canonical.append((int(row["layout_idx"]), float(row["score"]), groups))
    return canonical


@pytest.fixture(scope="module")
def domain_net():
    return json.loads((SHARED / "treemtl" / "measured_DomainNet_effnetv2_1228.json").read_text())


@pytest.fixture(scope="module")
def domain_table(domain_net):
    count, blocks = domain_net["T"], domain_net["B"]
    table = TwoTaskTable.untrained(domain_net["tasks"], blocks)
    for pair, rows in domain_net["two_task"].items():
        t, u = ast.literal_eval(pair)
        for b, (of_t, of_u) in enumerate(rows):
            table = table.with_pair(t, u, b, of_t, of_u)
    assert len(table.tasks) == count and not table.missing
    return table


def test_all_scores_are_the_recorded_ones(nyu_scores, recorded):
    assert len(recorded) == 51
    for _, score, groups in recorded:
        assert nyu_scores.of(groups) == pytest.approx(score, rel=0, abs=1e-12)


def test_the_ranking_is_the_recorded_one(nyu_scores, recorded):
    found = program.best(nyu_scores, [1.0] * 5, 51)
    assert [one.groups for one in found] == [groups for _, _, groups in recorded]
    assert [one.score for one in found] == pytest.approx([score for _, score, _ in recorded], rel=0, abs=1e-12)
    numbers = [Layout(TASKS, one.groups).number for one in found]
    assert numbers[:5] == [45, 0, 50, 37, 49]
    assert numbers == [number for number, _, _ in recorded]


def test_the_reductions_are_the_paper_s(nyu_scores):
    """Blocks of AutoMTL's prototxt: a stem, then 3, 4, 6 and 3 residual blocks; multiply-adds, trunk alone."""
    model = prototxt.load(SHARED / "automtl" / "deeplab_resnet34_adashare.prototxt")
    found = backbone_blocks(model, (1, 3, 4, 6, 3), None)
    costs = [group_cost(block.nodes).multiply_adds for block in found]
    best = program.best(nyu_scores, costs, 5)
    reductions = [100 * (one.cost / (3 * sum(costs)) - 1) for one in best]
    assert reductions == pytest.approx([-36.56, -66.67, -46.87, -34.87, -46.87], abs=0.05)


def test_under_budgets_the_ranking_is_filtered(nyu_scores, recorded):
    """As the released notebook does it: walk down the list, keep what fits."""
    costs = [3.0, 1.0, 4.0, 1.5, 9.0]
    for budget in (18.5, 25.0, 31.0, 44.0, 55.5):
        fitting = [g for _, _, g in recorded if sum(c * len(b) for c, b in zip(costs, g, strict=True)) <= budget]
        assert [one.groups for one in program.best(nyu_scores, costs, 7, budget)] == fitting[:7]


def test_predicted_and_measured_correlate_as_reported(domain_net, domain_table):
    measured = np.mean(domain_net["measured_relative_performance_percent"], axis=1)
    layouts = [tuple(tuple(map(tuple, block)) for block in layout) for layout in domain_net["layouts"]]
    for name, wanted in (("equal", 0.9076), ("svd-entropy", 0.918)):
        scores = estimate("two-task", Measured(domain_table, weights.weights(name, domain_table)))
        assert spearman(np.array([scores.of(layout) for layout in layouts]), measured) == pytest.approx(
            wanted, abs=5e-4
        )


def test_the_numbers_of_measured_layouts(domain_net):
    for number, layout in zip(domain_net["layout_idx_in_TreeMTL_order"], domain_net["layouts"], strict=True):
        assert Layout(domain_net["tasks"], layout).number == number


def test_the_score_is_the_weighted_sum_of_estimates(nyu, nyu_scores, recorded):
    shares = weights.svd_entropy(nyu)
    for _, score, groups in recorded:
        assert float(shares @ as_estimates(nyu, branch_points(groups))) == pytest.approx(score, abs=1e-12)


@pytest.mark.slow
def test_domain_net_at_every_budget(domain_table):
    """44 590 layouts, the front and a few budgets against all of them."""
    scores = estimate("two-task", Measured(domain_table))
    costs = np.array([1.0, 2.5, 3.25, 4.0])
    every = every_layout(6, 4)
    assert len(every) == 44590
    points = np.array([branch_points(layout) for layout in every])
    pairs = np.triu_indices(6, 1)
    values = scores.pairs[pairs[0], pairs[1], points[:, pairs[0], pairs[1]]].sum(axis=1)
    spent = np.array([[len(block) for block in layout] for layout in every]) @ costs
    for budget in np.unique(spent)[:: len(np.unique(spent)) // 5]:
        best = np.sort(values[spent <= budget + 1e-9])[::-1][:10]
        found = program.best(scores, costs, 10, budget)
        assert [one.score for one in found] == pytest.approx(best.tolist(), abs=1e-11)
    front = program.front(scores, costs)
    assert [one.score for one in front] == pytest.approx(
        [values[spent <= one.cost + 1e-9].max() for one in front], abs=1e-11
    )
    chosen = greedy(scores, costs, 30.0)
    assert chosen.cost <= 30 and chosen.score <= program.best(scores, costs, 1, 30.0)[0].score + 1e-12


def test_the_file_is_written_as_it_was_read(nyu, tmp_path):
    write_csv(nyu, tmp_path / "again.csv", names=False)
    again = read_csv(tmp_path / "again.csv", TASKS)
    np.testing.assert_array_equal(again.values, nyu.values)


@pytest.mark.parametrize("budget", [None, 11.0])
def test_fewer_trainings_on_the_recorded_tables(nyu, budget):
    steps = active.replay(nyu, [1.0] * 5, 3, budget, weighting="equal")
    assert steps[0].trained == 6 and steps[-1].trained < 15 and steps[-1].decided
    assert steps[-1].regret <= 0.05  # of scores that range from -0.9 to 4


def test_correlations_by_hand():
    assert pearson(np.array([1.0, 2, 3]), np.array([2.0, 4, 7])) == pytest.approx(0.9933992677987828)
    assert spearman(np.array([1.0, 2, 2, 5]), np.array([1.0, 3, 2, 9])) == pytest.approx(0.9486832980505138)
