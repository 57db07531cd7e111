"""Every operator we claim, on onnx's own backend cases: against onnxruntime where it runs the case, else against
the outputs that come with it; in float32 as given, once more in float64 where onnxruntime has that, and in float16 and
bfloat16 where the operator allows them, against the same kernel in float32."""

from __future__ import annotations

import contextlib
import copy
import functools
import warnings

import ml_dtypes
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
from onnxmtl.ops import NEWEST_OPSET

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
    "test_bitwise_not_3d": "uint16, which torch has no arithmetic on",
    "test_maxunpool_export_with_output_shape": "refused: onnxruntime does not follow the standard there",
}
EXCLUDED_IN_FLOAT64 = {
    "test_gelu_tanh_1": "onnxruntime's constants are float32 there",
    "test_gelu_tanh_2": "onnxruntime's constants are float32 there",
    "test_group_normalization_example": "onnxruntime normalizes in float32 there",
    "test_group_normalization_epsilon": "onnxruntime normalizes in float32 there",
}
# onnxruntime 1.31 does not follow the standard; the case's own outputs count.
ONNXRUNTIME_DIFFERS = {
    "test_attention_23_fullymasked_qk_matmul_output_mode3_zero": "NaN for a row that sees nothing",
    "test_attention_24_fullymasked_qk_matmul_output_mode3_zero": "NaN for a row that sees nothing",
    "test_attention_4d_with_past_and_present_qk_matmul_bias_3d_mask_causal": "the lowest number in place of -infinity",
    "test_attention_4d_with_past_and_present_qk_matmul_bias_4d_mask_causal": "the lowest number in place of -infinity",
}
EXCLUDED_IN_NARROW = {
    "test_averagepool_3d_default": "torch has no such kernel on the CPU",
    "test_lppool_3d_default": "torch has no such kernel on the CPU",
    "test_det_2d": "torch has no such kernel on the CPU",
    "test_det_nd": "torch has no such kernel on the CPU",
    "test_reduce_prod_default_axes_keepdims_example": "too large for float16",
}
TOLERANCE = {"d": 1e-11, "f": 2e-6, "e": 2e-3, "E": 8e-3}


@functools.cache
def cases():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        found = collect_testcases(None)
    ours = {op_type for _, op_type in supported_operators()}
    return {c.name: c for c in found if len(c.model.graph.node) == 1 and is_ours(c.model, ours)}


