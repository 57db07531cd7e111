"""Every sample runs, with tiny settings, and does what it says."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib.util
import io
import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

import onnxmtl
from onnxmtl import runtime
from onnxmtl.analysis.blocks import backbone_blocks
from onnxmtl.analysis.table import Option, Site, SiteTable
from onnxmtl.cost.profile import group_cost
from onnxmtl.errors import RunError
from onnxmtl.frontends.onnx import load
from onnxmtl.ir import save, sources
from onnxmtl.kinds import load_tasks
from onnxmtl.passes.finalize import finalize_passes
from onnxmtl.passes.heads import AttachHeads
from onnxmtl.passes.instruments import NumericGuard
from onnxmtl.passes.pipelines import Pipeline, import_pipeline
from onnxmtl.policy import Layout, count_layouts
from onnxmtl.recommend.table import read_csv
from onnxmtl.recommend.weights import weights
from onnxmtl.search import PolicyView, recipe, regularizers
from onnxmtl.workflows import verify

SAMPLES = Path(__file__).parents[2] / "samples"
TINY = ["--steps", "4", "--train-size", "8"]
# Fails at once for whatever is neither Python's own nor numpy nor onnxruntime.
ALONE = """
import runpy, sys
class Guard:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in ("numpy", "onnxruntime"):
            raise ModuleNotFoundError(f"blocked: {name}", name=name)
sys.meta_path.insert(0, Guard())
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


