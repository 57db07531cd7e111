"""The main job end to end, on a network and data small enough for seconds."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess

import numpy as np
import onnx
import pytest
from helpers.compiling import BASELINES, QUICK, TASKS, write_backbone

from onnxmtl import runtime
from onnxmtl.errors import DataError, ModelError, OnnxMTLError, RunError, TaskError, VerificationError
from onnxmtl.kinds import TaskSet
from onnxmtl.policy import Architecture
from onnxmtl.search import recipe_named
from onnxmtl.workflows import CompileConfig, compile, verify


@pytest.fixture(scope="module")
def full(backbone, tmp_path_factory):
    """With baselines."""
    out = tmp_path_factory.mktemp("full") / "run"
    return compile(backbone, TASKS, out=out, **{**QUICK, "baselines": BASELINES}, command=["onnxmtl", "compile"])


class Told:
    """An observer that keeps what it is told: of a stage [total, start, the steps …], of a step its losses and cost."""

    def __init__(self):
        self.stages: dict[str, list[int]] = {}
        self.steps = []

    def stage(self, name, total, start=0):
        self.name = name
        self.stages[name] = [total, start]

    def update(self, step, losses, cost=None):
        self.stages[self.name].append(step)
        self.steps.append((losses, cost))


@pytest.fixture(scope="module")
def plain(backbone, tmp_path_factory):
    """Nothing but what is quick, in this process; and what its observer was told."""
    told = Told()
    return compile(backbone, TASKS, out=tmp_path_factory.mktemp("plain") / "run", observer=told, **QUICK), told


def images(batch: int, size: int = 16) -> dict[str, np.ndarray]:
    return {"image": np.random.default_rng(batch).random((batch, 3, size, size)).astype(np.float32)}


# What a run leaves


def test_what_is_in_the_directory(full):
    top = {entry.name for entry in full.path.iterdir()}
    assert {"model.onnx", "certificate.json", "certificate.npz", "verify.json", "report.json", "run.json"} <= top
    phases = sorted(folder.name[3:] for folder in (full.path / "phases").iterdir())
    assert {"import", "pre-train", "policy-train", "decode", "post-train", "hard-sharing", "emit"} <= set(phases)
    assert not any(name.endswith(".tmp") for name in os.listdir(full.path))
    assert not list((full.path / "checkpoints").rglob("*.safetensors"))
    record = json.loads((full.path / "run.json").read_text())
    assert record["seed"] == 0 and record["command"] == ["onnxmtl", "compile"] and "torch" in record["versions"]
    assert TaskSet.from_json((full.path / "phases" / "01-import" / "tasks.json").read_text()).names == ("seg", "depth")
    for name in ("backbone", "multitask", "supermodel"):
        onnx.checker.check_model(onnx.load(full.path / "phases" / "01-import" / f"{name}.onnx"), full_check=True)


def test_the_emitted_model_is_sound(full):
    proto = onnx.load(full.model)
    onnx.checker.check_model(proto, full_check=True)
    assert [out.name for out in proto.graph.output] == ["seg", "depth"]
    batches = [value.type.tensor_type.shape.dim[0] for value in (*proto.graph.input, *proto.graph.output)]
    assert all(dim.dim_param and not dim.HasField("dim_value") for dim in batches)
    assert {opset.domain for opset in proto.opset_import} == {""}, "plain ONNX, no Choices left"
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    assert metadata["onnxmtl.kind"] == "final"
    contract = json.loads(metadata["onnxmtl.contract"])
    assert list(contract["outputs"]) == ["seg", "depth"]
    assert str(full.path.parent) not in full.model.read_bytes().decode("latin-1"), "no path of this machine"


@pytest.mark.parametrize("batch", [1, 3, 5])
def test_it_runs_with_any_batch_size(full, batch):
    outputs = runtime.run(full.model, images(batch))
    classes = TaskSet.from_json((full.path / "phases" / "01-import" / "tasks.json").read_text())["seg"].channels
    assert outputs["seg"].shape == (batch, classes, 16, 16) and outputs["depth"].shape == (batch, 1, 16, 16)
    together = runtime.run(full.model, images(5))
    alone = runtime.run(full.model, {"image": images(5)["image"][2:3]})
    for task in outputs:
        np.testing.assert_allclose(alone[task][0], together[task][2], rtol=1e-4, atol=1e-5)


def test_parts_name_the_users_layers(full, backbone):
    own = {node.name for node in onnx.load(backbone).graph.node}
    proto = onnx.load(full.model)
    parts = json.loads({entry.key: entry.value for entry in proto.metadata_props}["onnxmtl.parts"])
    named = {layer for value in _strings(parts) for layer in [value] if layer in own}
    assert "stem" in named and len(named) >= 5


def _strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def test_the_report(full):
    report = full.report
    assert [row.task for row in report.tasks] == ["seg", "depth"]
    for row in report.tasks:
        assert all(np.isfinite([row.found, row.constant, row.separate, row.shared]))
    found, separate, shared = (report.costs[name] for name in ("found", "separate", "shared"))
    assert found.file_bytes == full.model.stat().st_size
    assert 0 < found.multiply_adds <= found.multiply_adds_unshared
    assert shared.multiply_adds < separate.multiply_adds and shared.parameters < separate.parameters
    assert found.multiply_adds <= separate.multiply_adds and found.parameters <= separate.parameters
    assert {row.layer for row in report.sharing} >= {"stem"}
    assert report.weights == "retrained" and str(full.model) in report.command
    on_disk = json.loads((full.path / "report.json").read_text())
    assert [task["found"] for task in on_disk["tasks"]] == [row.found for row in report.tasks]


def test_the_command_in_the_report_runs(full):
    done = subprocess.run(full.report.command, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "seg" in done.stdout and "depth" in done.stdout


def test_the_architecture_is_the_one_on_disk(full):
    text = (full.path / "phases").glob("*-decode/architecture.json")
    assert Architecture.from_json(next(text).read_text()) == full.architecture
    assert full.architecture.choices


# Verification


def test_verify_passes(full):
    assert verify(full.path).passed
    assert verify(full.model, against="torch").passed


def _weight_changed(proto: onnx.ModelProto) -> None:
    weight = next(w for w in proto.graph.initializer if len(w.dims) == 4)
    values = onnx.numpy_helper.to_array(weight).copy()
    values.flat[0] += 0.5
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))


def _operator_changed(proto: onnx.ModelProto) -> None:
    next(node for node in proto.graph.node if node.op_type == "Relu").op_type = "Tanh"


def _tasks_swapped(proto: onnx.ModelProto) -> None:
    """Each head reads the other's place: same operators, same weights, same names."""
    last = [node for node in proto.graph.node if set(node.output) & {"seg", "depth"}]
    assert len(last) == 2
    names = [node.output[0] for node in last]
    for node, name in zip(last, reversed(names), strict=True):
        node.output[0] = name


