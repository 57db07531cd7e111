"""BMTAS: warm-up, turns that begin afresh, batch statistics, learning rates by tasks, and what its losses lead to."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from helpers.graphs import GraphBuilder
from helpers.searching import changed, killed, setting, state

from onnxmtl.analysis.sites import site_table
from onnxmtl.cost.expected import ExpectedCost
from onnxmtl.cost.selected import count_architecture
from onnxmtl.errors import RunError
from onnxmtl.ir import Role
from onnxmtl.kinds import TaskSet
from onnxmtl.lowering import Draw, to_torch
from onnxmtl.passes.spaces import Branch
from onnxmtl.policy import Architecture
from onnxmtl.runs import Checkpoints
from onnxmtl.search import Recipe, Stage, recipe_named, without
from onnxmtl.search.engine import SearchStage, train_weights
from onnxmtl.search.presets import preset_named
from onnxmtl.search.regularizers import PolicyView, regularizer
from onnxmtl.search.relaxations import own_branch_draw
from onnxmtl.search.training import shares
from onnxmtl.train.optimizers import OptimizerSpec
from onnxmtl.train.recalibrate import initial_statistics

TASKS = TaskSet.parse("seg=segmentation:3,depth,edges")
SGD = OptimizerSpec("sgd", lr=1e-2, momentum=0.9, weight_decay=0.0)
ADAM = OptimizerSpec("adam", lr=1e-1, betas=(0.5, 0.999), weight_decay=0.0)
SEARCH = recipe_named("bmtas").search_stages[1]
STAGE = dataclasses.replace(SEARCH, weights=SGD, policy=ADAM)


class Labelled:
    """Images of which each pixel's label can be told from its colour."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        image = np.random.default_rng(index).random((3, 8, 8)).astype(np.float32)
        edges = (image[:1] > 0.5).astype(np.float32)
        return image, {"seg": (image.sum(0) * 0.99).astype(np.int64), "depth": image[:1] + 1, "edges": edges}


def supermodel(tasks: int = 3, **options):
    b = GraphBuilder()
    x = b.block(b.image, 4, name="stem")
    for _ in range(2):
        x = b.residual(x, 4)
    model = b.heads(x, dict(list({"seg": 3, "depth": 1, "edges": 1}.items())[:tasks]))
    Branch(**options)(model)
    return model


def search(
    stage: Stage = STAGE, steps: int = 20, pulls: dict[str, float] | None = None, seed: int = 0, **changes
) -> SearchStage:
    recipe = dataclasses.replace(recipe_named("bmtas"), stages=(stage,), regularizers=pulls or {})
    recipe = dataclasses.replace(recipe, regularizer_options={"multiply_adds": {"of": "policy"}})
    model = supermodel(affine="not-last")
    where = setting(tasks=TASKS, seed=seed, **changes)
    where = dataclasses.replace(where, data=dataclasses.replace(where.data, train=Labelled(20), val=Labelled(4)))
    return SearchStage(to_torch(model), site_table(model), recipe, stage, where, steps)


def decided(stage: SearchStage) -> Architecture:
    module, table = stage.module, stage.table
    picks = {
        (site.index, table.tasks.index(task)): int(module.weight(module.logits[site.id, task]).argmax())
        for site in table.sites
        for task in table.tasks_at(site)
    }
    return Architecture.from_indices(table, picks)


# Stages


def test_in_the_warm_up_copy_t_is_trained_by_task_t_alone():
    """What another task's loss changes is no weight of copy t, nor its statistics."""
    stage = search(Stage("warm-up", 1.0, "own-branch", weights=SGD, sequential=True), steps=1)
    draw = own_branch_draw(stage.module, stage.table.tasks)
    assert {option for (_, task), option in draw.options.items() if task == "depth"} == {1}
    module = stage.module
    images = torch.rand(2, 3, 8, 8)
    for task in TASKS.names:
        module.zero_grad()
        module.train()
        before = state(stage)
        module(images, tasks=[task], draw=draw)[task].sum().backward()
        used = {name for name, p in module.parameters_with().items() if p.grad is not None and bool(p.grad.any())}
        moved = changed(before, state(stage))
        index = TASKS.names.index(task)
        others = {name for site in stage.table.sites for name in copies(stage, site, index)}
        assert used and moved and not (used | moved) & others


