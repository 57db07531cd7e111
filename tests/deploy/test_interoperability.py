"""Emitted and merged models in other people's tools: the numbers stay, and so does what the model says of itself.

onnxslim and onnxsim are tried where they are installed; for graphsurgeon see passes/test_graphsurgeon.py too.
"""

from __future__ import annotations

import importlib
import subprocess
import sys

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers.compiling import write_backbone

import onnxmtl
from onnxmtl import runtime
from onnxmtl.analysis.sites import site_table
from onnxmtl.ir import save
from onnxmtl.kinds import load_tasks
from onnxmtl.passes.finalize import finalize_passes
from onnxmtl.passes.finalize.contract import CONTRACT_KEY
from onnxmtl.passes.heads import AttachHeads
from onnxmtl.passes.instruments import relative_error
from onnxmtl.passes.pipelines import Pipeline
from onnxmtl.passes.select import select_passes
from onnxmtl.passes.spaces.vcn import Vcn
from onnxmtl.policy import Policy
from onnxmtl.policy.decoders import sample
from onnxmtl.workflows.merging import merge

TASKS = load_tasks("seg=segmentation:4,depth")
IMAGE = {"layout": "NCHW", "range": [0, 1], "mean": [0, 0, 0], "scale": [1, 1, 1], "colour": "RGB"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model of a search space, emitted; and one merged of two that were emitted."""
    folder = tmp_path_factory.mktemp("models")
    net = write_backbone(folder / "net.onnx")
    supermodel = Vcn()(AttachHeads(TASKS, 0)(onnxmtl.load(net)).model).model
    (architecture,) = sample(Policy.of_model(supermodel, site_table(supermodel)), 1, 3)
    emitted = Pipeline([*select_passes(architecture), *finalize_passes(TASKS, IMAGE)])(supermodel).model
    found = {"emitted": save(emitted, folder / "emitted.onnx")}
    for name in ("seg=segmentation:4", "depth"):
        tasks = load_tasks(name)
        model = Pipeline(finalize_passes(tasks, IMAGE))(AttachHeads(tasks, 0)(onnxmtl.load(net)).model).model
        found[tasks.names[0]] = save(model, folder / f"{tasks.names[0]}.onnx")
    merge([found["seg"], found["depth"]], folder / "merged.onnx")
    return {"emitted": found["emitted"], "merged": folder / "merged.onnx"}


KINDS = pytest.mark.parametrize("kind", ["emitted", "merged"])


def answers(model, **options) -> dict[str, np.ndarray]:
    image = np.random.default_rng(0).random((2, 3, 16, 16), np.float32)
    return runtime.run(runtime.session(model, **options), image)


@KINDS
@pytest.mark.parametrize("optimize", [False, True])
def test_onnxruntimes_own_format(files, kind, optimize, tmp_path):
    """Written by ONNX Runtime as .ort, without and with its optimizations, and read again: the same bits."""
    rt = runtime.onnxruntime()
    options = rt.SessionOptions()
    options.log_severity_level = 3
    levels = rt.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_EXTENDED if optimize else levels.ORT_DISABLE_ALL
    options.optimized_model_filepath = str(tmp_path / "model.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    first = rt.InferenceSession(str(files[kind]), options, providers=[runtime.CPU])
    image = np.random.default_rng(0).random((2, 3, 16, 16), np.float32)
    expected = dict(
        zip([v.name for v in first.get_outputs()], first.run(None, {first.get_inputs()[0].name: image}), strict=True)
    )
    plain = rt.SessionOptions()
    plain.graph_optimization_level = levels.ORT_DISABLE_ALL
    opened = rt.InferenceSession(str(tmp_path / "model.ort"), plain, providers=[runtime.CPU])
    found = runtime.run(opened, image)
    assert list(found) == list(expected) == list(TASKS.names)
    for name, array in expected.items():
        assert found[name].tobytes() == array.tobytes()
    if not optimize:
        assert all(
            found[name].tobytes() == array.tobytes() for name, array in answers(files[kind], optimize=False).items()
        )


@KINDS
@pytest.mark.parametrize("tool", ["onnxslim", "onnxsim"])
def test_simplifiers(files, kind, tool):
    module = pytest.importorskip(tool)
    proto = onnx.load(files[kind])
    # onnxslim's own shape inference (0.1.98) takes a Resize with axes, as our heads have it, for one of all axes, and
    # stops; with onnx's shapes, which our files have already, it works.
    made = module.slim(proto, no_shape_infer=True) if tool == "onnxslim" else module.simplify(proto)[0]
    for name, array in answers(files[kind]).items():
        assert relative_error(answers(made.SerializeToString())[name], array) <= 1e-5
    assert CONTRACT_KEY in {entry.key for entry in made.metadata_props}


@KINDS
def test_graphsurgeon_reads_and_writes_it(files, kind):
    gs = pytest.importorskip("onnx_graphsurgeon")
    made = gs.export_onnx(gs.import_onnx(onnx.load(files[kind])).cleanup().toposort())
    for name, array in answers(files[kind], optimize=False).items():
        assert answers(made.SerializeToString(), optimize=False)[name].tobytes() == array.tobytes()


@KINDS
def test_onnxs_own_tools(files, kind, tmp_path):
    """Reference evaluator, extraction of one task, version converter."""
    proto = onnx.load(files[kind])
    image = np.random.default_rng(0).random((2, 3, 16, 16), np.float32)
    reference = importlib.import_module("onnx.reference").ReferenceEvaluator(proto)
    expected = answers(files[kind], optimize=False)
    for name, array in zip(expected, reference.run(None, {proto.graph.input[0].name: image}), strict=True):
        assert relative_error(array, expected[name]) <= 1e-5
    target = tmp_path / "seg.onnx"
    onnx.utils.extract_model(str(files[kind]), str(target), [proto.graph.input[0].name], ["seg"])
    assert answers(target, optimize=False)["seg"].tobytes() == expected["seg"].tobytes()
    raised = onnx.version_converter.convert_version(proto, 22)
    assert relative_error(answers(raised.SerializeToString())["seg"], expected["seg"]) <= 1e-5


@KINDS
def test_the_file_needs_numpy_and_onnxruntime_alone(files, kind):
    """In a process of its own, without onnx, onnx_ir and torch."""
    script = f"""
import sys
import onnxmtl.runtime as r, numpy as np
print(*r.load({str(files[kind])!r})(np.zeros((1, 3, 16, 16), np.float32)))
assert not {{"onnx", "onnx_ir", "torch"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == list(TASKS.names)


def test_ir_is_loaded_as_written(files):
    """onnx_ir, which other toolchains build on, reads and writes it without a change."""
    for path in files.values():
        proto = onnx.load(path)
        assert ir.to_proto(ir.from_proto(proto)).SerializeToString(deterministic=True) == proto.SerializeToString(
            deterministic=True
        )
