"""A task more for a finished model: the old outputs keep their bits, only the branch is trained."""

from __future__ import annotations

import json
import random
import shutil

import numpy as np
import onnx_ir as ir
import pytest
from helpers.compiling import QUICK, TASKS, Children, digests, write_backbone

import onnxmtl
from onnxmtl import runtime
from onnxmtl.cost.count import count
from onnxmtl.deploy.added import ADDED_FILE, AddedTask
from onnxmtl.deploy.structure import weight_hashes
from onnxmtl.errors import BudgetError, DataError, ModelError, OnnxMTLError, RunError, TaskError, VerificationError
from onnxmtl.ir import load, save
from onnxmtl.kinds import Task, TaskSet
from onnxmtl.workflows import add_task, compile, quantize, report, specialize, verify, write_entry_points
from onnxmtl.workflows.adding.asking import joined_data
from onnxmtl.workflows.adding.emission import compare_with_before
from onnxmtl.workflows.benching import single_task_models

SHORT = {"steps": 3, "trial_steps": 1, "baselines": "none"}


@pytest.fixture(scope="module")
def run(backbone, tmp_path_factory):
    return compile(backbone, TASKS, out=tmp_path_factory.mktemp("base") / "run", recipe="adashare", **QUICK)


@pytest.fixture(scope="module")
def added(run, tmp_path_factory):
    before = digests(run.path)
    done = add_task(run.path, "edges", at="early", like="seg", out=tmp_path_factory.mktemp("added") / "run", **SHORT)
    assert digests(run.path) == before, "the run is only read"
    return done


def outputs(model, optimize):
    images = np.random.default_rng(3).random((2, 3, 16, 16)).astype(np.float32)
    return runtime.run(runtime.session(model, optimize=optimize), {"image": images})


def test_the_old_outputs_keep_their_bits(run, added):
    assert onnxmtl.add_task is add_task
    before, after = outputs(run.model, False), outputs(added.model, False)
    assert [*after] == ["seg", "depth", "edges"]
    assert all(before[task].tobytes() == after[task].tobytes() for task in before)
    assert [(row.output, row.identical) for row in added.added.parity] == [("seg", True), ("depth", True)]
    for task, output in outputs(run.model, True).items():
        np.testing.assert_allclose(outputs(added.model, True)[task], output, rtol=1e-5, atol=1e-6)
    assert verify(added.path, against="torch").passed


def test_nothing_but_the_branch_was_trained(run, added):
    old, new = (weight_hashes(load(model)) for model in (run.model, added.model))
    assert old.items() <= new.items()
    (folder,) = added.path.glob("phases/*-branch")
    branch = load(folder / "branch.onnx")
    trained = load(next(run.path.glob("phases/*-retrain/trained.onnx"))).graph.initializers
    own = {name: value for name, value in branch.graph.initializers.items() if not name.startswith("edges_head/")}
    assert own and all(name.endswith("/edges") for name in own)
    moved = [
        n for n, v in own.items() if not np.array_equal(v.const_value, trained[n.removesuffix("/edges")].const_value)
    ]
    assert any("weight" in name for name in moved) and any("variance" in name for name in moved)
    joint = load(next(added.path.glob("phases/*-emit/trained.onnx"))).graph.initializers
    assert all(np.array_equal(value.const_value, joint[name].const_value) for name, value in trained.items())


