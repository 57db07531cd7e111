"""Draws that decide some sites and mix the others: equal to the soft draw with ones and zeros, and cheaper."""

from __future__ import annotations

import pytest
import torch
from helpers.graphs import GraphBuilder, random_model, small_resnet

from onnxmtl.ir import Role
from onnxmtl.lowering import Draw, to_torch
from onnxmtl.passes.spaces import SelectOrSkip, Vcn


def vcn(seed, mixing="always"):
    model = random_model(seed, tasks=3) if seed else small_resnet()
    Vcn()(model)
    return to_torch(model, dtype=torch.float64, mixing=mixing)


def draws(module, seed, share=0.5):
    """The same decisions twice: in part as options, and all as weights."""
    generator = torch.Generator().manual_seed(seed)
    soft, hard, whole = {}, {}, {}
    sites = sorted({site for site, _ in module.logits})
    fixed = {site for site in sites if float(torch.rand((), generator=generator)) < share}
    for key in sorted(module.logits):
        n = len(module.options[key])
        if key[0] in fixed:
            hard[key] = int(torch.randint(n, (), generator=generator))
            whole[key] = torch.eye(n, dtype=torch.float64)[hard[key]]
        else:
            soft[key] = torch.softmax(torch.randn(n, dtype=torch.float64, generator=generator), -1).requires_grad_()
            whole[key] = soft[key]
    return Draw(weights=soft, options=hard), Draw(weights=whole)


def losses_and_gradients(module, draw):
    images = torch.randn(4, 3, module._size[0], module._size[1], dtype=torch.float64,
                         generator=torch.Generator().manual_seed(1))  # fmt: skip
    outputs = module(images, draw=draw)
    module.zero_grad()
    for p in (draw.weights or {}).values():
        p.grad = None
    sum((out**3).sum() for out in outputs.values()).backward()
    weights = {n: p.grad.clone() for n, p in module.parameters_with().items() if p.grad is not None}
    logits = {key: p.grad.clone() for key, p in (draw.weights or {}).items() if p.grad is not None}
    return outputs, weights, logits


@pytest.mark.parametrize("mixing", ["always", "never"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_equal_to_the_soft_draw(seed, training, mixing):
    """Outputs and the gradients of all weights and of the mixed sites, to float64 precision."""
    module = vcn(seed, mixing).train(training)
    part, whole = draws(module, seed)
    if not part.weights:
        part, whole = draws(module, seed + 100)
    first, of_first, mixed_first = losses_and_gradients(module, part)
    second, of_second, mixed_second = losses_and_gradients(module, whole)
    for task, out in first.items():
        torch.testing.assert_close(out, second[task], rtol=1e-9, atol=1e-11)
    for name, gradient in of_second.items():
        torch.testing.assert_close(of_first.get(name, torch.zeros_like(gradient)), gradient, rtol=1e-7, atol=1e-8)
    assert mixed_first.keys() <= mixed_second.keys()
    for key, gradient in mixed_first.items():
        torch.testing.assert_close(gradient, mixed_second[key], rtol=1e-7, atol=1e-8)


def test_what_is_decided_alike_runs_once():
    """AdaShare's curriculum: the blocks below the one that decides are one trunk for all tasks."""
    b = GraphBuilder()
    x = b.block(b.image, 4, name="stem")
    for _ in range(4):
        x = b.residual(x, 4)
    model = b.heads(x, {"a": 1, "b": 1, "c": 1})
    SelectOrSkip()(model)
    module = to_torch(model)
    keys, sites = sorted(module.logits), sorted({site for site, _ in module.logits})
    convolutions = {}
    for deciding in range(len(sites) + 1):
        fixed = {key: 0 for key in keys if key[0] not in sites[len(sites) - deciding :]}
        soft = {key: torch.tensor([0.5, 0.5]) for key in keys if key not in fixed}
        module(torch.zeros(2, 3, 8, 8), draw=Draw(weights=soft, options=fixed))
        plan = next(reversed(module._plans.values()))
        convolutions[deciding] = sum(step.op.node.op_type == "Conv" for step in plan.steps)
    # Stem, four blocks of two and a head per task; a deciding block's input is the same for all tasks if it is the
    # lowest deciding one, and so is then its content.
    assert convolutions == {0: 12, 1: 12, 2: 16, 3: 20, 4: 24}


def test_statistics_move_once_where_one_task_has_decided_and_another_mixes():
    """The first normalization is one computation: the task that took it as it is, and the one that mixes it."""
    after = []
    for mixing in ("never", "always"):
        b = GraphBuilder()
        model = b.heads(b.conv(b.relu(b.norm(b.image, name="first")), 4), {"a": 1, "b": 1, "c": 1})
        Vcn()(model)
        module = to_torch(model, dtype=torch.float64, mixing=mixing).train()
        before = module.weight("first.mean").clone()
        hard = {key: 0 for key in module.logits if key != ("first", "b") and key != ("first", "c")}
        soft = {("first", task): torch.tensor([0.5, 0.5], dtype=torch.float64) for task in ("b", "c")}
        images = torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        module(images, draw=Draw(weights=soft, options=hard))
        torch.testing.assert_close(module.weight("first.mean"), before.lerp(images.mean((0, 2, 3)), 0.1))
        after.append({name: t for name, t in module.tensors().items() if module.roles[name] is Role.STATISTIC})
    for name, statistic in after[0].items():
        torch.testing.assert_close(after[1][name], statistic, rtol=1e-9, atol=1e-12)


def test_a_draw_says_what_it_is():
    weights, options = {("a", "t"): torch.tensor([1.0])}, {("b", "t"): 0}
    assert Draw(options=options).hard and not Draw(weights=weights).hard
    assert not Draw(weights=weights, options=options).hard
    with pytest.raises(ValueError, match=r"weights .*, options .*, or both"):
        Draw()
    with pytest.raises(ValueError, match="either soft or hard"):
        Draw(weights=weights, options={("a", "t"): 0})
    module = vcn(0)
    part, _ = draws(module, 0)
    missing = Draw(weights={}, options=part.options)
    with pytest.raises(ValueError, match="says nothing for site"):
        module(torch.zeros(1, 3, 8, 8, dtype=torch.float64), draw=missing)


def test_who_reads_which_weights():
    model = small_resnet()
    Vcn()(model)
    module = to_torch(model)
    seg, depth = module.read_by("seg"), module.read_by("depth")
    assert seg | depth == set(module.roles)
    for name in seg & depth:
        assert module.roles[name] in (Role.BACKBONE, Role.STATISTIC)
    assert {module.roles[name] for name in seg ^ depth} >= {Role.OWN, Role.HEAD, Role.LOGITS}
