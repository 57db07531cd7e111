"""MaxPool and AveragePool over their attribute space, against onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmtl.lowering.ops import Context, kernel_for


def ints(low, high, rank):
    return st.lists(st.integers(low, high), min_size=rank, max_size=rank)


@st.composite
def pools(draw, rank):
    kernel = draw(ints(1, 4, rank))
    attributes = {"kernel_shape": kernel}
    if draw(st.booleans()):
        attributes["strides"] = draw(ints(1, 3, rank))
    auto = draw(st.sampled_from(["", "", "", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    if auto.startswith("SAME"):  # onnxruntime refuses windows with gaps between them
        attributes["strides"] = [draw(st.integers(1, k)) for k in kernel]
    if auto:
        attributes["auto_pad"] = auto
    else:
        attributes["ceil_mode"] = draw(st.integers(0, 1))
        if draw(st.booleans()):
            # Pads below the kernel: a window must see at least one element.
            begin = [draw(st.integers(0, k - 1)) for k in kernel]
            end = begin if draw(st.booleans()) else [draw(st.integers(0, k - 1)) for k in kernel]
            attributes["pads"] = begin + end
        if draw(st.booleans()):
            attributes["dilations"] = draw(ints(1, 2, rank))
    return attributes


def image(seed, rank, sizes, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal((2, 3, *sizes)).astype(dtype)


@settings(max_examples=70, deadline=None)
@given(st.data(), st.integers(1, 3), st.sampled_from([np.float32, np.float64]), st.integers(0, 9))
def test_max_pool(one_node, draw, rank, dtype, seed):
    attributes = draw.draw(pools(rank))
    x = image(seed, rank, draw.draw(ints(8, 11, rank)), dtype)
    one_node("MaxPool", [x], attributes).check(rtol=0, atol=0)


@settings(max_examples=70, deadline=None)
@given(st.data(), st.integers(1, 3), st.integers(0, 1), st.integers(0, 9))
def test_average_pool(one_node, draw, rank, include, seed):
    attributes = draw.draw(pools(rank)) | {"count_include_pad": include}
    x = image(seed, rank, draw.draw(ints(8, 11, rank)))
    one_node("AveragePool", [x], attributes).check()


@pytest.mark.parametrize("op_type", ["MaxPool", "AveragePool"])
def test_ceil_mode_ignores_a_window_in_the_end_pad(one_node, op_type):
    x = image(0, 2, (3, 3))
    attributes = {"kernel_shape": [1, 1], "strides": [2, 2], "ceil_mode": 1, "pads": [0, 0, 0, 0]}
    case = one_node(op_type, [image(0, 2, (6, 6))], attributes | {"kernel_shape": [2, 2], "strides": [3, 3]})
    case.check()
    assert case.lowered()[0].shape == (2, 3, 2, 2)
    one_node(op_type, [x], attributes).check()


@pytest.mark.parametrize("op_type", ["GlobalAveragePool", "GlobalMaxPool"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_global(one_node, op_type, rank):
    one_node(op_type, [image(0, rank, (4, 5, 3)[:rank])]).check()


@pytest.mark.parametrize("order", [1, 2, 3])
def test_global_lp_pool(one_node, order):
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)
    one_node("GlobalLpPool", [x], {"p": order}).check()


def test_lp_pool_of_zeros_has_gradients():
    node = ir.node("LpPool", [ir.Value(name="x")], {"kernel_shape": [2, 2]})
    x = torch.zeros(1, 1, 4, 4, requires_grad=True)
    kernel_for(node)([x], Context()).sum().backward()
    assert torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [1, 0, 0, 1]])
@pytest.mark.parametrize("storage_order", [0, 1])
def test_places_of_the_largest(one_node, pads, storage_order):
    x = np.random.default_rng(0).standard_normal((2, 3, 6, 5)).astype(np.float32)
    attributes = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": pads, "storage_order": storage_order}
    one_node("MaxPool", [x], attributes, outputs=2).check()