def is_ours(model, ours):
    """Cases of our operators, but for what only an opset has that onnxruntime does not take yet."""
    if model.graph.node[0].op_type not in ours:
        return False
    if model.opset_import[0].version <= NEWEST_OPSET:
        return True
    try:
        onnx.checker.check_model(at_supported_opset(model), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return False
    return True


def names():
    unsupported_types = SMALL_TYPES + UNSIGNED
    return [n for n in cases() if n not in EXCLUDED and not any(part in n for part in unsupported_types)]


def at_supported_opset(model):
    """Cases of operators that have not changed since an old opset are run at 21."""
    opset = model.opset_import[0].version
    if 13 <= opset <= NEWEST_OPSET:
        return model
    op_type = model.graph.node[0].op_type
    if opset < 13:
        assert onnx.defs.get_schema(op_type, 21).since_version == onnx.defs.get_schema(op_type, opset).since_version
    model = copy.deepcopy(model)
    model.opset_import[0].version = 21 if opset < 13 else NEWEST_OPSET
    model.ir_version = min(model.ir_version, 13)
    return model


def to_array(value):
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def lowered(model, feeds):
    node = ir.from_proto(model).graph[0]
    inputs = [None if v is None or not v.name else torch_tensor(ir.tensor(feeds[v.name])) for v in node.inputs]
    result = kernel_for(node)(inputs, Context())
    results = (result,) if isinstance(result, torch.Tensor) else result
    asked = [r for r, value in zip(results, node.outputs, strict=False) if value.name]
    return [r.float().numpy() if r.dtype is torch.bfloat16 else r.numpy() for r in asked]


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
        want = [to_array(a) for a in outputs]
        if name not in ONNXRUNTIME_DIFFERS:
            with contextlib.suppress(ModelError):
                want = run_by_onnxruntime(model, feeds)
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
        # onnxruntime's Attention has a scale in float32, and in float64 its own idea of masks.
        skipped = name in EXCLUDED_IN_FLOAT64 or cases()[name].model.graph.node[0].op_type == "Attention"
        case = None if skipped else in_float64(name)
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


NARROW = {
    "float16": (onnx.TensorProto.FLOAT16, np.float16, 4e-3),
    "bfloat16": (onnx.TensorProto.BFLOAT16, ml_dtypes.bfloat16, 3e-2),
}


def in_narrow(name, onnx_type, dtype):
    """The case with float32 inputs rounded to the narrow type, in both types: (narrow model, its feeds, wide feeds);
    None if it has no float32 input, or the operator does not allow the type there."""
    model = copy.deepcopy(at_supported_opset(cases()[name].model))
    node = model.graph.node[0]
    schema = onnx.defs.get_schema(node.op_type, model.opset_import[0].version)
    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    kind = f"tensor({'float16' if onnx_type == onnx.TensorProto.FLOAT16 else 'bfloat16'})"
    feeds, wide, found = {}, {}, False
    for value, array in zip(model.graph.input, cases()[name].data_sets[0][0], strict=True):
        array = to_array(array)
        wide[value.name] = feeds[value.name] = array
        if value.name not in node.input:
            continue
        place = min(list(node.input).index(value.name), len(schema.inputs) - 1)
        if array.dtype != np.float32 or schema.inputs[place].type_str not in allowed:
            continue
        if kind not in allowed[schema.inputs[place].type_str]:
            return None
        if node.op_type == "Resize" and place > 0:
            continue
        value.type.tensor_type.elem_type = onnx_type
        feeds[value.name] = array.astype(dtype)
        wide[value.name] = feeds[value.name].astype(np.float32)
        found = True
    return (model, feeds, wide) if found else None


@pytest.mark.parametrize("kind", NARROW)
def test_narrow_types(kind):
    onnx_type, dtype, tolerance = NARROW[kind]
    compared, failed = set(), []
    for name in names():
        case = None if name in EXCLUDED_IN_NARROW else in_narrow(name, onnx_type, dtype)
        if case is None:
            continue
        model, feeds, wide = case
        try:
            got = lowered(model, feeds)
            want = lowered(at_supported_opset(cases()[name].model), wide)
            for a, b in zip(got, want, strict=True):
                assert a.shape == b.shape
                finite = b[np.isfinite(b)] if b.dtype.kind == "f" else b
                scale = max(float(np.abs(finite).max(initial=0)), 1e-3) if b.dtype.kind == "f" else 1.0
                np.testing.assert_allclose(a.astype(b.dtype), b, rtol=tolerance, atol=tolerance * scale)
        except (AssertionError, RuntimeError, IndexError) as e:
            failed.append(f"{name}: {e}")
        compared.add(model.graph.node[0].op_type)
    assert not failed, "\n".join(failed)
    assert len(compared) >= 100, sorted(compared)


def test_exclusions_are_cases():
    """A name here that is no case (any more) hides nothing and has to go."""
    assert set(EXCLUDED) <= set(cases())
    assert set(EXCLUDED_IN_FLOAT64) <= set(cases())
    assert set(ONNXRUNTIME_DIFFERS) <= set(cases())
    assert set(EXCLUDED_IN_NARROW) <= set(cases())


def test_every_operator_has_a_case():
    """Operators without a backend case of their own are tested elsewhere in this folder."""
    covered = {cases()[name].model.graph.node[0].op_type for name in names()}
    assert {op_type for _, op_type in supported_operators()} - covered == {"GlobalLpPool"}  # in test_pooling.py
