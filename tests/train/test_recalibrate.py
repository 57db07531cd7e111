"""Running statistics become plain averages over batches, computed here by hand."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from helpers.graphs import GraphBuilder, small_resnet
from torch.nn import functional as F

from onnxmtl.lowering import to_torch
from onnxmtl.train.recalibrate import recalibrate


def images(k: int) -> torch.Tensor:
    return torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(k)) * (k + 1) + k


@pytest.mark.parametrize("momentum", [0.9, 0.5, 0.0])
def test_equals_plain_averages(momentum):
    b = GraphBuilder()
    x = b.conv(b.image, 4, name="c")
    y = b.norm(x, name="n")
    y.producer().attributes["momentum"] = ir.AttrFloat32("momentum", momentum)
    model = b.heads(b.relu(y), {"depth": 1})
    module = to_torch(model, dtype=torch.float64)
    before = {name: tensor.detach().clone() for name, tensor in module.tensors().items()}
    recalibrate(module, model, images, 5)
    feature = [F.conv2d(images(k), before["c.weight"], before["c.bias"], padding=1) for k in range(5)]
    mean = torch.stack([f.mean((0, 2, 3)) for f in feature]).mean(0)
    variance = torch.stack([f.var((0, 2, 3), unbiased=True) for f in feature]).mean(0)
    torch.testing.assert_close(module.weight("n.mean"), mean, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(module.weight("n.variance"), variance, rtol=1e-6, atol=1e-9)
    others = set(before) - {"n.mean", "n.variance"}
    assert all(torch.equal(before[name], module.weight(name)) for name in others)


def test_later_norms_see_batch_statistics_of_earlier_ones():
    """Each batch runs in training mode: no statistic depends on another one, nor on what was there before."""
    model = small_resnet()
    found = []
    for seed in (0, 1):
        module = to_torch(model, dtype=torch.float64)
        if seed:
            with torch.no_grad():
                for name, tensor in module.tensors().items():
                    if name.endswith((".mean", ".variance")):
                        tensor.uniform_(0.1, 9)
        recalibrate(module, model, images, 3)
        found.append({n: t.detach().clone() for n, t in module.tensors().items()})
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], rtol=1e-12, atol=1e-12)


def test_evaluation_then_is_close_to_training():
    model = small_resnet()
    module = to_torch(model, dtype=torch.float64)

    def same(k: int) -> torch.Tensor:
        return images(0)

    recalibrate(module, model, same, 2)
    with torch.no_grad():
        evaluated = module.eval()(images(0))
        trained = module.train()(images(0))
    for task in trained:
        # Equal but for the unbiased variance, n / (n - 1) with n ≥ 64.
        np.testing.assert_allclose(evaluated[task], trained[task], atol=0.05 * float(trained[task].abs().max()))


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_kept_and_no_batches_change_nothing(training):
    model = small_resnet()
    module = to_torch(model).train(training)
    before = {name: tensor.detach().clone() for name, tensor in module.tensors().items()}
    recalibrate(module, model, lambda k: pytest.fail("no batch was asked for"), 0)
    assert all(torch.equal(before[name], tensor) for name, tensor in module.tensors().items())
    recalibrate(module, model, lambda k: images(k).float(), 1)
    assert module.training is training


def test_statistics_that_never_move_are_left_alone():
    """ONNX momentum 1 (torch's 0): nothing can be learnt from a pass, and nothing may become nan."""
    b = GraphBuilder()
    y = b.norm(b.conv(b.image, 4), name="n")
    y.producer().attributes["momentum"] = ir.AttrFloat32("momentum", 1.0)
    model = b.heads(b.block(y, 4, name="c"), {"depth": 1})
    module = to_torch(model, dtype=torch.float64)
    before = module.weight("n.mean").clone(), module.weight("n.variance").clone()
    recalibrate(module, model, images, 2)
    assert torch.equal(before[0], module.weight("n.mean")) and torch.equal(before[1], module.weight("n.variance"))
    assert all(bool(torch.isfinite(tensor).all()) for tensor in module.tensors().values())


def test_a_model_without_normalization():
    b = GraphBuilder()
    model = b.heads(b.relu(b.conv(b.image, 4)), {"depth": 1})
    recalibrate(to_torch(model), model, lambda k: pytest.fail("nothing to do"), 3)
