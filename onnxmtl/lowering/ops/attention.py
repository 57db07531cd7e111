"""Attention and RotaryEmbedding of opset 23 on."""

from __future__ import annotations

import math

import onnx_ir as ir
import torch
import torch.nn.functional as F

from onnxmtl.lowering.ops.reading import has_output, real, torch_dtype
from onnxmtl.lowering.ops.registry import Context, Inputs, Kernel, Result, lowers


def _input(xs: Inputs, index: int) -> torch.Tensor | None:
    return xs[index] if index < len(xs) else None


@lowers("Attention")
def attention(node: ir.Node) -> Kernel:
    """softmax(scale · Q Kᵀ + bias) V per head.

    Inputs Q, K, V as [N, heads, L, size], or [N, L, heads · size] with the numbers of heads as attributes; a mask to
    add (or of booleans); past keys and values put before K and V; lengths of K per image. K and V may have fewer
    heads, each serving as many of Q's. Under ``is_causal`` position i sees key j up to i + offset, where the offset is
    the number of keys before the queries. A row that sees nothing gives zeros.
    """
    attributes = node.attributes
    heads = attributes.get_int("q_num_heads", 0), attributes.get_int("kv_num_heads", 0)
    given_scale = real(node, "scale", 0.0) if "scale" in attributes else None
    softcap = real(node, "softcap", 0.0)
    causal = bool(attributes.get_int("is_causal", 0))
    left, right = attributes.get_int("left_window_size", -1), attributes.get_int("right_window_size", -1)
    precision = attributes.get_int("softmax_precision", 0)
    shown = attributes.get_int("qk_matmul_output_mode", 0)
    wants_scores = has_output(node, 3)
    everything = wants_scores or has_output(node, 1) or has_output(node, 2)
    # The plain form, which every exporter writes for images, is torch's fused kernel.
    fused = not everything and not softcap and not precision and left < 0 and right < 0

    def kernel(xs: Inputs, ctx: Context) -> Result:
        q, k, v = xs[0], xs[1], xs[2]
        mask, past_key, past_value, lengths = (_input(xs, i) for i in range(3, 7))
        three = q.dim() == 3
        if three:
            q, k, v = _by_head(q, heads[0]), _by_head(k, heads[1]), _by_head(v, heads[1])
        if past_key is not None and past_value is not None:
            k, v = torch.cat((past_key, k), 2), torch.cat((past_value, v), 2)
        scale = 1.0 / math.sqrt(q.shape[-1]) if given_scale is None else given_scale
        if fused and mask is None and past_key is None and lengths is None and not causal and q.shape[1] == k.shape[1]:
            y = F.scaled_dot_product_attention(q, k, v, scale=scale)
            return _joined(y) if three else y
        groups = q.shape[1] // k.shape[1]
        keys, values = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        root = math.sqrt(scale)
        raw = (q * root) @ (keys * root).transpose(-1, -2)
        capped = torch.tanh(raw / softcap) * softcap if softcap else raw
        offset = _offset(q, past_key, lengths)
        biased = capped + _bias(capped, mask, lengths, offset, causal, left, right)
        wide = biased if not precision else biased.to(torch_dtype(ir.DataType(precision)))
        # A row of −∞ alone would be 0/0.
        seen = (biased != -math.inf).any(-1, keepdim=True)
        weights = torch.softmax(torch.where(seen, wide, torch.zeros_like(wide)), -1)
        weights = torch.where(seen, weights, torch.zeros_like(weights)).to(q.dtype)
        y = weights @ values
        y = _joined(y) if three else y
        if not everything:
            return y
        return y, k, v, (raw, capped, biased, weights)[shown]

    return kernel


def _by_head(x: torch.Tensor, heads: int) -> torch.Tensor:
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def _joined(x: torch.Tensor) -> torch.Tensor:
    return x.transpose(1, 2).flatten(2)


def _offset(q: torch.Tensor, past: torch.Tensor | None, lengths: torch.Tensor | None) -> int | torch.Tensor:
    """Keys before the queries: a number, or [N, 1, 1, 1]."""
    if past is not None:
        return past.shape[2]
    return 0 if lengths is None else (lengths.reshape(-1, 1, 1, 1) - q.shape[2])


def _bias(
    scores: torch.Tensor,
    mask: torch.Tensor | None,
    lengths: torch.Tensor | None,
    offset: int | torch.Tensor,
    causal: bool,
    left: int,
    right: int,
) -> torch.Tensor:
    """What is added to the scores: the mask, and −∞ where a query must not look."""
    rows, columns = scores.shape[-2:]
    never = torch.full((), -math.inf, dtype=scores.dtype, device=scores.device)
    zero = torch.zeros((), dtype=scores.dtype, device=scores.device)
    bias = zero
    if mask is not None:
        missing = columns - mask.shape[-1]
        if missing > 0:
            mask = F.pad(mask, (0, missing), value=False if mask.dtype is torch.bool else -math.inf)
        bias = torch.where(mask, zero, never) if mask.dtype is torch.bool else mask.to(scores.dtype)
    column = torch.arange(columns, device=scores.device)
    distance = torch.arange(rows, device=scores.device).reshape(-1, 1) + offset - column
    allowed = torch.ones_like(distance, dtype=torch.bool)
    if causal:
        allowed = allowed & (distance >= 0)
    if left >= 0:
        allowed = allowed & (distance <= left)
    if right >= 0:
        allowed = allowed & (-distance <= right)
    if lengths is not None:
        allowed = allowed & (column < lengths.reshape(-1, 1, 1, 1))
    return bias + torch.where(allowed, zero, never)


@lowers("RotaryEmbedding")
def rotary_embedding(node: ir.Node) -> Kernel:
    """Pairs of elements turned by the angle of their position: halves of the head, or neighbours if interleaved."""
    interleaved = bool(node.attributes.get_int("interleaved", 0))
    rotated = node.attributes.get_int("rotary_embedding_dim", 0)
    heads = node.attributes.get_int("num_heads", 0)

    def kernel(xs: Inputs, ctx: Context) -> torch.Tensor:
        x, cosine, sine = xs[0], xs[1], xs[2]
        positions = _input(xs, 3)
        three = x.dim() == 3
        x = _by_head(x, heads) if three else x
        if positions is not None:
            cosine, sine = cosine[positions], sine[positions]
        cosine, sine = cosine.unsqueeze(1), sine.unsqueeze(1)  # one angle for all heads
        turned, rest = (x[..., :rotated], x[..., rotated:]) if rotated else (x, None)
        a, b = (turned[..., 0::2], turned[..., 1::2]) if interleaved else turned.chunk(2, -1)
        real_part, imaginary = cosine * a - sine * b, sine * a + cosine * b
        if interleaved:
            y = torch.stack((real_part, imaginary), -1).flatten(-2)
        else:
            y = torch.cat((real_part, imaginary), -1)
        y = y if rest is None else torch.cat((y, rest), -1)
        return _joined(y) if three else y

    return kernel
