"""VGG, Inception v1 and v3, DenseNet, SqueezeNet."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from helpers.zoo.layers import Classifier, Network, conv


class Vgg(Network):
    """Plain 3×3 convolutions with biases; a classifier that reads a map of fixed size."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        c_in = 3
        for c_out, count in ((8, 1), (16, 2), (32, 2), (32, 2)):
            for _ in range(count):
                layers += [nn.Conv2d(c_in, c_out, 3, padding=1), nn.ReLU(inplace=True)]
                c_in = c_out
            layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(32 * 4 * 4, 48), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(48, 10)
        )

    def body(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.features(x)
        return found

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.body(x).flatten(1))
        return logits


class Branches(nn.Module):
    """Branches side by side, concatenated: every Inception module."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def _v1(c_in: int) -> nn.Module:
    """GoogLeNet's module, 32 channels."""
    return Branches(
        conv(c_in, 8, 1),
        nn.Sequential(conv(c_in, 6, 1), conv(6, 12)),
        nn.Sequential(conv(c_in, 4, 1), conv(4, 6, 5)),
        nn.Sequential(nn.MaxPool2d(3, 1, 1, ceil_mode=True), conv(c_in, 6, 1)),
    )


def inception_v1() -> Network:
    pool = nn.MaxPool2d(3, 2, ceil_mode=True)
    stem = [conv(3, 8, 7, 2), nn.LocalResponseNorm(5), pool, conv(8, 8, 1), conv(8, 16), nn.LocalResponseNorm(5)]
    return Classifier(32, *stem, pool, _v1(16), _v1(32), pool, _v1(32), dropout=0.2)


def _a(c_in: int) -> nn.Module:
    """35×35 of v3: the pool that does not count its padding; 32 channels."""
    return Branches(
        conv(c_in, 8, 1),
        nn.Sequential(conv(c_in, 6, 1), conv(6, 8, 5)),
        nn.Sequential(conv(c_in, 6, 1), conv(6, 8), conv(8, 8)),
        nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), conv(c_in, 8, 1)),
    )


def _c(c_in: int) -> nn.Module:
    """17×17 of v3: 7×7 as 1×7 and 7×1; 48 channels."""
    return Branches(
        conv(c_in, 12, 1),
        nn.Sequential(conv(c_in, 8, 1), conv(8, 8, (1, 7)), conv(8, 12, (7, 1))),
        nn.Sequential(conv(c_in, 8, 1), conv(8, 8, (7, 1)), conv(8, 12, (1, 7))),
        nn.Sequential(nn.AvgPool2d(3, 1, 1), conv(c_in, 12, 1)),
    )


def _e(c_in: int) -> nn.Module:
    """8×8 of v3: 1×3 and 3×1 side by side inside a branch; 56 channels."""
    return Branches(
        conv(c_in, 16, 1),
        nn.Sequential(conv(c_in, 12, 1), Branches(conv(12, 12, (1, 3)), conv(12, 12, (3, 1)))),
        nn.Sequential(nn.AvgPool2d(3, 1, 1), conv(c_in, 16, 1)),
    )


def inception_v3() -> Network:
    """Convolutions and pools without padding in the stem and where the map shrinks (Szegedy et al. 2016)."""
    stem = [conv(3, 8, 3, 2, padding=0), conv(8, 8, padding=0), conv(8, 16), nn.MaxPool2d(3, 2), conv(16, 16, 1)]
    shrink = Branches(nn.Sequential(conv(32, 8, 1), conv(8, 8), conv(8, 8, 3, 2, padding=0)), nn.MaxPool2d(3, 2))
    return Classifier(56, *stem, _a(16), shrink, _c(40), _e(48), dropout=0.5)


class Dense(nn.Module):
    """Normalization stands before its convolution; the input is kept beside the output (Huang et al. 2017)."""

    def __init__(self, c_in: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(c_in), nn.Conv2d(c_in, 4 * growth, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(4 * growth), nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv1(F.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(F.relu(self.norm2(y)))], 1)


def densenet() -> Network:
    def transition(c_in: int, c_out: int) -> list[nn.Module]:
        return [nn.BatchNorm2d(c_in), nn.ReLU(), nn.Conv2d(c_in, c_out, 1, bias=False), nn.AvgPool2d(2, 2)]

    stem = [conv(3, 12, 7, 2), nn.MaxPool2d(3, 2, 1)]
    first = [Dense(12 + 6 * i, 6) for i in range(3)]
    second = [Dense(15 + 6 * i, 6) for i in range(3)]
    return Classifier(33, *stem, *first, *transition(30, 15), *second, nn.BatchNorm2d(33), nn.ReLU())


class Fire(nn.Module):
    """A squeezing 1×1, then 1×1 and 3×3 side by side (Iandola et al. 2016)."""

    def __init__(self, c_in: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(c_in, squeezed, 1)
        self.left, self.right = nn.Conv2d(squeezed, expanded, 1), nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.left(x)), F.relu(self.right(x))], 1)


class SqueezeNet(Network):
    """Pools that round up; the classifier is a convolution before the pooling."""

    def __init__(self) -> None:
        super().__init__()
        pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        stem = [nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), pool]
        self.features = nn.Sequential(*stem, Fire(16, 4, 8), Fire(16, 4, 8), pool, Fire(16, 8, 16), Fire(32, 8, 24))
        self.classifier = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(48, 10, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))

    def body(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.features(x)
        return found

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.body(x)).flatten(1)
        return logits