def test_the_report_and_what_else_lies_there(run, added):
    found, costs = added.report, added.report.costs["found"]
    rows = {row.task: row for row in found.tasks}
    assert [row.found for row in run.report.tasks] == [rows["seg"].found, rows["depth"].found]
    assert np.isfinite(rows["edges"].found) and np.isfinite(rows["edges"].constant)
    assert costs.multiply_adds == count(load(added.model)).multiply_adds == added.added.after.multiply_adds
    assert added.added.before.multiply_adds == run.report.costs["found"].multiply_adds
    (conv11,) = (row for row in found.sharing if row.layer == "conv11")
    (conv26,) = (row for row in found.sharing if row.layer == "conv26")
    assert conv11.uses["edges"].startswith("once with seg") and conv26.uses["edges"] in ("own", "skipped")
    assert found.notes[0].startswith(
        "edges was added: a branch of its own behind early, on the path of seg; multiply-adds"
    )
    assert found.notes[1].startswith("seg, depth: bit for bit as before")
    assert AddedTask.from_json(json.loads((added.path / ADDED_FILE).read_text())) == added.added
    assert json.loads(load(added.model).metadata_props["onnxmtl.contract"])["outputs"]["edges"]["kind"] == "edges"
    assert report(added.path).html.is_file()
    with pytest.raises(RunError, match="with a task added: specialize that one"):
        specialize(added.path)


def test_an_old_output_that_changed_is_noticed(run, added, tmp_path):
    assert len(compare_with_before(run.model, added.model)) == 2
    model = load(added.model)
    name = next(iter(weight_hashes(load(run.model))))
    value = model.graph.initializers[name]
    value.const_value = ir.tensor(np.nextafter(value.const_value.numpy(), np.float32(9)), name=name)
    save(model, tmp_path / "changed.onnx")
    with pytest.raises(VerificationError, match="is not what it was"):
        compare_with_before(run.model, tmp_path / "changed.onnx")


@pytest.mark.parametrize(
    ("task", "options", "error", "words"),
    [
        ("seg=edges", {}, TaskError, "two tasks are named 'seg'"),
        ("edges,normals", {}, TaskError, "one task is added at a time, not 2"),
        ("edges", {"like": "segg"}, TaskError, "no task is named 'segg'"),
        ("edges", {"at": "earli"}, ModelError, "cannot be left at 'earli'; close to it: early"),
        ("edges", {"budget": "madds<=1.01x"}, BudgetError, "no branch keeps it .the cheapest needs .* madds"),
        ("edges", {"budget": "madds"}, BudgetError, "has to look like"),
        ("image=edges", {}, ModelError, "input or output 'image' already"),
        ("edges", {"data": "scene"}, DataError, "unknown data 'scene'"),
        ("edges", {"data_options": {"classes": "3"}}, RunError, "for data that --data names"),
        ("edges", {"baselines": "hard-sharing"}, RunError, "takes single-task or none"),
        ("edges", {"candidates": 0}, RunError, "--candidates must be 1 or more"),
    ],
)
def test_wrong_input_is_told_in_one_line(run, tmp_path, task, options, error, words):
    with pytest.raises(error, match=words) as refused:
        add_task(run.path, task, out=tmp_path / "new", **{**SHORT, **options})
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_runs_that_no_task_can_be_added_to(run, tmp_path):
    for name, words in (("model.onnx", "is not finished, it has no model.onnx"), ("run.json", "is no run of compile")):
        copy = shutil.copytree(run.path, tmp_path / name)
        (copy / name).unlink()
        with pytest.raises(RunError, match=words):
            add_task(copy, "edges", out=tmp_path / "new")
    copy = shutil.copytree(run.path, tmp_path / "changed")
    (copy / "model.onnx").write_bytes((copy / "model.onnx").read_bytes() + b"\n")
    with pytest.raises(RunError, match="is not the file that was emitted"):
        add_task(copy, "edges", out=tmp_path / "new")
    with pytest.raises(RunError, match="holds a run already"):
        add_task(run.path, "edges", out=copy)


def test_the_data_of_all_tasks_together():
    """As --data says it, so that later commands (quantize) find every task's labels."""
    tasks = TaskSet.parse("seg=segmentation:3,depth")
    assert joined_data("scenes", {}, tasks, "scenes", {}, "edges") == ("scenes", {})
    found = joined_data("nyuv2:a", {"classes": "13"}, tasks, "own:make", {}, "edges")
    assert found == ("seg+depth=nyuv2:a;edges=own:make", {"seg.classes": "13"})
    found = joined_data("seg=a:b;depth=c:d", {"depth.x": "1", "y": "2"}, tasks, "e:f", {"y": "3"}, "edges")
    assert found == ("seg=a:b;depth=c:d;edges=e:f", {"depth.x": "1", "seg.y": "2", "depth.y": "2", "edges.y": "3"})


