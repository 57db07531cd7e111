"""Networks with several scales: U-Net (two ways up), FPN and a YOLO-style detector."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from helpers.zoo.layers import Network, conv
from helpers.zoo.residual import Basic


class UNet(Network):
    """Ronneberger et al. 2015; the way up is a transposed convolution, or (`resize`) interpolation."""

    def __init__(self, resize: bool = False) -> None:
        super().__init__()
        widths = (8, 16, 24, 32)
        self.downs = nn.ModuleList(
            nn.Sequential(conv(c_in, c_out), conv(c_out, c_out))
            for c_in, c_out in zip((3, *widths), widths, strict=False)
        )
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.resize = resize
        self.ups = nn.ModuleList(
            nn.Conv2d(c_in, c_out, 1) if resize else nn.ConvTranspose2d(c_in, c_out, 2, 2) for c_in, c_out in pairs
        )
        self.merges = nn.ModuleList(nn.Sequential(conv(2 * c, c), conv(c, c)) for _, c in pairs)
        self.classifier = nn.Conv2d(widths[0], 5, 1)

    def body(self, x: torch.Tensor) -> torch.Tensor:
        kept: list[torch.Tensor] = []
        for i, down in enumerate(self.downs):
            x = down(F.max_pool2d(x, 2) if i else x)
            kept.append(x)
        kept.pop()
        for up, merge in zip(self.ups, self.merges, strict=True):
            skip = kept.pop()
            if self.resize:
                x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
            x = merge(torch.cat([skip, up(x)], 1))
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.body(x))
        return logits


class Fpn(Network):
    """Lin et al. 2017: lateral 1×1 convolutions, a nearest-neighbour path down, four maps."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 8, 7, 2), nn.MaxPool2d(3, 2, 1))
        self.stages = nn.ModuleList([Basic(8, 8), Basic(8, 16, 2), Basic(16, 32, 2), Basic(32, 48, 2)])
        self.lateral = nn.ModuleList(nn.Conv2d(c, 16, 1) for c in (8, 16, 32, 48))
        self.smooth = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(4))

    def body(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x, found = self.stem(x), []
        for stage, lateral in zip(self.stages, self.lateral, strict=True):
            x = stage(x)
            found.append(lateral(x))
        for i in (2, 1, 0):
            found[i] = found[i] + F.interpolate(found[i + 1], size=found[i].shape[-2:], mode="nearest")
        return tuple(smooth(y) for smooth, y in zip(self.smooth, found, strict=True))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.body(x)


class Csp(nn.Module):
    """Cross-stage partial block in YOLO's way: split, residual bottlenecks on one part, everything concatenated."""

    def __init__(self, c_in: int, c_out: int, count: int = 1, shortcut: bool = True) -> None:
        super().__init__()
        half = c_out // 2
        self.first = conv(c_in, c_out, 1, act=nn.SiLU)
        self.steps = nn.ModuleList(
            nn.Sequential(conv(half, half, act=nn.SiLU), conv(half, half, act=nn.SiLU)) for _ in range(count)
        )
        self.last, self.shortcut = conv((2 + count) * half, c_out, 1, act=nn.SiLU), shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = list(self.first(x).chunk(2, 1))
        for step in self.steps:
            parts.append(parts[-1] + step(parts[-1]) if self.shortcut else step(parts[-1]))
        found: torch.Tensor = self.last(torch.cat(parts, 1))
        return found


class Sppf(nn.Module):
    """The same max pooling three times in a row, all of it kept."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.a, self.b = conv(channels, channels // 2, 1, act=nn.SiLU), conv(2 * channels, channels, 1, act=nn.SiLU)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [self.a(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        found: torch.Tensor = self.b(torch.cat(parts, 1))
        return found


class Yolo(Network):
    """CSP stages, SPPF, a way up and a way down again, one prediction per scale."""

    def __init__(self) -> None:
        super().__init__()

        def down(c_in: int, c_out: int) -> nn.Module:
            return conv(c_in, c_out, 3, 2, act=nn.SiLU)

        self.stem = nn.Sequential(down(3, 8), down(8, 16), Csp(16, 16))
        self.c3 = nn.Sequential(down(16, 24), Csp(24, 24))
        self.c4 = nn.Sequential(down(24, 32), Csp(32, 32))
        self.c5 = nn.Sequential(down(32, 48), Csp(48, 48), Sppf(48))
        self.up, self.up4, self.up3 = nn.Upsample(scale_factor=2), Csp(80, 32, 1, False), Csp(56, 24, 1, False)
        self.down3, self.down4 = down(24, 24), down(32, 32)
        self.out4, self.out5 = Csp(56, 32, 1, False), Csp(80, 48, 1, False)
        self.predict = nn.ModuleList(nn.Conv2d(c, 9, 1) for c in (24, 32, 48))

    def body(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        c3 = self.c3(self.stem(x))
        c4 = self.c4(c3)
        c5 = self.c5(c4)
        p4 = self.up4(torch.cat([self.up(c5), c4], 1))
        p3 = self.up3(torch.cat([self.up(p4), c3], 1))
        n4 = self.out4(torch.cat([self.down3(p3), p4], 1))
        n5 = self.out5(torch.cat([self.down4(n4), c5], 1))
        return p3, n4, n5

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(predict(y) for predict, y in zip(self.predict, self.body(x), strict=True))
