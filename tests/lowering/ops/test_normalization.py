"""Normalizations: the training contract of BatchNormalization, and forms the backend cases leave out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from onnxmtl.errors import ModelError
from onnxmtl.lowering.ops import Context, kernel_for

TRAIN = Context(training=True)


def batch(shape=(4, 3, 5, 6), dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    channels = shape[1]
    vectors = [rng.standard_normal(channels), rng.standard_normal(channels), rng.standard_normal(channels)]
    return [rng.standard_normal(shape), *vectors, rng.random(channels) + 0.5]


def tensors(arrays, dtype=torch.float64):
    return [torch.tensor(a, dtype=dtype) for a in arrays]


@pytest.fixture
def batch_norm(one_node):
    def make(momentum=0.75, epsilon=2.0**-10):  # both exact in float32, as ONNX stores them
        arrays = [a.astype(np.float32) for a in batch()]
        attributes = {"momentum": momentum, "epsilon": epsilon}
        return kernel_for(one_node("BatchNormalization", arrays, attributes, constants=(1, 2, 3, 4)).node())

    return make


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 7), (1, 3, 2, 2), (2, 3, 4, 3, 2)])
def test_inference_equals_onnxruntime(one_node, shape):
    arrays = [a.astype(np.float32) for a in batch(shape)]
    one_node("BatchNormalization", arrays, {"epsilon": 1e-3}).check(1e-5, 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_training_is_torchs(batch_norm, dtype):
    inputs = tensors(batch(), dtype)
    x, scale, shift, mean, variance = [t.clone() for t in inputs]
    y = batch_norm()(inputs, TRAIN)
    want = F.batch_norm(x, mean, variance, scale, shift, training=True, momentum=0.25, eps=2.0**-10)
    torch.testing.assert_close(y, want, rtol=0, atol=0)
    torch.testing.assert_close(inputs[3], mean, rtol=0, atol=0)
    torch.testing.assert_close(inputs[4], variance, rtol=0, atol=0)


def test_inference_leaves_the_statistics_alone(batch_norm):
    inputs = tensors(batch())
    before = [t.clone() for t in inputs]
    batch_norm()(inputs, Context(training=False))
    for got, want in zip(inputs, before, strict=True):
        assert torch.equal(got, want)


def test_a_single_value_per_channel(batch_norm):
    """torch's module refuses; here the result is the shift, the mean is updated, the variance is not."""
    x, scale, shift, mean, variance = tensors(batch((1, 3, 1, 1)))
    old_mean, old_variance = mean.clone(), variance.clone()
    y = batch_norm()([x, scale, shift, mean, variance], TRAIN)
    torch.testing.assert_close(y.reshape(-1), shift, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(mean, 0.75 * old_mean + 0.25 * x.reshape(-1), rtol=1e-14, atol=1e-14)
    assert torch.equal(variance, old_variance)


def test_statistics_with_gradients(batch_norm):
    """Weight mixing differentiates through running statistics, which torch.batch_norm does not support."""
    x, scale, shift, mean, variance = tensors(batch())
    want = batch_norm()([x, scale, shift, mean, variance], Context())
    mean.requires_grad_()
    variance.requires_grad_()
    y = batch_norm()([x, scale, shift, mean, variance], Context())
    torch.testing.assert_close(y, want, rtol=1e-13, atol=1e-13)
    y.sum().backward()
    assert mean.grad.abs().min() > 0
    assert variance.grad.abs().min() > 0


def test_running_statistics_as_outputs_are_refused(one_node):
    case = one_node("BatchNormalization", [a.astype(np.float32) for a in batch()], {"training_mode": 1}, outputs=3)
    case.proto.graph.output.extend([])
    with pytest.raises(ModelError, match="running statistics as outputs"):
        kernel_for(case.node())


@pytest.mark.parametrize("axis", [1, -1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_layer_normalization(one_node, axis, bias):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 3, 4, 5)).astype(np.float32)
    shape = x.shape[axis:]
    weights = [rng.standard_normal(shape).astype(np.float32) for _ in range(2)]
    one_node("LayerNormalization", [x, *weights[: 1 + bias]], {"axis": axis}, outputs=3).check(1e-5, 1e-5)


def test_layer_normalization_broadcasts_its_scale(one_node):
    rng = np.random.default_rng(1)
    x, scale = rng.standard_normal((2, 3, 4)), rng.standard_normal((1, 4))
    case = one_node("LayerNormalization", [x.astype(np.float32), scale.astype(np.float32)], {"axis": 1})
    got = kernel_for(case.node())(tensors([x, scale]), Context())
    want = F.layer_norm(torch.tensor(x), (3, 4)) * torch.tensor(scale)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("op_type", ["InstanceNormalization", "GroupNormalization"])
@pytest.mark.parametrize("shape", [(1, 4, 1, 1), (2, 4, 5), (2, 4, 3, 3)])
def test_instance_and_group(one_node, op_type, shape):
    arrays = [a.astype(np.float32) for a in batch(shape)[:3]]
    attributes = {"num_groups": 2} if op_type == "GroupNormalization" else {}
    case = one_node(op_type, arrays, attributes)
    if shape != (1, 4, 1, 1):
        case.check(1e-5, 1e-5)
    got = kernel_for(case.node())(tensors(arrays), TRAIN)
    assert torch.isfinite(got).all()


def test_group_normalization_of_opset_18_has_a_scale_per_group(one_node):
    rng = np.random.default_rng(2)
    arrays = [rng.standard_normal(s).astype(np.float32) for s in ((2, 6, 3, 3), (2,), (2,))]
    one_node("GroupNormalization", arrays, {"num_groups": 2}, opset=18).check(1e-5, 1e-5)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_lrn(one_node, size):
    x = batch((2, 7, 3, 4))[0].astype(np.float32)
    case = one_node("LRN", [x], {"size": size, "alpha": 0.5, "beta": 0.6, "bias": 1.5})
    if size % 2:
        case.check(2e-6, 1e-6)
    else:  # onnxruntime refuses even sizes, and onnx's reference only sums the first N channels: the text's formula
        want = np.empty_like(x)
        for c in range(7):
            first, last = max(0, c - (size - 1) // 2), min(6, c + size // 2)
            squares = (x[:, first : last + 1] ** 2).sum(axis=1)
            want[:, c] = x[:, c] / (1.5 + 0.5 / size * squares) ** 0.6
        np.testing.assert_allclose(case.lowered()[0], want, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("order", [1, 2])
def test_lp_normalization_of_zeros(one_node, order):
    x = batch()[0].astype(np.float32)
    x[0, :, 0, 0] = 0
    one_node("LpNormalization", [x], {"axis": 1, "p": order}).check()


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("outputs", [1, 2])
def test_dropout(one_node, constant, outputs):
    """In training as many zeros as the ratio says, the rest scaled up; otherwise nothing happens."""
    x = np.ones((200, 500), np.float32)
    case = one_node("Dropout", [x, np.array(0.25, np.float32)], constants=[1] if constant else (), outputs=outputs)
    inputs = [torch.from_numpy(x), None if constant else torch.tensor(0.25)]
    torch.manual_seed(0)
    kernel = kernel_for(case.node())
    y = kernel(inputs, TRAIN)
    y = y[0] if outputs == 2 else y
    kept = y != 0
    assert abs(kept.float().mean().item() - 0.75) < 0.01
    torch.testing.assert_close(y[kept], torch.full_like(y[kept], 1 / 0.75))
    still = kernel(inputs, Context())
    still = still[0] if outputs == 2 else still
    assert torch.equal(still, inputs[0])
