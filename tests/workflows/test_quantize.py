"""int8 from an emitted model, end to end."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers.compiling import QUICK, TASKS, digests

import onnxmtl
from onnxmtl import cli, runtime
from onnxmtl.data import load_data
from onnxmtl.deploy.verify import verify, write_certificate
from onnxmtl.errors import DataError, ModelError, OnnxMTLError, RunError, TaskError, VerificationError
from onnxmtl.ir import load, save
from onnxmtl.kinds import TaskSet
from onnxmtl.runs import file_sha256, read_json
from onnxmtl.workflows import compile, quantization, quantize
from onnxmtl.workflows.emitted_metrics import evaluate_emitted

LOOSE = "seg=100,depth=1000%"


@pytest.fixture(scope="module", autouse=True)
def quick():
    """A latency measured for no time is a latency too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantization, "_SECONDS", 0.0)
        yield


@pytest.fixture(scope="module")
def run(backbone, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    return compile(backbone, TASKS, out=out, **QUICK)


@pytest.fixture(scope="module")
def done(run, tmp_path_factory):
    return quantize(run.model, max_drop=LOOSE, out=tmp_path_factory.mktemp("int8") / "q", images=6)


def disturbed(monkeypatch, factor):
    """Metrics of all mixtures, but not of the float model, become worse by a factor."""
    real, calls = quantization.evaluate_emitted, []

    def evaluate(*arguments, **options):
        found = real(*arguments, **options)
        calls.append(found)
        if len(calls) > 1:
            found = {task: {name: value * factor for name, value in own.items()} for task, own in calls[0].items()}
        return found

    monkeypatch.setattr(quantization, "evaluate_emitted", evaluate)
    monkeypatch.setattr(
        quantization._Work, "sensitivity", lambda self, _: {name: {"seg": 1.0, "depth": 1.0} for name in self._blocks}
    )
    return calls


def test_is_public():
    assert onnxmtl.quantize is quantize


def test_the_model_and_its_table(run, done):
    report = done.report
    assert report.held and report.evaluations == 2
    assert all(block.int8 and block.bytes < block.float_bytes for block in report.blocks)
    assert {task for block in report.blocks for task in block.sensitivity} == {"seg", "depth"}
    assert all(value > 0 for block in report.blocks for value in block.sensitivity.values())
    assert json.loads((done.path / "quantization.json").read_text()) == report.to_json()
    files = ["certificate.json", "certificate.npz", "model.onnx", "quantization.json", "verify.json"]
    assert sorted(file.name for file in done.path.iterdir()) == files
    assert report.bytes == done.model.stat().st_size and report.float_bytes == run.model.stat().st_size
    assert (report.images, report.validation) == (6, 4)
    onnx.checker.check_model(done.model, full_check=True)
    one, other = load(run.model), load(done.model)
    assert one.metadata_props.items() <= other.metadata_props.items()
    shapes = [{v.name: v for v in onnx.load(file).graph.value_info} for file in (run.model, done.model)]
    assert len(shapes[1]) > 10 and shapes[1].items() <= shapes[0].items()
    weights = [v.const_value for v in other.graph.initializers.values() if v.shape is not None and len(v.shape) == 4]
    assert weights and all(tensor.dtype is ir.DataType.INT8 for tensor in weights)
    image = np.random.default_rng(0).random((1, 3, 16, 16), dtype=np.float32)
    predicted = runtime.load(done.model)(image)
    assert {name: a.shape for name, a in predicted.items()} == {
        name: a.shape for name, a in runtime.load(run.model)(image).items()
    }


@pytest.fixture
def certified(done, tmp_path):
    """A copy of the int8 model with its certificate."""
    return shutil.copytree(done.path, tmp_path / "copy")


def test_it_verifies(certified, done, run, capsys):
    """On this machine the numbers are the recorded ones, to the last bit, optimizations off and on."""
    report = verify(certified)
    assert report.passed and report.same_file and report.precision == "int8"
    assert report.plain_tolerance == report.optimized_tolerance == 5e-2
    assert [max(c.plain_error, c.optimized_error, c.batch_error) for c in report.tasks] == [0, 0]
    assert read_json(certified / "certificate.json")["structure"] == {"made_of": file_sha256(run.model)}
    assert cli.main(["verify", str(done.path)]) == 0
    assert "int8; allowed: relative 5e-02" in " ".join(capsys.readouterr().out.split())
    assert cli.main(["verify", str(done.path), "--against", "torch"]) == 1
    assert "is an int8 model, which torch does not recompute" in capsys.readouterr().err


def test_what_no_longer_verifies(certified):
    """A scale that was changed; outputs that are far from those recorded, with optimizations on and with them off."""
    model = onnx.load(certified / "model.onnx")
    scale = next(t for t in model.graph.initializer if t.name.endswith("_scale"))
    scale.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(scale) * np.float32(1.5), scale.name))
    onnx.save(model, certified / "other.onnx")
    problems = verify(certified / "other.onnx").problems
    assert any(scale.name in problem and "not the one that was emitted" in problem for problem in problems)
    arrays = dict(np.load(certified / "certificate.npz"))
    inputs = {"image": arrays["input:image"]}
    outputs, optimized = (
        {name.partition(":")[2]: a for name, a in arrays.items() if name.startswith(kind)}
        for kind in ("output", "optimized")
    )
    write_certificate(certified, inputs, outputs, {}, optimized={**optimized, "depth": optimized["depth"] * 1.1})
    (problem,) = verify(certified).problems
    assert "'depth' computes something else when the runtime optimizes" in problem
    write_certificate(certified, inputs, {**outputs, "depth": outputs["depth"] * 1.1}, {}, optimized=optimized)
    (problem,) = verify(certified).problems
    assert "'depth' computes something else than when it was quantized" in problem


