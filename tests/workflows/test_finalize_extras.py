"""Emitted models with fused siblings and of float16: certificate, entry points, merging, quantizing, options."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest
from helpers import zoo
from helpers.compiling import QUICK
from helpers.graphs import GraphBuilder
from helpers.merging import tuned

from onnxmtl import cli, ops, runtime
from onnxmtl.cost.count import count
from onnxmtl.data import InputSpec
from onnxmtl.deploy.entry_points import write_entry_points
from onnxmtl.deploy.explain import explain
from onnxmtl.deploy.inspect import inspect_model
from onnxmtl.deploy.verify import MODEL_FILE, write_certificate
from onnxmtl.errors import ModelError, VerificationError
from onnxmtl.ir import Role, diagnostics, load, role_of
from onnxmtl.kinds import TaskSet
from onnxmtl.passes.finalize import has_siblings, separated
from onnxmtl.passes.heads import AttachHeads
from onnxmtl.runs import read_json
from onnxmtl.workflows import compile, merge, quantization, specialize, verify
from onnxmtl.workflows.config import LATER, CompileConfig
from onnxmtl.workflows.emit import emit

SPEC = InputSpec(height=8, width=8)
TASKS = TaskSet.parse("seg=segmentation:3,depth,normals")
IMAGES = np.random.default_rng(0).random((3, 3, 8, 8), np.float32)


def trained(tasks=TASKS, seed=0):
    """A trunk, a branch that normals have for themselves, and heads of two layers."""
    b = GraphBuilder(seed)
    trunk = b.block(b.image, 8)
    features = {task: trunk if task != "normals" else b.residual(trunk, 8) for task in tasks.names}
    for task in tasks.names:
        b.task = task
        features[task] = b.relu(b.norm(b.conv(features[task], 8, bias=False)))
    b.task = None
    model = b.heads(features, {task.name: task.channels for task in tasks})
    model.metadata_props["onnxmtl.tasks"] = tasks.to_json()
    return model


def emitted(folder, model=None, tasks=TASKS, **options):
    folder.mkdir()
    emit(folder, model or trained(tasks), tasks, SPEC, IMAGES, **options)
    return folder / MODEL_FILE


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same network four times."""
    root = tmp_path_factory.mktemp("emitted")
    options = {
        "plain": {},
        "fused": {"siblings": True},
        "half": {"half": True},
        "both": {"siblings": True, "half": True},
    }
    return {name: emitted(root / name, **given) for name, given in options.items()}


@pytest.mark.parametrize("name", ["fused", "half", pytest.param("both", marks=pytest.mark.slow)])
def test_certificate_costs_and_explanation(files, name):
    model, plain = load(files[name]), load(files["plain"])
    assert has_siblings(model) == (name != "half")
    assert count(separated(model)) == count(plain)
    assert inspect_model(files[name]).costs.multiply_adds == count(plain).multiply_adds
    assert inspect_model(files[name]).sharing == inspect_model(files["plain"]).sharing
    assert model.metadata_props["onnxmtl.parts"] == plain.metadata_props["onnxmtl.parts"]
    for against in ("certificate", "torch"):
        report = verify(files[name], against=against)
        assert report.passed and report.same_file
        assert report.precision == ("float32" if name == "fused" else "float16")
        assert report.optimized_tolerance == (1e-4 if name == "fused" else 1e-2)
    assert all(found.code != "refused" for found in explain(files[name]))


def test_float16_is_half_the_weights_and_measurably_something_else(files):
    sizes = {name: sum(value.const_value.nbytes for value in load(file).graph.initializers.values())
             for name, file in files.items()}  # fmt: skip
    assert sizes["half"] < 0.55 * sizes["plain"]
    errors = [check.plain_error for check in verify(files["half"]).tasks]
    assert 1e-5 < max(errors) < 1e-2


def test_a_float16_model_is_held_to_its_tolerance(tmp_path):
    file = emitted(tmp_path / "m", half=True)
    outputs = {name: 1.02 * array for name, array in runtime.run(file, IMAGES).items()}
    write_certificate(file.parent, {"image": IMAGES}, outputs, {})
    with pytest.raises(VerificationError, match=r"relative error 2\.0e-02, allowed 1e-02"):
        verify(file)


@pytest.mark.parametrize("name", ["fused", "half", pytest.param("both", marks=pytest.mark.slow)])
def test_entry_points_are_cut_from_the_separated_model_and_have_its_bits(files, name, tmp_path):
    done = write_entry_points(files[name], tmp_path / "parts", join=False)
    expected = write_entry_points(files["plain"], tmp_path / "plain", join=False)
    assert [(row.task, row.segments, row.share) for row in done.tasks] == [
        (row.task, row.segments, row.share) for row in expected.tasks
    ]
    assert all(row.relative < 1e-5 for row in done.tasks)
    parts = runtime.load(done.path, optimize=False)
    whole = runtime.run(runtime.session(files[name], optimize=False), IMAGES)
    for task in parts.outputs:
        alone = parts(IMAGES, [task])[task]
        if name == "half":
            assert alone.tobytes() == whole[task].tobytes()
        np.testing.assert_allclose(alone, whole[task], rtol=0, atol=1e-5 * np.abs(whole[task]).max())


