"""MaxPool and AveragePool over their attribute space, against onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st


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