@pytest.mark.parametrize("tamper", [_weight_changed, _operator_changed, _tasks_swapped])
def test_a_tampered_model_fails(full, tmp_path, tamper):
    proto = onnx.load(full.model)
    tamper(proto)
    onnx.save(proto, tmp_path / "model.onnx")
    for name in ("certificate.json", "certificate.npz"):
        (tmp_path / name).write_bytes((full.path / name).read_bytes())
    with pytest.raises(VerificationError) as found:
        verify(tmp_path)
    assert "\n" not in str(found.value)


def test_another_seed_gives_another_model(plain, backbone, tmp_path):
    """The same one gives the same bytes: tests/cli/test_compile.py (another process), test_resume.py (this one)."""
    other = compile(backbone, TASKS, out=tmp_path / "run", **QUICK, seed=1)
    assert other.model.read_bytes() != plain[0].model.read_bytes()


# Options


@pytest.mark.parametrize(
    "options",
    [
        {"space": {"norm": "per_task", "skip": "dense1x1"}, "samples": 3, "input_size": (24, 32)},
        {"space": {"granularity": "block"}, "fold": False},
        {"space": {"skip": "grouped1x1"}, "output_stride": 1, "variant": "paper", "batch_size": 5},
        {"space": {"skip": "none", "shared_prefix": 2}, "steps": 1, "recalibration": 0},
        {"features": ("early",), "regularizers": {"parameters": 0.1, "multiply_adds": 0.0}},
    ],
    ids=lambda options: "-".join(f"{k}" if not isinstance(v, dict) else "-".join(v) for k, v in options.items()),
)
def test_options(backbone, tmp_path, options):
    done = compile(backbone, TASKS, out=tmp_path / "run", **{**QUICK, **options})
    assert verify(done.path).passed
    assert all(np.isfinite([row.found for row in done.report.tasks]))
    names = {node.op_type for node in onnx.load(done.model).graph.node}
    sites = done.architecture.choices
    if options.get("fold") is False:
        assert "BatchNormalization" in names
    if options.get("space", {}).get("skip") == "none":
        assert not any(choice == "skip" for site in sites.values() for choice in site.values())
    if options.get("features"):
        assert not any("24" in site for site in sites), "what lies behind the feature is gone"


