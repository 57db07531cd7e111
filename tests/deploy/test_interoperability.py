"""Emitted and merged models in other people's tools: the numbers stay, and so does what the model says of itself.

onnxslim, onnxsim and Netron are tried where they are installed (`make test-interop` does that); for graphsurgeon see
passes/test_graphsurgeon.py too.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers.browser import Browser, chromium
from helpers.compiling import write_backbone
from helpers.serving import served

import onnxmtl
from onnxmtl import runtime
from onnxmtl.analysis.sites import site_table
from onnxmtl.deploy.quantize.blocks import name_nodes
from onnxmtl.deploy.quantize.qdq import calibrate, quantized
from onnxmtl.ir import clone, save
from onnxmtl.kinds import load_tasks
from onnxmtl.passes.finalize import FuseSiblings, RemoveUnused, finalize_passes, half_passes
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


@pytest.fixture(scope="module")
def more(files, tmp_path_factory):
    """Others: a Resize that keeps computed sizes (13 from 7 is no float32 scale); fused siblings; float16; int8."""
    folder = tmp_path_factory.mktemp("more")
    net = write_backbone(folder / "net.onnx", size=13)
    odd = Pipeline([AttachHeads(TASKS, 0), *finalize_passes(TASKS, IMAGE)])(onnxmtl.load(net)).model
    assert "Shape" in {node.op_type for node in odd.graph}
    model = onnxmtl.ir.load(files["emitted"])
    name_nodes(model)
    ranges = calibrate(model, [np.random.default_rng(1).random((4, 3, 16, 16), np.float32)])
    (folder / "int8.onnx").write_bytes(quantized(ranges))
    several = AttachHeads(TASKS, 0)(onnxmtl.load(write_backbone(folder / "net.onnx"))).model
    fuse = [*finalize_passes(TASKS, IMAGE), FuseSiblings(1), RemoveUnused()]
    siblings = Pipeline(fuse)(clone(several)).model
    assert "Split" in {node.op_type for node in siblings.graph}
    half = Pipeline([*finalize_passes(TASKS, IMAGE), *half_passes()])(several).model
    assert "Cast" in {node.op_type for node in half.graph}
    made = {"odd": odd, "siblings": siblings, "half": half}
    written = {name: save(model, folder / f"{name}.onnx") for name, model in made.items()}
    return {**files, **written, "int8": folder / "int8.onnx"}


KINDS = pytest.mark.parametrize("kind", ["emitted", "merged"])
ALL_KINDS = pytest.mark.parametrize("kind", ["emitted", "merged", "odd", "siblings", "half", "int8"])
CLOSE = {"int8": 1e-2, "half": 1e-2}  # a tool may round once more or less


def answers(model, **options) -> dict[str, np.ndarray]:
    opened = runtime.session(model, **options)
    size = opened.get_inputs()[0].shape[-1]
    return runtime.run(opened, np.random.default_rng(0).random((2, 3, size, size), np.float32))


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


@ALL_KINDS
@pytest.mark.parametrize("tool", ["onnxslim", "onnxsim"])
def test_simplifiers(request, kind, tool):
    """With their defaults."""
    module = pytest.importorskip(tool)
    file = request.getfixturevalue("more")[kind]
    proto = onnx.load(file)
    made = module.slim(proto) if tool == "onnxslim" else module.simplify(proto)[0]
    found = answers(made.SerializeToString(), optimize=False)
    for name, array in answers(file, optimize=False).items():
        assert relative_error(found[name], array) <= CLOSE.get(kind, 1e-5)
    assert CONTRACT_KEY in {entry.key for entry in made.metadata_props}


@ALL_KINDS
def test_netron(request, kind, tmp_path):
    """Netron's own reader, in a browser: every node, the inputs and outputs with their types, and our metadata."""
    package = importlib.util.find_spec("netron")
    if package is None or chromium() is None:
        pytest.skip("needs netron (pip install netron) and chromium")
    file = request.getfixturevalue("more")[kind]
    shutil.copy(file, tmp_path / "model.onnx")
    (tmp_path / "index.html").write_text('<!doctype html><link rel="icon" href="data:,">')
    with Browser() as browser, served({"": tmp_path, "netron": Path(package.origin).parent}) as address:
        browser.open(f"{address}/index.html", 800)
        read = browser.evaluate(NETRON)
        assert browser.complaints() == []
    proto = onnx.load(file)
    assert read["format"] == "ONNX v10" and read["producer"].startswith("onnxmtl ")
    assert sorted(read["nodes"]) == sorted(node.op_type for node in proto.graph.node)
    size = proto.graph.input[0].type.tensor_type.shape.dim[2].dim_value
    shown = {"seg": f"float32[N,4,{size},{size}]", "depth": f"float32[N,1,{size},{size}]"}
    assert read["ends"] == {"image": f"float32[N,3,{size},{size}]", **shown}
    assert set(read["metadata"]) == {entry.key for entry in proto.metadata_props}


# Opens a file as Netron's window does, without the window.
NETRON = """(async () => {
  const view = await import("/netron/view.js"), base = await import("/netron/base.js");
  const stream = new base.BinaryStream(new Uint8Array(await (await fetch("/model.onnx")).arrayBuffer()));
  const asset = async file => (await fetch(`/netron/${file}`)).text();
  const error = problem => { throw problem; };
  const require = name => import(`/netron/${name.replace("./", "")}.js`);
  const host = {environment: () => null, window, document, type: "Test", asset, require, exception: error};
  const fetched = file => Promise.reject(new Error(`wants ${file}`));
  const context = {identifier: "model.onnx", stream, entries: new Map(), asset, fetch: fetched, require, error};
  const model = await new view.ModelFactoryService(host).open(context);
  const graph = model.modules[0];
  const ends = [...graph.inputs, ...graph.outputs].map(end => [end.name, end.value[0].type.toString()]);
  return {
    format: model.format, producer: model.producer, metadata: [...model.metadata].map(entry => entry.name),
    nodes: [...graph.nodes].map(node => node.type.name), ends: Object.fromEntries(ends),
  };
})()"""


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
