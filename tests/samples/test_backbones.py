"""The sample backbones: the script makes the same bytes again, and they are what they say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import onnx
import pytest

from onnxmtl.analysis.features import read_features
from onnxmtl.frontends.onnx import load
from onnxmtl.ir import diagnostics
from onnxmtl.ops import trainable_values
from onnxmtl.passes.normalize import normalize

SAMPLES = Path(__file__).parents[2] / "samples"
# name: largest file in bytes, stride, channels, folded or never normalized
EXPECTED = {
    "resnet18-small": (3_000_000, 8, 128, False),
    "resnet14-tiny": (200_000, 8, 32, False),
    "mobilenetv2-small": (1_000_000, 16, 192, False),
    "vgg-small": (1_000_000, 16, 64, True),
}


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_backbones", SAMPLES / "make_backbones.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", EXPECTED)
def test_backbone(script, name):
    path = SAMPLES / "backbones" / f"{name}.onnx"
    largest, stride, channels, bare = EXPECTED[name]
    assert script.to_bytes(script.BACKBONES[name]()) == path.read_bytes()
    assert path.stat().st_size < largest
    onnx.checker.check_model(path, full_check=True)
    model = normalize(load(path))
    assert [(f.stride, f.channels) for f in read_features(model)] == [(stride, channels)]
    assert ("batchnorm-folded" in [d.code for d in diagnostics(model)]) == bare
    assert all(value.const_value.numpy().any() or "bias" in name for name, value in _weights(model))


def _weights(model):
    return [(str(value.name), value) for value in trainable_values(model.graph)]


def test_names_are_readable(script):
    names = {node.name for node in script.resnet18_small().graph}
    assert {"conv1", "layer1.0.conv1", "layer2.0.downsample.0", "layer4.1.bn2", "fc"} <= names