# Longer ones


@pytest.fixture(scope="module")
def base(request, backbone, tmp_path_factory):
    recipe, _, variant = request.param.partition("/")
    options = {} if variant != "networks" else {"heads": "new"}
    folder = tmp_path_factory.mktemp("base")
    other = [backbone, write_backbone(folder / "other.onnx", seed=1)] if variant == "networks" else backbone
    return compile(other, TASKS, out=folder / "run", recipe=recipe, **options, **QUICK)


RECIPES = ["automtl", "bmtas", "mtlnas", "cross-stitch", "sluice", "mtan", "mtlnas/networks"]


@pytest.mark.slow
@pytest.mark.parametrize("base", RECIPES, indirect=True)
def test_every_kind_of_run_takes_two_more_tasks(base, tmp_path):
    """Chosen by trials, then leaving the new task's own path at the image; all that works on runs works on these."""
    first = add_task(base.path, "edges", out=tmp_path / "first", **SHORT)
    assert len(first.added.trials) >= 2 and sum(trial.taken for trial in first.added.trials) == 1
    second = add_task(first.path, "normals", like="edges", at="image", out=tmp_path / "second", **SHORT)
    assert [row.output for row in second.added.parity if row.identical] == ["seg", "depth", "edges"]
    before, after = outputs(base.model, False), outputs(second.model, False)
    assert all(before[task].tobytes() == after[task].tobytes() for task in before)
    assert verify(second.path, against="torch").passed and report(second.path).html.is_file()
    assert [row.task for row in write_entry_points(second.path).tasks] == ["seg", "depth", "edges", "normals"]
    if base.report.layout is not None:
        assert second.report.layout is not None and second.report.layout.tasks == ("seg", "depth", "edges", "normals")
    assert len(single_task_models(second.path, tmp_path).files) == 4


@pytest.mark.slow
def test_the_best_place_within_the_budget_is_taken(run, tmp_path):
    free = add_task(run.path, "pose=regression", out=tmp_path / "free", **{**SHORT, "candidates": 9})
    costs = [trial.multiply_adds for trial in free.added.trials]
    assert max(costs) > free.added.before.multiply_adds
    bound = sorted(costs)[len(costs) // 2]
    done = add_task(run.path, "pose=regression", budget=f"madds<={bound},latency<=1s", out=tmp_path / "held", **SHORT)
    assert done.added.after.multiply_adds <= bound and all(limit.met for limit in done.report.budget)
    assert all(trial.multiply_adds <= bound for trial in done.added.trials)
    assert done.added.after.multiply_adds == count(load(done.model)).multiply_adds
    (taken,) = (trial for trial in done.added.trials if trial.taken)
    assert (taken.at, taken.like) == (done.added.at, done.added.like)
    assert taken.multiply_adds == done.added.after.multiply_adds, "what was estimated is what was emitted"


@pytest.mark.slow
def test_a_network_of_its_own_to_compare_with(backbone, tmp_path):
    base = compile(
        backbone, TASKS, out=tmp_path / "base", recipe="adashare", **{**QUICK, "baselines": ("single-task",)}
    )
    done = add_task(base.path, "edges", candidates=1, steps=3, out=tmp_path / "new")
    assert all("found" in row.delta for row in done.report.tasks) and "found" in done.report.delta
    assert done.report.costs["separate"].multiply_adds > base.report.costs["separate"].multiply_adds
    labels = single_task_models(done.path, tmp_path).labels
    assert [label.split(" (")[1].split(",")[0] for label in labels] == ["untrained", "untrained", "trained"]


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"fuse_siblings": True}, {"fold": False}])
def test_however_the_run_was_emitted(backbone, tmp_path, options):
    base = compile(backbone, TASKS, out=tmp_path / "base", recipe="adashare", **{**QUICK, **options})
    for at in ("early", "image"):
        done = add_task(base.path, "edges", at=at, out=tmp_path / at, **SHORT)
        assert verify(done.path).passed and all(row.identical for row in done.added.parity)
        assert all(before <= 1e-6 for before in (row.error for row in done.added.parity))


