"""Resize over its attribute space, against onnxruntime, and the fast paths against the general one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onnxmtl.lowering.ops import resize
from onnxmtl.lowering.ops.interpolation import Axis, Interpolation

COORDINATES = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")
NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
SCALES = (0.4, 0.5, 0.6, 0.75, 1.0, 1.3, 1.5, 2.0, 2.5, 3.0)


def image(seed=0, shape=(2, 3, 7, 6)):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def target(draw, sizes):
    """(scales, sizes) for the last two axes of a [2, 3, …] image: one is None."""
    if draw.draw(st.booleans()):
        factors = [draw.draw(st.sampled_from(SCALES)) for _ in sizes]
        return np.array([1, 1, *factors], np.float32), None
    return None, np.array([2, 3, *(draw.draw(st.integers(1, 13)) for _ in sizes)], np.int64)


def inputs(x, scales, sizes):
    return [x, None, scales] if sizes is None else [x, None, None, sizes]


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(COORDINATES), st.sampled_from(NEAREST), st.booleans())
def test_nearest(one_node, draw, coordinates, nearest, constant):
    # On whole coordinates onnxruntime's half_pixel_symmetric is off by a rounding error, which floor and ceil show.
    assume(coordinates != "half_pixel_symmetric" or nearest.startswith("round"))
    x = image()
    scales, sizes = target(draw, x.shape[2:])
    attributes = {"mode": "nearest", "coordinate_transformation_mode": coordinates, "nearest_mode": nearest}
    given_inputs = inputs(x, scales, sizes)
    one_node("Resize", given_inputs, attributes, constants=range(1, 4) if constant else ()).check(0, 0)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(COORDINATES), st.booleans())
def test_linear(one_node, draw, coordinates, antialias):
    x = image()
    scales, sizes = target(draw, x.shape[2:])
    attributes = {"mode": "linear", "coordinate_transformation_mode": coordinates, "antialias": int(antialias)}
    one_node("Resize", inputs(x, scales, sizes), attributes, constants=range(1, 4)).check(3e-6, 3e-6)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(COORDINATES), st.sampled_from([-0.75, -0.5]), st.booleans(), st.booleans())
def test_cubic(one_node, draw, coordinates, coefficient, exclude, antialias):
    x = image()
    scales, sizes = target(draw, x.shape[2:])
    attributes = {
        "mode": "cubic",
        "coordinate_transformation_mode": coordinates,
        "cubic_coeff_a": coefficient,
        "exclude_outside": int(exclude),
        "antialias": int(antialias),
    }
    one_node("Resize", inputs(x, scales, sizes), attributes, constants=range(1, 4)).check(1e-5, 1e-5)


@pytest.mark.parametrize("policy", ["stretch", "not_larger", "not_smaller"])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_axes_and_policy(one_node, policy, mode):
    attributes = {"mode": mode, "axes": [3, 2], "keep_aspect_ratio_policy": policy}
    sizes = np.array([9, 8], np.int64)
    one_node("Resize", [image(), None, None, sizes], attributes).check(3e-6, 3e-6)


@pytest.mark.parametrize("shape", [(2, 3, 7), (1, 2, 4, 5, 6), (5, 6)])
def test_other_ranks(one_node, shape):
    scales = np.array([1.0] * (len(shape) - 1) + [2.0], np.float32)
    one_node("Resize", [image(shape=shape), None, scales], {"mode": "nearest"}).check(0, 0)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["linear", "cubic"]),
    st.sampled_from(["half_pixel", "pytorch_half_pixel", "align_corners", "half_pixel_symmetric"]),
    st.integers(1, 12),
    st.integers(1, 12),
)
def test_torch_is_used_only_where_it_equals_the_matrices(mode, coordinates, height, width):
    x = torch.from_numpy(image().astype(np.float64))
    interpolation = Interpolation(mode, coordinates)
    axes = [(2, Axis(7, height, height / 7)), (3, Axis(6, width, width / 6))]
    assume(resize._like_torch(x, axes, interpolation))
    fast = resize._plan(x, axes, interpolation)(x)
    # An excluded outside of nothing: a rank that torch's path does not take gives the matrices.
    slow = resize._plan(x[None], [(a + 1, step) for a, step in axes], interpolation)(x[None])[0]
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)


def test_whole_factors_are_left_to_torch(monkeypatch):
    used = []
    monkeypatch.setattr(resize.F, "interpolate", lambda y, size, mode: used.append((size, mode)))
    x = torch.zeros(1, 2, 4, 5)
    steps = [(2, Axis(4, 8, 2.0)), (3, Axis(5, 15, 3.0))]
    resize._plan(x, steps, Interpolation("nearest", "asymmetric", "floor"))(x)
    assert used == [([8, 15], "nearest")]


def test_the_batch_may_change_between_calls(one_node):
    from onnxmtl.lowering.ops import Context, kernel_for

    scales = np.array([1, 1, 2, 1.5], np.float32)
    kernel = kernel_for(one_node("Resize", [image(), None, scales], {"mode": "linear"}, constants=[2]).node())
    for batch in (2, 5, 2):
        assert kernel([torch.zeros(batch, 3, 7, 6), None, None], Context()).shape == (batch, 3, 14, 9)
