"""Other models from a search that is done."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from helpers.compiling import BASELINES, QUICK, TASKS, digests

import onnxmtl
from onnxmtl.cost.count import count
from onnxmtl.errors import BudgetError, ModelError, RunError
from onnxmtl.ir import load
from onnxmtl.policy import Architecture
from onnxmtl.workflows import compile, specialize, verify


@pytest.fixture(scope="module")
def run(backbone, tmp_path_factory):
    out = tmp_path_factory.mktemp("searched") / "run"
    return compile(backbone, TASKS, out=out, **{**QUICK, "baselines": BASELINES, "steps": 8})


@pytest.fixture(scope="module")
def adashare(backbone, tmp_path_factory):
    return compile(backbone, TASKS, out=tmp_path_factory.mktemp("adashare") / "run", recipe="adashare", **QUICK)


@pytest.fixture
def copy(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "copy")
    return tmp_path / "copy"


def test_is_public():
    assert onnxmtl.specialize is specialize


@pytest.mark.parametrize("source", ["run", "adashare"])
def test_for_another_budget(request, source, tmp_path):
    found = request.getfixturevalue(source)
    before = digests(found.path)
    done = specialize(found.path, budget="madds<=0.9x", out=tmp_path / "small")
    (limit,) = done.report.budget
    assert count(load(done.model)).multiply_adds == limit.value <= limit.bound
    assert done.report.weights == "recalibrated" and verify(done.path, against="torch").passed
    assert digests(found.path) == before, "the run is only read"
    assert all(np.isfinite([row.found for row in done.report.tasks]))


def test_its_own_architecture_trained_again_is_the_run_itself(run, tmp_path):
    """The same selection, statistics, batches and updates: the same bytes."""
    done = specialize(run.path, weights="retrained", out=tmp_path / "again")
    assert done.architecture == run.architecture
    assert done.model.read_bytes() == run.model.read_bytes()
    assert [row.found for row in done.report.tasks] == [row.found for row in run.report.tasks]
    assert done.report.delta == run.report.delta
    assert done.report.costs["separate"] == run.report.costs["separate"]


def test_more_steps(run, tmp_path):
    done = specialize(run.path, weights="retrained", steps=3, out=tmp_path / "short")
    (file,) = done.path.glob("phases/*-post-train/history.json")
    assert json.loads(file.read_text())["steps"] == 3
    assert done.report.weights == "retrained"


def test_for_an_architecture(run, tmp_path):
    choices = {site: dict.fromkeys(tasks, "shared") for site, tasks in run.architecture.choices.items()}
    (tmp_path / "shared.json").write_text(Architecture(choices).to_json())
    done = specialize(run.path, architecture=tmp_path / "shared.json", out=tmp_path / "shared")
    assert done.architecture.to_dict() == choices
    assert done.report.costs["found"].multiply_adds == run.report.costs["shared"].multiply_adds
    assert done.report.costs["found"].parameters == run.report.costs["shared"].parameters


def test_the_policy_goes_along(run, tmp_path):
    """So that the report shows it."""
    done = specialize(run.path, budget="params<=0.97x", out=tmp_path / "new")
    (before,) = run.path.glob("phases/*-decode/policy.json")
    (after,) = done.path.glob("phases/*-decode/policy.json")
    assert json.loads(after.read_text()) == json.loads(before.read_text())
    policy = json.loads(after.read_text())
    assert policy["source"] == "policy-train" and policy["tasks"] == ["seg", "depth"]
    for site in policy["sites"]:
        assert np.array(site["probabilities"]).shape == (len(site["tasks"]), len(site["options"]))
        np.testing.assert_allclose(np.sum(site["probabilities"], axis=1), 1)


def test_the_next_free_directory_is_taken(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(specialize(run.path).path) == "runs/specialize-1"


def test_resume(run, tmp_path):
    options = {"budget": "madds<=0.9x", "weights": "retrained", "out": tmp_path / "new"}
    first = specialize(run.path, **options)
    before = digests(first.path)
    assert specialize(run.path, **options, resume=True) == first
    assert digests(first.path) == before
    with pytest.raises(RunError, match="budget was"):
        specialize(run.path, **{**options, "budget": "madds<=0.8x"}, resume=True)
    with pytest.raises(RunError, match="holds a run already"):
        specialize(run.path, **options)


# Refusals


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"budget": "params<=0.01x"}, BudgetError, "no architecture"),
        ({"budget": "params<0.5x"}, BudgetError, "params<0.5x"),
        ({"budget": "madds<=0.9x", "architecture": Architecture({})}, RunError, "give one of"),
        ({"architecture": Architecture({"nowhere": {"seg": "own"}})}, ModelError, "does not fit"),
        ({"steps": 5}, RunError, "--weights retrained"),
        ({"steps": -1, "weights": "retrained"}, RunError, "number of updates"),
        ({"weights": "fresh"}, RunError, "'recalibrated' or 'retrained'"),
    ],
)
def test_wrong_options(run, tmp_path, options, error, words):
    with pytest.raises(error, match=words) as refused:
        specialize(run.path, out=tmp_path / "new", **options)
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def older(run):
    """As the version before wrote it: no policy, no fingerprint, other options."""
    for file in (*run.glob("phases/*-decode/policy.json"), *run.glob("phases/*-import/data.json")):
        file.unlink()


def unfinished(run):
    (run / "report.json").unlink()


def no_run(run):
    (run / "run.json").unlink()


def unknown_recipe(run):
    _edit(run, lambda config: config["with_recipe"].pop("stages"))


def other_data(run):
    _edit(run, lambda config: config.update(train_size=9))


def drawn(run):
    _edit(run, lambda config: config.update(policy="random"))


def given(run):
    _edit(run, lambda config: config.update(architecture={}))


def specialized(run):
    _edit(run, lambda config: config.update(specialized={}))


def _edit(run, change):
    record = json.loads((run / "run.json").read_text())
    change(record["config"])
    (run / "run.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (older, "has no policy.json of its phase 'decode': an earlier version of onnxmtl made it; compile again"),
        (unfinished, "is not finished"),
        (no_run, "is no run: it has no run.json"),
        (unknown_recipe, "describes the recipe in a way that is not understood"),
        (other_data, "the data set 'scenes' is not what it was"),
        (drawn, "nothing was searched in"),
        (given, "nothing was searched in"),
        (specialized, "was itself specialized from"),
    ],
)
def test_runs_that_cannot_be_specialized(copy, tmp_path, change, words):
    change(copy)
    with pytest.raises(RunError) as refused:
        specialize(copy, budget="madds<=0.9x", out=tmp_path / "new")
    assert words in str(refused.value) and str(copy) in str(refused.value) and "\n" not in str(refused.value)
    assert not (tmp_path / "new").exists()
