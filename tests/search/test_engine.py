"""What a step of the search does."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from helpers.graphs import small_resnet
from helpers.searching import RECIPE, STAGE, WEIGHTS, changed, names_with, search, setting, state

from onnxmtl.analysis.sites import site_table
from onnxmtl.errors import RunError
from onnxmtl.ir import Role
from onnxmtl.kinds import TaskSet
from onnxmtl.lowering import to_torch
from onnxmtl.search import Stage
from onnxmtl.search.engine import SearchStage, Setting, train_weights
from onnxmtl.train.objective import Objective
from onnxmtl.train.optimizers import OptimizerSpec


def test_policy_steps_change_logits_and_weight_steps_weights():
    stage = search()
    stage.module.train()
    logits, statistics = names_with(stage, Role.LOGITS), names_with(stage, Role.STATISTIC)
    weights = set(stage.module.parameters_with()) - logits
    for number in range(4):
        before = state(stage)
        stage.step(number)
        found = changed(before, state(stage)) - statistics
        if stage.schedule.is_policy(number):
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
    assert set(figures) == {"loss/seg", "loss/depth", "lr/weights"}
    assert not changed(before, state(stage)) & names_with(stage, Role.LOGITS)


def test_regularizers_act_on_policy_steps_with_their_weights():
    policy = {"policy/seg", "policy/depth", "regularizer/sharing", "regularizer/multiply_adds", "cost", "lr/policy"}
    assert set(search().step(0)) == policy | {"temperature"}
    assert set(search().step(1)) == {"loss/seg", "loss/depth", "lr/weights", "temperature"}
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


@pytest.mark.parametrize("alternate", [(1, 1), (2, 3)])
def test_each_part_goes_through_its_own_data_epoch_by_epoch(monkeypatch, alternate):
    """Steps of the others do not use up its batches: within an epoch every sample comes once."""
    stage = search(dataclasses.replace(STAGE, alternate=alternate), steps=30, count=60)
    asked = {"weights": [], "policy": []}
    batches = Setting.batches

    def listening(self, dataset, stream, step):
        found = batches(self, dataset, stream, step)
        asked[stream.rpartition("/")[2]] += found[0].indices
        return found

    monkeypatch.setattr(Setting, "batches", listening)
    stage.run()
    for part, size in (("weights", 48), ("policy", 12)):
        seen = asked[part]
        for start in range(0, len(seen) - size + 1, size):
            assert sorted(seen[start : start + size]) == list(range(size))
    assert len(asked["policy"]) >= 24 and len(asked["weights"]) >= 48


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
    assert np.mean([t[2]["loss/depth"] for t in told[-5:]]) < np.mean([t[2]["loss/depth"] for t in told[:5]])


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


# Optimizers


def test_heads_have_a_learning_rate_of_their_own():
    spec = OptimizerSpec("sgd", lr=1e-2, momentum=0.0, weight_decay=0.0, head_lr=1e-3)
    plain = dataclasses.replace(spec, head_lr=0.0)
    moved = {}
    for name, weights in (("faster", spec), ("plain", plain)):
        stage = search(Stage("pre-train", 1.0, "average", weights=weights))
        stage.module.train()
        before = state(stage)
        stage.step(0)
        moved[name] = {n: (t - before[n]).double() for n, t in state(stage).items()}
    for name, role in stage.module.roles.items():
        if name in stage.module.parameters_with():
            factor = 0.1 if role is Role.HEAD else 1.0
            torch.testing.assert_close(moved["faster"][name], factor * moved["plain"][name], rtol=1e-2, atol=1e-6)


# History


def test_the_history_of_a_stage():
    history = search(steps=6).run()
    assert [point.step for point in history.points] == [1, 2, 3, 4, 5, 6]
    assert [step for step, _ in history.curve("loss/seg")] == [2, 4, 6]
    assert [step for step, _ in history.curve("policy/seg")] == [1, 3, 5]
    temperatures = [value for _, value in history.curve("temperature")]
    assert temperatures == pytest.approx([STAGE.temperature.at(i, 6) for i in range(6)])
    first = history.points[0].figures
    assert first["lr/policy"] == 0.1 and first["cost"] == pytest.approx(0.63, abs=0.3)


def test_the_cost_is_that_of_the_policy():
    """All logits on `shared`: one trunk of two; on `own`: separate models."""
    for option, expected in ((0, None), (1, 1.0)):
        stage = search()
        for key, name in stage.module.logits.items():
            with torch.no_grad():
                stage.module.weight(name)[option if "own" in stage.module.options[key] else 0] = 200.0
        cost = stage.step(0)["cost"]
        if expected is None:
            assert 0.5 < cost < 0.52
        else:
            assert cost == pytest.approx(expected, rel=1e-9)
