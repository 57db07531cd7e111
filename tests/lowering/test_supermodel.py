"""A lowered supermodel equals the plain reference: forward, gradients, running statistics; float64, relative 1e-9."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from helpers.graphs import GraphBuilder, random_model, small_resnet
from helpers.reference import Reference
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmtl.analysis.sites import site_table
from onnxmtl.ir import Role
from onnxmtl.ir.passes import Refused
from onnxmtl.lowering import Draw, to_torch
from onnxmtl.passes.spaces import Vcn

TOLERANCE = 1e-9


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    with torch.no_grad():
        return float((a - b).abs().max()) <= TOLERANCE * max(float(b.abs().max()), 1e-12)


def draws(model, kind: str, seed: int, module):
    """(draw for the module, draw for the reference, logits of the reference by (site, task))."""
    if kind == "hard":
        rng = random.Random(seed)
        options = {key: rng.randrange(len(names)) for key, names in module.options.items()}
        return Draw(options=options), Draw(options=options), {}
    generator = torch.Generator().manual_seed(seed)
    logits = {
        key: torch.zeros(len(names), dtype=torch.float64)
        if kind == "average"
        else torch.randn(len(names), dtype=torch.float64, generator=generator)
        for key, names in module.options.items()
    }
    ours = {k: v.clone().requires_grad_() for k, v in logits.items()}
    theirs = {k: v.clone().requires_grad_() for k, v in logits.items()}
    soft = [Draw(weights={k: torch.softmax(v, -1) for k, v in side.items()}) for side in (ours, theirs)]
    return soft[0], soft[1], {k: (ours[k], theirs[k]) for k in logits}


def compare(model, *, kind: str, training: bool, mixing: str, policy_only: bool, seed: int) -> None:
    module = to_torch(model, dtype=torch.float64, mixing=mixing).train(training)
    with torch.no_grad():  # own copies must differ from what they were copied from
        generator = torch.Generator().manual_seed(seed)
        for parameter in module.parameters_with(Role.OWN).values():
            parameter.add_(0.3 * torch.randn(parameter.shape, dtype=torch.float64, generator=generator))
    weights = {n: t.detach().clone() for n, t in module.tensors().items()}
    trainable = module.parameters_with()
    for name, parameter in trainable.items():
        parameter.requires_grad_(not policy_only)
        weights[name].requires_grad_(not policy_only)
    ours, theirs, logits = draws(model, kind, seed, module)
    size = model.graph.inputs[0].shape[2]
    images = torch.randn(3, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1))
    found = module(images, draw=ours)
    expected = Reference(model, weights, training)(images, theirs)
    assert found.keys() == expected.keys()
    for task in expected:
        assert close(found[task], expected[task]), task
    # A different weight per output element, so that no gradient cancels.
    for outputs in (found, expected):
        loss = sum((out * torch.linspace(0.5, 1.5, out.numel(), dtype=out.dtype).view_as(out)).sum() + (out**2).mean()
                   for out in outputs.values())  # fmt: skip
        if loss.requires_grad:
            loss.backward()
    scale = max((float(w.grad.abs().max()) for w in weights.values() if w.grad is not None), default=1.0)
    for name, parameter in trainable.items():
        reference = weights[name].grad
        if reference is None:
            assert parameter.grad is None or float(parameter.grad.abs().max()) == 0.0, name
        else:
            assert parameter.grad is not None, name
            assert float((parameter.grad - reference).abs().max()) <= TOLERANCE * scale, name
    largest = max((float(b.grad.abs().max()) for _, b in logits.values()), default=1.0)
    for key, (a, b) in logits.items():
        assert float((a.grad - b.grad).abs().max()) <= TOLERANCE * largest, key
    for name, tensor in module.tensors().items():
        if module.roles[name] is Role.STATISTIC:
            # A mean may be zero but for rounding (a normalization behind one without a shift); variances begin near 1.
            difference = float((tensor - weights[name]).abs().max())
            assert difference <= TOLERANCE * max(float(weights[name].abs().max()), 1.0), (name, difference)


@pytest.mark.parametrize("mixing", ["never", "always", "auto"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["average", "soft", "hard"])
def test_equals_the_reference(kind: str, training: bool, mixing: str) -> None:
    model = small_resnet()
    Vcn()(model)
    compare(model, kind=kind, training=training, mixing=mixing, policy_only=False, seed=3)


@pytest.mark.parametrize("training", [True, False])
def test_policy_gradient_from_dot_products(training: bool) -> None:
    model = small_resnet()
    Vcn()(model)
    compare(model, kind="soft", training=training, mixing="always", policy_only=True, seed=5)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    tasks=st.integers(2, 3),
    skip=st.sampled_from(["auto", "grouped1x1", "dense1x1", "none"]),
    norm=st.sampled_from(["follow", "per_task"]),
    prefix=st.integers(0, 2),
    kind=st.sampled_from(["soft", "hard"]),
    policy_only=st.booleans(),
)
def test_random_graphs_equal_the_reference(seed, tasks, skip, norm, prefix, kind, policy_only) -> None:
    model = random_model(seed, tasks=tasks, layers=3)
    try:
        Vcn(skip=skip, norm=norm, shared_prefix=prefix)(model)
    except Refused:  # a graph whose tasks share no operator has nothing to choose
        return
    compare(model, kind=kind, training=True, mixing="always", policy_only=policy_only and kind == "soft", seed=seed)


def test_statistics_move_for_each_computation_even_of_equal_values() -> None:
    """Found at random. Two tasks skip the stem, each by its own weights, which start as equal: bn11 moves for both."""
    model = random_model(93, tasks=3, layers=3)
    Vcn(skip="grouped1x1", norm="follow")(model)
    compare(model, kind="hard", training=True, mixing="always", policy_only=False, seed=93)


@pytest.mark.parametrize("mixing", ["never", "always", "auto"])
@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_statistics_that_tasks_share_move_once_whoever_mixes_them(kind: str, mixing: str) -> None:
    """A normalization that is a site of its own, before anything tells the tasks apart: both mix it with their own."""
    b = GraphBuilder()
    model = b.heads(b.norm(b.relu(b.conv(b.relu(b.norm(b.image)), 4))), {"seg": 3, "depth": 1})
    Vcn()(model)
    compare(model, kind=kind, training=True, mixing=mixing, policy_only=False, seed=3)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), kind=st.sampled_from(["soft", "hard"]))
def test_block_granularity_equals_the_reference(seed, kind) -> None:
    model = random_model(seed, tasks=2, layers=3)
    try:
        Vcn(granularity="block")(model)
    except Refused:
        return
    compare(model, kind=kind, training=True, mixing="always", policy_only=False, seed=seed)


def test_without_a_draw_choices_follow_their_logits() -> None:
    model = small_resnet()
    Vcn()(model)
    module = to_torch(model, dtype=torch.float64).eval()
    with torch.no_grad():
        for name in module.logits.values():
            module.weight(name).normal_(generator=torch.Generator().manual_seed(1))
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    explicit = Draw(weights={k: torch.softmax(module.weight(n), -1) for k, n in module.logits.items()})
    for task, out in module(images).items():
        assert torch.equal(out, module(images, draw=explicit)[task])


def test_hard_mode_runs_no_dead_option_and_nothing_twice() -> None:
    model = small_resnet()
    Vcn()(model)
    table = site_table(model)
    module = to_torch(model)
    shared = {(s.id, t): 0 for s in table.sites for t in table.tasks}
    module(torch.randn(2, 3, 8, 8), draw=Draw(options=shared))
    (plan,) = module._plans.values()
    convolutions = [step for step in plan.steps if step.op.node.op_type == "Conv"]
    # one trunk (stem, two residual blocks with a projection) and two heads
    assert len(convolutions) == 1 + 2 + 3 + 2
    assert not any(step.op.choice for step in plan.steps)


def test_only_the_asked_tasks_run() -> None:
    model = small_resnet()
    Vcn()(model)
    module = to_torch(model)
    assert set(module(torch.randn(2, 3, 8, 8), tasks=["depth"])) == {"depth"}
    (plan,) = module._plans.values()
    assert not any("seg" in step.op.name for step in plan.steps if step.op.choice)


@pytest.mark.parametrize("name", ["options", "logits", "forward", "tasks", "_program", "_plans", "a.b", "a/b"])
def test_weights_may_have_any_name(name: str) -> None:
    model = small_resnet()
    model.graph.initializers["stem.weight"].name = name
    Vcn()(model)
    module = to_torch(model)
    array = model.graph.initializers[name].const_value.numpy()
    assert np.array_equal(module.weight(name).detach().numpy(), array)
    assert set(module(torch.randn(2, 3, 8, 8))) == {"seg", "depth"}


def test_biases_learn_beside_the_policy_where_weights_are_frozen() -> None:
    b = GraphBuilder()
    model = b.heads(b.relu(b.conv(b.image, 4, name="stem")), {"a": 1, "b": 1})
    Vcn()(model)
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    found = []
    for mixing in ("never", "always"):
        module = to_torch(model, dtype=torch.float64, mixing=mixing)
        for name, parameter in module.parameters_with().items():
            parameter.requires_grad_(".weight" not in name)
        sum(out.square().sum() for out in module(images).values()).backward()
        found.append({name: p.grad for name, p in module.parameters_with().items() if p.requires_grad})
    plain, mixed = found
    assert "stem.bias" in plain and "stem/a/logits" in plain
    for name, gradient in plain.items():
        assert torch.allclose(mixed[name], gradient, rtol=1e-9, atol=1e-12), name


def test_a_draw_that_misses_a_site_is_refused() -> None:
    model = small_resnet()
    Vcn()(model)
    with pytest.raises(ValueError, match="says nothing for site"):
        to_torch(model)(torch.randn(2, 3, 8, 8), draw=Draw(options={}))
