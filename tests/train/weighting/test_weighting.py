"""Weightings against the equations of their papers, transcribed here; names, settings, resuming."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from onnxmtl.errors import TaskError
from onnxmtl.kinds import Task, TaskSet
from onnxmtl.train.objective import Objective
from onnxmtl.train.weighting import (
    WEIGHTINGS,
    WeightingSpec,
    make_weighting,
    parse_weighting,
    register_weighting,
)
from onnxmtl.train.weighting.base import reached

approx = pytest.approx
TASKS = TaskSet((Task("seg", "segmentation", channels=3, weight=1.0), Task("depth", "depth", weight=2.5),
                 Task("pose", "regression", weight=0.5)))  # fmt: skip
NAMES = TASKS.names
METHODS = ["static", "uncertainty", "dwa,period=2", "gradnorm", "gradnorm,layer=all", "torchjd:UPGrad", "torchjd:MGDA"]


class Net(nn.Module):
    """Two shared layers and a linear head per task, in float64."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 6)
        self.heads = nn.ModuleDict({name: nn.Linear(6, 2) for name in NAMES})
        self.double()

    @property
    def shared(self) -> list[nn.Parameter]:
        return [*self.first.parameters(), *self.last.parameters()]

    def losses(self, step: int = 0) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(8, 4, generator=generator, dtype=torch.float64)
        y = torch.tanh(self.last(torch.tanh(self.first(x))))
        wanted = {"seg": x[:, :2], "depth": 3 * x[:, 1:3], "pose": -x[:, :2] + 1}
        return {name: (head(y) - wanted[name]).square().mean() for name, head in self.heads.items()}


def run(method: str, steps: int, net: Net, weighting=None, start: int = 0):
    weighting = weighting or make_weighting(parse_weighting(method), TASKS)
    optimizer = torch.optim.SGD([*net.parameters(), *weighting.parameters().values()], lr=0.05)
    shown = {}
    for step in range(start, start + steps):
        optimizer.zero_grad()
        shown = weighting.backward(
            net.losses(step), shared=net.shared, backward=lambda total: total.backward(), step=step, steps=40
        )
        optimizer.step()
    return weighting, shown


def gradients(net: Net) -> list[torch.Tensor]:
    return [p.grad for p in net.parameters()]


# Static


