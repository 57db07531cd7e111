"""What torch's exporters write, brought into canonical form: numbers equal torch's, at any batch size."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import pytest
from helpers.networks import run

from onnxmtl.analysis.features import read_features
from onnxmtl.frontends.onnx import load
from onnxmtl.ir import diagnostics
from onnxmtl.passes.instruments import CheckInvariants, relative_error
from onnxmtl.passes.normalize import normalize

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
nn = torch.nn


class Net(nn.Module):
    """BatchNorm, squeeze-and-excitation, channel shuffle, dropout, a linear classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn1 = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.last, self.bn2 = nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16)
        self.drop, self.fc = nn.Dropout(0.2), nn.Linear(16, 5)

    def features(self, x):
        x = torch.relu(self.bn1(self.stem(x)))
        x = x * torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        b, c, h, w = x.shape
        x = x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)
        return nn.functional.hardswish(self.bn2(self.last(x)))

    def forward(self, x):
        return self.fc(self.drop(nn.functional.adaptive_avg_pool2d(self.features(x), 1).flatten(1)))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    net = Net()
    for name, value in net.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) + 0.5 if "running_var" in name else torch.randn_like(value) * 0.3)
    return net


def export(net, path, *, train=False, batch=2, **options) -> None:
    net.train(train)
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(net, (torch.randn(batch, 3, 32, 48),), path, verbose=False, **options)
    finally:
        logging.disable(logging.NOTSET)
        net.eval()  # an export in training mode updates the running statistics before it writes them


DYNAMIC = {"dynamic_shapes": ({0: torch.export.Dim.DYNAMIC},)}
CASES = {
    "default, BatchNorm folded": ({}, 0),
    "dynamic batch": (DYNAMIC, 0),
    "batch 1": ({"batch": 1}, 0),
    "not optimized": ({"optimize": False}, 2),
    "training mode": ({"optimize": False, "train": True}, 2),
    "old exporter": ({"dynamo": False, "opset_version": 14}, 0),
    "old exporter, nothing folded": (
        {"dynamo": False, "opset_version": 14, "do_constant_folding": False, "train": True},
        2,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_features_equal_torchs(case, net, tmp_path):
    options, norms = CASES[case]
    path = tmp_path / "net.onnx"
    if case == "old exporter, nothing folded":
        options = {**options, "training": torch.onnx.TrainingMode.PRESERVE}
    export(net, path, **options)
    model = normalize(load(path), instruments=[CheckInvariants()])
    assert [(f.stride, f.channels) for f in read_features(model)] == [(4, 16)]
    assert sum(node.op_type == "BatchNormalization" for node in model.graph) == norms
    assert ("batchnorm-folded" in [d.code for d in diagnostics(model)]) == (norms == 0)
    image = torch.randn(3, 3, 32, 48)
    with torch.no_grad():
        expected = net.features(image).numpy()
    assert relative_error(run(model, image.numpy())[0], expected) <= 1e-5


def test_normalization_put_back_changes_nothing(net, tmp_path):
    export(net, tmp_path / "net.onnx")
    model = normalize(load(tmp_path / "net.onnx"), batchnorm="insert")
    assert sum(node.op_type == "BatchNormalization" for node in model.graph) == 2
    image = torch.randn(3, 3, 32, 48)
    with torch.no_grad():
        expected = net.features(image).numpy()
    assert relative_error(run(model, image.numpy())[0], expected) <= 1e-5


def test_weights_are_external_and_stay_mapped(net, tmp_path):
    export(net, tmp_path / "net.onnx", external_data=True)
    model = normalize(load(tmp_path / "net.onnx"))
    expected = net.state_dict()["stem.weight"].numpy()
    shapes = [value.const_value.numpy() for value in model.graph.initializers.values()]
    assert any(array.shape == expected.shape for array in shapes)


def test_the_tokens_of_a_vision_transformer_are_a_map(tmp_path):
    class Transformer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.fc = nn.Conv2d(3, 16, 8, 8), nn.Linear(16, 3)
            self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)

        def tokens(self, x):
            return self.layer(self.patches(x).flatten(2).transpose(1, 2))

        def forward(self, x):
            return self.fc(self.tokens(x).mean(1))

    net = Transformer().eval()
    export(net, tmp_path / "vit.onnx")
    model = normalize(load(tmp_path / "vit.onnx"))
    assert [(f.stride, f.channels) for f in read_features(model)] == [(8, 16)]
    image = torch.randn(3, 3, 32, 48)
    with torch.no_grad():
        expected = net.tokens(image).transpose(1, 2).reshape(3, 16, 4, 6).numpy()
    assert relative_error(run(model, image.numpy())[0], expected) <= 1e-5


def test_numpy_is_what_runs():
    """The comparison above can fail: two different images give different features."""
    assert relative_error(np.zeros(3), np.ones(3)) == 1.0
