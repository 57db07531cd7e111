"""The runner: sessions, feeds, and every way it can go wrong."""

from __future__ import annotations

import subprocess
import sys
import types

import numpy as np
import onnx
import pytest

from onnxmtl import runtime
from onnxmtl.errors import MissingDependencyError, ModelError

TEXT = """<ir_version: 10, opset_import: ["" : 21]>
g (float[N, 3, 4, 4] image) => (float[N, 3, 4, 4] depth, float[N, 3, 4, 4] edges) {
    depth = Relu(image)
    edges = Neg(image)
}"""


@pytest.fixture
def proto():
    model = onnx.parser.parse_model(TEXT)
    onnx.helper.set_model_props(model, {"onnxmtl.kind": "final"})
    return model


@pytest.fixture
def path(proto, tmp_path):
    file = tmp_path / "model.onnx"
    onnx.save(proto, file)
    return file


@pytest.fixture
def image():
    return np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32)


def one_line(error, *parts):
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_a_loaded_model_knows_its_input_and_outputs(path, image):
    model = runtime.load(path)
    assert (model.input, model.shape, model.dtype) == ("image", ("N", 3, 4, 4), np.float32)
    assert model.outputs == ("depth", "edges")
    assert model.metadata == {"onnxmtl.kind": "final"}
    result = model(image)
    assert list(result) == ["depth", "edges"]
    np.testing.assert_array_equal(result["depth"], np.maximum(image, 0))
    np.testing.assert_array_equal(result["edges"], -image)
    assert list(model(image.astype(np.float64), ["edges"])) == ["edges"]


@pytest.mark.parametrize("kind", ["path", "str", "bytes", "session"])
def test_run_takes_a_path_bytes_or_a_session(path, proto, image, kind):
    given = {"path": path, "str": str(path), "bytes": proto.SerializeToString(), "session": runtime.session(path)}
    np.testing.assert_array_equal(runtime.run(given[kind], image)["edges"], -image)
    assert list(runtime.run(given[kind], {"image": image}, outputs=["edges", "depth"])) == ["edges", "depth"]


def test_options_reach_the_session(path):
    opened = runtime.session(path, optimize=False, threads=1)
    assert opened.get_providers() == ["CPUExecutionProvider"]
    options = opened.get_session_options()
    assert options.intra_op_num_threads == 1
    assert options.graph_optimization_level == runtime.onnxruntime().GraphOptimizationLevel.ORT_DISABLE_ALL
    assert options.log_severity_level == 3


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((1, 3, 5, 4), np.float32), "float32 [1, 3, 5, 4]"),
        (np.zeros((3, 4, 4), np.float32), "float32 [3, 4, 4]"),
        (np.zeros((1, 3, 4, 4), np.uint8), "uint8 [1, 3, 4, 4]"),
    ],
)
def test_a_wrong_image_is_said_in_one_line(path, array, said):
    with pytest.raises(ModelError) as error:
        runtime.load(path)(array)
    one_line(error, "takes float32 images [N, 3, 4, 4]", said)


def test_wrong_feeds(path, image):
    with pytest.raises(ModelError) as error:
        runtime.run(path, {"picture": image})
    one_line(error, "ONNX Runtime cannot run the model", "image")
    with pytest.raises(ModelError) as error:
        runtime.run(path, image, outputs=["nothing"])
    one_line(error, "nothing")


def test_an_array_needs_a_single_input():
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> g (float[1] a, float[1] b) => (float[1] y) { y = Add(a, b) }'
    ).SerializeToString()
    with pytest.raises(ModelError, match=r"2 inputs \(a, b\)"):
        runtime.run(model, np.zeros(1, np.float32))
    assert runtime.run(model, {"a": np.ones(1, np.float32), "b": np.ones(1, np.float32)})["y"] == 2


def test_load_needs_one_image_input(tmp_path):
    file = tmp_path / "ints.onnx"
    onnx.save(
        onnx.parser.parse_model(
            '<ir_version: 10, opset_import: ["" : 21]> g (int64[1] a) => (int64[1] y) { y = Identity(a) }'
        ),
        file,
    )
    with pytest.raises(ModelError) as error:
        runtime.load(file)
    one_line(error, "ints.onnx", "a: tensor(int64)")


def test_files_that_are_no_models(tmp_path):
    with pytest.raises(ModelError, match="no such model file"):
        runtime.session(tmp_path / "missing.onnx")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    with pytest.raises(ModelError) as error:
        runtime.session(broken)
    one_line(error, "broken.onnx", "ONNX Runtime cannot load it")
    with pytest.raises(ModelError) as error:
        runtime.session(b"\x00\x01")
    one_line(error, "the model: ONNX Runtime cannot load it")


def test_a_provider_that_is_not_there_is_no_silent_fallback(path):
    with pytest.raises(MissingDependencyError) as error:
        runtime.session(path, providers=["NoSuchExecutionProvider"])
    one_line(error, "NoSuchExecutionProvider", "CPUExecutionProvider")


def test_a_provider_that_does_not_start_is_no_silent_fallback(path, monkeypatch):
    """onnxruntime-gpu without a GPU lists CUDA and runs on the CPU."""
    real = runtime.onnxruntime()
    fake = types.SimpleNamespace(
        get_available_providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
        InferenceSession=lambda source, options, providers: real.InferenceSession(
            source, options, providers=["CPUExecutionProvider"]
        ),
        SessionOptions=real.SessionOptions,
        GraphOptimizationLevel=real.GraphOptimizationLevel,
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    with pytest.raises(MissingDependencyError) as error:
        runtime.session(path, providers=["CUDAExecutionProvider", "CPUExecutionProvider"])
    one_line(error, "CUDAExecutionProvider could not be started")


@pytest.mark.parametrize("what", [None, types.ModuleType("onnxruntime")])
def test_no_onnxruntime_or_an_empty_one(path, monkeypatch, what):
    monkeypatch.setitem(sys.modules, "onnxruntime", what)
    with pytest.raises(MissingDependencyError) as error:
        runtime.session(path)
    one_line(error, "pip install 'onnxmtl[cpu]'", "'onnxmtl[gpu]'")


def test_importing_the_runner_is_light():
    code = (
        "import sys, onnxmtl.runtime; "
        "print([m for m in ('onnxruntime', 'onnx', 'onnx_ir', 'torch', 'typer') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
