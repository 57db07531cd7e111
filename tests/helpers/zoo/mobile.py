"""Networks for phones: MobileNet v1-v3, MNasNet, EfficientNet v1 and v2, ShuffleNet v1 and v2."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from helpers.zoo.layers import Activation, Classifier, DropPath, Excite, Network, conv


def mobilenet_v1() -> Network:
    """Depthwise and pointwise convolutions in turn (Howard et al. 2017), ReLU6 as in TensorFlow's."""
    layers = [conv(3, 8, 3, 2, act=nn.ReLU6)]
    for c_in, c_out, stride in ((8, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 96, 2)):
        layers += [conv(c_in, c_in, 3, stride, groups=c_in, act=nn.ReLU6), conv(c_in, c_out, 1, act=nn.ReLU6)]
    return Classifier(96, *layers, dropout=0.001)


class Inverted(nn.Module):
    """Expand, depthwise, (squeeze-and-excitation,) project; a shortcut where shapes allow (Sandler et al. 2018)."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        stride: int = 1,
        *,
        expand: int = 3,
        kernel: int = 3,
        act: Activation = nn.ReLU6,
        excite: nn.Module | None = None,
        fused: bool = False,
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        width = c_in * expand
        if fused:  # one dense convolution in place of the first two (EfficientNet v2)
            layers = [conv(c_in, width, kernel, stride, act=act)]
        else:
            layers = [conv(c_in, width, 1, act=act)] if expand != 1 else []
            layers.append(conv(width, width, kernel, stride, groups=width, act=act))
        self.layers = nn.Sequential(*layers, *([excite] if excite else []), conv(width, c_out, 1, act=None))
        self.shortcut, self.drop = stride == 1 and c_in == c_out, DropPath(drop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layers(x)
        return x + self.drop(y) if self.shortcut else y


def mobilenet_v2() -> Network:
    blocks = [Inverted(8, 8, expand=1), Inverted(8, 12, 2), Inverted(12, 12), Inverted(12, 16, 2), Inverted(16, 24, 2)]
    return Classifier(64, conv(3, 8, 3, 2, act=nn.ReLU6), *blocks, conv(24, 64, 1, act=nn.ReLU6), dropout=0.2)


class MobileNetV3(Classifier):
    """Hardswish, excitation with a hard sigmoid, and a classifier of two layers (Howard et al. 2019)."""

    def __init__(self) -> None:
        def excite(channels: int) -> Excite:
            return Excite(channels, 8, gate=nn.Hardsigmoid)

        super().__init__(
            48,
            conv(3, 8, 3, 2, act=nn.Hardswish),
            Inverted(8, 8, 2, expand=1, act=nn.ReLU, excite=excite(8)),
            Inverted(8, 12, 2, act=nn.ReLU),
            Inverted(12, 12, act=nn.ReLU),
            Inverted(12, 16, 2, kernel=5, act=nn.Hardswish, excite=excite(36)),
            Inverted(16, 16, kernel=5, act=nn.Hardswish, excite=excite(48)),
            conv(16, 48, 1, act=nn.Hardswish),
        )
        self.fc = nn.Linear(64, 10)
        self.hidden, self.act, self.dropout = nn.Linear(48, 64), nn.Hardswish(), nn.Dropout(0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = F.adaptive_avg_pool2d(self.body(x), 1).flatten(1)
        logits: torch.Tensor = self.fc(self.dropout(self.act(self.hidden(pooled))))
        return logits


def mnasnet() -> Network:
    """Separable stem, kernels of 3 and 5 (Tan et al. 2019)."""
    stem = [conv(3, 8, 3, 2), conv(8, 8, groups=8), conv(8, 8, 1, act=None)]
    blocks = [
        Inverted(8, 12, 2, act=nn.ReLU),
        Inverted(12, 12, act=nn.ReLU),
        Inverted(12, 20, 2, kernel=5, act=nn.ReLU),
        Inverted(20, 20, kernel=5, act=nn.ReLU),
        Inverted(20, 32, 2, expand=6, act=nn.ReLU),
    ]
    return Classifier(64, *stem, *blocks, conv(32, 64, 1), dropout=0.2)


def efficientnet_v1() -> Network:
    def block(c_in: int, c_out: int, stride: int, kernel: int, expand: int, drop: float) -> Inverted:
        excite = Excite(c_in * expand, max(1, c_in // 4), nn.SiLU)
        return Inverted(c_in, c_out, stride, expand=expand, kernel=kernel, act=nn.SiLU, excite=excite, drop=drop)

    blocks = [
        block(8, 8, 1, 3, 1, 0.0),
        block(8, 12, 2, 3, 4, 0.05),
        block(12, 12, 1, 3, 4, 0.1),
        block(12, 20, 2, 5, 4, 0.1),
        block(20, 20, 1, 5, 4, 0.2),
        block(20, 32, 2, 3, 4, 0.2),
    ]
    return Classifier(64, conv(3, 8, 3, 2, act=nn.SiLU), *blocks, conv(32, 64, 1, act=nn.SiLU), dropout=0.2)


def efficientnet_v2() -> Network:
    def fused(c_in: int, c_out: int, stride: int, expand: int, drop: float) -> Inverted:
        return Inverted(c_in, c_out, stride, expand=expand, act=nn.SiLU, fused=True, drop=drop)

    def block(c_in: int, c_out: int, stride: int, drop: float) -> Inverted:
        return Inverted(c_in, c_out, stride, expand=4, act=nn.SiLU, excite=Excite(c_in * 4, 4, nn.SiLU), drop=drop)

    blocks = [
        fused(8, 8, 1, 2, 0.0),
        fused(8, 12, 2, 3, 0.05),
        fused(12, 12, 1, 3, 0.1),
        block(12, 20, 2, 0.1),
        block(20, 20, 1, 0.2),
        block(20, 32, 2, 0.2),
    ]
    return Classifier(64, conv(3, 8, 3, 2, act=nn.SiLU), *blocks, conv(32, 64, 1, act=nn.SiLU), dropout=0.2)


def shuffle(x: torch.Tensor, groups: int) -> torch.Tensor:
    """Channels of the groups in turn."""
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


class Shuffle1(nn.Module):
    """Grouped 1×1, shuffle, depthwise, grouped 1×1; with stride the pooled input beside it (Zhang et al. 2018)."""

    def __init__(self, c_in: int, c_out: int, stride: int = 1, groups: int = 2) -> None:
        super().__init__()
        self.groups, self.stride = groups, stride
        width = c_out // 4
        self.a = conv(c_in, width, 1, groups=groups)
        self.b = conv(width, width, 3, stride, groups=width, act=None)
        self.c = conv(width, c_out - c_in if stride > 1 else c_out, 1, groups=groups, act=None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.c(self.b(shuffle(self.a(x), self.groups)))
        if self.stride > 1:
            return F.relu(torch.cat([F.avg_pool2d(x, 3, 2, 1), y], 1))
        return F.relu(x + y)


def shufflenet_v1() -> Network:
    stem = [conv(3, 16, 3, 2), nn.MaxPool2d(3, 2, 1)]
    return Classifier(64, *stem, Shuffle1(16, 32, 2), Shuffle1(32, 32), Shuffle1(32, 64, 2), Shuffle1(64, 64))


class Shuffle2(nn.Module):
    """Half of the channels pass by, then all are shuffled; with stride both halves are convolved (Ma et al. 2018)."""

    def __init__(self, c_in: int, c_out: int, stride: int = 1) -> None:
        super().__init__()
        half = c_out // 2
        self.left = nn.Identity()
        if stride > 1:
            self.left = nn.Sequential(conv(c_in, c_in, 3, stride, groups=c_in, act=None), conv(c_in, half, 1))
        first = c_in if stride > 1 else half
        self.right = nn.Sequential(
            conv(first, half, 1), conv(half, half, 3, stride, groups=half, act=None), conv(half, half, 1)
        )
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = (x, x) if self.stride > 1 else x.chunk(2, 1)
        return shuffle(torch.cat([self.left(left), self.right(right)], 1), 2)


def shufflenet_v2() -> Network:
    stem = [conv(3, 16, 3, 2), nn.MaxPool2d(3, 2, 1)]
    units = [Shuffle2(16, 32, 2), Shuffle2(32, 32), Shuffle2(32, 64, 2), Shuffle2(64, 64)]
    return Classifier(96, *stem, *units, conv(64, 96, 1))