def test_metrics_are_those_of_the_models(run, done):
    """Of the float model what compile reported; of the int8 one what anybody measures."""
    tasks = TaskSet.from_json(load(run.model).metadata_props["onnxmtl.tasks"])
    data = load_data("scenes", tasks, size=(16, 16), seed=0, train_size=8, val_size=4)
    found = evaluate_emitted(runtime.session(done.model), tasks, data.val)
    assert found == done.report.metrics["result"]
    for row in run.report.tasks:
        assert done.report.metrics["float"][row.task][row.metric] == pytest.approx(row.found, rel=1e-4)


def test_the_same_again_from_the_directory(run, done, tmp_path, capsys):
    before = digests(run.path)
    code = cli.main(
        ["quantize", str(run.path), "--max-drop", LOOSE, "--images", "6", "-o", str(tmp_path / "q"), "--json"]
    )
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    assert (tmp_path / "q" / "model.onnx").read_bytes() == done.model.read_bytes()
    found = json.loads(out)
    assert found["held"] is True and found["size_ratio"] == done.report.size_ratio
    assert found["blocks"] == done.report.to_json()["blocks"]
    assert digests(run.path) == before, "the run is only read"


def test_blocks_go_back_to_float(run, tmp_path, monkeypatch):
    """The int8 model's metrics are bad until two blocks are in floating point."""
    real = quantization._Work.model
    kept = []
    monkeypatch.setattr(quantization._Work, "model", lambda *given: (kept.append(given[2]), real(*given))[1])
    worse = quantization.evaluate_emitted

    def evaluate(*arguments, **options):
        found = worse(*arguments, **options)
        if kept and len(kept[-1]) < 2:
            found["depth"] = dict.fromkeys(found["depth"], 1e6)
        return found

    monkeypatch.setattr(quantization, "evaluate_emitted", evaluate)
    monkeypatch.setattr(quantization._Work, "sensitivity", lambda self, _: {n: {"depth": 1.0} for n in self._blocks})
    report = quantize(run.model, max_drop=LOOSE, out=tmp_path / "q", images=6).report
    names = [block.name for block in report.blocks if not block.int8]
    assert report.held and report.evaluations == 4 and len(names) == 2
    assert all(block.bytes == block.float_bytes for block in report.blocks if not block.int8)
    stored = load(tmp_path / "q" / "model.onnx").graph.initializers.values()
    assert {v.dtype for v in stored if len(v.shape) == 4} == {ir.DataType.INT8, ir.DataType.FLOAT}


