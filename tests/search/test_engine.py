"""What a step of the search does, and that resuming it changes nothing."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from helpers.graphs import GraphBuilder, small_resnet

from onnxmtl.analysis.sites import site_table
from onnxmtl.data import DataSource, InputSpec, Parts
from onnxmtl.errors import RunError
from onnxmtl.ir import Role
from onnxmtl.kinds import TaskSet
from onnxmtl.lowering import to_torch
from onnxmtl.passes.spaces import SelectOrSkip, Vcn
from onnxmtl.runs import Checkpoints
from onnxmtl.search import Curriculum, Recipe, Stage, Temperature, recipe_named
from onnxmtl.search.best import improvement
from onnxmtl.search.engine import SearchStage, Setting, train_weights
from onnxmtl.train.metrics import higher_is_better
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


def search(
    stage: Stage = STAGE, steps: int = 6, recipe: Recipe = RECIPE, weighting: str = "static", **changes
) -> SearchStage:
    model = small_resnet({"seg": 3, "depth": 1})
    Vcn()(model)
    where = setting(**changes)
    return SearchStage(to_torch(model), site_table(model), recipe, stage, where, steps, weighting=weighting)


def blocks(stage: Stage, steps: int, recipe: Recipe, count: int = 4, **changes) -> SearchStage:
    """AdaShare's supermodel of a chain of blocks."""
    b = GraphBuilder()
    x = b.block(b.image, 4, name="stem")
    for _ in range(count):
        x = b.residual(x, 4)
    model = b.heads(x, {"seg": 3, "depth": 1})
    SelectOrSkip()(model)
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


def killed(make, stops, checkpoints):
    """Run what `make()` gives, dying before the steps in `stops`, then to the end; the last object and its history."""
    for stop in stops:
        stage = make()
        step = stage.step

        def dying(number, step=step, stop=stop):
            if number == stop:
                raise KeyboardInterrupt
            return step(number)

        stage.step = dying
        with pytest.raises(KeyboardInterrupt):
            stage.run(checkpoints)
    last = make()
    return last, last.run(checkpoints)


RESUMED = {
    "soft": (STAGE, "static"),
    "hard": (dataclasses.replace(STAGE, relaxation="hard-gumbel"), "static"),
    "curriculum": (dataclasses.replace(STAGE, curriculum=Curriculum(0.9, "share")), "static"),
    "in turn": (dataclasses.replace(STAGE, sequential=True, sample="fresh"), "static"),
    "epochs": (dataclasses.replace(STAGE, unit="epoch", first="weights"), "static"),
    "best": (dataclasses.replace(STAGE, keep="best"), "uncertainty"),
    "uncertainty": (STAGE, "uncertainty"),
    "dwa": (dataclasses.replace(STAGE, alternate=(1, 2)), "dwa"),
    "gradnorm": (STAGE, "gradnorm"),
}


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("kind", RESUMED)
def test_a_resumed_stage_equals_an_uninterrupted_one(tmp_path, kind, optimizer):
    """Weights, logits, statistics, the state of the weighting and the history, bit for bit."""
    stage, weighting = RESUMED[kind]
    spec = OptimizerSpec(optimizer, lr=1e-2, momentum=0.9, schedule="cosine")
    stage = dataclasses.replace(stage, weights=spec)
    whole = search(stage, steps=9, weighting=weighting)
    history = whole.run()
    checkpoints = Checkpoints(tmp_path)
    last, resumed = killed(lambda: search(stage, steps=9, weighting=weighting, checkpoint_every=2), (4, 7), checkpoints)
    assert checkpoints.latest_checkpoint()[0] == 8
    assert not changed(state(whole), state(last))
    assert resumed.to_json() == history.to_json() and len(history.points) == 9
    mine, theirs = whole.state(), last.state()
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert any(name.startswith("weighting/") for name in mine) == (weighting != "static")
    assert any(name.startswith("best/") for name in mine) == (kind == "best")


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize("weighting", ["static", "uncertainty", "gradnorm"])
def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path, sequential, weighting):
    """train_weights, killed by its listener."""
    spec = OptimizerSpec(lr=1e-2, schedule="step", decay=0.5, every=3)
    options = {"name": "post", "weighting": weighting, "sequential": sequential}
    modules = [to_torch(small_resnet({"seg": 3, "depth": 1})) for _ in range(3)]
    history = train_weights(modules[0], setting(), spec, 8, **options)

    def dying(done, steps, figures):
        if done == 5:
            raise KeyboardInterrupt

    where = {"checkpoints": Checkpoints(tmp_path), **options}
    with pytest.raises(KeyboardInterrupt):
        train_weights(modules[1], setting(checkpoint_every=2), spec, 8, listener=dying, **where)
    resumed = train_weights(modules[2], setting(checkpoint_every=2), spec, 8, **where)
    assert resumed.to_json() == history.to_json()
    assert all(torch.equal(t, modules[2].tensors()[n]) for n, t in modules[0].tensors().items())
    assert [p.figures["lr/weights"] for p in history.points] == pytest.approx([1e-2] * 3 + [5e-3] * 3 + [2.5e-3] * 2)


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


# Curriculum


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


# Tasks in turn


