"""Steps that take the tasks in turn, and tasks with data sets of their own."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from helpers.graphs import GraphBuilder
from helpers.searching import POLICY, STAGE, changed, disjoint, names_with, search, setting, state

from onnxmtl.analysis.sites import site_table
from onnxmtl.ir import Role
from onnxmtl.lowering import to_torch
from onnxmtl.passes.spaces import SelectOrSkip
from onnxmtl.search import recipe_named
from onnxmtl.search.engine import SearchStage, Setting

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
