"""A run's model against a model per task of the same run."""

from __future__ import annotations

import json
import shutil

import pytest
from helpers.compiling import QUICK, TASKS
from helpers.missing import command_without

from onnxmtl import runtime
from onnxmtl.cost.count import count
from onnxmtl.errors import RunError
from onnxmtl.ir import load
from onnxmtl.workflows import compile
from onnxmtl.workflows.benching import single_task_models


@pytest.fixture(scope="module")
def run(backbone, tmp_path_factory):
    return compile(
        backbone, TASKS, out=tmp_path_factory.mktemp("bench") / "run", **{**QUICK, "baselines": ("single-task",)}
    )


def untrained(run, tmp_path):
    """The run as if it had trained nothing to compare with."""
    shutil.copytree(run.path, tmp_path / "run")
    for folder in (tmp_path / "run" / "phases").glob("*-single-task-*"):
        shutil.rmtree(folder)
    return tmp_path / "run"


@pytest.mark.parametrize("trained", [True, False])
def test_a_model_per_task_costs_what_the_report_says(run, tmp_path, trained):
    path = run.path if trained else untrained(run, tmp_path)
    (tmp_path / "models").mkdir()
    found = single_task_models(path / "model.onnx", tmp_path / "models")
    models = [load(file) for file in found.files]
    assert sum(count(model).multiply_adds for model in models) == run.report.costs["separate"].multiply_adds
    assert [[value.name for value in model.graph.outputs] for model in models] == [[t.task] for t in run.report.tasks]
    assert all(("untrained" in text) != trained for text in found.labels)
    for file in found.files:
        runtime.load(file)
    if trained:  # weights and all: not those of the import
        (tmp_path / "others").mkdir()
        others = single_task_models(untrained(run, tmp_path / "others"), tmp_path / "others")
        assert all(a.read_bytes() != b.read_bytes() for a, b in zip(found.files, others.files, strict=True))


def test_as_a_user_asks_on_a_device_without_torch(run):
    command = ["bench", str(run.model), "--against", "single-task", "--json", "--seconds", "0", "--rounds", "2"]
    done = command_without(["torch", "lightning_fabric", "safetensors", "scipy"], [*command, "--no-memory"])
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    separate, ours = run.report.costs["separate"].multiply_adds, run.report.costs["found"].multiply_adds
    assert [row["multiply_adds"] for row in found["subjects"]] == [ours, separate]
    assert found["measurements"][0]["ideal"] == ours / separate


def test_what_is_no_run(tmp_path):
    with pytest.raises(RunError, match="is not in a run's directory"):
        single_task_models(tmp_path, tmp_path)
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(RunError, match="not one of a run"):
        single_task_models(tmp_path, tmp_path)
    (tmp_path / "run.json").write_text('{"config": {}}')
    with pytest.raises(RunError, match=r"has no multitask\.onnx"):
        single_task_models(tmp_path, tmp_path)