def test_static_is_the_objective_bit_for_bit():
    net = Net()
    losses = net.losses()
    weighting = make_weighting(WeightingSpec(), TASKS)
    expected = Objective(TASKS).total(losses)
    assert torch.equal(weighting.total(losses), expected)
    wanted = torch.autograd.grad(expected, list(net.parameters()), retain_graph=True)
    assert weighting.backward(losses, shared=[], backward=lambda t: t.backward(), step=0, steps=1) == {}
    assert all(torch.equal(a, b) for a, b in zip(gradients(net), wanted, strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_some_of_the_tasks_will_do(method):
    """Disjoint data sets: a step has the losses of one task only."""
    net = Net()
    weighting = make_weighting(parse_weighting(method), TASKS)
    for step in range(6):
        net.zero_grad()
        losses = {"depth": net.losses(step)["depth"]} if step % 2 else net.losses(step)
        weighting.backward(losses, shared=net.shared, backward=lambda t: t.backward(), step=step, steps=6)
        assert torch.isfinite(weighting.total(net.losses(step)))
    assert net.heads["seg"].weight.grad is None and net.heads["depth"].weight.grad.any() and net.first.weight.grad.any()


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_without_labels_changes_no_state(method):
    net = Net()
    weighting, _ = run(method, 3, net)
    before = {key: value.clone() for key, value in weighting.state().items() if key != "done"}
    net.zero_grad()
    for parameter in weighting.parameters().values():
        parameter.grad = None
    nothing = {name: loss * 0 for name, loss in net.losses().items()}
    weighting.backward(nothing, shared=net.shared, backward=lambda t: t.backward(), step=3, steps=40)
    after = weighting.state()
    if not method.startswith("dwa"):  # whose period goes on, or ends
        assert all(torch.equal(after[key], value) for key, value in before.items())
    assert all(p.grad is None or not p.grad.any() for p in weighting.parameters().values())
    assert all(p.grad is None or not p.grad.any() for p in net.parameters())


# Uncertainty


@given(st.lists(st.tuples(st.floats(0.01, 50), st.floats(-3, 3)), min_size=3, max_size=3))
@settings(deadline=None, max_examples=30)
def test_uncertainty_is_equation_ten_of_kendall(pairs):
    weighting = make_weighting(WeightingSpec("uncertainty"), TASKS)
    losses = {name: torch.tensor(loss, dtype=torch.float64) for name, (loss, _) in zip(NAMES, pairs, strict=True)}
    weighting.load(
        {f"log_variance/{n}": torch.tensor(s, dtype=torch.float32) for n, (_, s) in zip(NAMES, pairs, strict=True)}
    )
    sigma = [math.exp(s / 2) for _, s in pairs]
    ell = [loss * task.weight for (loss, _), task in zip(pairs, TASKS, strict=True)]
    # one classification, two regressions
    expected = ell[0] / sigma[0] ** 2 + ell[1] / (2 * sigma[1] ** 2) + ell[2] / (2 * sigma[2] ** 2)
    expected += sum(math.log(s) for s in sigma)
    assert weighting.total(losses).item() == approx(expected, rel=1e-5, abs=1e-5)
    weighting.backward(losses, shared=[], backward=lambda t: t.backward(), step=0, steps=1)
    for index, (name, factor) in enumerate(zip(NAMES, (1, 0.5, 0.5), strict=True)):
        slope = -factor * ell[index] / sigma[index] ** 2 + 0.5  # d / ds of factor ℓ exp(−s) + s / 2
        assert weighting.log_variances[name].grad.item() == approx(slope, rel=1e-5, abs=1e-5)


def test_uncertainty_finds_the_variance():
    weighting = make_weighting(WeightingSpec("uncertainty"), TASKS)
    optimizer = torch.optim.SGD(weighting.parameters().values(), lr=0.5)
    losses = {"seg": torch.tensor(0.3), "depth": torch.tensor(2.0), "pose": torch.tensor(0.1)}
    for step in range(200):
        optimizer.zero_grad()
        weighting.backward(losses, shared=[], backward=lambda t: t.backward(), step=step, steps=200)
        optimizer.step()
    found = {name: s.exp().item() for name, s in weighting.log_variances.items()}
    assert found == approx({"seg": 2 * 0.3, "depth": 2.0 * 2.5, "pose": 0.1 * 0.5}, rel=1e-3)


def test_policy_steps_train_no_variance():
    weighting = make_weighting(WeightingSpec("uncertainty"), TASKS)
    x = torch.ones((), requires_grad=True)
    weighting.total({"seg": x}).backward()
    assert x.grad is not None and all(p.grad is None for p in weighting.parameters().values())


# Dynamic weight average


@pytest.mark.parametrize("temperature", [2.0, 0.5])
@pytest.mark.parametrize("period", [1, 3])
def test_dwa_is_equation_seven_of_liu(temperature, period):
    """λ_k(t) = K exp(w_k(t−1)/T) / Σ_i exp(w_i(t−1)/T), w_k(t−1) = L_k(t−1) / L_k(t−2), w = 1 for t = 1, 2."""
    rng = np.random.default_rng(0)
    epochs = rng.uniform(0.1, 5, (6, period, 3))  # [epoch, step, task]
    weighting = make_weighting(parse_weighting(f"dwa,temperature={temperature},period={period}"), TASKS)
    means = epochs.mean(1)
    for t in range(6):
        w = means[t - 1] / means[t - 2] if t >= 2 else np.ones(3)
        expected = 3 * np.exp(w / temperature) / np.exp(w / temperature).sum()
        for row in epochs[t]:
            losses = {name: torch.tensor(value, requires_grad=True) for name, value in zip(NAMES, row, strict=True)}
            total = weighting.total(losses).item()
            assert total == approx(sum(e * k.weight * v for e, k, v in zip(expected, TASKS, row, strict=True)))
            shown = weighting.backward(losses, shared=[], backward=lambda x: x.backward(), step=0, steps=1)
            assert shown == approx({f"weight/{name}": e for name, e in zip(NAMES, expected, strict=True)})


def test_dwa_takes_a_twentieth_of_the_stage_by_default():
    weighting = make_weighting(WeightingSpec("dwa"), TASKS)
    changed = []
    for step in range(30):
        losses = {n: torch.tensor(2.0 ** (-step if n == "seg" else 0), requires_grad=True) for n in NAMES}
        weighting.backward(losses, shared=[], backward=lambda t: None, step=step, steps=200)
        changed.append(weighting.weights()["seg"] < 0.99)
    assert changed.index(True) == 19  # two periods of ten steps


# GradNorm


@pytest.mark.parametrize("layer", ["last", "all"])
@pytest.mark.parametrize("alpha", [1.5, 0.12])
def test_gradnorm_is_algorithm_one_of_chen(layer, alpha):
    """L_grad = Σ_i | G_i − Ḡ r_i^α |, its gradient by autograd, an Adam step on w, Σ w = T; against ours on one net."""
    net, other = Net(), Net()
    weighting = make_weighting(parse_weighting(f"gradnorm,alpha={alpha},layer={layer}"), TASKS)
    w = torch.ones(3, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([w], lr=0.025)
    sgd, sgd_other = (torch.optim.SGD(n.parameters(), lr=0.05) for n in (net, other))
    first = None
    for step in range(8):
        losses = torch.stack([loss * TASKS[name].weight for name, loss in other.losses(step).items()])
        first = losses.detach() if first is None else first
        trained = [other.last.weight] if layer == "last" else other.shared
        norms = []
        for i in range(3):
            found = torch.autograd.grad(w[i] * losses[i], trained, create_graph=True)
            norms.append(torch.cat([g.flatten() for g in found]).norm())
        G = torch.stack(norms)
        ratio = losses.detach() / first
        r = ratio / ratio.mean()
        L_grad = (G - (G.mean() * r**alpha).detach()).abs().sum()
        sgd_other.zero_grad()
        (w.detach() * losses).sum().backward(retain_graph=True)
        adam.zero_grad()
        (w.grad,) = torch.autograd.grad(L_grad, [w])
        sgd_other.step()
        shown_before = w.detach().clone()
        adam.step()
        with torch.no_grad():
            w.mul_(3 / w.sum())
        sgd.zero_grad()
        shown = weighting.backward(
            net.losses(step), shared=net.shared, backward=lambda t: t.backward(), step=step, steps=8
        )
        sgd.step()
        assert list(shown.values()) == approx(shown_before.tolist(), rel=1e-9)
        assert list(weighting.weights().values()) == approx(w.tolist(), rel=1e-9)
        for a, b in zip(net.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    assert sum(weighting.weights().values()) == approx(3) and min(weighting.weights().values()) > 0


def test_gradnorm_looks_for_a_layer_that_all_losses_reach():
    a, b = (torch.randn(3, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    weighting = make_weighting(WeightingSpec("gradnorm"), TASKS)
    x = torch.ones(3, dtype=torch.float64)
    losses = {"seg": (a @ x).square().sum(), "depth": (b @ a @ x).square().sum(), "pose": (b @ a @ x).abs().sum()}
    norms = weighting._norms(losses, [a, b])
    expected = {name: torch.autograd.grad(loss, a, retain_graph=True)[0].norm().item() for name, loss in losses.items()}
    assert norms == approx(expected)
    assert reached(losses["seg"]) == {a} and reached(losses["depth"]) == {a, b}


# All


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_training_is_the_same_bit_for_bit(method):
    whole, parts = Net(), Net()
    expected, shown = run(method, 9, whole)
    half, _ = run(method, 5, parts)
    saved = {key: value.clone() for key, value in half.state().items()}
    again = make_weighting(parse_weighting(method), TASKS)
    again.load(saved)
    _, found = run(method, 4, parts, again, start=5)
    assert found == shown
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))
    assert again.state().keys() == expected.state().keys()
    assert all(torch.equal(again.state()[key], value) for key, value in expected.state().items())


def test_a_spec_is_its_text():
    spec = parse_weighting("torchjd:CAGrad, c=0.4")
    assert spec == WeightingSpec("torchjd:CAGrad", {"c": 0.4}) and parse_weighting(str(spec)) == spec
    assert parse_weighting("") == WeightingSpec()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gradnom", r"weighting 'gradnom': unknown method \(did you mean 'gradnorm'\?\); known: gradnorm, static, unc"),
        (
            "dwa,temprature=1",
            r"weighting 'dwa': unknown setting 'temprature' \(did you mean 'temperature'\?\); its set",
        ),
        ("static,x=1", "unknown setting 'x'; its settings: none"),
        ("dwa,temperature=hot", "temperature is 'hot', it must be like 2.0"),
        ("dwa,temperature=0", "temperature must be above 0"),
        ("gradnorm,layer=first", "layer is 'first', it must be last or all"),
        ("gradnorm,lr=-1", "lr must not be negative"),
        ("dwa,2", "cannot read '2': write each setting once"),
        ("dwa,period=1,period=2", "cannot read 'period=2': write each setting once"),
        ("torchjd:Foo", "weighting 'torchjd:Foo': 'Foo' is no aggregator of torchjd; use one of AlignedMTL"),
        ("torchjd", "'' is no aggregator of torchjd"),
        ("torchjd:GradVac", "keeps a state that checkpoints cannot hold"),
        ("torchjd:Krum", r"its constructor is Krum\(n_byzantine: int"),
    ],
)
def test_mistakes_are_told_in_one_line(text, message):
    with pytest.raises(TaskError, match=message) as caught:
        make_weighting(parse_weighting(text), TASKS)
    assert "\n" not in str(caught.value)


def test_a_method_of_ones_own():
    @register_weighting("own_for_test")
    class Own(type(make_weighting(WeightingSpec(), TASKS))):
        def total(self, losses):
            return super().total(losses) * 2

    try:
        assert make_weighting(WeightingSpec("own_for_test"), TASKS).total({"seg": torch.tensor(3.0)}).item() == 6
        with pytest.raises(TaskError, match="registered already"):
            register_weighting("dwa")(Own)
    finally:
        del WEIGHTINGS["own_for_test"]
