"""Backbones that others wrote: torch's default exporter and the onnx wheel's own models, all the way to a verified
model. What import made of a network of torch's is compared with torch."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from helpers import light
from helpers.compiling import QUICK
from torch import nn
from torch.nn import functional as F

from onnxmtl import runtime
from onnxmtl.analysis.features import read_features
from onnxmtl.ir import load
from onnxmtl.passes.instruments import relative_error
from onnxmtl.workflows import Compiled, compile, verify

pytest.importorskip("onnxscript")

TASKS = "seg=segmentation,depth"
SIZE = 32


def conv(c_in: int, c_out: int, k: int = 3, stride: int = 1, groups: int = 1, act: Any = nn.ReLU) -> nn.Sequential:
    layers = [nn.Conv2d(c_in, c_out, k, stride, k // 2, groups=groups, bias=False), nn.BatchNorm2d(c_out)]
    return nn.Sequential(*layers, *([act()] if act else []))


class Residual(nn.Module):
    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.a, self.b = conv(c_in, c_out, stride=stride), conv(c_out, c_out, act=None)
        self.skip = conv(c_in, c_out, 1, stride, act=None) if stride > 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.b(self.a(x)) + self.skip(x))


class Inverted(nn.Module):
    """MobileNet's block with squeeze-and-excitation."""

    def __init__(self, c: int, act: Any) -> None:
        super().__init__()
        self.up, self.depthwise, self.down = (
            conv(c, 2 * c, 1, act=act),
            conv(2 * c, 2 * c, groups=2 * c, act=act),
            conv(2 * c, c, 1, act=None),
        )
        self.squeeze, self.excite = nn.Conv2d(2 * c, 4, 1), nn.Conv2d(4, 2 * c, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.depthwise(self.up(x))
        y = y * F.hardsigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
        return x + self.down(y)


class Shuffle(nn.Module):
    """ShuffleNet's unit: half of the channels pass by, then all are shuffled."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(conv(c // 2, c // 2, 1), conv(c // 2, c // 2, groups=c // 2, act=None))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = x.chunk(2, 1)
        y = torch.cat([left, self.branch(right)], 1)
        n, c, h, w = y.shape
        return y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class Dense(nn.Module):
    """DenseNet's layer: normalization stands before its convolution."""

    def __init__(self, c: int, growth: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(c), nn.Conv2d(c, growth, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.conv(F.relu(self.norm(x)))], 1)


class Inception(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.point, self.wide = conv(c, 4, 1), nn.Sequential(conv(c, 4, 1), conv(4, 4, 5))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(c, 4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.point(x), self.wide(x), self.pool(x)], 1)


class Next(nn.Module):
    """ConvNeXt's block: LayerNorm and linear layers over channels that stand last, and a layer scale."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(c, c, 7, padding=3, groups=c), nn.LayerNorm(c)
        self.up, self.down, self.scale = nn.Linear(c, 2 * c), nn.Linear(2 * c, c), nn.Parameter(torch.full((c,), 0.1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.depthwise(x).permute(0, 2, 3, 1)
        return x + (self.down(F.gelu(self.up(self.norm(y)))) * self.scale).permute(0, 3, 1, 2)


class UNet(nn.Module):
    """Up by a transposed convolution and by interpolation; the feature is what its last convolution reads."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 4), conv(4, 8, stride=2), conv(8, 8, stride=2)
        self.up, self.d, self.e = nn.ConvTranspose2d(8, 8, 2, 2), conv(16, 8), conv(12, 4)
        self.last = nn.Conv2d(4, 5, 1)

    def body(self, x: torch.Tensor) -> torch.Tensor:
        a = self.a(x)
        b = self.b(a)
        y = self.d(torch.cat([self.up(self.c(b)), b], 1))
        return self.e(torch.cat([F.interpolate(y, size=a.shape[2:], mode="bilinear"), a], 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.body(x))


class Classifier(nn.Module):
    def __init__(self, channels: int, *body: nn.Module) -> None:
        super().__init__()
        self.body, self.drop, self.fc = nn.Sequential(*body), nn.Dropout(0.2), nn.Linear(channels, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.drop(F.adaptive_avg_pool2d(self.body(x), 1).flatten(1)))


NETS: dict[str, Callable[[], nn.Module]] = {
    "resnet": lambda: Classifier(16, conv(3, 8, 7, 2), nn.MaxPool2d(3, 2, 1), Residual(8, 8, 1), Residual(8, 16, 2)),
    "mobilenet": lambda: Classifier(
        16, conv(3, 8, 3, 2, act=nn.ReLU6), Inverted(8, nn.ReLU6), conv(8, 16, 3, 2), Inverted(16, nn.Hardswish)
    ),
    "shufflenet": lambda: Classifier(16, conv(3, 16, 3, 2), Shuffle(16), nn.MaxPool2d(2), Shuffle(16)),
    "densenet": lambda: Classifier(16, conv(3, 8, 3, 2), Dense(8, 4), nn.AvgPool2d(2), Dense(12, 4), nn.ReLU()),
    "inception": lambda: Classifier(12, conv(3, 8, 3, 2), nn.LocalResponseNorm(3), Inception(8), Inception(12)),
    "convnext": lambda: Classifier(8, nn.Conv2d(3, 8, 4, 4), Next(8), Next(8)),
    "unet": UNet,
}


def export(net: str, path: Path, *, folded: bool, batch: int | None) -> nn.Module:
    """Write the network as torch's default exporter does, weights in a file beside it; `batch` None: open."""
    torch.manual_seed(0)
    module = NETS[net]().eval()
    for name, value in module.state_dict().items():
        if "running_var" in name:
            value.uniform_(0.5, 1.5)
        elif "running_mean" in name:
            value.normal_(0, 0.2)
    options: dict[str, Any] = {} if folded else {"optimize": False}
    if batch is None:
        options["dynamic_shapes"] = ({0: torch.export.Dim.DYNAMIC},)
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(module, (torch.randn(batch or 2, 3, SIZE, SIZE),), path, external_data=True,
                              verbose=False, **options)  # fmt: skip
    finally:
        logging.disable(logging.NOTSET)
    assert path.with_name(f"{path.name}.data").exists()
    return module


def check(done: Compiled, module: nn.Module, norms: bool) -> None:
    """The emitted model verifies and runs at any batch; the backbone in the run computes what torch does."""
    assert verify(done.path).passed
    rng = np.random.default_rng(0)
    images = rng.random((3, 3, SIZE, SIZE), dtype=np.float32)
    outputs = runtime.run(done.model, images)
    assert {name: value.shape[::2] for name, value in outputs.items()} == {"seg": (3, SIZE), "depth": (3, SIZE)}
    imported = done.path / "phases" / "01-import"
    with torch.no_grad():
        expected = module.body(torch.from_numpy(images)).numpy()
    (feature,) = runtime.run(imported / "backbone.onnx", images).values()
    assert relative_error(feature, expected) <= 1e-4
    supermodel = load(imported / "supermodel.onnx")
    assert any(node.op_type == "BatchNormalization" and "/own" in node.name for node in supermodel.graph) == norms


CASES = [
    ("resnet", True, None, "insert"),
    ("mobilenet", False, None, "keep"),
    ("convnext", True, 1, "keep"),
]
MORE = [
    (net, folded, batch, "insert" if folded else "keep")
    for net in ("resnet", "mobilenet", "shufflenet", "densenet", "inception")
    for folded in (True, False)
    for batch in (1, None)
] + [("shufflenet", True, 1, "keep")]


@pytest.mark.parametrize(
    ("net", "folded", "batch", "batchnorm"),
    [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE if case not in CASES)],
)
def test_what_torch_exports_compiles(net: str, folded: bool, batch: int | None, batchnorm: str, tmp_path: Path) -> None:
    module = export(net, tmp_path / "net.onnx", folded=folded, batch=batch)
    done = compile(tmp_path / "net.onnx", TASKS, out=tmp_path / "run", batchnorm=batchnorm, **QUICK)
    check(done, module, norms=not folded or batchnorm == "insert")


@pytest.mark.parametrize("folded", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_unet_compiles_on_its_last_feature(folded: bool, tmp_path: Path) -> None:
    module = export("unet", tmp_path / "net.onnx", folded=folded, batch=None)
    graph = onnx.load(tmp_path / "net.onnx", load_external_data=False).graph
    last = next(node for node in graph.node if graph.output[0].name in node.output)
    done = compile(tmp_path / "net.onnx", TASKS, out=tmp_path / "run", features=(last.input[0],), **QUICK)
    check(done, module, norms=not folded)


FAST = ("squeezenet",)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in light.SIZES])
def test_the_models_in_the_onnx_wheel_compile(name: str, tmp_path: Path) -> None:
    size = light.SIZES[name]
    dense = {"output_stride": 8} if name == "resnet50" else {}
    model = light.FOLDER / f"light_{name}.onnx"
    done = compile(model, TASKS, out=tmp_path / "run", input_size=(size, size), **dense, **QUICK)
    assert verify(done.path).passed
    assert any(note.startswith("constant-weights") for note in done.report.notes)
    if dense:
        backbone = load(tmp_path / "run" / "phases" / "01-import" / "backbone.onnx")
        assert [feature.stride for feature in read_features(backbone)] == [8]