@pytest.mark.parametrize("options", [{"siblings": True}, {"half": True}], ids=["fused", "half"])
def test_merging_finds_what_is_shared(options, tmp_path):
    """The trunk of two models with other heads, one of them emitted plainly where that gives the same weights."""
    other = TaskSet.parse("mask=segmentation:3,far=depth")
    pair = TaskSet.parse("seg=segmentation:3,depth")
    first = emitted(tmp_path / "1", trained(pair), pair, **options)
    model = trained(other)
    heads = [name for name, value in model.graph.initializers.items() if role_of(value) is Role.HEAD]
    second = emitted(tmp_path / "2", tuned(model, heads), other, half="half" in options)
    report = merge([first, second], tmp_path / "both.onnx")
    trunk = count(separated(load(first))).multiply_adds_trunk
    assert trunk and report.merged.multiply_adds == sum(part.multiply_adds for part in report.parts) - trunk
    assert all(parity.error < 1e-5 for parity in report.parity)
    runtime.run(tmp_path / "both.onnx", IMAGES)


def test_quantizing_separates_siblings_and_refuses_float16(files):
    model, tasks = quantization._open(files["fused"])
    assert not has_siblings(model) and tasks.names == TASKS.names
    with pytest.raises(ModelError, match=r"computes in float16; give the float32 model .*--no-float16"):
        quantization._open(files["half"])


def test_who_needs_a_wide_range_keeps_it(tmp_path):
    """An activation of 1e5 on the certified images: the layers around it stay float32 and the model verifies."""
    model = trained()
    norm = next(node for node in model.graph if node.op_type == "BatchNormalization")
    norm.inputs[1].const_value = ir.tensor(norm.inputs[1].const_value.numpy() * 3e5, name=norm.inputs[1].name)
    folder = tmp_path / "m"
    folder.mkdir()
    final, report = emit(folder, model, TASKS, SPEC, IMAGES, half=True)
    assert report.passed
    kinds = {node.outputs[0].dtype for node in final.graph if node.op_type == "Conv"}
    assert ir.DataType.FLOAT in kinds
    assert any("float16 ends at" in found.message for found in diagnostics(final))


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_any_network_in_float16(name, tmp_path):
    """As torch exports them, untrained: emitted, verified, and most of what they weigh is float16."""
    pytest.importorskip("onnxscript")
    backbone = zoo.backbone(name)
    height, width = (int(dim) for dim in list(backbone.graph.inputs[0].shape)[2:])
    images = np.random.default_rng(0).random((2, 3, height, width), np.float32)
    tasks = TaskSet(tuple(task.replace(width=8) for task in TaskSet.parse("seg=segmentation:3,depth")))
    model = AttachHeads(tasks)(backbone).model
    spec = InputSpec(height=height, width=width)
    final, report = emit(tmp_path, model, tasks, spec, images, siblings=True, half=True)
    assert report.passed and has_siblings(final)
    weights = [value.const_value for value in ops.trainable_values(final.graph)]
    half = sum(tensor.size for tensor in weights if tensor.dtype is ir.DataType.FLOAT16)
    assert half > 0.9 * sum(tensor.size for tensor in weights)


def test_options_that_are_off_leave_no_trace_in_the_run():
    plain, other = CompileConfig().describe(), CompileConfig(float16=True, fuse_siblings=True).describe()
    assert not set(LATER) & set(plain) and {other[name] for name in LATER} == {True}
    assert CompileConfig.from_json(plain) == CompileConfig() != CompileConfig.from_json(other)


@pytest.fixture(scope="module")
def run(backbone, tmp_path_factory):
    options = {**QUICK, "steps": 2, "shared_prefix": 99, "fuse_siblings": True, "float16": True}
    tasks = TaskSet(tuple(task.replace(width=8) for task in TaskSet.parse("seg=segmentation,depth")))
    return compile(backbone, tasks, out=tmp_path_factory.mktemp("run") / "run", **options)


def test_compile_takes_them(run):
    assert has_siblings(load(run.model)) and verify(run.path).precision == "float16"
    notes = [note for note in run.report.notes if note.startswith("float16: ")]
    assert [note.split(":")[1].strip() for note in notes] == ["seg", "depth"]
    assert all("in float32" in note and "outputs apart by" in note for note in notes)


@pytest.mark.slow
def test_specialize_takes_them(run, tmp_path, capsys):
    plain = specialize(run.path, fuse_siblings=False, float16=False, out=tmp_path / "plain")
    assert not has_siblings(load(plain.model)) and verify(plain.path).precision == "float32"
    assert not set(LATER) & set(read_json(plain.path / "run.json")["config"])
    one, other = (dataclasses.replace(done.report.costs["found"], file_bytes=0) for done in (run, plain))
    assert one == other
    assert cli.main(["specialize", str(run.path), "--no-float16", "-o", str(tmp_path / "cli"), "--quiet"]) == 0
    assert has_siblings(load(tmp_path / "cli" / MODEL_FILE)) and verify(tmp_path / "cli").precision == "float32"
    assert capsys.readouterr().out.strip() == str(tmp_path / "cli" / MODEL_FILE)
