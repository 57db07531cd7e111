"""ResizeAllAxes: the ``axes`` of a Resize vanish, and ONNX Runtime computes the same bits."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onnxmtl import runtime
from onnxmtl.ir import Role, head_of, new_initializer, role_of, set_role, set_sources, sources, to_bytes
from onnxmtl.ir.provenance import HEAD_KEY
from onnxmtl.passes.finalize import ResizeAllAxes
from onnxmtl.passes.instruments import find_violation

SIZE = (6, 4)  # of the image; its batch and channels are 2 and 3
MODES = (
    *(("nearest", {"nearest_mode": how}) for how in ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")),
    ("linear", {}), ("linear", {"antialias": 1}), ("cubic", {"cubic_coeff_a": -0.5}),
)  # fmt: skip
COORDINATES = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")
AXES = ((2, 3), (3, 2), (-2, -1), (3,), (2,))


def resize(axes, amounts, *, by="sizes", shape=("N", 3, *SIZE), computed=False, **attributes):
    """A model of one Resize; `amounts` are for `axes`, given by an initializer or computed from one."""
    x = ir.Value(name="image", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(shape))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 21}, name="g")
    dtype = np.int64 if by == "sizes" else np.float32
    amount = set_role(new_initializer(graph, "amount", np.array(amounts, dtype)), Role.HEAD)
    if computed:
        doubled = ir.node("Add", [amount, amount], name="doubled")
        amount.const_value = ir.tensor(np.array(amounts, dtype) // 2 if by == "sizes" else np.array(amounts, dtype) / 2)
        doubled.outputs[0].type, doubled.outputs[0].shape = amount.type, amount.shape
        graph.append(doubled)
        amount = doubled.outputs[0]
    inputs = [x, None, None, amount] if by == "sizes" else [x, None, amount]
    node = ir.node("Resize", inputs, {"axes": list(axes), **attributes}, name="resize")
    set_sources(node, ["theirs"])
    node.metadata_props[HEAD_KEY] = "seg"
    node.outputs[0].name, node.outputs[0].type = "y", ir.TensorType(ir.DataType.FLOAT)
    node.outputs[0].shape = ir.Shape([None] * len(shape))
    graph.append(node)
    graph.outputs.append(node.outputs[0])
    return ir.Model(graph, ir_version=10)


def run(model, shape=(2, 3, *SIZE)):
    image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return runtime.run(runtime.session(to_bytes(model), optimize=False), image)["y"]


def rewritten(model):
    """The Resize after the pass; the model is valid and computes the same bits, and the pass is done with it."""
    before = run(model)
    assert ResizeAllAxes()(model).modified
    assert find_violation(model.graph) is None
    onnx.checker.check_model(onnx.load_model_from_string(to_bytes(model)), full_check=True)
    after = run(model)
    assert after.shape == before.shape and after.tobytes() == before.tobytes()
    assert not ResizeAllAxes()(model).modified
    (node,) = (node for node in model.graph if node.op_type == "Resize")
    assert "axes" not in node.attributes
    return node


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(MODES), st.sampled_from(COORDINATES), st.sampled_from(AXES), st.booleans(), st.booleans(), st.data()
)
def test_the_bits_stay(mode, coordinates, axes, by_sizes, computed, draw):
    kind, attributes = mode
    if computed:
        assume(axes != (3, 2))  # left as it is, see below
    if by_sizes:
        amounts = [draw.draw(st.integers(1, 7)) * (2 if computed else 1) for _ in axes]
    else:
        amounts = [draw.draw(st.sampled_from((0.5, 0.75, 1.0, 1.3, 2.0, 3.0))) for _ in axes]
    shape = draw.draw(st.sampled_from([("N", 3, *SIZE), (2, 3, *SIZE), ("N", "C", *SIZE), ("N", 3, "H", "W")]))
    model = resize(
        axes, amounts, by="sizes" if by_sizes else "scales", shape=shape, computed=computed,
        mode=kind, coordinate_transformation_mode=coordinates, **attributes,
    )  # fmt: skip
    rewritten(model)


def constants(node):
    return [None if v is None or v.const_value is None else v.const_value.numpy().tolist() for v in node.inputs[1:]]


def test_exact_ratios_become_scales():
    model = resize((2, 3), (12, 2))
    node = rewritten(model)
    assert constants(node) == [None, [1, 1, 2, 0.5]]
    assert len(model.graph) == 1
    assert role_of(node.inputs[2]) is Role.HEAD  # as the sizes were


def test_other_ratios_stay_sizes():
    """7/6 is no float32 number; the open batch is read from the tensor, under the same sources, in the same head."""
    model = resize((2, 3), (7, 4))
    node = rewritten(model)
    shape, concat = (node.inputs[3].producer().inputs[0].producer(), node.inputs[3].producer())
    assert [n.op_type for n in model.graph] == ["Shape", "Concat", "Resize"]
    assert concat.inputs[1].const_value.numpy().tolist() == [3, 7, 4]
    for made in (shape, concat):
        assert sources(made) == ("theirs",) and head_of(made) == "seg"
    assert run(model, (5, 3, *SIZE)).shape == (5, 3, 7, 4)


def test_nothing_is_computed_for_a_fixed_batch():
    node = rewritten(resize((-2,), (7,), shape=(2, 3, *SIZE)))
    assert constants(node) == [None, None, [2, 3, 7, 4]]


def test_a_rounded_scale_would_be_wrong():
    """Why 7/3 is not written as a scale: pixel 7 of 14 would be taken from place 2.999…, which floor makes 2."""
    options = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
    shape = ("N", 3, 6, 6)
    right = resize((3,), (14,), shape=shape, **options)
    up = np.nextafter(np.float32(7 / 3), np.float32(9))
    wrong = resize((3,), (up,), by="scales", shape=shape, **options)
    expected, found = (run(model, (2, 3, 6, 6)) for model in (right, wrong))
    assert expected.shape == found.shape and not np.array_equal(expected, found)
    ResizeAllAxes()(right)
    np.testing.assert_array_equal(run(right, (2, 3, 6, 6)), expected)


def test_sizes_of_another_tensor():
    """As our heads have it for open sizes: the sizes come from Shape."""
    model = resize((2, 3), (8, 8), computed=True)
    node = rewritten(model)
    assert [n.op_type for n in model.graph] == ["Add", "Shape", "Concat", "Resize"]
    assert node.inputs[3].producer().inputs[2].name == model.graph[0].outputs[0].name


@pytest.mark.parametrize(
    "options",
    [
        {"keep_aspect_ratio_policy": "not_larger"},
        {"coordinate_transformation_mode": "tf_crop_and_resize"},
        {"axes": (3, 2), "computed": True},
        {"shape": None},
    ],
    ids=["aspect", "crop", "computed", "unknown"],
)
def test_what_is_left_as_it_is(options):
    options = {"axes": (2, 3), "amounts": (8, 8), **options}
    unknown = options.get("shape", ()) is None
    model = resize(**({key: value for key, value in options.items() if key != "shape"}))
    if unknown:
        model.graph.inputs[0].shape = None
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert not ResizeAllAxes()(model).modified
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_without_axes_nothing_happens():
    model = resize((2, 3), (12, 8))
    ResizeAllAxes()(model)
    assert not ResizeAllAxes()(model).modified


def test_the_reference_is_not_blind():
    """The twin that is broken on purpose: scales for the wrong axes are seen."""
    model = resize((2, 3), (12, 2))
    before = run(model)
    node = model.graph[0]
    ResizeAllAxes()(model)
    node.inputs[2].const_value = ir.tensor(np.array([1, 1, 0.5, 2], np.float32))
    assert run(model).shape != before.shape
