"""What the found model is compared with."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from helpers.compiling import BASELINES, QUICK, TASKS, digests

from onnxmtl.deploy.results import Report
from onnxmtl.kinds import TaskSet
from onnxmtl.policy import Architecture
from onnxmtl.train.delta import delta
from onnxmtl.workflows import CompileConfig, compile, verify
from onnxmtl.workflows.config import BASELINES as EVERY
from onnxmtl.workflows.config import TREE_BASELINES
from onnxmtl.workflows.phases.baselines import code_digest

ALL = tuple(name for name in EVERY if name not in TREE_BASELINES)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ONNXMTL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def trainings(cache):
    return {path.parent.name for path in cache.glob("trainings/*/result")}


class Told:
    """An observer that keeps what it is told."""

    def __init__(self):
        self.stages, self.notes, self.planned, self.figured = [], [], [], set()

    def stage(self, name, total, start=0):
        self.stages.append(name)

    def update(self, step, losses, cost=None):
        pass

    def plan(self, names):
        self.planned = list(names)

    def note(self, text):
        self.notes.append(text)

    def figures(self, step, figures):
        self.figured |= set(figures)


def full(backbone, out, observer=None, **options):
    return compile(
        backbone, TASKS, out=out, observer=observer, **{**QUICK, "baselines": ALL, "random_draws": 2, **options}
    )


@pytest.fixture(scope="module")
def searched(backbone, tmp_path_factory):
    """A run with the baselines that are trained, and the cache it left."""
    folder = tmp_path_factory.mktemp("searched")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONNXMTL_CACHE", str(folder / "cache"))
        return full(backbone, folder / "run", baselines=BASELINES), folder / "cache"


@pytest.fixture
def copied_cache(searched, own_cache):
    """A copy of that cache, for one test."""
    shutil.copytree(searched[1], own_cache)
    return own_cache


def test_all_of_them(backbone, tmp_path, own_cache):
    told = Told()
    # Without a pull: a policy that hardly learnt is mixed, and random ones like it differ from each other.
    done = full(backbone, tmp_path / "run", told, regularizers={"sharing": 0.0, "multiply_adds": 0.0})
    assert told.planned == told.stages == [
        "single-task seg", "single-task depth", "hard-sharing", "pre-train", "policy-train", "post-train",
        *(f"random-{kind}-{n}" for kind in ("total", "per-task", "cost") for n in (1, 2)),
    ]  # fmt: skip
    assert {"loss/seg", "policy/depth", "temperature", "lr/weights"} <= told.figured
    phases = {folder.name[3:] for folder in (done.path / "phases").iterdir()}
    assert {"single-task-1", "single-task-2", "hard-sharing", "random-total-1", "random-per-task-2"} <= phases
    for name in phases - {"import", "decode", "emit"}:
        (file,) = done.path.glob(f"phases/??-{name}/history.json")
        assert json.loads(file.read_text())["points"]

    report = done.report
    assert [draw.source for draw in report.draws] == [
        *["random-total"] * 2, *["random-per-task"] * 2, *["random-cost"] * 2
    ]  # fmt: skip
    found = report.costs["found"].multiply_adds
    assert all(abs(draw.multiply_adds / found - 1) < 0.05 for draw in report.draws if draw.source == "random-cost")
    totals = [draw.total for draw in report.draws if draw.source == "random-total"]
    said = f"random-total: Δ of 2 draws: best {max(totals):+.1f} %, mean {sum(totals) / 2:+.1f} %"
    assert said in report.notes
    assert Report.from_json(json.loads((done.path / "report.json").read_text())).delta == report.delta


def test_delta_is_equation_5_on_the_reports_own_numbers(searched):
    done, _ = searched
    (file,) = done.path.glob("phases/*-import/tasks.json")
    tasks = TaskSet.from_json(file.read_text())
    metrics = {
        model: {row.task: {m.metric: m.values[model] for m in row.metrics} for row in done.report.tasks}
        for model in ("found", "shared", "separate")
    }
    for model in ("found", "shared"):
        expected = delta(tasks, metrics[model], metrics["separate"])
        assert done.report.delta[model] == pytest.approx(expected.total)
        assert {row.task: row.delta[model] for row in done.report.tasks} == pytest.approx(expected.tasks)
    assert "separate" not in done.report.delta


def test_they_are_trained_once_whatever_is_searched(searched, backbone, tmp_path, copied_cache):
    """Another recipe, other regularizers, another name of the run: the same baselines if their training is the same."""
    first, _ = searched
    before = trainings(copied_cache)
    assert len(before) == 3
    told = Told()
    second = full(backbone, tmp_path / "b", told, baselines=BASELINES, regularizers={"sharing": 0.5})
    assert trainings(copied_cache) == before
    assert not {"single-task seg", "single-task depth", "hard-sharing"} & set(told.stages)
    for one, two in zip(first.report.tasks, second.report.tasks, strict=True):
        assert (one.separate, one.shared) == (two.separate, two.shared)
    full(backbone, tmp_path / "c", baselines=("hard-sharing",), seed=1)
    assert len(trainings(copied_cache)) == 4, "another seed, another training"


def test_a_damaged_entry_is_told_and_trained_again(searched, backbone, tmp_path, copied_cache):
    for file in copied_cache.glob("trainings/*/result/trained.onnx"):
        file.write_bytes(file.read_bytes()[:100])
    told = Told()
    again = full(backbone, tmp_path / "run", told, baselines=BASELINES)
    assert digests(again.path) == digests(searched[0].path)
    assert len(told.notes) == 3
    for note in told.notes:
        assert "trained.onnx" in note and "trained again" in note and str(copied_cache) in note
    assert {"single-task seg", "single-task depth", "hard-sharing"} <= set(told.stages)


@pytest.mark.slow
def test_the_result_does_not_depend_on_the_cache(backbone, tmp_path, own_cache):
    first = full(backbone, tmp_path / "a", baselines=BASELINES)
    assert trainings(own_cache)
    second = full(backbone, tmp_path / "b", baselines=BASELINES)
    assert digests(first.path) == digests(second.path)


def test_one_trunk_for_all_given_as_an_architecture_is_the_hard_sharing_baseline(backbone, tmp_path):
    """Same start, same batches, same updates: the same metrics, and the same losses on the way."""
    done = full(backbone, tmp_path / "searched", baselines=())
    shared = Architecture({s: dict.fromkeys(tasks, "shared") for s, tasks in done.architecture.choices.items()})
    again = full(backbone, tmp_path / "given", baselines=("hard-sharing",), architecture=shared, retrain="scratch")
    for row in again.report.tasks:
        assert row.found == pytest.approx(row.shared, rel=1e-4)
    curves = []
    for name in ("post-train", "hard-sharing"):
        (file,) = again.path.glob(f"phases/??-{name}/history.json")
        points = json.loads(file.read_text())["points"]
        curves.append([[point["figures"][f"loss/{task}"] for task in ("seg", "depth")] for point in points])
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-5)


def test_no_search_for_a_random_policy(backbone, tmp_path):
    told = Told()
    done = full(backbone, tmp_path / "run", told, baselines=(), policy="random")
    assert told.stages == ["post-train"] and verify(done.path).passed
    (file,) = done.path.glob("phases/*-decode/policy.json")
    policy = json.loads(file.read_text())
    assert policy["source"] == "random" and all(len(set(row)) == 1 for s in policy["sites"] for row in s["logits"])
    other = full(backbone, tmp_path / "other", baselines=(), policy="random", seed=1)
    assert other.architecture != done.architecture


@pytest.mark.parametrize(
    ("given", "taken"),
    [("none", ()), ("", ()), (("none",), ()), ("random, single-task", ("random", "single-task")), ([], ())],
)
def test_how_they_are_named(given, taken):
    assert CompileConfig(baselines=given).baselines == taken


def test_the_code_is_part_of_what_a_training_depends_on():
    assert code_digest() == code_digest() and len(code_digest()) == 64
    assert torch.get_num_threads() == 1
