"""Conv and ConvTranspose over their attribute space, against onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

AUTO = ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")


def ints(low, high, rank):
    return st.lists(st.integers(low, high), min_size=rank, max_size=rank)


@st.composite
def windows(draw, rank, *, most_pad=2):
    """Attributes shared by both operators, as few as the draw has it: absent ones test the defaults."""
    kernel = draw(ints(1, 3, rank))
    attributes = {"group": draw(st.sampled_from([1, 1, 2]))}
    if draw(st.booleans()):
        attributes["kernel_shape"] = kernel
    if draw(st.booleans()):
        attributes["strides"] = draw(ints(1, 3, rank))
    if draw(st.booleans()):
        attributes["dilations"] = draw(ints(1, 2, rank))
    auto = draw(st.sampled_from((*AUTO, "", "")))
    if auto:
        attributes["auto_pad"] = auto
    if auto in ("", "NOTSET") and draw(st.booleans()):
        begin = draw(ints(0, most_pad, rank))
        attributes["pads"] = begin + (begin if draw(st.booleans()) else draw(ints(0, most_pad, rank)))
    return kernel, attributes


def data(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 3), st.booleans(), st.integers(0, 9))
def test_conv(one_node, draw, rank, bias, seed):
    kernel, attributes = draw.draw(windows(rank))
    # onnxruntime has no SAME with dilations.
    if attributes.get("auto_pad", "").startswith("SAME"):
        attributes.pop("dilations", None)
    sizes = draw.draw(ints(5, 9, rank))
    x, w, b = data(seed, (2, 4, *sizes), (6, 4 // attributes["group"], *kernel), (6,))
    one_node("Conv", [x, w, b] if bias else [x, w], attributes).check()


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 2), st.booleans(), st.integers(0, 9))
def test_conv_transpose(one_node, draw, rank, bias, seed):
    kernel, attributes = draw.draw(windows(rank, most_pad=1))
    strides = attributes.get("strides", [1] * rank)
    dilations = attributes.get("dilations", [1] * rank)
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    sizes = draw.draw(ints(3, 5, rank))
    automatic = attributes.get("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER")
    if automatic:
        # onnxruntime crops only; windows that leave gaps between them would have to be extended.
        assume(all(e >= s for e, s in zip(extents, strides, strict=True)))
    elif draw.draw(st.booleans()):
        attributes["output_padding"] = [draw.draw(st.integers(0, s - 1)) for s in strides]
    x, w, b = data(seed, (2, 4, *sizes), (4, 3, *kernel), (3 * attributes["group"],))
    one_node("ConvTranspose", [x, w, b] if bias else [x, w], attributes).check()


@pytest.mark.parametrize("auto", ["NOTSET", "SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("shape", [[9, 10], [10, 9], [8, 8]])
def test_conv_transpose_output_shape(one_node, auto, shape):
    x, w = data(0, (1, 2, 5, 5), (2, 3, 3, 3))
    attributes = {"output_shape": shape, "strides": [2, 2], "auto_pad": auto}
    one_node("ConvTranspose", [x, w], attributes).check()


def test_weights_are_read_from_the_inputs(one_node):
    """The kernel must not remember the initializer: callers pass mixtures."""
    x, w, other = data(0, (1, 2, 5, 5), (3, 2, 3, 3), (3, 2, 3, 3))
    import torch

    from onnxmtl.lowering.ops import Context, kernel_for

    kernel = kernel_for(one_node("Conv", [x, w], constants=[1]).node())
    got = kernel([torch.from_numpy(x), torch.from_numpy(other)], Context()).numpy()
    np.testing.assert_allclose(got, one_node("Conv", [x, other]).expected()[0], rtol=1e-5, atol=1e-5)