def test_in_turn_every_task_sees_images_of_its_own():
    stage = search(dataclasses.replace(STAGE, sequential=True), steps=6, count=100)
    asked = []
    batches = Setting.batches

    def listening(self, dataset, stream, step):
        found = batches(self, dataset, stream, step)
        asked.append((self.tasks.names, stream, found[0].indices))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Setting, "batches", listening)
        figures = stage.step(0)
    assert [(tasks, stream) for tasks, stream, _ in asked] == [
        (("seg",), "policy-train/policy/seg"), (("depth",), "policy-train/policy/depth"),
    ]  # fmt: skip
    assert asked[0][2] != asked[1][2]
    assert {"policy/seg", "policy/depth"} <= set(figures)


def test_in_turn_a_task_that_decides_nothing_waits():
    """Its head reads what lies before all sites: in a policy step there is nothing to differentiate."""
    b = GraphBuilder()
    near = b.relu(b.image)
    far = b.residual(b.block(near, 4, name="stem"), 4)
    model = b.heads({"seg": far, "depth": near}, {"seg": 3, "depth": 1})
    SelectOrSkip()(model)
    table = site_table(model)
    assert [site.tasks for site in table.sites] == [(0,)]
    recipe = recipe_named("adashare")
    policy = dataclasses.replace(recipe.stages[1], sequential=True, policy=POLICY)
    stage = SearchStage(to_torch(model), table, recipe, policy, setting(), 4)
    before = state(stage)
    history = stage.run()
    assert names_with(stage, Role.LOGITS) & changed(before, state(stage))
    assert history.curve("policy/depth") and history.curve("loss/depth")


def test_in_turn_is_one_update_per_task():
    """A task's update leaves the other task's own weights, head and logits alone."""
    stage = search(dataclasses.replace(STAGE, sequential=True), steps=6)
    stage.module.train()
    steps = []
    for part, optimizer in stage.optimizers.items():
        take = optimizer.step

        def counting(*arguments, part=part, take=take):
            before = state(stage)
            take(*arguments)
            steps.append((part, changed(before, state(stage))))

        optimizer.step = counting
    stage.step(0)
    stage.step(1)
    assert [part for part, _ in steps] == ["policy", "policy", "weights", "weights"]
    of = {task: stage.module.read_by(task) for task in ("seg", "depth")}
    private = {"seg": of["seg"] - of["depth"], "depth": of["depth"] - of["seg"]}
    for (_, names), (task, other) in zip(steps, [("seg", "depth"), ("depth", "seg")] * 2, strict=True):
        assert names & private[task] and not names & private[other]


def test_fresh_samples_are_another_draw():
    """The step's own sample, or a second one of the same policy at the same temperature."""
    same, fresh = search(), search(dataclasses.replace(STAGE, sample="fresh"))
    views = [s.view(0, s.draw(0, "policy"), ("seg", "depth")) for s in (same, fresh)]
    drawn = same.draw(0, "policy")
    for site, p, q in zip(same.table.sites, views[0].sample, views[1].sample, strict=True):
        assert torch.equal(p, torch.stack([drawn.weights[site.id, task].double() for task in same.table.tasks]))
        assert not torch.equal(p, q)
        assert bool((q.sum(-1) - 1).abs().max() < 1e-6)


# Disjoint data sets


def disjoint(counts=(12, 28)) -> DataSource:
    sets = [Images(count) for count in counts]
    return DataSource("two", Parts([(sets[0], ["seg"]), (sets[1], ["depth"])]), Images(4), InputSpec(3, 8, 8))


def test_tasks_with_data_sets_of_their_own():
    """A step has a batch of each; every loss is that of its own images, and all of them add up."""
    stage = search(data=disjoint())
    assert stage.setting.epoch(stage.setting.data.train) == 7
    told = []
    of = stage.losses.of

    def listening(batches, draw):
        told.append([(batch.tasks, len(batch)) for batch in batches])
        found = of(batches, draw)
        for batch in batches:
            (task,) = batch.tasks
            outputs = stage.module(batch.images, tasks=[task], draw=draw)
            torch.testing.assert_close(found[task], stage.losses.objective.losses(outputs, batch)[task])
        return found

    stage.losses.of = listening
    stage.module.train()
    policy, weights = stage.step(0), stage.step(1)
    assert told == [[(("seg",), 4), (("depth",), 4)]] * 2
    assert {"policy/seg", "policy/depth"} <= set(policy) and {"loss/seg", "loss/depth"} <= set(weights)


def test_a_task_alone_sees_the_images_that_it_sees_beside_others():
    """All-own on disjoint data sets is single-task training on each."""
    where = setting(data=disjoint())
    both = where.batches(where.data.train, "train", 3)
    for task, batch in zip(("seg", "depth"), both, strict=True):
        (alone,) = where.alone(task).batches(where.data.train, "train", 3)
        assert alone.indices == batch.indices and torch.equal(alone.images, batch.images)
    assert torch.equal(where.images(where.data.train, "train", 3), torch.cat([batch.images for batch in both]))


def test_disjoint_data_sets_resume(tmp_path):
    whole = search(data=disjoint(), steps=6)
    history = whole.run()
    last, resumed = killed(lambda: search(data=disjoint(), steps=6, checkpoint_every=2), (3,), Checkpoints(tmp_path))
    assert not changed(state(whole), state(last)) and resumed.to_json() == history.to_json()


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
