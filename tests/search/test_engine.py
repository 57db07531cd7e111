"""What a step of the search does, and that resuming it changes nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from helpers.graphs import small_resnet

from onnxmtl.analysis.sites import site_table
from onnxmtl.data import DataSource, InputSpec
from onnxmtl.errors import RunError
from onnxmtl.ir import Role
from onnxmtl.kinds import TaskSet
from onnxmtl.lowering import to_torch
from onnxmtl.passes.spaces import Vcn
from onnxmtl.runs import Checkpoints
from onnxmtl.search.engine import SearchStage, Setting, train_weights
from onnxmtl.search.recipe import Recipe, Stage, Temperature
from onnxmtl.train.objective import Objective
from onnxmtl.train.optimizers import OptimizerSpec

TASKS = TaskSet.parse("seg=segmentation:3,depth")
WEIGHTS = OptimizerSpec("adam", lr=1e-2, weight_decay=1e-3)
POLICY = OptimizerSpec("adam", lr=1e-1, weight_decay=1e-3)
STAGE = Stage("policy-train", 1.0, "gumbel", weights=WEIGHTS, policy=POLICY, temperature=Temperature(5.0, 0.5))
RECIPE = Recipe("r", "vcn", (STAGE,), regularizers={"sharing": 0.1, "multiply_adds": 0.5})


class Images:
    """Remembers which samples were asked for."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.asked: set[int] = set()

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.asked.add(index)
        image = np.random.default_rng(index).random((3, 8, 8)).astype(np.float32)
        return image, {"seg": (image.sum(0) * 0.99).astype(np.int64), "depth": image[:1] + 1}


class Plain:
    """Fabric's part of a step, on the CPU."""

    device = "cpu"

    @staticmethod
    def backward(loss: torch.Tensor) -> None:
        loss.backward()


def setting(count: int = 20, **changes) -> Setting:
    data = DataSource("images", Images(count), Images(4), InputSpec(3, 8, 8))
    return dataclasses.replace(Setting(TASKS, data, 0, 4, Plain()), **changes)


def search(stage: Stage = STAGE, steps: int = 6, recipe: Recipe = RECIPE, **changes) -> SearchStage:
    model = small_resnet({"seg": 3, "depth": 1})
    Vcn()(model)
    return SearchStage(to_torch(model), site_table(model), recipe, stage, setting(**changes), steps)


def state(stage: SearchStage) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in stage.module.tensors().items()}


def changed(before, after) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def names_with(stage: SearchStage, *roles: Role) -> set[str]:
    return {name for name, role in stage.module.roles.items() if role in roles}


def test_policy_steps_change_logits_and_weight_steps_weights():
    stage = search()
    stage.module.train()
    logits, statistics = names_with(stage, Role.LOGITS), names_with(stage, Role.STATISTIC)
    weights = set(stage.module.parameters_with()) - logits
    for number in range(4):
        before = state(stage)
        stage.step(number)
        found = changed(before, state(stage)) - statistics
        if stage.stage.is_policy_step(number):
            assert found == logits
        else:
            assert found == weights
            assert names_with(stage, Role.OWN) and names_with(stage, Role.OWN) <= found


def test_hard_weight_steps_touch_chosen_options_only():
    stage = search(dataclasses.replace(STAGE, relaxation="hard-gumbel"))
    stage.module.train()
    number = 1
    draw = stage.draw(number, "weights")
    assert draw.hard
    before = state(stage)
    stage.step(number)
    found = changed(before, state(stage))
    unused = [key for key, option in draw.options.items() if stage.module.options[key][option] != "own"]
    own = names_with(stage, Role.OWN)
    assert 0 < len(found & own) < len(own) and unused
    assert not stage.draw(0, "policy").hard


def test_pre_training_averages_and_leaves_the_policy():
    stage = search(Stage("pre-train", 1.0, "average", weights=WEIGHTS))
    before = state(stage)
    figures = stage.step(0)
    assert set(figures) == {"seg", "depth"}
    assert not changed(before, state(stage)) & names_with(stage, Role.LOGITS)


def test_regularizers_act_on_policy_steps_with_their_weights():
    figures = search().step(0)
    assert set(figures) == {"seg", "depth", "sharing", "multiply_adds"}
    assert set(search().step(1)) == {"seg", "depth"}
    none, once, twice = (_policy_gradient(weight) for weight in (0.0, 1.0, 2.0))
    torch.testing.assert_close(twice - none, 2 * (once - none), rtol=1e-3, atol=1e-6)
    assert float((once - none).abs().max()) > 1e-4


def _policy_gradient(weight: float) -> torch.Tensor:
    stage = search(recipe=dataclasses.replace(RECIPE, regularizers={"multiply_adds": weight}))
    stage.module.train()
    stage.step(0)
    return torch.cat([parameter.grad.double() for parameter in stage.logits])


