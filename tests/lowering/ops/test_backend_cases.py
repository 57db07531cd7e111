"""Every operator we claim, on onnx's own backend cases: against onnxruntime where it runs the case, else against
the outputs that come with it; in float32 as given, and once more in float64 where onnxruntime has that."""

from __future__ import annotations

import copy
import functools
import warnings

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import numpy_helper

from onnxmtl import runtime
from onnxmtl.errors import ModelError
from onnxmtl.lowering.ops import Context, kernel_for, supported_operators
from onnxmtl.lowering.ops.reading import torch_tensor

# Cases left out, by pattern or name, with the reason.
SMALL_TYPES = ("FLOAT8", "FLOAT4", "INT4", "INT2")  # types that torch does not have
UNSIGNED = ("_uint16", "_uint32", "_uint64")  # torch has these types but no arithmetic on them
EXCLUDED = {
    "test_batchnorm_example_training_mode": "the context decides about training, not the node",
    "test_batchnorm_epsilon_training_mode": "the context decides about training, not the node",
    "test_training_dropout_default": "random, and the context decides about training",
    "test_training_dropout_default_mask": "random, and the context decides about training",
    "test_training_dropout": "random, and the context decides about training",
    "test_training_dropout_mask": "random, and the context decides about training",
    "test_dropout_default_old": "opset 11",
    "test_dropout_random_old": "opset 11",
    "test_equal_string": "strings",
    "test_equal_string_broadcast": "strings",
    "test_identity_sequence": "a sequence of tensors",
    "test_identity_opt": "an optional tensor",
    "test_maxpool_with_argmax_2d_precomputed_pads": "indices as an output are refused",
    "test_maxpool_with_argmax_2d_precomputed_strides": "indices as an output are refused",
    "test_reduce_max_empty_set": "a maximum over nothing: torch refuses",
    "test_reduce_max_empty_set_bool": "a maximum over nothing: torch refuses",
    "test_reduce_min_empty_set": "a minimum over nothing: torch refuses",
    "test_resize_tf_crop_and_resize": "tf_crop_and_resize is refused",
    "test_resize_tf_crop_and_resize_extrapolation_value": "tf_crop_and_resize is refused",
    "test_resize_tf_crop_and_resize_axes_2_3": "tf_crop_and_resize is refused",
    "test_resize_tf_crop_and_resize_axes_3_2": "tf_crop_and_resize is refused",
}
EXCLUDED_IN_FLOAT64 = {
    "test_gelu_tanh_1": "onnxruntime's constants are float32 there",
    "test_gelu_tanh_2": "onnxruntime's constants are float32 there",
    "test_group_normalization_example": "onnxruntime normalizes in float32 there",
    "test_group_normalization_epsilon": "onnxruntime normalizes in float32 there",
}
TOLERANCE = {"d": 1e-11, "f": 2e-6, "e": 2e-3, "E": 8e-3}


@functools.cache
def cases():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        found = collect_testcases(None)
    ours = {op_type for _, op_type in supported_operators()}
    return {c.name: c for c in found if len(c.model.graph.node) == 1 and c.model.graph.node[0].op_type in ours}


def names():
    unsupported_types = SMALL_TYPES + UNSIGNED
    return [n for n in cases() if n not in EXCLUDED and not any(part in n for part in unsupported_types)]


def at_supported_opset(model):
    """Cases of operators that have not changed since an old opset are run at 21."""
    opset = model.opset_import[0].version
    if opset >= 13:
        return model
    op_type = model.graph.node[0].op_type
    assert onnx.defs.get_schema(op_type, 21).since_version == onnx.defs.get_schema(op_type, opset).since_version
    model = copy.deepcopy(model)
    model.opset_import[0].version = 21
    return model


def to_array(value):
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def lowered(model, feeds):
    node = ir.from_proto(model).graph[0]
    inputs = [None if v is None or not v.name else torch_tensor(ir.tensor(feeds[v.name])) for v in node.inputs]
    result = kernel_for(node)(inputs, Context())
    results = (result,) if isinstance(result, torch.Tensor) else result
    return [r.float().numpy() if r.dtype is torch.bfloat16 else r.numpy() for r in results]


def run_by_onnxruntime(model, feeds):
    opened = runtime.session(model.SerializeToString(), optimize=False, threads=1)
    return list(runtime.run(opened, feeds).values())


def assert_equal(got, want):
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape
        tolerance = TOLERANCE.get(b.dtype.char, 0)
        if b.dtype.char == "E":  # bfloat16, which numpy knows as raw bytes
            b = b.astype(np.float32)
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", names())
def test_case(name):
    case = cases()[name]
    model = at_supported_opset(case.model)
    for inputs, outputs in case.data_sets:
        feeds = {v.name: to_array(a) for v, a in zip(model.graph.input, inputs, strict=True)}
        try:
            want = run_by_onnxruntime(model, feeds)
        except ModelError:
            want = [to_array(a) for a in outputs]
        assert_equal(lowered(model, feeds), want)


def in_float64(name):
    """The case with float32 replaced by float64 (Resize's scales stay float32), its feeds, onnxruntime's outputs;
    None if it has no float32 input or onnxruntime has no such kernel."""
    model = copy.deepcopy(at_supported_opset(cases()[name].model))
    feeds = {}
    for i, (value, array) in enumerate(zip(model.graph.input, cases()[name].data_sets[0][0], strict=True)):
        array = to_array(array)
        if array.dtype == np.float32 and not (i > 0 and model.graph.node[0].op_type == "Resize"):
            value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
            array = array.astype(np.float64)
        feeds[value.name] = array
    if not any(a.dtype == np.float64 for a in feeds.values()):
        return None
    for value in model.graph.output:
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    try:
        return model, feeds, run_by_onnxruntime(model, feeds)
    except ModelError:
        return None


def test_float64():
    compared, failed = set(), []
    for name in names():
        case = None if name in EXCLUDED_IN_FLOAT64 else in_float64(name)
        if case is None:
            continue
        model, feeds, want = case
        try:
            assert_equal(lowered(model, feeds), want)
        except AssertionError as e:
            failed.append(f"{name}: {e}")
        compared.add(model.graph.node[0].op_type)
    assert not failed, "\n".join(failed)
    assert len(compared) >= 60, sorted(compared)


def test_exclusions_are_cases():
    """A name here that is no case (any more) hides nothing and has to go."""
    assert set(EXCLUDED) <= set(cases())
    assert set(EXCLUDED_IN_FLOAT64) <= set(cases())


def test_every_operator_has_a_case():
    """Operators without a backend case of their own are tested elsewhere in this folder."""
    covered = {cases()[name].model.graph.node[0].op_type for name in names()}
    assert {op_type for _, op_type in supported_operators()} - covered == set()