def test_a_task_that_cannot_be_held(run, tmp_path, monkeypatch, capsys):
    calls = disturbed(monkeypatch, float("nan"))
    before = digests(run.path)
    code = cli.main(
        ["quantize", str(run.model), "--max-drop", "seg=5,depth=3%", "--images", "6", "-o", str(tmp_path / "q")]
    )
    out, err = capsys.readouterr()
    assert code == 1 and err.count("\n") == 1 and "seg: miou" in err and "depth: abs" in err
    assert "nothing was written" in err and not (tmp_path / "q").exists() and digests(run.path) == before
    assert "NOT held" in out
    monkeypatch.undo()
    disturbed(monkeypatch, 2.0)
    found = quantize(run.model, max_drop="seg=5,depth=3%", out=tmp_path / "q", images=6)
    assert found.model is None and [task.held for task in found.report.tasks] == [True, False]
    blocks = len(found.report.blocks)
    assert len(calls) == blocks + 1 <= blocks + 2
    with pytest.raises(VerificationError, match="depth") as error:
        found.report.check()
    assert "seg:" not in str(error.value)


def test_own_data(run, own_data, tmp_path):
    with pytest.raises(DataError, match="classes"):
        quantize(run.model, calibrate_on=f"{own_data}:fine", out=tmp_path / "q")


def test_a_model_that_was_moved(run, tmp_path):
    shutil.copy(run.model, tmp_path / "alone.onnx")
    with pytest.raises(RunError, match="lies in no run's directory"):
        quantize(tmp_path / "alone.onnx", out=tmp_path / "q")
    found = quantize(tmp_path / "alone.onnx", calibrate_on=str(run.path), max_drop=LOOSE, out=tmp_path / "q", images=4)
    assert found.report.data == "scenes" and found.report.images == 4


def stripped(run, folder, change):
    """The emitted model with something changed, in a folder of its own."""
    model = load(run.model)
    change(model)
    return save(model, folder / "other.onnx")


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"max_drop": "sge=1%"}, TaskError, "did you mean 'seg'"),
        ({"max_drop": "seg"}, TaskError, "cannot read 'seg'"),
        ({"calibrate_on": "scene"}, DataError, "did you mean 'scenes'"),
        ({"calibrate_on": "nyuv2:/no/such"}, DataError, "classes for task 'seg'"),
        ({"data_options": {"a": "b"}}, RunError, "a run has its own"),
        ({"images": 0}, RunError, "one image"),
    ],
)
def test_bad_options(run, tmp_path, options, error, said):
    with pytest.raises(error) as raised:
        quantize(run.model, out=tmp_path / "q", **options)
    assert said in str(raised.value) and "\n" not in str(raised.value)
    assert not (tmp_path / "q").exists()


def test_bad_places(run, backbone, tmp_path, done):
    for model, said in ((tmp_path / "none.onnx", "no such model"), (backbone, "does not say which tasks")):
        with pytest.raises(ModelError, match=said):
            quantize(model, calibrate_on="scenes", out=tmp_path / "q")
    with pytest.raises(ModelError, match="quantized already"):
        quantize(done.model, calibrate_on="scenes", out=tmp_path / "q")
    with pytest.raises(RunError, match="choose another directory"):
        quantize(run.model, out=run.path)
    with pytest.raises(RunError, match=r"is no run, it has no run\.json"):
        quantize(run.model, calibrate_on=str(tmp_path), out=tmp_path / "q")
    renamed = stripped(run, tmp_path, lambda model: setattr(model.graph.outputs[0], "name", "other"))
    with pytest.raises(ModelError, match="its outputs are other, depth, its tasks seg, depth"):
        quantize(renamed, calibrate_on="scenes", out=tmp_path / "q")
    assert not (tmp_path / "q").exists()


def test_images_of_another_kind(run, tmp_path):
    """Normalised otherwise than in training: every number would be wrong."""

    def change(model):
        contract = json.loads(model.metadata_props["onnxmtl.contract"])
        contract["input"]["mean"] = [0.5, 0.5, 0.5]
        model.metadata_props["onnxmtl.contract"] = json.dumps(contract)

    other = stripped(run, tmp_path, change)
    with pytest.raises(DataError, match="mean is"):
        quantize(other, calibrate_on="scenes", out=tmp_path / "q")
    damaged = stripped(run, tmp_path, lambda model: model.metadata_props.update({"onnxmtl.contract": "[]"}))
    with pytest.raises(OnnxMTLError, match=r"onnxmtl\.contract is damaged"):
        quantize(damaged, calibrate_on="scenes", out=tmp_path / "q")