@pytest.mark.slow
def test_heads_that_read_two_features(backbone, tmp_path):
    """A new head reads what the old one of its path does: one with a decoder follows tasks whose heads have two."""
    tasks = TaskSet((Task("seg", "segmentation", head="deeplabv3plus"), Task("depth", "depth", features=("late",))))
    options = {**QUICK, "recipe": "adashare", "features": ("early", "late")}
    base = compile(backbone, tasks, out=tmp_path / "base", **options)
    decoder = Task("edges", "edges", head="deeplabv3plus")
    done = add_task(base.path, decoder, at="early", out=tmp_path / "decoder", **SHORT)
    assert done.added.like == "seg" and all(row.identical for row in done.added.parity)
    branch = load(next(done.path.glob("phases/*-branch/branch.onnx")))
    assert [value.name for value in branch.graph.inputs] == ["early"], "fine and coarse: as it is, and a copy behind it"
    early = add_task(base.path, Task("edges", "edges", features=("early",)), out=tmp_path / "early", **SHORT)
    assert early.added.like == "seg" and verify(early.path).passed
    with pytest.raises(TaskError, match="reads no feature 'earl'"):
        add_task(base.path, Task("edges", "edges", features=("earl",)), out=tmp_path / "none", **SHORT)
    with pytest.raises(TaskError, match="reads no feature 'early'"):
        add_task(base.path, Task("edges", "edges", features=("early",)), like="depth", out=tmp_path / "none", **SHORT)


@pytest.mark.slow
def test_a_model_in_float16_is_refused(backbone, tmp_path):
    base = compile(backbone, TASKS, out=tmp_path / "base", recipe="adashare", **{**QUICK, "float16": True})
    with pytest.raises(ModelError, match="emit it in float32"):
        add_task(base.path, "edges", out=tmp_path / "new", **SHORT)


@pytest.mark.slow
def test_labels_from_elsewhere(backbone, own_data, tmp_path):
    base = compile(backbone, TASKS, data=f"{own_data}:fine", out=tmp_path / "base", recipe="adashare", **QUICK)
    done = add_task(base.path, "room=classification", data=f"{own_data}:gaps", out=tmp_path / "new", **SHORT)
    config = json.loads((done.path / "run.json").read_text())["config"]
    assert config["data"] == f"seg+depth={own_data}:fine;room={own_data}:gaps"
    assert quantize(done.path, max_drop="100%", images=4, out=tmp_path / "int8").model is not None
    with pytest.raises(DataError, match="data sets of their own"):
        add_task(done.path, "pose=regression:2", out=tmp_path / "third", **SHORT)
    with pytest.raises(DataError, match="no sample with a valid label for task 'normals'"):
        add_task(base.path, "normals", out=tmp_path / "none", **SHORT)


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_with_the_same_bytes(run, tmp_path):
    children = Children()
    options = {**SHORT, "task": "edges", "candidates": 2}
    children.finish(run.path, tmp_path / "whole", options)
    expected = digests(tmp_path / "whole")
    moments, draw = 0, random.Random(0)
    for attempt in range(4):
        out = tmp_path / f"killed-{attempt}"
        for _ in range(20):
            if not children.kill_at_rename(draw.randint(2, 14), run.path, out, options):
                break
            moments += 1
        else:
            children.finish(run.path, out, options)
        found = digests(out)
        assert {name: found.get(name) for name in expected} == expected
    assert moments >= 6
    with pytest.raises(OnnxMTLError, match="steps was 3 in the run and is 4 now"):
        add_task(run.path, "edges", out=out, resume=True, **{**SHORT, "candidates": 2, "steps": 4})