def copies(stage: SearchStage, site, index: int) -> set[str]:
    """Weights and statistics that no copy of number `index` has: those read with other draws only."""
    module = stage.module

    def read(option: int) -> set[str]:
        module.zero_grad()
        options = {key: option for key in module.logits}
        before = state(stage)
        module.train()
        out = module(torch.rand(2, 3, 8, 8), draw=Draw(options=options))
        sum(value.sum() for value in out.values()).backward()
        grads = {n for n, p in module.parameters_with().items() if p.grad is not None}
        found = grads | changed(before, state(stage))
        with torch.no_grad():
            for name, tensor in before.items():
                module.weight(name).copy_(tensor)
        module.zero_grad()
        return found

    mine = read(index)
    return set().union(*(read(other) for other in range(3) if other != index)) - mine


def test_the_warm_up_is_for_branches_only():
    from helpers.searching import search as vcn

    with pytest.raises(RunError, match="the relaxation 'own-branch' is for the space 'branch'"):
        vcn(Stage("warm-up", 1.0, "own-branch", weights=SGD), steps=1).run()
    with pytest.raises(RunError, match="a branch for every task teaches the policy nothing"):
        Stage("warm-up", 1.0, "own-branch", policy=ADAM)
    with pytest.raises(RunError, match="only the selected model's learning rates"):
        Stage("search", 1.0, "gumbel", weights=SGD, per_task=True)


@pytest.mark.parametrize("reset", [(), ("weights",), ("policy",), ("weights", "policy")])
def test_optimizers_begin_afresh_with_a_turn(reset):
    """Momentum and moments are gone at the first step of a turn, and are kept within it."""
    stage = search(dataclasses.replace(STAGE, reset=reset, alternate=(2, 3)), steps=10)
    began: dict[str, list[int]] = {"weights": [], "policy": []}
    original = stage._updated

    def watching(number, part, task):
        if not stage.optimizers[part].state:
            began[part].append(number)
        return original(number, part, task)

    stage._updated = watching
    stage.run()
    assert began["policy"] == ([0, 5] if "policy" in reset else [0])
    assert began["weights"] == ([2, 7] if "weights" in reset else [2])


def test_statistics_begin_afresh_and_policy_steps_leave_them_alone():
    stage = search(dataclasses.replace(STAGE, reset=("statistics",), alternate=(2, 3)), steps=10)
    initial = initial_statistics(stage.module.nodes)
    assert set(initial) == {n for n, role in stage.module.roles.items() if role is Role.STATISTIC}
    assert set(initial.values()) == {0.0, 1.0}
    stage.module.train()
    seen = {}
    for number in range(10):
        before = state(stage)
        original = stage._update

        def watching(step, part, task="", original=original, number=number):
            seen[number] = {name: stage.module.weight(name).clone() for name in initial}
            return original(step, part, task)

        stage._update = watching
        stage.step(number)
        stage._update = original
        moved = changed(before, state(stage)) & set(initial)
        assert bool(moved) == (number % 5 >= 2)  # of policy steps none
    for number in (2, 7):  # turns of the weights begin
        assert all((seen[number][name] == value).all() for name, value in initial.items())
    assert any((seen[3][name] != value).any() for name, value in initial.items())


def test_policy_steps_normalize_with_their_batch():
    """Running statistics, however wrong, change nothing in them."""
    found = []
    for wrong in (False, True):
        stage = search(steps=10)
        stage.module.train()
        if wrong:
            for name, value in initial_statistics(stage.module.nodes).items():
                stage.module.weight(name).fill_(value * 100 + 7)
        found.append(stage.step(0))
    assert found[0] == found[1] and any(name.startswith("policy/") for name in found[0])


@pytest.mark.parametrize("sequential", [False, True, "weights"])
def test_who_takes_steps_in_turn(sequential):
    """`weights`: the policy's update is one for all tasks (the code adds up their gradients)."""
    stage = search(dataclasses.replace(STAGE, sequential=sequential, alternate=(1, 1)), steps=2)
    asked = []
    original = stage._updated
    stage._updated = lambda number, part, task: asked.append((part, task)) or original(number, part, task)
    stage.run()
    each = [("weights", task) for task in TASKS.names] if sequential else [("weights", "")]
    policy = [("policy", task) for task in TASKS.names] if sequential is True else [("policy", "")]
    assert asked == [*policy, *each]