def test_samples_are_compared_and_one_is_taken(backbone, tmp_path):
    done = compile(backbone, TASKS, out=tmp_path / "run", **{**QUICK, "samples": 3})
    (file,) = done.path.glob("phases/*-decode/candidates.json")
    candidates = json.loads(file.read_text())
    assert 1 <= len(candidates) <= 3
    (taken,) = [entry for entry in candidates if entry["taken"]]
    assert taken["architecture"] == done.architecture.to_dict()


def test_an_architecture_that_is_given_is_trained_and_nothing_searched(full, backbone, tmp_path):
    (file,) = full.path.glob("phases/*-decode/architecture.json")
    sites = list(full.architecture.choices)
    given = {site: {"seg": "own", "depth": "shared"} for site in sites}
    told = Told()
    done = compile(backbone, TASKS, out=tmp_path / "run", architecture=Architecture(given), observer=told, **QUICK)
    assert done.architecture.to_dict() == given
    assert told.stages == {"post-train": [QUICK["steps"], 0, *range(1, QUICK["steps"] + 1)]}
    assert verify(done.path).passed
    again = compile(backbone, TASKS, out=tmp_path / "again", architecture=file, **QUICK)
    assert again.architecture == full.architecture
    # The same in AutoMTL's words.
    order = ["shared", "specific", "skip"]
    policy = {s: {"seg": [0, 1, 0], "depth": [1, 0, 0]} for s in sites}
    (tmp_path / "policy.json").write_text(json.dumps({"order": order, "policy": policy}))
    third = compile(backbone, TASKS, out=tmp_path / "third", architecture=tmp_path / "policy.json", **QUICK)
    assert third.model.read_bytes() == done.model.read_bytes()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read as an architecture"),
        ("[" * 5000, "not JSON"),
        ("{}", "needs the form"),
        ('{"architecture": {"nowhere": {"seg": "own"}}}', "does not fit the supermodel"),
        ('{"policy": {"nowhere": {"seg": [1, 0]}}}', "3 probabilities"),
    ],
)
def test_an_architecture_that_does_not_fit_is_refused_before_anything_is_written(backbone, tmp_path, content, words):
    file = tmp_path / "given.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ModelError, match=words):
        compile(backbone, TASKS, out=tmp_path / "run", architecture=file, **QUICK)
    assert not (tmp_path / "run").exists()


def test_a_config_and_names_are_the_same(plain, backbone, tmp_path):
    done = compile(backbone, TaskSet.parse(TASKS), CompileConfig(**QUICK), out=tmp_path / "run")
    assert done.model.read_bytes() == plain[0].model.read_bytes()


