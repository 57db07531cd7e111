"""Elements picked and put by computed places: GatherElements, GatherND, ScatterElements, ScatterND."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import onnx_ir as ir
import torch

from onnxmtl.lowering.ops.registry import Context, Inputs, Kernel, lowers

Reduction = Literal["sum", "prod", "amax", "amin"]
_REDUCTIONS: dict[str, Reduction] = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@lowers("GatherElements")
def gather_elements(node: ir.Node) -> Kernel:
    """y[i, j, …] = x[…, index[i, j, …], …] along an axis."""
    axis = node.attributes.get_int("axis", 0)

    def kernel(xs: Inputs, ctx: Context) -> torch.Tensor:
        x: torch.Tensor = xs[0]
        return torch.gather(x, axis, _positive(xs[1], x.shape[axis]))

    return kernel


@lowers("GatherND")
def gather_nd(node: ir.Node) -> Kernel:
    """y[b, i, …] = x[b, indices[b, i, :], …], with the first ``batch_dims`` axes in common."""
    batch = node.attributes.get_int("batch_dims", 0)

    def kernel(xs: Inputs, ctx: Context) -> torch.Tensor:
        x, indices = xs
        shape = x.shape
        common = math.prod(shape[:batch])
        depth = indices.shape[-1]
        flat = x.reshape(common, *shape[batch:])
        places = indices.reshape(common, -1, depth)
        index = [torch.arange(common, device=x.device).reshape(-1, 1)]
        index += [_positive(places[..., k], shape[batch + k]) for k in range(depth)]
        return flat[tuple(index)].reshape(*indices.shape[:-1], *shape[batch + depth :])  # type: ignore[no-any-return]

    return kernel


@lowers("ScatterElements")
def scatter_elements(node: ir.Node) -> Kernel:
    """x with updates[i, j, …] put (or added, multiplied, …) at […, index[i, j, …], …] along an axis."""
    axis = node.attributes.get_int("axis", 0)
    reduction = _REDUCTIONS.get(node.attributes.get_string("reduction", "none"))

    def kernel(xs: Inputs, ctx: Context) -> torch.Tensor:
        x, indices, updates = xs
        indices = _positive(indices, x.shape[axis])
        if reduction is None:
            return torch.scatter(x, axis, indices, updates)
        return torch.scatter_reduce(x, axis, indices, updates, reduction)

    return kernel


@lowers("ScatterND")
def scatter_nd(node: ir.Node) -> Kernel:
    """x with updates[i, …] put (or added, multiplied, …) at x[indices[i, :], …]."""
    reduction = _REDUCTIONS.get(node.attributes.get_string("reduction", "none"))

    def kernel(xs: Inputs, ctx: Context) -> torch.Tensor:
        x, indices, updates = xs
        depth = indices.shape[-1]
        rest = x.shape[depth:]
        row = _rows(indices.reshape(-1, depth), x.shape[:depth])
        flat = x.reshape(math.prod(x.shape[:depth]), math.prod(rest))
        values = updates.reshape(-1, math.prod(rest))
        at = row.reshape(-1, 1).expand(values.shape)
        if reduction is None:
            y = torch.scatter(flat, 0, at, values)
        else:
            y = torch.scatter_reduce(flat, 0, at, values, reduction)
        return y.reshape(x.shape)

    return kernel


def _positive(indices: torch.Tensor, size: int) -> torch.Tensor:
    """Indices that count from the end made to count from the beginning."""
    indices = indices.to(torch.int64)
    return torch.where(indices < 0, indices + size, indices)


def _rows(places: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Places [n, d] in a tensor of that shape as positions in the flat one."""
    row = torch.zeros(places.shape[0], dtype=torch.int64, device=places.device)
    for k, size in enumerate(shape):
        row = row * size + _positive(places[:, k], size)
    return row