@pytest.mark.parametrize("variant", ["", *(pytest.param(v, marks=pytest.mark.slow) for v in ("paper", "released"))])
def test_a_killed_search_ends_with_the_same_bits(tmp_path, variant):
    (stage,) = [s for s in recipe_named("bmtas", variant).search_stages if s.name == "search"]
    pulls = {"bmtas_released" if variant == "released" else "multiply_adds": 0.5}
    whole = search(stage, 25, pulls)
    history = whole.run()
    make = lambda: search(stage, 25, pulls, checkpoint_every=3)  # noqa: E731
    last, resumed = killed(make, (7, 16), Checkpoints(tmp_path))
    assert not changed(state(whole), state(last)) and resumed.to_json() == history.to_json()


# Learning rates


def tree():
    """seg and depth share two blocks, edges only the stem; the stem has three tasks."""
    b = GraphBuilder()
    stem = b.block(b.image, 4, name="stem")
    both, alone = b.block(stem, 4, name="both"), b.block(stem, 4, name="alone")
    return b.heads({"seg": both, "depth": both, "edges": alone}, {"seg": 3, "depth": 1, "edges": 1})


def test_learning_rates_are_divided_by_the_number_of_tasks():
    """One step of SGD with and without: every weight moves as far as its tasks say."""
    spec = OptimizerSpec("sgd", lr=0.1, momentum=0.0, weight_decay=0.0)
    where = setting(tasks=TASKS)
    where = dataclasses.replace(where, data=dataclasses.replace(where.data, train=Labelled(8)))
    moved = []
    for per_task in (False, True):
        module = to_torch(tree(), dtype=torch.float64)
        module.register_forward_pre_hook(lambda _, given: (given[0].double(), *given[1:]))
        before = {name: p.detach().clone() for name, p in module.parameters_with().items()}
        train_weights(module, where, spec, 1, name="train", per_task=per_task)
        moved.append({name: p.detach() - before[name] for name, p in module.parameters_with().items()})
    factors = {}
    for node in tree().graph:
        conv = node.inputs[0].producer() if node.op_type == "BatchNormalization" else node
        factors.update({v.name: {"stem": 3, "both": 2}.get(conv.name, 1) for v in node.inputs if v.is_initializer()})
    plain, divided = moved
    assert {factors[name] for name in plain} == {1, 2, 3}
    for name, step in plain.items():
        assert step.any()
        np.testing.assert_allclose(divided[name].numpy() * factors[name], step.numpy(), rtol=1e-9, atol=1e-15)
    assert shares(to_torch(tree()))["stem.weight"] == pytest.approx(1 / 3)


def test_a_network_per_task_is_trained_as_ever():
    """Nothing is divided where nothing is shared: the same bits."""
    found = []
    for per_task in (False, True):
        b = GraphBuilder()
        module = to_torch(b.heads(b.block(b.image, 4), {"seg": 3}))
        train_weights(module, setting(tasks=TaskSet((TASKS["seg"],))), SGD, 2, name="train", per_task=per_task)
        found.append(module.tensors())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


# Regularizers and what they lead to


def test_the_units_of_the_resource_loss():
    table = site_table(supermodel())
    rng = np.random.default_rng(0)
    logits = [torch.tensor(rng.normal(size=(3, len(site.options)))) for site in table.sites]
    view = PolicyView([torch.full_like(x, 1 / 3) for x in logits], logits, tuple(range(len(logits))))
    exact = float(ExpectedCost(table).multiply_adds(view.probabilities))
    sampled = float(ExpectedCost(table).multiply_adds(view.sample))
    separate = sum(item.cost * len(item.tasks) for item in table.cost_items if item.option in (None, 0))
    assert float(regularizer("multiply_adds", table)(view)) == pytest.approx(sampled / separate)
    assert float(regularizer("multiply_adds", table, {"of": "policy"})(view)) == pytest.approx(exact / separate)
    gflop = regularizer("multiply_adds", table, {"of": "policy", "unit": "gflop"})
    assert float(gflop(view)) == pytest.approx(2e-9 * exact)
    with pytest.raises(RunError, match="multiply_adds has the units 'separate' and 'gflop', of 'sample' or 'policy'"):
        regularizer("multiply_adds", table, {"unit": "joule"})


