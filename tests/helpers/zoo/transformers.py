"""ViT (two writings of attention) and Swin."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from helpers.zoo.layers import DropPath, Network


class Mlp(nn.Sequential):
    def __init__(self, width: int, dropout: float = 0.0) -> None:
        super().__init__(nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, width))


class Attention(nn.Module):
    """One projection to queries, keys and values, and torch's fused product, as timm writes it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.qkv, self.project, self.heads = nn.Linear(width, 3 * width), nn.Linear(width, width), heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, length, c = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        y: torch.Tensor = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, c)
        found: torch.Tensor = self.project(y)
        return found


class MultiHead(nn.Module):
    """torch's own layer, as torchvision writes it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.layer = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layer(x, x, x, need_weights=False)[0]
        return found


class Block(nn.Module):
    """Attention and two linear layers, each behind a LayerNorm and beside a shortcut."""

    def __init__(self, width: int, attention: nn.Module, dropout: float) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width, eps=1e-6), attention
        self.norm2, self.mlp, self.dropout = nn.LayerNorm(width, eps=1e-6), Mlp(width, dropout), nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.dropout(self.attention(self.norm1(x)))
        return x + self.mlp(self.norm2(x))


class Vit(Network):
    """Dosovitskiy et al. 2021: patches of 8×8 as tokens, learnt positions; `cls`: a token of its own is classified,
    else the mean of all tokens is."""

    def __init__(self, cls: bool, dropout: float = 0.1, width: int = 32, heads: int = 4, depth: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.cls = nn.Parameter(torch.zeros(1, 1, width)) if cls else None
        self.position = nn.Parameter(torch.zeros(1, 64 + cls, width))
        kind = MultiHead if cls else Attention
        self.blocks = nn.Sequential(*(Block(width, kind(width, heads), dropout) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, 10)
        self.dropout = nn.Dropout(dropout)

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        """[N, (1 +) H·W, C], normalized."""
        n = x.shape[0]
        patches = self.patches(x)
        x = patches.reshape(n, patches.shape[1], 64).permute(0, 2, 1)
        if self.cls is not None:
            x = torch.cat([self.cls.expand(n, -1, -1), x], dim=1)
        found: torch.Tensor = self.norm(self.blocks(self.dropout(x + self.position)))
        return found

    def body(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.tokens(x)
        tokens = tokens if self.cls is None else tokens[:, 1:]
        return tokens.transpose(1, 2).reshape(x.shape[0], -1, 8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.tokens(x)
        logits: torch.Tensor = self.head(tokens.mean(1) if self.cls is None else tokens[:, 0])
        return logits


class Windowed(nn.Module):
    """Attention in windows that are shifted by rolling the map; what meets by rolling is masked (Liu et al. 2021).

    The mask is made in `forward`, by slices, and biases are looked up by relative position, as torchvision does.
    """

    def __init__(self, width: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads, self.window, self.shift = heads, window, shift
        self.bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        grid = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
        relative = (grid[:, :, None] - grid[:, None, :]).permute(1, 2, 0) + window - 1
        self.register_buffer("index", (relative[..., 0] * (2 * window - 1) + relative[..., 1]).flatten())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, h, w, c = x.shape
        size, length = self.window, self.window**2
        rows, columns = h // size, w // size
        shift = self.shift if h > size else 0
        if shift:
            x = torch.roll(x, (-shift, -shift), (1, 2))
        x = x.view(n, rows, size, columns, size, c).permute(0, 1, 3, 2, 4, 5).reshape(n * rows * columns, length, c)
        qkv = self.qkv(x).reshape(x.shape[0], length, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        scores = (q * (c // self.heads) ** -0.5).matmul(k.transpose(-2, -1))
        scores = scores + self.bias_table[self.index].view(length, length, -1).permute(2, 0, 1).contiguous()[None]
        if shift:
            mask = x.new_zeros((h, w))
            count = 0
            for high in ((0, -size), (-size, -shift), (-shift, None)):
                for wide in ((0, -size), (-size, -shift), (-shift, None)):
                    mask[high[0] : high[1], wide[0] : wide[1]] = count
                    count += 1
            mask = mask.view(rows, size, columns, size).permute(0, 2, 1, 3).reshape(rows * columns, length)
            mask = mask.unsqueeze(1) - mask.unsqueeze(2)
            mask = mask.masked_fill(mask != 0, -100.0).masked_fill(mask == 0, 0.0)
            scores = scores.view(n, rows * columns, self.heads, length, length) + mask[None, :, None]
            scores = scores.view(-1, self.heads, length, length)
        x = self.project(F.softmax(scores, -1).matmul(v).transpose(1, 2).reshape(-1, length, c))
        x = x.view(n, rows, columns, size, size, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
        return torch.roll(x, (shift, shift), (1, 2)) if shift else x


class SwinBlock(nn.Module):
    def __init__(self, width: int, heads: int, shift: int, drop: float) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Windowed(width, heads, 4, shift)
        self.norm2, self.mlp, self.drop = nn.LayerNorm(width), Mlp(width), DropPath(drop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.drop(self.attention(self.norm1(x)))
        return x + self.drop(self.mlp(self.norm2(x)))


class Merge(nn.Module):
    """Four neighbours become one token of double width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.reduce = nn.LayerNorm(4 * width), nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        corners = [x[..., i::2, j::2, :] for j in (0, 1) for i in (0, 1)]
        found: torch.Tensor = self.reduce(self.norm(torch.cat(corners, -1)))
        return found


class Swin(Network):
    """Maps [N, H, W, C] between patches of 4×4 and the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm0 = nn.Conv2d(3, 16, 4, 4), nn.LayerNorm(16)
        blocks = [SwinBlock(16, 2, 0, 0.0), SwinBlock(16, 2, 2, 0.1), Merge(16)]
        blocks += [SwinBlock(32, 2, 0, 0.1), SwinBlock(32, 2, 2, 0.1), Merge(32), SwinBlock(64, 4, 2, 0.2)]
        self.blocks, self.norm, self.head = nn.Sequential(*blocks), nn.LayerNorm(64), nn.Linear(64, 10)

    def body(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm0(self.patches(x).permute(0, 2, 3, 1))
        found: torch.Tensor = self.norm(self.blocks(x)).permute(0, 3, 1, 2)
        return found

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(F.adaptive_avg_pool2d(self.body(x), 1).flatten(1))
        return logits