def imported(name):
    """A sample as a module; its main part does not run."""
    spec = importlib.util.spec_from_file_location(f"sample_{name}", SAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def printed_by(name, *arguments):
    """Run a sample as the main program, in this process; what it prints."""
    text = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(text):
        patch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        patch.setattr(onnxmtl, "compile", functools.partial(onnxmtl.compile, batch_size=4, recalibration=2))  # seconds
        runpy.run_path(str(SAMPLES / f"{name}.py"), run_name="__main__")
    return text.getvalue()


def alone(*arguments):
    """Run a script where only numpy and onnxruntime can be imported."""
    command = [sys.executable, "-c", ALONE, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def registries(monkeypatch):
    """What a sample registers is gone afterwards."""
    monkeypatch.setattr(recipe, "RECIPES", dict(recipe.RECIPES))
    monkeypatch.setattr(regularizers, "REGULARIZERS", dict(regularizers.REGULARIZERS))


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """The run of samples/quickstart.py, and what it printed."""
    out = tmp_path_factory.mktemp("quickstart") / "run"
    return out, printed_by("quickstart", *TINY, "--out", out)


def test_quickstart(quickstart):
    out, printed = quickstart
    assert verify(out).passed
    assert all(text in printed for text in ("resnet18-small.onnx on scenes", "better than constant", "executed once"))
    assert printed.rstrip().endswith("{'seg': (1, 9, 64, 64), 'depth': (1, 1, 64, 64), 'normals': (1, 3, 64, 64)}")


def test_every_script_is_listed():
    listed = (SAMPLES / "README.md").read_text()
    found = {path.stem for path in SAMPLES.glob("*.py")}
    assert all(f"`{name}.py`" in listed for name in found)


# A pass


def test_custom_pass_prints_what_changed():
    before, after, error = printed_by("custom_pass").splitlines()
    assert "'Clip': 16" in before and "'BatchNormalization': 23" in before
    assert "Clip" not in after and "BatchNormalization" not in after and "'Min': 16" in after
    assert float(error.rpartition(" ")[2]) <= 1e-5


def test_custom_pass_is_exact():
    module = imported("custom_pass")
    model = import_pipeline()(load(module.BACKBONE)).model
    clips = [sources(node) for node in model.graph if node.op_type == "Clip"]
    # Bright images: many values reach 6.
    image = 40 * np.random.default_rng(1).standard_normal((2, 3, 64, 64)).astype(np.float32)
    guard = NumericGuard({"image": image}, rtol=0.0)
    Pipeline([module.ClipToRelu()], instruments=[guard])(model)
    for op_type in ("Relu", "Min"):
        assert [sources(node) for node in model.graph if node.op_type == op_type] == clips


def test_custom_pass_is_short():
    tree = ast.parse((SAMPLES / "custom_pass.py").read_text())
    (found,) = (node for node in tree.body if isinstance(node, ast.ClassDef))
    assert found.end_lineno - found.lineno + 1 < 40


def test_custom_pass_leaves_other_clips():
    text = """<ir_version: 10, opset_import: ["" : 21]>
        g (float[N,3] x) => (float[N,3] y) <float low = {-1.0}, float zero = {0.0}, float high = {6.0}>
        { a = Clip(x, low, high)  b = Clip(a, zero, high)  c = Clip(b, zero)  y = Clip(c, low, high) }"""
    model = ir.from_onnx_text(text)
    model.graph[-1].replace_input_with(1, None)  # no lower bound
    assert imported("custom_pass").ClipToRelu()(model).modified
    assert [node.op_type for node in model.graph] == ["Clip", "Relu", "Min", "Clip", "Clip"]
    assert not imported("custom_pass").ClipToRelu()(model).modified


def test_custom_pass_would_notice(monkeypatch):
    module = imported("custom_pass")

    class Forgetful(module.ClipToRelu):
        def call(self, model):
            result = super().call(model)
            for node in model.graph:
                if node.op_type == "Relu":
                    node.outputs[0].replace_all_uses_with(node.inputs[0])
            return result

    monkeypatch.setattr(module, "ClipToRelu", Forgetful)
    with pytest.raises(SystemExit, match="changed what the network computes"):
        module.main()


# A tree


def test_recommend_tree(tmp_path):
    """The best tree of the table within the budget, against all of them; the model runs, and says which tree it is."""
    module = imported("recommend_tree")
    printed = printed_by("recommend_tree", "--budget", "0.6", "--out", tmp_path / "tree.onnx")
    assert printed.endswith("{'seg': (1, 9, 64, 64), 'depth': (1, 1, 64, 64), 'normals': (1, 3, 64, 64)}\n")
    layout = Layout.from_json(load(tmp_path / "tree.onnx").metadata_props["onnxmtl.layout"])
    assert layout.text() in printed

    backbone = import_pipeline()(load(SAMPLES / "backbones" / "resnet18-small.onnx")).model
    table = read_csv(SAMPLES / "two_task.csv", module.TASKS.names)
    work = [group_cost(block.nodes).multiply_adds for block in backbone_blocks(backbone, groups=5)]
    share = weights("svd-entropy", table)

    def mean_of_pairs(tree):
        """TreeMTL §3.1 to the letter."""
        pairs = [[table.values[t, u, tree.branch_point(t, u)] for u in range(3) if u != t] for t in range(3)]
        return float(share @ np.mean(pairs, axis=1))

    trees = [Layout.from_id(table.tasks, 5, number) for number in range(count_layouts(3, 5))]
    allowed = [tree for tree in trees if tree.cost(work) <= 0.6 * 3 * sum(work)]
    assert 1 < len(allowed) < len(trees)
    assert mean_of_pairs(layout) == pytest.approx(max(map(mean_of_pairs, allowed)), abs=1e-12)
    assert layout.groups in [tree.groups for tree in allowed]


def test_recommend_tree_needs_no_torch():
    code = "import runpy, sys; runpy.run_path(sys.argv.pop(1), run_name='__main__'); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code, str(SAMPLES / "recommend_tree.py")], capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr


# A recipe


def test_custom_recipe(registries, tmp_path):
    out = tmp_path / "run"
    assert "executed once" in printed_by("custom_recipe", *TINY, "--out", out)
    assert verify(out).passed
    run = json.loads((out / "run.json").read_text())
    assert '"quick"' in json.dumps(run) and "geometry_together" in json.dumps(run)
    names = [path.name.split("-", 1)[1] for path in sorted((out / "phases").iterdir())]
    assert names == ["import", "search", "decode", "train", "emit"]


def test_custom_regularizer(registries):
    module = imported("custom_recipe")
    with pytest.raises(RunError, match="registered already"):
        recipe.register_recipe(module.quick)
    options = tuple(Option(name, 1, 1, 1, name == "shared", False) for name in ("shared", "own"))
    sites = tuple(Site(f"s{i}", i, i, "vcn", (f"c{i}",), options) for i in range(2))
    of_view = module.geometry_together(SiteTable(("depth", "seg", "normals"), sites))

    def value(sample):
        return of_view(PolicyView(sample=sample, logits=sample, active=(0, 1)))

    one, other, even = [1.0, 0.0], [0.0, 1.0], [0.5, 0.5]
    alike, apart, half = (torch.tensor(rows) for rows in ([one, other, one], [one, one, other], [even, one, one]))
    assert float(value([alike, alike])) == 0.0
    assert float(value([apart, apart])) == 1.0
    assert float(value([alike, apart])) == 0.5
    assert float(value([half, alike])) == 0.25


# At the edge


def test_edge_inference_needs_nothing_else(quickstart, tmp_path):
    out, _ = quickstart
    with np.load(out / "certificate.npz") as arrays:
        pixels = (arrays["input:image"][0].transpose(1, 2, 0) * 255).round().astype(np.uint8)
    photo = tmp_path / "photo.ppm"
    photo.write_bytes(b"P6 # a room\n64 64\n255\n" + pixels.tobytes())
    done = alone(SAMPLES / "edge_inference.py", out / "model.onnx", "--image", photo, "--out", tmp_path / "pictures")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("seg: segmentation, logits, float32 [1, 9, 64, 64]: ") and "%" in lines[0]
    assert lines[1].startswith("depth: depth, raw") and lines[1].endswith("metres")
    assert lines[2].startswith("normals: normals, unit")

    expected = runtime.load(out / "model.onnx")((pixels.astype(np.float32) / 255).transpose(2, 0, 1)[None])
    with np.load(tmp_path / "pictures" / "outputs.npz") as outputs:
        assert set(outputs) == set(expected)
        for name, array in expected.items():
            np.testing.assert_allclose(outputs[name], array, rtol=0, atol=1e-5 * np.abs(array).max())
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "pictures").glob("*.p?m")}
    header = len(b"P6\n64 64\n255\n")
    assert sizes == {"seg.ppm": header + 3 * 4096, "depth.pgm": header + 4096, "normals.ppm": header + 3 * 4096}


