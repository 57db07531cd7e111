"""Multiply-adds of single nodes at batch 1, from the shapes in the graph.

Convolutions, matrix products and attention count; bias additions, normalizations, interpolation and elementwise
operators do not. The batch is dimension 0 of the graph's input. Its symbol, wherever it stands, and any symbolic first
dimension are taken at batch 1; where the graph's input has a fixed batch, a first dimension that is a multiple of it is
divided by it.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from onnxmtl.errors import ModelError
from onnxmtl.ir.wording import dim_text


def conv(node: ir.Node) -> int:
    """Output elements × weights that reach one of them: C/groups × kernel. Dilation changes neither."""
    weight = shape_at_one(node, node.inputs[1], batched=False)
    return math.prod(shape_at_one(node, node.outputs[0])) * math.prod(weight[1:])


def conv_transpose(node: ir.Node) -> int:
    """Input elements × outputs that one of them reaches: M/groups × kernel (borders are not cut off)."""
    weight = shape_at_one(node, node.inputs[1], batched=False)
    return math.prod(shape_at_one(node, node.inputs[0])) * math.prod(weight[1:])


def gemm(node: ir.Node) -> int:
    """Output elements × length of the inner products."""
    axis = 1 if node.attributes.get_int("transB", 0) else 0
    return math.prod(shape_at_one(node, node.outputs[0])) * _inner(node, node.inputs[1], axis)


def matmul(node: ir.Node) -> int:
    """Output elements × length of the inner products, for weights and activations alike."""
    return math.prod(shape_at_one(node, node.outputs[0])) * _inner(node, node.inputs[1], -2)


def einsum(node: ir.Node) -> int:
    """Factors are joined from left to right; each join is one multiply-add per combination of the labels it sees.

    A label that only one of the two has, and nobody later, is summed before. A single factor has nothing to multiply.
    """
    shapes = [shape_at_one(node, value) for value in node.inputs]
    terms, result = _labels(node.attributes.get_string("equation", ""), [len(shape) for shape in shapes])
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        for label, size in zip(term, shape, strict=True):
            sizes[label] = max(size, sizes.get(label, 1))
    count, left = 0, set(terms[0])
    for i, term in enumerate(terms[1:], 1):
        right, later = set(term), set(result).union(*terms[i + 1 :])
        seen = (left & right) | ((left | right) & later)
        count += math.prod(sizes[label] for label in seen)
        left = (left | right) & later
    return count


def attention(node: ir.Node) -> int:
    """Scores and their product with the values, for every head, query and key (masked ones too)."""
    query, key, value = (shape_at_one(node, node.inputs[i]) for i in range(3))
    past = shape_at_one(node, node.inputs[4])[2] if len(node.inputs) > 4 and node.inputs[4] is not None else 0
    if len(query) == 3:  # [N, L, heads · size]
        heads = node.attributes.get_int("q_num_heads", 1)
        groups = heads // node.attributes.get_int("kv_num_heads", heads)
        pairs, sizes = query[0] * query[1] * (key[1] + past), query[2] + value[2] * groups
    else:  # [N, heads, L, size]
        pairs, sizes = math.prod(query[:3]) * (key[2] + past), query[3] + value[3]
    return pairs * sizes


def _labels(equation: str, ranks: list[int]) -> tuple[list[list[str]], list[str]]:
    """The labels of every factor and of the result; the places of an ellipsis are numbered from the right."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = [_expanded(term, rank) for term, rank in zip(left.split(","), ranks, strict=True)]
    if arrow:
        dots = max((len([x for x in term if x.isdigit()]) for term in terms), default=0)
        return terms, _expanded(right, len(right.replace("...", "")) + (dots if "..." in right else 0))
    everything = [label for term in terms for label in term]
    return terms, [label for label in dict.fromkeys(everything) if label.isdigit() or everything.count(label) == 1]


def _expanded(term: str, rank: int) -> list[str]:
    before, dots, after = term.partition("...")
    count = rank - len(before) - len(after) if dots else 0
    return [*before, *map(str, range(count - 1, -1, -1)), *after]


def _dims(node: ir.Node | None, value: ir.Value | None) -> ir.Shape:
    shape = None
    if value is not None:
        shape = value.shape if value.const_value is None else ir.Shape(value.const_value.shape.numpy())
    if shape is None:
        raise ModelError(_unknown(node, value, "its shape is unknown"))
    return shape


def _inner(node: ir.Node, value: ir.Value | None, axis: int) -> int:
    """Length of the inner products: one dimension of the right factor (the only one of a vector)."""
    shape = _dims(node, value)
    size = shape[axis if len(shape) > 1 else 0]
    if not isinstance(size, int):
        raise ModelError(_unknown(node, value, f"dimension {axis} is {dim_text(size)}, not a number"))
    return size


def shape_at_one(node: ir.Node | None, value: ir.Value | None, *, batched: bool = True) -> tuple[int, ...]:
    """The shape of a value that `node` reads or computes (None: an input of the graph), at batch 1.

    Args:
        node: For its graph, and for the message.
        value: The value; None, an omitted input, is an error.
        batched: Whether the value has a batch; weights have none.

    Raises:
        ModelError: The shape is unknown, or has a dimension that depends on more than the batch.
    """
    dims = []
    batch: str | None = None
    for axis, dim in enumerate(_dims(node, value)):
        if isinstance(dim, int):
            dims.append(_divided(node, dim) if batched and axis == 0 else dim)
            continue
        if axis == 0:
            dims.append(_at_one(dim))
            continue
        batch = batch or _batch_symbol(node)
        if batch is None or dim.value is None or dim.free_symbols() != {batch}:
            raise ModelError(_unknown(node, value, f"dimension {axis} is {dim_text(dim)}, not a number"))
        dims.append(_at_one(dim))
    return tuple(dims)


def _batch_symbol(node: ir.Node | None) -> str | None:
    """What the first dimension of the graph's image is called; None if it has no name."""
    graph = None if node is None else node.graph
    shape = graph.inputs[0].shape if isinstance(graph, ir.Graph) and graph.inputs else None
    dim = shape[0] if shape is not None and len(shape) > 0 else None
    return dim.value if isinstance(dim, ir.SymbolicDim) and dim.value is not None and dim.value.isidentifier() else None


def _at_one(dim: ir.SymbolicDim) -> int:
    """A symbolic first dimension at batch 1: 1 for N, 64 for 64*N."""
    if dim.value is None or dim.value.isidentifier():
        return 1
    size = dim.evaluate(dict.fromkeys(dim.free_symbols(), 1))
    return size if isinstance(size, int) else 1


def _divided(node: ir.Node | None, size: int) -> int:
    graph = None if node is None else node.graph
    shape = graph.inputs[0].shape if isinstance(graph, ir.Graph) and graph.inputs else None
    batch = shape[0] if shape is not None and len(shape) > 0 else None
    return size // batch if isinstance(batch, int) and batch > 1 and size % batch == 0 else size


def _unknown(node: ir.Node | None, value: ir.Value | None, why: str) -> str:
    name = "a missing input" if value is None else repr(value.name)
    what = "the graph's inputs" if node is None else f"{node.op_type} {node.name!r}"
    return f"cannot count what {what} costs: value {name}: {why}; run shape inference with a fixed image size first"
