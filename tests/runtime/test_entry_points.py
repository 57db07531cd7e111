"""The runner of entry points: what it runs, what it hands over, and every way a directory can be wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmtl import runtime
from onnxmtl.errors import MissingDependencyError, ModelError
from onnxmtl.runtime.entry_points import plan

HEADER = '<ir_version: 10, opset_import: ["" : 21]>'
PARTS = {
    "all": "g (float[N, 3, 4, 4] image) => (float[N, 3, 4, 4] x) { x = Relu(image) }",
    "depth": "g (float[N, 3, 4, 4] x) => (float[N, 3, 4, 4] depth) { depth = Exp(x) }",
    "edges": "g (float[N, 3, 4, 4] x) => (float[N, 3, 4, 4] edges) { edges = Neg(x) }",
}
MANIFEST = {
    "format": 1,
    "input": {"name": "image", "shape": ["N", 3, 4, 4], "dtype": "float32"},
    "outputs": ["depth", "edges"],
    "metadata": {"onnxmtl.kind": "final"},
    "weights": "weights.data",
    "segments": [
        {"name": "all", "file": "all.onnx", "tasks": ["depth", "edges"], "inputs": ["image"], "outputs": ["x"]},
        {"name": "depth", "file": "depth.onnx", "tasks": ["depth"], "inputs": ["x"], "outputs": ["depth"]},
        {"name": "edges", "file": "edges.onnx", "tasks": ["edges"], "inputs": ["x"], "outputs": ["edges"]},
    ],
    "tensors": [{"name": "x", "dtype": "float32", "shape": ["N", 3, 4, 4], "from": "all", "to": ["depth", "edges"]}],
}


@pytest.fixture
def folder(tmp_path):
    """Written by hand: the format is a contract, whoever writes it."""
    home = tmp_path / "entry_points"
    home.mkdir()
    for name, text in PARTS.items():
        onnx.save(onnx.parser.parse_model(HEADER + text), home / f"{name}.onnx")
    (home / "manifest.json").write_text(json.dumps(MANIFEST))
    return home


@pytest.fixture
def image():
    return np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32)


def changed(folder, *path, to):
    """The manifest with one entry replaced."""
    content = json.loads((folder / "manifest.json").read_text())
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = to
    (folder / "manifest.json").write_text(json.dumps(content))


def refusal(folder):
    with pytest.raises(ModelError) as error:
        runtime.load(folder)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)
    return str(error.value)


by_segment = pytest.mark.parametrize("by_segment", [False, True], ids=["as one model", "by segment"])


@by_segment
def test_a_directory_is_called_as_a_model_is(folder, image, by_segment):
    model = runtime.load(folder, by_segment=by_segment)
    assert (model.input, model.shape, model.dtype) == ("image", ("N", 3, 4, 4), np.float32)
    assert model.outputs == ("depth", "edges") and model.metadata == {"onnxmtl.kind": "final"}
    found = model(image)
    assert list(found) == ["depth", "edges"]
    np.testing.assert_array_equal(found["edges"], -np.maximum(image, 0))
    assert list(model(image, tasks=["edges", "depth", "edges"])) == ["edges", "depth"]
    assert list(model(image.astype(np.float64), "edges")) == ["edges"]
    np.testing.assert_array_equal(runtime.load(folder / "manifest.json")(image)["edges"], found["edges"])
    turned = image.transpose(0, 1, 3, 2)  # not contiguous
    np.testing.assert_array_equal(model(turned)["edges"], -np.maximum(turned, 0))


@by_segment
def test_only_what_is_needed_is_loaded_and_run(folder, image, by_segment):
    """The segment of a task that nobody asks for may even be damaged."""
    (folder / "depth.onnx").write_bytes(b"damaged")
    model = runtime.load(folder, by_segment=by_segment).open(["edges"])
    assert [segment.name for segment in model.segments_for(["edges"])] == ["all", "edges"]
    assert list(model(image, ["edges"])) == ["edges"]
    said = r"depth\.onnx: (ONNX Runtime cannot load it|is no ONNX model)"
    with pytest.raises(ModelError, match=said):
        model(image)
    with pytest.raises(ModelError, match=said):
        runtime.load(folder, by_segment=by_segment).open()


@by_segment
def test_an_output_may_be_read_by_another_segment(folder, image, by_segment):
    changed(folder, "outputs", to=["x", "edges"])
    model = runtime.load(folder, by_segment=by_segment)
    np.testing.assert_array_equal(model(image)["x"], np.maximum(image, 0))
    assert list(model(image, ["x"])) == ["x"]
    assert [segment.name for segment in model.segments_for(["x"])] == ["all"]


@by_segment
def test_results_stay_when_the_model_runs_again(folder, image, by_segment):
    model = runtime.load(folder, by_segment=by_segment)
    first = model(image)["edges"]
    kept = first.copy()
    model(np.ones_like(image))
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(
    ("tasks", "said"),
    [(["segmentation"], "no task 'segmentation', only depth, edges"), ([], "no task is asked for")],
)
def test_tasks_that_are_not_there(folder, image, tasks, said):
    with pytest.raises(ModelError, match=said):
        runtime.load(folder)(image, tasks)


def test_a_wrong_image_is_said_in_one_line(folder):
    with pytest.raises(ModelError, match=r"takes float32 images \[N, 3, 4, 4\], not uint8 \[1, 3, 4, 4\]"):
        runtime.load(folder)(np.zeros((1, 3, 4, 4), np.uint8))


def test_a_segment_that_does_not_fit_is_named(folder, image):
    text = PARTS["edges"].replace("float[N, 3, 4, 4] x", "float[N, 3, 5, 5] x")
    onnx.save(onnx.parser.parse_model(HEADER + text), folder / "edges.onnx")
    with pytest.raises(ModelError, match=r"edges\.onnx: ONNX Runtime cannot run it") as error:
        runtime.load(folder, by_segment=True)(image)
    assert "\n" not in str(error.value)


def test_segments_that_make_no_model_are_named_by_what_was_asked(folder):
    text = PARTS["edges"].replace("Neg(x)", "Neg(y)").replace("4] x)", "4] x, int64[1] y)")
    onnx.save(onnx.parser.parse_model(HEADER + text), folder / "edges.onnx")
    with pytest.raises(ModelError, match=r"entry_points \(edges\): ONNX Runtime cannot load it") as error:
        runtime.load(folder).open(["edges"])
    assert "\n" not in str(error.value)


@by_segment
def test_providers_are_asked_of_every_session(folder, image, by_segment):
    with pytest.raises(MissingDependencyError, match="NoSuchProvider"):
        runtime.load(folder, providers=["NoSuchProvider"], by_segment=by_segment)(image)


def test_a_combination_of_tasks_is_loaded_once_in_whatever_order_it_is_asked_for(folder, image, monkeypatch):
    opened = []
    real = runtime.session
    monkeypatch.setattr(
        "onnxmtl.runtime.entry_points.session", lambda *a, **o: (opened.append(o["name"]), real(*a, **o))[1]
    )
    model = runtime.load(folder).open(["edges"])
    for tasks in (["edges"], None, ["edges", "depth"], ["depth", "edges"]):
        model(image, tasks)
    assert opened == [f"{folder} (edges)", f"{folder} (depth, edges)"]


@pytest.mark.parametrize("name", ["../all.onnx", "/etc/hostname", "..", ".", "", "a/../all.onnx", "a\\b", "C:all.onnx"])
def test_files_outside_the_folder_are_not_opened(folder, name):
    onnx.save(onnx.load(folder / "all.onnx"), folder.parent / "all.onnx")
    changed(folder, "segments", 0, "file", to=name)
    assert "is not a file in this folder" in refusal(folder)


def test_nor_through_a_link(folder):
    (folder.parent / "elsewhere.onnx").write_bytes((folder / "all.onnx").read_bytes())
    (folder / "all.onnx").unlink()
    os.symlink(folder.parent / "elsewhere.onnx", folder / "all.onnx")
    assert "is not a file in this folder" in refusal(folder)


def test_a_linked_folder_is_fine(folder, image):
    os.symlink(folder, folder.parent / "link")
    assert runtime.load(folder.parent / "link")(image).keys() == {"depth", "edges"}


@pytest.mark.parametrize(
    ("path", "to", "said"),
    [
        (["format"], 2, "format 2"),
        (["format"], None, "format None"),
        (["input"], [], "input is no JSON object"),
        (["input", "name"], 3, "input.name is no text"),
        (["input", "shape"], None, "input.shape is no list"),
        (["input", "shape"], [True, {}], "input.shape holds"),
        (["input", "dtype"], "int8", "input.dtype is not one of"),
        (["input", "dtype"], ["float32"], "input.dtype is not one of"),
        (["outputs"], ["depth", "depth"], "outputs names something twice"),
        (["outputs"], ["normals"], "no segment computes the output 'normals'"),
        (["outputs"], ["image"], "no segment computes the output 'image'"),
        (["metadata"], {"a": 1}, "metadata.a is no text"),
        (["segments"], {}, "segments is no list"),
        (["segments", 1], "depth", "segments[1] is no JSON object"),
        (["segments", 1, "file"], "missing.onnx", "'missing.onnx', is missing"),
        (["segments", 1, "inputs"], ["y"], "reads 'y', which nothing before it computes"),
        (["segments", 0, "inputs"], ["depth"], "reads 'depth', which nothing before it computes"),
        (["segments", 1, "outputs"], ["x"], "the tensor 'x' is computed twice"),
        (["segments", 0, "outputs"], [1], "segments[0].outputs[0] is no text"),
    ],
)
def test_damaged_manifests_are_told_in_one_line(folder, path, to, said):
    changed(folder, *path, to=to)
    assert said in refusal(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_manifest(folder, content):
    (folder / "manifest.json").write_bytes(content)
    refusal(folder)


def test_a_directory_without_a_manifest(tmp_path):
    assert "no manifest.json in it; give a model file" in refusal(tmp_path)


@st.composite
def chains(draw):
    """Segments of one or two outputs that read any tensors before them; and asked outputs."""
    known, segments = ["image"], []
    for i in range(draw(st.integers(1, 8))):
        inputs = tuple(draw(st.lists(st.sampled_from(known), max_size=3, unique=True)))
        outputs = tuple(f"t{i}{letter}" for letter in "ab"[: draw(st.integers(1, 2))])
        segments.append(runtime.Segment(f"s{i}", None, (), inputs, outputs))
        known += outputs
    return tuple(segments), tuple(draw(st.lists(st.sampled_from(known[1:]), min_size=1, unique=True)))


@given(chains())
def test_a_plan_computes_what_is_asked_and_no_more_and_keeps_no_tensor_too_long(given_):
    segments, asked = given_
    steps = plan(segments, asked)
    live, done, read = {"image"}, set(), set()
    for step in steps:
        segment = segments[step.segment]
        assert set(segment.inputs) <= live, "dropped too early, or never computed"
        read.update(segment.inputs)
        live.update(step.outputs)
        done.update(step.outputs)
        live -= set(step.dropped)
    assert done >= set(asked) and live <= {"image"}
    assert done - set(asked) <= read, "a tensor is fetched that nobody wants"
    assert all(step.outputs for step in steps) and len({step.segment for step in steps}) == len(steps)


class FakeSession:
    """Says that it runs on CUDA, and notes where its results are to be left."""

    def __init__(self, real, bound):
        self.real, self.bound = real, bound

    def get_providers(self):
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def io_binding(self):
        binding = self.real.io_binding()
        bind = binding.bind_output
        binding.bind_output = lambda name, device: (self.bound.append((name, device)), bind(name))
        return binding

    def run_with_iobinding(self, binding):
        self.real.run_with_iobinding(binding)


def test_tensors_between_segments_stay_on_the_gpu(folder, image, monkeypatch):
    """No GPU is needed to see what is asked of one."""
    bound = []
    real = runtime.session
    fake = lambda file, **options: FakeSession(real(file), bound)  # noqa: E731
    monkeypatch.setattr("onnxmtl.runtime.entry_points.session", fake)
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    model = runtime.load(folder, providers=providers, by_segment=True)
    assert list(model(image)) == ["depth", "edges"]
    assert bound == [("x", "cuda"), ("depth", "cpu"), ("edges", "cpu")]


def test_the_runner_is_light(folder):
    code = (
        "import sys, numpy; import onnxmtl.runtime as r; "
        f"r.load({str(folder)!r})(numpy.zeros((1, 3, 4, 4), 'float32')); "
        "print([m for m in ('onnx', 'onnx_ir', 'torch', 'typer', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_onnxruntime_the_command_that_installs_it_is_told(folder, image, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", types.ModuleType("onnxruntime"))
    with pytest.raises(MissingDependencyError, match="pip install"):
        runtime.load(folder)(image)