def test_the_block_blocks(tmp_path):
    script = tmp_path / "sneaky.py"
    script.write_text("import onnxmtl\n")
    assert "blocked: onnxmtl" in alone(script).stderr


def test_edge_inference_understands_every_kind(tmp_path):
    tasks = load_tasks(str(SAMPLES / "tasks" / "all-kinds.toml"))
    spec = {"layout": "NCHW", "colour": "RGB", "height": 64, "width": 64, "range": [0, 1], "mean": [0] * 3,
            "scale": [1] * 3}  # fmt: skip
    backbone = import_pipeline()(load(SAMPLES / "backbones" / "vgg-small.onnx")).model
    save(Pipeline([AttachHeads(tasks, 0), *finalize_passes(tasks, spec)])(backbone).model, tmp_path / "model.onnx")
    done = alone(SAMPLES / "edge_inference.py", tmp_path / "model.onnx", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert [line.partition(":")[0] for line in done.stdout.splitlines()[:-1]] == list(tasks.names)
    assert any(f"room: classification, argmax, int64 [1]: {name} 100%" in done.stdout
               for name in ("gallery", "study", "playroom", "workshop"))  # fmt: skip
    pictures = {path.stem for path in tmp_path.glob("*.p?m")}
    assert pictures == {"seg", "depth", "normals", "edges", "objects", "keypoints"}


def test_edge_inference_prepares_as_the_contract_says():
    prepare = imported("edge_inference").prepare
    entry = {"layout": "NCHW", "colour": "RGB", "height": 2, "width": 4, "range": [-1, 1], "mean": [0.1, 0.2, 0.3],
             "scale": [1, 2, 4], "dtype": "float32"}  # fmt: skip
    image = np.zeros((4, 8, 3), np.uint8)
    image[3, 7] = 255, 0, 51  # the nearest pixel of the last one of the network's
    tensor = prepare(image, entry)
    assert tensor.shape == (1, 3, 2, 4) and tensor.dtype == np.float32
    np.testing.assert_allclose(tensor[0, :, 1, 3], [1 * (1 - 0.1), 2 * (-1 - 0.2), 4 * (-0.6 - 0.3)], rtol=1e-6)
    np.testing.assert_allclose(tensor[0, :, 0, 0], [-1.1, -2.4, -5.2], rtol=1e-6)
    with pytest.raises(SystemExit, match="BGR"):
        prepare(image, {**entry, "colour": "BGR"})
