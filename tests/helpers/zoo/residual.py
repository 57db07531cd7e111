"""ResNet, ResNeXt, RegNet, ConvNeXt, and DeepLab v3 on a dilated ResNet."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from helpers.zoo.layers import ChannelNorm, Classifier, DropPath, Excite, Network, conv


class Basic(nn.Module):
    """Two 3×3 convolutions and a shortcut (He et al. 2016)."""

    def __init__(self, c_in: int, c_out: int, stride: int = 1) -> None:
        super().__init__()
        self.a, self.b = conv(c_in, c_out, 3, stride), conv(c_out, c_out, act=None)
        self.shortcut = conv(c_in, c_out, 1, stride, act=None) if stride > 1 or c_in != c_out else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.b(self.a(x)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1×1, 3×3 (grouped in ResNeXt, dilated in DeepLab, with an excitation in RegNet-Y), 1×1, and a shortcut."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        stride: int = 1,
        *,
        width: int = 0,
        groups: int = 1,
        dilation: int = 1,
        squeezed: int = 0,
    ) -> None:
        super().__init__()
        width = width or c_out // 4
        self.a = conv(c_in, width, 1)
        self.b = conv(width, width, 3, stride, groups=groups, dilation=dilation)
        self.excite = Excite(width, squeezed) if squeezed else nn.Identity()
        self.c = conv(width, c_out, 1, act=None)
        self.shortcut = conv(c_in, c_out, 1, stride, act=None) if stride > 1 or c_in != c_out else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.c(self.excite(self.b(self.a(x)))) + self.shortcut(x))


def _stem(channels: int) -> list[nn.Module]:
    return [conv(3, channels, 7, 2), nn.MaxPool2d(3, 2, 1)]


def resnet18() -> Network:
    stages = [Basic(8, 8), Basic(8, 8), Basic(8, 16, 2), Basic(16, 16), Basic(16, 32, 2), Basic(32, 48, 2)]
    return Classifier(48, *_stem(8), *stages)


def resnet50() -> Network:
    stages = [Bottleneck(8, 32), Bottleneck(32, 32), Bottleneck(32, 64, 2), Bottleneck(64, 64), Bottleneck(64, 96, 2)]
    return Classifier(96, *_stem(8), *stages)


def resnext() -> Network:
    stages = [
        Bottleneck(8, 32, width=16, groups=4),
        Bottleneck(32, 64, 2, width=32, groups=4),
        Bottleneck(64, 64, width=32, groups=4),
        Bottleneck(64, 128, 2, width=64, groups=4),
    ]
    return Classifier(128, *_stem(8), *stages)


def regnet() -> Network:
    """RegNet-Y: groups of fixed width, squeeze-and-excitation from the block's input width."""
    stages = [
        Bottleneck(8, 16, 2, width=16, groups=2, squeezed=2),
        Bottleneck(16, 32, 2, width=32, groups=4, squeezed=4),
        Bottleneck(32, 32, width=32, groups=4, squeezed=8),
        Bottleneck(32, 64, 2, width=64, groups=8, squeezed=8),
    ]
    return Classifier(64, conv(3, 8, 3, 2), *stages)


class Next(nn.Module):
    """7×7 depthwise, LayerNorm and two linear layers over channels that stand last, a layer scale (Liu et al. 2022)."""

    def __init__(self, channels: int, drop: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.up, self.down = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.scale, self.drop = nn.Parameter(torch.ones(channels, 1, 1)), DropPath(drop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.down(F.gelu(self.up(y))).permute(0, 3, 1, 2)
        return x + self.drop(self.scale * y)


class ConvNeXt(Classifier):
    """Patches of 4×4, three stages with a norm and a strided 2×2 convolution between, a norm at the end."""

    def __init__(self) -> None:
        stem = nn.Sequential(nn.Conv2d(3, 12, 4, 4), ChannelNorm(12, eps=1e-6))

        def down(c_in: int, c_out: int) -> nn.Module:
            return nn.Sequential(ChannelNorm(c_in, eps=1e-6), nn.Conv2d(c_in, c_out, 2, 2))

        super().__init__(
            48, stem, Next(12, 0.0), Next(12, 0.1), down(12, 24), Next(24, 0.1), down(24, 48), Next(48, 0.2)
        )
        self.norm = ChannelNorm(48, eps=1e-6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = self.norm(F.adaptive_avg_pool2d(self.body(x), 1))
        logits: torch.Tensor = self.fc(pooled.flatten(1))
        return logits


class DeepLab(Network):
    """DeepLab v3 (Chen et al. 2017): output stride 8, atrous pyramid with an image-level branch, logits resized."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_stem(8))
        self.stages = nn.Sequential(
            Bottleneck(8, 32), Bottleneck(32, 48, 2), Bottleneck(48, 48, dilation=2), Bottleneck(48, 64, dilation=4)
        )
        self.branches = nn.ModuleList([conv(64, 16, 1), *(conv(64, 16, 3, dilation=rate) for rate in (2, 4, 6))])
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(64, 16, 1))
        self.project = nn.Sequential(conv(80, 32, 1), nn.Dropout(0.5), conv(32, 32))
        self.classifier = nn.Conv2d(32, 5, 1)

    def body(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stages(self.stem(x))
        image = F.interpolate(self.pooled(x), size=x.shape[-2:], mode="bilinear", align_corners=False)
        found: torch.Tensor = self.project(torch.cat([*(branch(x) for branch in self.branches), image], 1))
        return found

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(self.classifier(self.body(x)), size=x.shape[-2:], mode="bilinear", align_corners=False)