def test_an_observer_is_told_every_step(plain):
    _, told = plain
    for stage in recipe_named("automtl").stages:
        total = stage.steps(QUICK["steps"])
        assert told.stages[stage.name] == [total, 0, *range(1, total + 1)]
    assert all(set(losses) <= {"seg", "depth"} and (cost is None or 0 < cost < 2) for losses, cost in told.steps)


def test_the_next_free_directory_is_taken(backbone, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = [compile(backbone, "depth", **{**QUICK, "steps": 1}).path for _ in range(2)]
    assert [str(path) for path in done] == ["runs/compile-1", "runs/compile-2"]


# Tasks and data


def test_one_task_alone(backbone, tmp_path):
    """Nothing to share: the task is trained, and the rest of the job is the same."""
    done = compile(backbone, "depth", out=tmp_path / "run", **{**QUICK, "baselines": BASELINES})
    assert dict(done.architecture.choices) == {}
    assert done.report.costs["found"].multiply_adds == done.report.costs["shared"].multiply_adds
    assert verify(done.path).passed


def test_everything_forced_to_be_shared(backbone, tmp_path):
    done = compile(
        backbone, TASKS, out=tmp_path / "run", **{**QUICK, "baselines": BASELINES, "space": {"shared_prefix": 99}}
    )
    assert dict(done.architecture.choices) == {}
    assert done.report.costs["found"].multiply_adds == done.report.costs["shared"].multiply_adds


def test_dense_and_image_tasks_together_on_own_data(backbone, own_data, tmp_path):
    tasks = "seg=segmentation,depth,room=classification,pose=regression:2"
    done = compile(
        backbone, tasks, out=tmp_path / "run", **{**QUICK, "data": f"{own_data}:fine", "baselines": BASELINES}
    )
    outputs = runtime.run(done.model, images(2))
    assert {name: array.shape for name, array in outputs.items()} == {
        "seg": (2, 3, 16, 16),
        "depth": (2, 1, 16, 16),
        "room": (2, 4),
        "pose": (2, 2),
    }


def test_missing_labels(backbone, own_data, tmp_path):
    tasks = "seg=segmentation,depth,room=classification,pose=regression:2"
    done = compile(backbone, tasks, out=tmp_path / "run", **{**QUICK, "data": f"{own_data}:gaps", "steps": 12})
    assert all(np.isfinite([row.found for row in done.report.tasks]))


@pytest.mark.parametrize(("data", "part"), [("unlabelled", "training"), ("unmeasured", "validation")])
def test_a_task_without_any_label_is_refused_before_training(backbone, own_data, tmp_path, data, part):
    with pytest.raises(DataError, match=f"the {part} set has no sample with a valid label for task 'depth'"):
        compile(backbone, TASKS, out=tmp_path / "run", **{**QUICK, "data": f"{own_data}:{data}"})
    assert not (tmp_path / "run").exists()


def test_heads_of_users(backbone, tmp_path, monkeypatch):
    (tmp_path / "my_heads.py").write_text(
        "def plain(b, feature, task, image):\n    return b.conv(feature, task.channels, kernel=3, name='mine')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    head = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> h (float[N, 8, H, W] x) => (float[N, 3, H, W] y) '
        "{ w = ConstantOfShape <value = float[1] {0.1}> (s) y = Conv <kernel_shape = [1, 1]> (x, w) }".replace(
            "{ w", "{ s = Constant <value_ints = [3, 8, 1, 1]> () w"
        )
    )
    onnx.save(head, tmp_path / "head.onnx")
    file = tmp_path / "tasks.toml"
    file.write_text(
        '[tasks.depth]\nkind = "depth"\nhead = "my_heads:plain"\n'
        f'[tasks.normals]\nkind = "normals"\nhead = "{tmp_path / "head.onnx"}"\n'
    )
    done = compile(backbone, str(file), out=tmp_path / "run", **QUICK)
    outputs = runtime.run(done.model, images(2))
    assert outputs["normals"].shape == (2, 3, 16, 16)
    np.testing.assert_allclose(np.linalg.norm(outputs["normals"], axis=1), 1, atol=1e-4)


def test_tasks_read_different_features(backbone, tmp_path):
    file = tmp_path / "tasks.toml"
    file.write_text(
        '[tasks.seg]\nkind = "segmentation"\n'
        '[tasks.edges]\nkind = "edges"\nfeatures = ["early"]\n'
        '[tasks.depth]\nkind = "depth"\n'
    )
    done = compile(backbone, str(file), out=tmp_path / "run", **{**QUICK, "features": ("early", "late"), "steps": 12})
    deciding = {task for site in done.architecture.choices.values() for task in site}
    assert deciding == {"seg", "edges", "depth"}
    assert any(set(site) == {"seg", "depth"} for site in done.architecture.choices.values())
    assert set(runtime.run(done.model, images(1))) == {"seg", "edges", "depth"}


# Recipes of users


def test_a_recipe_of_ones_own(backbone, tmp_path):
    given = recipe_named("automtl")
    hard = dataclasses.replace(given.stages[1], relaxation="hard-gumbel", alternate=(2, 1))
    own = dataclasses.replace(given, name="mine", stages=(given.stages[0], hard))
    done = compile(backbone, TASKS, out=tmp_path / "run", recipe=own, **QUICK)
    assert done.report.weights == "recalibrated"
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["config"]["recipe"] == "mine"


def test_a_recipe_by_name(backbone, tmp_path):
    done = compile(backbone, TASKS, out=tmp_path / "run", recipe="adashare", variant="released", **QUICK)
    config = json.loads((tmp_path / "run" / "run.json").read_text())["config"]
    assert (config["recipe"], config["variant"]) == ("adashare", "released")
    assert verify(done.path).passed


# Refusals leave nothing behind


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"recipe": "automlt"}, RunError, "unknown recipe 'automlt'"),
        ({"regularizers": {"sharign": 1.0}}, RunError, "unknown regularizer 'sharign'"),
        ({"regularizers": {"sharing": float("nan")}}, RunError, "sharing"),
        ({"regularizers": {"sharing": -1.0}}, RunError, "0 or more"),
        ({"steps": -1}, RunError, "--steps must be 0 or more"),
        ({"batch_size": 1}, RunError, "--batch-size must be 2 or more"),
        ({"samples": -1}, RunError, "--samples"),
        ({"train_size": -4}, RunError, "--train-size"),
        ({"val_size": 1}, DataError, "validation set has 1"),
        ({"seed": -1}, RunError, "--seed"),
        ({"tasks": "image=depth,seg=segmentation"}, TaskError, "the model's input has that name"),
        ({"tasks": "seg=segmentation,edges=edge"}, TaskError, "unknown task kind 'edge'"),
        ({"space": {"norm": "per_task", "granularity": "block"}}, OnnxMTLError, "granularity='block'"),
        ({"features": ("nowhere",)}, ModelError, "nowhere"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(backbone, tmp_path, options, error, words):
    with pytest.raises(error, match=words) as refused:
        compile(out=tmp_path / "run", **{"model": backbone, "tasks": TASKS, **QUICK, **options})
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_another_size_than_the_models(own_data, tmp_path):
    model = write_backbone(tmp_path / "net.onnx", size=32)
    with pytest.raises(DataError, match="--input-size 16x16"):
        compile(model, TASKS, out=tmp_path / "run", **{**QUICK, "data": f"{own_data}:fine"})
    done = compile(model, TASKS, out=tmp_path / "run", **{**QUICK, "data": f"{own_data}:fine", "input_size": (16, 16)})
    assert runtime.run(done.model, images(1))["depth"].shape == (1, 1, 16, 16)


def test_a_diverging_training_says_where(backbone, own_data, tmp_path):
    with pytest.raises(RunError, match=r"pre-train, step 1 of 1: the loss of 'depth' is (inf|nan)"):
        compile(backbone, TASKS, out=tmp_path / "run", **{**QUICK, "data": f"{own_data}:huge"})