def test_the_regularizer_pulls_towards_sharing():
    """With nothing but Eq. 3 to learn from, the shared option wins where it counts."""
    strong = dataclasses.replace(RECIPE, regularizers={"sharing": 1e4})
    stage = search(dataclasses.replace(STAGE, weights=None), steps=10, recipe=strong)
    stage.run()
    for site in stage.table.sites:
        for task in stage.table.tasks:
            logits = stage.module.weight(stage.module.logits[site.id, task])
            if site.depth < stage.table.depth - 1:
                assert int(logits.argmax()) == 0, site.id


def test_policy_steps_use_the_samples_held_out_for_them():
    stage = search(dataclasses.replace(STAGE, holdout=0.25))
    images = stage.setting.data.train
    for parts, asked in ((0, set()), (1, set())):
        images.asked.clear()
        for number in range(parts, 40, 2):
            stage.step(number)
        asked |= images.asked
        if parts == 0:
            policy = asked
        else:
            weights = asked
    assert len(policy) == 5 and len(weights) == 15 and not policy & weights


def test_without_holdout_both_use_everything():
    stage = search(dataclasses.replace(STAGE, holdout=0.0))
    assert stage.data["weights"] is stage.data["policy"] is stage.setting.data.train
    alone = search(Stage("pre-train", 1.0, "average", weights=WEIGHTS))
    assert alone.data["weights"] is alone.setting.data.train


def test_a_stage_leaves_all_gradients_on_and_the_module_in_evaluation_mode():
    stage = search(steps=1)
    stage.run()
    assert all(parameter.requires_grad for parameter in stage.module.parameters())
    assert not stage.module.training


@pytest.mark.parametrize("relaxation", ["gumbel", "hard-gumbel"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_resumed_stage_equals_an_uninterrupted_one(tmp_path, relaxation, optimizer):
    spec = OptimizerSpec(optimizer, lr=1e-2, momentum=0.9, schedule="cosine")
    kind = dataclasses.replace(STAGE, relaxation=relaxation, weights=spec)
    whole = search(kind, steps=9)
    whole.run()
    checkpoints = Checkpoints(tmp_path)
    for stop in (4, 7):  # what a killed run leaves: it never gets beyond the step
        stage = search(kind, steps=9, checkpoint_every=2)
        step = stage.step

        def dying(number, step=step, stop=stop):
            if number == stop:
                raise KeyboardInterrupt
            return step(number)

        stage.step = dying
        with pytest.raises(KeyboardInterrupt):
            stage.run(checkpoints)
    last = search(kind, steps=9, checkpoint_every=2)
    last.run(checkpoints)
    assert checkpoints.latest_checkpoint()[0] == 8
    assert not changed(state(whole), state(last))


def test_steps_do_not_depend_on_the_global_generator():
    first, second = search(), search()
    first.run()
    torch.manual_seed(5)
    np.random.default_rng(1).random()
    second.run()
    assert not changed(state(first), state(second))
    third = search(seed=1)
    third.run()
    assert changed(state(first), state(third))


def test_nothing_to_decide():
    model = small_resnet({"depth": 1})
    setting_ = dataclasses.replace(setting(), tasks=TaskSet.parse("depth"))
    for weights in (WEIGHTS, None):
        stage = SearchStage(
            to_torch(model), site_table(model), RECIPE, dataclasses.replace(STAGE, weights=weights), setting_, 4
        )
        before = state(stage)
        stage.run()
        assert bool(changed(before, state(stage))) == (weights is not None)


def test_train_weights_lowers_the_losses_and_leaves_evaluation_mode():
    module = to_torch(small_resnet({"seg": 3, "depth": 1}))
    told = []
    train_weights(module, setting(), WEIGHTS, 30, name="post-train", listener=lambda *a: told.append(a))
    assert not module.training
    assert [t[:2] for t in told] == [(i + 1, 30) for i in range(30)]
    assert np.mean([t[2]["depth"] for t in told[-5:]]) < np.mean([t[2]["depth"] for t in told[:5]])


@pytest.mark.parametrize("part", ["search", "plain"])
def test_a_loss_that_is_not_finite_stops_before_the_weights_are_spoilt(monkeypatch, part):
    losses = Objective.losses
    calls = []

    def diverging(self, outputs, batch):
        calls.append(1)
        found = losses(self, outputs, batch)
        return {**found, "depth": found["depth"] * float("nan")} if len(calls) == 3 else found

    monkeypatch.setattr(Objective, "losses", diverging)
    stage = search()
    module = stage.module if part == "search" else to_torch(small_resnet({"seg": 3, "depth": 1}))
    train = {
        "search": stage.run,
        "plain": lambda: train_weights(module, setting(), WEIGHTS, 6, name="policy-train"),
    }[part]
    with pytest.raises(RunError, match=r"policy-train, step 3 of 6: the loss of 'depth' is nan") as found:
        train()
    assert "\n" not in str(found.value)
    assert all(bool(torch.isfinite(p).all()) for p in module.parameters())
