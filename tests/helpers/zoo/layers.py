"""What the networks of the zoo are made of."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

Activation = type[nn.Module] | None


def conv(
    c_in: int,
    c_out: int,
    kernel: int | tuple[int, int] = 3,
    stride: int = 1,
    *,
    groups: int = 1,
    dilation: int = 1,
    act: Activation = nn.ReLU,
    padding: int | tuple[int, int] | None = None,
) -> nn.Sequential:
    """Convolution without bias, BatchNorm, activation; "same" padding unless told."""
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    if padding is None:
        padding = (dilation * (height // 2), dilation * (width // 2))
    layers: list[nn.Module] = [
        nn.Conv2d(c_in, c_out, (height, width), stride, padding, dilation, groups, bias=False),
        nn.BatchNorm2d(c_out),
    ]
    return nn.Sequential(*layers, *([act()] if act else []))


class Excite(nn.Module):
    """Squeeze-and-excitation (Hu et al. 2018); `gate` is Sigmoid, or Hardsigmoid in MobileNet v3."""

    def __init__(
        self, channels: int, squeezed: int, act: type[nn.Module] = nn.ReLU, gate: type[nn.Module] = nn.Sigmoid
    ):
        super().__init__()
        self.pool, self.act, self.gate = nn.AdaptiveAvgPool2d(1), act(), gate()
        self.squeeze, self.excite = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gate(self.excite(self.act(self.squeeze(self.pool(x)))))


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): a residual branch is left out, per image, in training."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = 1 - self.rate
        return x * (x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep) / keep)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a map [N, C, H, W]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Network(nn.Module):
    """A backbone: `body` gives the feature map (or maps) that heads would read; `forward` what is exported."""

    def body(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        raise NotImplementedError


class Classifier(Network):
    """Pooling, dropout and a linear classifier behind `layers`."""

    def __init__(self, channels: int, *layers: nn.Module, dropout: float = 0.0, classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(*layers)
        self.dropout, self.fc = nn.Dropout(dropout), nn.Linear(channels, classes)

    def body(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.features(x)
        return found

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = F.adaptive_avg_pool2d(self.body(x), 1).flatten(1)
        logits: torch.Tensor = self.fc(self.dropout(pooled))
        return logits


def seeded(module: Network, seed: int = 0) -> Network:
    """As after training: no two tensors are equal, no tensor is constant, activations stay of the order of one."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(value: torch.Tensor, low: float, high: float) -> None:
        value.uniform_(low, high, generator=generator)

    with torch.no_grad():
        norms = (nn.BatchNorm2d, nn.LayerNorm)
        for layer in module.modules():
            for name, value in layer.named_parameters(recurse=False):
                if isinstance(layer, norms) and name == "weight":
                    uniform(value, 0.5, 1.5)
                elif isinstance(layer, nn.PReLU):
                    uniform(value, 0.1, 0.4)
                elif value.ndim <= 1 or name.endswith("bias"):
                    uniform(value, -0.3, 0.3)
                else:
                    fan = value[0].numel() if value.ndim == 4 else value.shape[-1]
                    value.normal_(0, (1.6 / fan) ** 0.5, generator=generator)
            if isinstance(layer, nn.BatchNorm2d):
                assert layer.running_mean is not None and layer.running_var is not None
                uniform(layer.running_mean, -0.3, 0.3)
                uniform(layer.running_var, 0.6, 1.6)
    return module.eval()