@pytest.mark.parametrize("variant", ["", pytest.param("released", marks=pytest.mark.slow)])
def test_a_heavy_resource_loss_makes_all_tasks_share(variant):
    """λ → ∞: the tree is one trunk, whatever copies it takes."""
    pull = "bmtas_released" if variant == "released" else "multiply_adds"
    stage = search(dataclasses.replace(STAGE, alternate=(1, 1)), steps=60, pulls={pull: 1e6})
    stage.run()
    _, cost = count_architecture(stage.table, decided(stage))
    whole = Architecture.from_indices(
        stage.table, {(s.index, t): 0 for s in stage.table.sites for t in range(len(TASKS.names))}
    )
    assert cost == count_architecture(stage.table, whole)[1]


@pytest.mark.slow
def test_the_cost_does_not_rise_with_the_weight():
    """The mean over three seeds, from no pull at all to one that nothing else counts against."""
    means = []
    for weight in (0.0, 1.0, 10.0, 1e4):
        costs = []
        for seed in range(3):
            stage = search(dataclasses.replace(STAGE, alternate=(1, 1)), 80, {"multiply_adds": weight}, seed)
            stage.run()
            costs.append(count_architecture(stage.table, decided(stage))[1])
        means.append(sum(costs) / 3)
    assert means == sorted(means, reverse=True) and means[0] > means[-1]


# The recipe


def test_the_variants():
    ours, paper, released = (recipe_named("bmtas", variant) for variant in ("", "paper", "released"))
    for recipe in (ours, paper, released):
        warm_up, searching, final = recipe.stages
        assert (recipe.space, recipe.decoder) == ("branch", "argmax") and recipe.holdout == 0.2
        assert recipe.space_options == {"affine": "not-last"}
        assert (warm_up.relaxation, searching.relaxation, final.relaxation) == ("own-branch", "gumbel", "selected")
        assert {"weights", "statistics"} <= set(searching.reset)
        temperature = searching.temperature
        assert [temperature.at(step, 101) for step in (0, 50, 100)] == pytest.approx([5.0, 2.55, 0.1])
        policy, weights = searching.alternate
        assert searching.unit == "epoch" or policy / (policy + weights) == pytest.approx(0.2)
    assert paper.final_stage.per_task and not ours.final_stage.per_task and not released.final_stage.per_task
    assert paper.final_stage.fresh and paper.final_stage.weights.schedule == "poly"
    assert paper.steps == 0 and sum(stage.reference for stage in paper.stages) == 92_000
    assert "policy" in released.search_stages[1].reset and "bmtas_released" in released.regularizers


@pytest.mark.parametrize("variant", ["", "paper", "released"])
def test_presets(variant):
    recipe = recipe_named("bmtas", variant, "pascal-context")
    assert (recipe.steps, recipe.batch_size, recipe.crop) == (92_000, 16, 512)
    assert recipe.loss_weights["edges"] == 50.0
    assert recipe_named("bmtas", variant, "nyuv2").steps == 46_000
    schedules = {stage.weights.schedule for stage in recipe.stages}
    assert ("poly" in schedules) == (variant != "")
    assert preset_named(recipe, "nyuv2").stages["search"].policy_lr == 0.01


def test_ablations():
    recipe = recipe_named("bmtas")
    assert [stage.name for stage in without(recipe, ["warm-up"]).stages] == ["search", "train"]
    for variant in ("", "paper", "released"):
        assert not without(recipe_named("bmtas", variant), ["cost"]).regularizers
    with pytest.raises(RunError, match="has no curriculum to leave out"):
        without(recipe, ["curriculum"])
    with pytest.raises(RunError, match="has no warm-up to leave out"):
        without(Recipe("r", "vcn", (STAGE,)), ["warm-up"])


def test_poly():
    spec = OptimizerSpec(lr=2.0, schedule="poly")
    assert [spec.lr_at(step, 10) for step in (0, 5, 10)] == pytest.approx([2.0, 2 * 0.5**0.9, 0.0])
