"""Gemm and MatMul."""

from __future__ import annotations

import onnx_ir as ir
import torch
import torch.nn.functional as F

from onnxmtl.lowering.ops.reading import real
from onnxmtl.lowering.ops.registry import Context, Inputs, Kernel, lowers


@lowers("Gemm")
def gemm(node: ir.Node) -> Kernel:
    """y = alpha · A' B' + beta · C, where ' is the transposition asked for."""
    alpha = real(node, "alpha", 1.0)
    beta = real(node, "beta", 1.0)
    left = bool(node.attributes.get_int("transA", 0))
    right = bool(node.attributes.get_int("transB", 0))

    def plain(xs: Inputs, ctx: Context) -> torch.Tensor:
        return F.linear(xs[0], xs[1], xs[2] if len(xs) > 2 else None)

    def general(xs: Inputs, ctx: Context) -> torch.Tensor:
        a, b = xs[0], xs[1]
        y: torch.Tensor = (a.t() if left else a) @ (b.t() if right else b)
        if alpha != 1.0:
            y = alpha * y
        c = xs[2] if len(xs) > 2 else None
        if c is None:
            return y
        return y + c if beta == 1.0 else torch.add(y, c, alpha=beta)

    bias = node.inputs[2] if len(node.inputs) > 2 else None
    vector = bias is None or (bias.shape is not None and len(bias.shape) == 1 and bias.is_initializer())
    return plain if right and not left and alpha == beta == 1.0 and vector and _full(node) else general


def _full(node: ir.Node) -> bool:
    """Whether the bias has one element per column (a single one would have to be broadcast)."""
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    weight = node.inputs[1]
    if bias is None:
        return True
    return (
        weight is not None and bias.shape is not None and weight.shape is not None and bias.shape[0] == weight.shape[0]
    )


@lowers("Einsum")
def einsum(node: ir.Node) -> Kernel:
    """Sums of products by index letters."""
    equation = node.attributes["equation"].as_string()
    return lambda xs, ctx: torch.einsum(equation, *xs)


@lowers("Det")
def determinant(node: ir.Node) -> Kernel:
    """Determinants of square matrices."""
    return lambda xs, ctx: torch.linalg.det(xs[0])


@lowers("MatMul")
def matmul(node: ir.Node) -> Kernel:
    """numpy's matmul."""
    return lambda xs, ctx: torch.matmul(xs[0], xs[1])
