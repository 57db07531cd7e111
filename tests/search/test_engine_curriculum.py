"""Sites that come to decide one after another, the policy that is kept in the end, and the warm-up before it."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from helpers.searching import POLICY, STAGE, TASKS, WEIGHTS, blocks, changed, names_with, search, state

from onnxmtl.ir import Role
from onnxmtl.search import Curriculum, Stage, recipe_named
from onnxmtl.search.best import improvement
from onnxmtl.train.metrics import higher_is_better


def test_only_the_last_sites_decide_at_first():
    """The others take option 0 for sure, take no gradient, and join one after another."""
    recipe = recipe_named("adashare", "released")
    policy = dataclasses.replace(recipe.stages[1], alternate=(1, 1), unit="step", first="policy", reference=0,
                                 curriculum=Curriculum(2, "turn"), policy=POLICY)  # fmt: skip
    stage = blocks(policy, 16, recipe)
    stage.module.train()
    sites = [site.id for site in stage.table.sites]
    for number in range(16):
        if number % 2:
            stage.step(number)
            continue
        deciding = number // 2 // 2 + 1  # a policy step every second step, two of them per block
        draw = stage.draw(number, "policy")
        assert {site for site, _ in draw.weights} == set(sites[4 - deciding :])
        assert set((draw.options or {}).values()) <= {0}
        before = state(stage)
        figures = stage.step(number)
        assert figures["active"] == deciding
        moved = {key[0] for key, name in stage.module.logits.items() if name in changed(before, state(stage))}
        assert moved == set(sites[4 - deciding :])


@pytest.mark.parametrize("later", [False, True])
def test_sites_that_never_came_to_decide_keep_option_zero(later):
    """They took it for sure all the time; a policy that says one half would draw what was never trained."""
    recipe = recipe_named("adashare", "paper")
    policy = dataclasses.replace(recipe.stages[1], alternate=(1, 1), unit="step", reference=0, policy=POLICY,
                                 curriculum=Curriculum(2, "turn"), keep="last")  # fmt: skip
    stages = (policy, dataclasses.replace(policy, name="again")) if later else (policy,)
    stage = blocks(policy, 8, dataclasses.replace(recipe, stages=stages))  # four policy steps: two sites decide
    stage.run()
    sites = [site.id for site in stage.table.sites]
    for (site, _), name in stage.module.logits.items():
        p = float(torch.softmax(stage.module.weight(name).detach(), -1)[0])
        if site in sites[2:]:
            assert 0.1 < p < 0.9 and p != 0.5
        else:
            assert p == 0.5 if later else p > 1 - 1e-6


def test_the_released_sharing_loss_moves_blocks_before_their_turn():
    """Its Hamming loss is over all blocks; the paper's learns the last ones only (Section 3.3)."""
    moved = {}
    for variant in ("paper", "released"):
        recipe = dataclasses.replace(recipe_named("adashare", variant), regularizers={"adashare_sharing": 1.0})
        policy = dataclasses.replace(recipe.stages[1], weights=None, reference=0, curriculum=Curriculum(1000, "turn"))
        stage = blocks(policy, 2, recipe)
        with torch.no_grad():
            for i, logits in enumerate(stage.logits):
                logits.add_(torch.tensor([0.1 * i, 0.0]))
        before = state(stage)
        stage.step(0)
        names = changed(before, state(stage))
        moved[variant] = {key[0] for key, name in stage.module.logits.items() if name in names}
    sites = [site.id for site in stage.table.sites]
    assert moved == {"paper": {sites[-1]}, "released": set(sites)}


# The best policy


def test_the_policy_that_was_judged_best_is_kept(monkeypatch):
    """Judged after every turn once all sites decide; the stage ends with those logits and the last weights."""
    stage = dataclasses.replace(STAGE, keep="best", alternate=(2, 1), curriculum=Curriculum(0.4, "share"))
    found = {}
    for keep in ("last", "best"):
        search_ = search(dataclasses.replace(stage, keep=keep), steps=18)
        seen, logits = [], {}
        if keep == "best":
            depths = iter([1.0, 0.5, 0.25, 0.5, 1.0])

            def judged(module, tasks, dataset, depths=depths, logits=logits, held=search_.best.dataset, **options):
                assert dataset is held and options["draw"].hard
                (task,) = tasks  # each with the running statistics of its own path
                if task.name == "depth":
                    logits[len(logits)] = {n: module.weight(n).detach().clone() for n in module.logits.values()}
                return {task.name: dict.fromkeys(task.metrics, next(depths) if task.name == "depth" else 1.0)}

            monkeypatch.setattr("onnxmtl.search.best.evaluate", judged)
        history = search_.run(listener=lambda done, _, figures, seen=seen: seen.append(figures))
        found[keep] = state(search_)
    assert [i for i, figures in enumerate(seen) if "held-out/depth" in figures] == [7, 10, 13, 16]
    assert [value for _, value in history.curve("held-out/depth")] == [1.0, 0.5, 0.25, 0.5]
    kept = {name: found["best"][name] for name in search_.module.logits.values()}
    (which,) = [i for i, drawn in logits.items() if all(torch.equal(drawn[n], kept[n]) for n in kept)]
    # Smaller is better for errors, larger for shares of good pixels: all of depth's metrics have one value here.
    better = sum(1 if higher_is_better(metric) else -1 for metric in TASKS["depth"].metrics)
    assert which == (2 if better < 0 else 0)
    others = {name for name in found["best"] if name not in kept}
    assert all(torch.equal(found["best"][name], found["last"][name]) for name in others)


def test_which_metrics_are_better():
    base = {t.name: dict.fromkeys(t.metrics, 0.5) for t in TASKS}
    better = {t.name: {m: 0.75 if higher_is_better(m) else 0.25 for m in t.metrics} for t in TASKS}
    mixed = {"seg": better["seg"], "depth": {m: 0.375 if higher_is_better(m) else 0.75 for m in TASKS["depth"].metrics}}
    assert improvement(TASKS, base, base) == 0
    assert improvement(TASKS, better, base) == -improvement(TASKS, base, better) > 0
    up = sum(1 / 3 if higher_is_better(m) else 1 / 2 for m in TASKS["seg"].metrics) / len(TASKS["seg"].metrics)
    down = sum(1 / 4 if higher_is_better(m) else 1 / 3 for m in TASKS["depth"].metrics) / len(TASKS["depth"].metrics)
    assert improvement(TASKS, mixed, base) == pytest.approx((up - down) / 2)
    empty = {t.name: dict.fromkeys(t.metrics, math.nan) for t in TASKS}
    zero = {t.name: dict.fromkeys(t.metrics, 0.0) for t in TASKS}
    assert improvement(TASKS, base, empty) == 1 == -improvement(TASKS, empty, base)
    assert improvement(TASKS, empty, empty) == 0 == improvement(TASKS, zero, zero)


# Warm-up


def test_warm_up_is_one_trunk_that_runs_once():
    stage = blocks(Stage("warm-up", 1.0, "shared", weights=WEIGHTS), 3, recipe_named("adashare"))
    before = state(stage)
    history = stage.run()
    moved = changed(before, state(stage))
    assert not moved & names_with(stage, Role.LOGITS)
    assert set(stage.module.parameters_with()) - names_with(stage, Role.LOGITS) <= moved
    (plan,) = [plan for key, plan in stage.module._plans.items() if key[0] == "decided"]
    assert sum(step.op.node.op_type == "Conv" for step in plan.steps) == 1 + 2 * 4 + 2
    assert "temperature" not in history.points[0].figures
