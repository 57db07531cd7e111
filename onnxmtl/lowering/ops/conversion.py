"""Cast, Identity, Constant, ConstantOfShape, Shape, Range, EyeLike: values that carry types, shapes and constants."""

from __future__ import annotations

import math

import onnx_ir as ir
import torch

from onnxmtl.lowering.ops.reading import ints, number, torch_dtype, torch_tensor
from onnxmtl.lowering.ops.registry import Context, Inputs, Kernel, lowers


@lowers("Cast")
def cast(node: ir.Node) -> Kernel:
    """Conversion to the type ``to``."""
    dtype = torch_dtype(ir.DataType(node.attributes["to"].as_int()))
    return lambda xs, ctx: xs[0].to(dtype)


@lowers("CastLike")
def cast_like(node: ir.Node) -> Kernel:
    """Conversion to the type of the second input."""
    return lambda xs, ctx: xs[0].to(xs[1].dtype)


@lowers("Identity")
def identity(node: ir.Node) -> Kernel:
    """The input itself."""
    return lambda xs, ctx: xs[0]


@lowers("Constant")
def constant_node(node: ir.Node) -> Kernel:
    """The attribute's tensor, on the CPU (normalization turns Constants into initializers)."""
    tensor = ir.convenience.get_const_tensor(node.outputs[0])
    assert tensor is not None
    value = torch_tensor(tensor)
    return lambda xs, ctx: value


@lowers("ConstantOfShape")
def constant_of_shape(node: ir.Node) -> Kernel:
    """A tensor of the given shape, filled with the attribute's only element (0.0 by default)."""
    attribute = node.attributes.get("value")
    fill = torch.zeros(1) if attribute is None else torch_tensor(attribute.as_tensor())
    shape_of = ints(node, 0)
    value = fill.reshape(-1)[0].item()

    def kernel(xs: Inputs, ctx: Context) -> torch.Tensor:
        device = None if xs[0] is None else xs[0].device
        return torch.full(shape_of(xs) or (), value, dtype=fill.dtype, device=device)

    return kernel


@lowers("Shape")
def shape(node: ir.Node) -> Kernel:
    """The dimensions ``start`` … ``end`` of the input, int64, on its device."""
    start = node.attributes.get_int("start", 0)
    end = node.attributes.get_int("end", None)

    def kernel(xs: Inputs, ctx: Context) -> torch.Tensor:
        return torch.tensor(xs[0].shape[start:end], dtype=torch.int64, device=xs[0].device)

    return kernel


@lowers("Size")
def size(node: ir.Node) -> Kernel:
    """The number of elements, int64, on the input's device."""
    return lambda xs, ctx: torch.tensor(xs[0].numel(), dtype=torch.int64, device=xs[0].device)


@lowers("Range")
def range_(node: ir.Node) -> Kernel:
    """start, start + delta, … below (above, for a negative delta) the limit."""
    readers = [number(node, i) for i in range(3)]

    def kernel(xs: Inputs, ctx: Context) -> torch.Tensor:
        like = next((x for x in xs if x is not None), None)
        start, limit, delta = (float(v) if isinstance(v, torch.Tensor) else v for v in (read(xs) for read in readers))
        assert start is not None and limit is not None and delta is not None
        count = max(math.ceil((limit - start) / delta), 0)
        dtype = _range_dtype(node) if like is None else like.dtype
        steps = torch.arange(count, device=None if like is None else like.device)
        return (start + steps.to(torch.float64) * delta).to(dtype)

    return kernel


def _range_dtype(node: ir.Node) -> torch.dtype:
    value = node.inputs[0]
    dtype = None if value is None else value.dtype
    return torch.float32 if dtype is None else torch_dtype(dtype)


@lowers("EyeLike")
def eye_like(node: ir.Node) -> Kernel:
    """Ones on the k-th diagonal of a matrix of the input's shape."""
    shift = node.attributes.get_int("k", 0)
    dtype = torch_dtype(ir.DataType(node.attributes["dtype"].as_int())) if "dtype" in node.attributes else None

    def kernel(xs: Inputs, ctx: Context) -> torch.Tensor:
        x: torch.Tensor = xs[0]
        rows, columns = (torch.arange(n, device=x.device) for n in x.shape)
        return (columns - rows[:, None] == shift).to(dtype or x.dtype)

    return kernel
