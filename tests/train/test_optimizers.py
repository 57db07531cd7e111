from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from onnxmtl.ir import Role
from onnxmtl.train.optimizers import OptimizerSpec, build_optimizer, set_lr


def test_constant():
    assert {OptimizerSpec(lr=0.3).lr_at(step, 7) for step in range(7)} == {0.3}


def test_cosine_falls_to_a_hundredth():
    spec = OptimizerSpec(lr=2.0, schedule="cosine")
    rates = [spec.lr_at(step, 101) for step in range(101)]
    assert rates[0] == 2.0 and rates[-1] == pytest.approx(0.02)
    assert rates == sorted(rates, reverse=True)
    assert rates[25] == pytest.approx(2.0 * (0.01 + 0.99 * (1 + math.cos(math.pi / 4)) / 2))
    assert spec.lr_at(0, 1) == 2.0


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_fields_reach_torch(name):
    spec = OptimizerSpec(name, lr=0.25, betas=(0.4, 0.8), momentum=0.7, weight_decay=0.03)
    (group,) = build_optimizer(spec, {"w": nn.Parameter(torch.ones(2))}).param_groups
    assert group["lr"] == 0.25 and group["weight_decay"] == 0.03
    assert group["betas"] == (0.4, 0.8) if name == "adam" else group["momentum"] == 0.7


def test_a_step_of_sgd_by_hand():
    w = nn.Parameter(torch.tensor([2.0]))
    optimizer = build_optimizer(OptimizerSpec("sgd", lr=0.1, momentum=0.5, weight_decay=0.01), {"w": w})
    velocity, expected = 0.0, 2.0
    for step, gradient in enumerate((1.0, -3.0, 0.5)):
        set_lr(optimizer, 0.1 / (step + 1))
        w.grad = torch.tensor([gradient])
        optimizer.step()
        velocity = 0.5 * velocity + gradient + 0.01 * expected
        expected -= 0.1 / (step + 1) * velocity
        assert float(w.detach()) == pytest.approx(expected, rel=1e-6)


def test_what_has_no_gradient_is_left_alone():
    """Options that did not run get no gradient: no decay and no momentum may move them."""
    ran, idle = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    for name in ("adam", "sgd"):
        optimizer = build_optimizer(OptimizerSpec(name, weight_decay=0.1), {"ran": ran, "idle": idle})
        ran.grad = torch.ones(3)
        optimizer.step()
    assert torch.equal(idle, torch.ones(3)) and not torch.equal(ran, torch.ones(3))


def test_set_lr_reaches_all_groups():
    optimizer = torch.optim.SGD([{"params": [nn.Parameter(torch.ones(1))]} for _ in range(2)], lr=1.0)
    set_lr(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]


def group_of(optimizer, parameter):
    (found,) = [group for group in optimizer.param_groups if any(p is parameter for p in group["params"])]
    return found


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_groups(name):
    """Heads keep their proportion to the others whatever the schedule; weights of losses do not decay."""
    parameters = {n: nn.Parameter(torch.ones(2)) for n in ("trunk", "head", "log_variance")}
    spec = OptimizerSpec(name, lr=0.1, weight_decay=0.5, head_lr=0.02)
    optimizer = build_optimizer(spec, parameters, heads=["head"], undecayed=["log_variance"])
    found = {n: group_of(optimizer, p) for n, p in parameters.items()}
    assert {n: group["weight_decay"] for n, group in found.items()} == {"trunk": 0.5, "head": 0.5, "log_variance": 0.0}
    assert {n: group["lr"] for n, group in found.items()} == pytest.approx(
        {"trunk": 0.1, "head": 0.02, "log_variance": 0.1}
    )
    set_lr(optimizer, 0.05)
    assert {n: group["lr"] for n, group in found.items()} == pytest.approx(
        {"trunk": 0.05, "head": 0.01, "log_variance": 0.05}
    )
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 3


def test_one_group_where_nothing_differs():
    parameters = {n: nn.Parameter(torch.ones(2)) for n in ("trunk", "head")}
    assert len(build_optimizer(OptimizerSpec(), parameters, heads=["head"]).param_groups) == 1
    spec = OptimizerSpec(lr=0.1, head_lr=0.01)
    (only,) = build_optimizer(spec, {"head": parameters["head"]}, heads=["head"]).param_groups
    assert only["lr"] == pytest.approx(0.01)


def test_factors_by_role():
    """A bias has the factor of its role where it has none of its own."""
    spec = OptimizerSpec(factors={"fusion": 100.0, "head": 10.0, "head.bias": 20.0})
    assert [spec.factor_of(role) for role in (Role.FUSION, Role.HEAD, Role.BACKBONE)] == [100.0, 10.0, 1.0]
    assert [spec.factor_of(role, bias=True) for role in (Role.FUSION, Role.HEAD, Role.BACKBONE)] == [100.0, 20.0, 1.0]


@pytest.mark.parametrize(
    ("factors", "words"),
    [
        ({"fc8": 10.0}, r"by role \(backbone, own, skip, head, fusion\) or role.bias, not 'fc8'"),
        ({"logits": 2.0}, "not 'logits'"),
        ({"bias": 2.0}, "not 'bias'"),
        ({"head": -1.0}, "'head' must be a number of 0 or more"),
        ({"head": math.nan}, "'head' must be a number of 0 or more"),
    ],
)
def test_factors_that_mean_nothing(factors, words):
    with pytest.raises(ValueError, match=words):
        OptimizerSpec(factors=factors)
