"""Pad and Slice over their attribute spaces; the other operators on shapes with constant inputs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

FAR = 2**31


def image(shape=(2, 3, 5, 4), dtype=np.float32):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


@settings(max_examples=60, deadline=None)
@given(
    st.data(),
    st.sampled_from(["constant", "reflect", "edge", "wrap"]),
    st.sampled_from([np.float32, np.float64]),
    st.booleans(),
    st.booleans(),
)
def test_pad(one_node, draw, mode, dtype, constant, some_axes):
    x = image(dtype=dtype)
    axes = draw.draw(st.permutations([-1, 2, 1]).map(lambda a: a[:2])) if some_axes else range(4)
    pads = []
    for _ in range(2):
        for axis in axes:
            most = {"reflect": x.shape[axis] - 1, "wrap": x.shape[axis]}.get(mode, 4)
            least = -1 if mode == "constant" else 0
            pads.append(draw.draw(st.integers(least, min(most, 4))))
    # onnxruntime wants something left of every axis.
    inputs = [x, np.array(pads, np.int64)]
    value = draw.draw(st.sampled_from([None, 1.5])) if mode == "constant" else None
    if value is not None or some_axes:
        inputs.append(None if value is None else np.array(value, dtype))
    if some_axes:
        inputs.append(np.array(axes, np.int64))
    one_node("Pad", inputs, {"mode": mode}, constants=(1, 2, 3) if constant else ()).check(0, 0)


@settings(max_examples=80, deadline=None)
@given(st.data(), st.booleans(), st.booleans())
def test_slice(one_node, draw, constant, with_steps):
    x = image()
    axes = draw.draw(st.permutations([0, 1, -2, 3]).map(tuple))[: draw.draw(st.integers(1, 4))]
    bound = st.one_of(st.integers(-7, 7), st.sampled_from([-FAR, FAR, FAR - 1, np.iinfo(np.int64).max]))
    starts, ends = ([draw.draw(bound) for _ in axes] for _ in range(2))
    inputs = [x, np.array(starts, np.int64), np.array(ends, np.int64), np.array(axes, np.int64)]
    if with_steps:
        steps = [draw.draw(st.sampled_from([-3, -2, -1, 1, 2, 3])) for _ in axes]
        inputs.append(np.array(steps, np.int64))
    one_node("Slice", inputs, constants=(1, 2, 3, 4) if constant else ()).check(0, 0)


def int64(*values):
    return np.array(values, np.int64)


SHAPES = [
    ("Reshape", [image(), int64(0, -1)], {}),
    ("Reshape", [image(), int64(0, 3, -1, 2)], {}),
    ("Reshape", [image((2, 0, 3)), int64(0, 3)], {"allowzero": 1}),
    ("Flatten", [image()], {"axis": 0}),
    ("Flatten", [image()], {"axis": -1}),
    ("Flatten", [image((2, 0, 3))], {"axis": 2}),
    ("Transpose", [image()], {}),
    ("Transpose", [image()], {"perm": [0, 2, 3, 1]}),
    ("Squeeze", [image((2, 1, 3, 1))], {}),
    ("Squeeze", [image((2, 1, 3, 1)), int64(-1)], {}),
    ("Unsqueeze", [image((2, 3)), int64(-1, 0)], {}),
    ("Unsqueeze", [image((2, 3)), int64(2, 1)], {}),
    ("Expand", [image((3, 1)), int64(2, 1, 4)], {}),
    ("Expand", [image((3, 4)), int64(1)], {}),
    ("Tile", [image((2, 3)), int64(2, 3)], {}),
    ("Gather", [image(), int64(1, -1)], {"axis": 1}),
    ("Gather", [image(), np.array(-2, np.int64)], {"axis": 2}),
    ("Gather", [image(), int64(1, -1, 0, 2).reshape(2, 2)], {"axis": -2}),
    ("Clip", [image(), np.array(-0.5, np.float32)], {}),
    ("Clip", [image(), None, np.array(0.5, np.float32)], {}),
    ("Clip", [image(), np.array(0.5, np.float32), np.array(-0.5, np.float32)], {}),
    ("ReduceMean", [image(), int64(2, -1)], {"keepdims": 0}),
    ("ReduceMax", [image(), int64(1)], {}),
    ("ReduceL2", [image()], {}),
    ("ReduceSum", [image()], {"noop_with_empty_axes": 1}),
    ("ConstantOfShape", [int64(2, 3)], {}),
    ("ArgMax", [np.array([[1, 3, 3], [2, 2, 1]], np.float32)], {"axis": -1, "select_last_index": 1}),
]


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize(("op_type", "inputs", "attributes"), SHAPES)
def test_constant_and_computed_inputs(one_node, op_type, inputs, attributes, constant):
    one_node(op_type, inputs, attributes, constants=range(1, 4) if constant else ()).check(2e-6, 1e-6)


@pytest.mark.parametrize(
    ("sizes", "attributes", "outputs"),
    [(None, {"num_outputs": 3}, 3), (None, {"num_outputs": 2, "axis": 2}, 2), (int64(1, 2), {"axis": -3}, 2)],
)
def test_split(one_node, sizes, attributes, outputs):
    inputs = [image((5, 3, 5, 4))] if sizes is None else [image((5, 3, 5, 4)), sizes]
    one_node("Split", inputs, attributes, constants=[1], outputs=outputs).check(0, 0)
