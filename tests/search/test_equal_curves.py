"""With the policy forced, a search is what it is forced to be: the hard-sharing baseline, or the single-task models.

In float64, from the same weights (drawn by name), with the same order of the data. Losses must agree at every step.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from helpers.graphs import GraphBuilder

from onnxmtl.analysis.sites import site_table
from onnxmtl.data import DataSource, InputSpec
from onnxmtl.ir import clone
from onnxmtl.kinds import TaskSet
from onnxmtl.lowering import to_torch
from onnxmtl.passes.pipelines import Pipeline
from onnxmtl.passes.select import select_passes
from onnxmtl.passes.spaces import space
from onnxmtl.policy import Architecture
from onnxmtl.search import Recipe, Stage, recipe_named
from onnxmtl.search.engine import SearchStage, Setting, train_weights

TASKS = TaskSet.parse("seg=segmentation:3,depth")
STEPS = 12


class Images:
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        image = np.random.default_rng(index).random((3, 8, 8)).astype(np.float32)
        return image, {"seg": (image.sum(0) * 0.99).astype(np.int64), "depth": image[:1] + 1}


class Double:
    """Fabric's part of a step."""

    device = "cpu"

    @staticmethod
    def backward(loss: torch.Tensor) -> None:
        loss.backward()


class DoubleSetting(Setting):
    """Images in float64, as the modules are."""

    def batches(self, dataset, stream, step):
        found = super().batches(dataset, stream, step)
        for batch in found:
            batch.images = batch.images.double()
        return found


def setting(tasks: TaskSet = TASKS) -> Setting:
    return DoubleSetting(tasks, DataSource("images", Images(30), Images(4), InputSpec(3, 8, 8)), 3, 4, Double())


def multitask(names=("seg", "depth")):
    """Three residual blocks. Heads are seeded by name, whoever else there is."""
    b = GraphBuilder(0)
    x = b.block(b.image, 4, name="stem")
    x = b.residual(b.residual(x, 4), 6, stride=2)
    x = b.residual(x, 6)
    channels = {"seg": 3, "depth": 1}
    for name in ("seg", "depth"):
        b.rng = np.random.default_rng(len(name))
        if name in names:
            b.heads(x, {name: channels[name]})
    return b.heads(x, {})


def supermodel(recipe: Recipe):
    model = multitask()
    space(recipe.space, **recipe.space_options)(model)
    return model


def follow(recipe: Recipe) -> Recipe:
    """With a normalization per task nothing is hard sharing: every task trains γ and β of its own."""
    options = {**recipe.space_options, "norm": "follow"} if recipe.space == "vcn" else recipe.space_options
    return dataclasses.replace(recipe, space_options=options)


def curve(history, prefix: str, task: str) -> list[float]:
    found = history.curve(f"{prefix}/{task}")
    assert [step for step, _ in found] == list(range(1, STEPS + 1))
    return [value for _, value in found]


def forced(recipe: Recipe, stage: Stage, option: str) -> SearchStage:
    """The stage on a policy that always draws `option`."""
    model = supermodel(recipe)
    module = to_torch(model, dtype=torch.float64)
    with torch.no_grad():
        for key, name in module.logits.items():
            names = module.options[key]
            module.weight(name)[names.index(option) if option in names else 0] = 1e6
    return SearchStage(module, site_table(model), recipe, stage, setting(), STEPS)


def baseline(tasks: TaskSet, stage: Stage, stream: str):
    """A model without Choices with the same optimizer, its data in the order of the stage's weight steps."""
    module = to_torch(multitask(tasks.names), dtype=torch.float64)
    return train_weights(module, setting(tasks), stage.weights, STEPS, name="baseline", stream=stream,
                         sequential=stage.sequential, reference=stage.reference)  # fmt: skip


SEARCHES = [
    ("automtl", "", "policy-train"),
    ("automtl", "paper", "policy-train"),
    ("automtl", "released", "policy-train"),
    ("adashare", "", "warm-up"),
    ("adashare", "", "policy"),
    ("adashare", "released", "policy"),
]


@pytest.mark.parametrize("relaxation", ["gumbel", "hard-gumbel"])
@pytest.mark.parametrize(("name", "variant", "which"), SEARCHES)
def test_all_shared_is_hard_sharing(name, variant, which, relaxation):
    """A forced search stage, step by step."""
    recipe = dataclasses.replace(recipe_named(name, variant), regularizers={})
    recipe = follow(recipe)
    stage = next(stage for stage in recipe.stages if stage.name == which)
    if stage.relaxation == "gumbel":
        stage = dataclasses.replace(stage, relaxation=relaxation)
    stage = dataclasses.replace(stage, policy=None, keep="last")
    option = "shared" if recipe.space == "vcn" else "select"
    found = forced(recipe, stage, option).run()
    expected = baseline(TASKS, stage, f"{stage.name}/weights")
    for task in TASKS.names:
        np.testing.assert_allclose(curve(found, "loss", task), curve(expected, "loss", task), rtol=1e-9)
        assert curve(found, "loss", task)[0] != curve(found, "loss", task)[-1]


@pytest.mark.parametrize("variant", ["", "paper", "released"])
@pytest.mark.parametrize("relaxation", ["gumbel", "hard-gumbel"])
def test_all_own_is_single_task(variant, relaxation):
    """Every task's loss is that of its own model, trained alone; the stem is one of the sites."""
    recipe = dataclasses.replace(recipe_named("automtl", variant), regularizers={})
    stage = dataclasses.replace(recipe.stages[1], policy=None, relaxation=relaxation, keep="last")
    found = forced(recipe, stage, "own").run()
    for task in TASKS:
        alone = baseline(TaskSet((task,)), stage, f"{stage.name}/weights")
        np.testing.assert_allclose(curve(found, "loss", task.name), curve(alone, "loss", task.name), rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "variant"), [(n, v) for n in ("automtl", "adashare") for v in ("", "paper", "released")]
)
def test_the_final_stage_of_a_shared_architecture_is_hard_sharing_bit_for_bit(name, variant):
    """The selected graph is the baseline's; the final stage and the baseline draw from the same stream."""
    recipe = follow(recipe_named(name, variant))
    stage = recipe.final_stage
    model = supermodel(recipe)
    table = site_table(model)
    architecture = Architecture.uniform(table, table.sites[0].option_names[0])
    selected = Pipeline(select_passes(architecture))(clone(model)).model
    given = setting()
    plain = Setting(given.tasks, given.data, given.seed, given.batch_size, given.fabric)  # single precision
    histories = []
    for graph, label in ((selected, stage.name), (multitask(), "hard-sharing")):
        options = {"sequential": stage.sequential, "reference": stage.reference}
        histories.append(train_weights(to_torch(graph), plain, stage.weights, STEPS, name=label, **options))
    assert histories[0].to_json() == histories[1].to_json()


@pytest.mark.parametrize("variant", ["", "paper", "released"])
def test_the_final_stage_of_separate_copies_is_single_task(variant):
    recipe = recipe_named("automtl", variant)
    stage = recipe.final_stage
    model = supermodel(recipe)
    architecture = Architecture.uniform(site_table(model), "own")
    selected = Pipeline(select_passes(architecture))(clone(model)).model
    options = {"sequential": stage.sequential, "reference": stage.reference}
    module = to_torch(selected, dtype=torch.float64)
    found = train_weights(module, setting(), stage.weights, STEPS, name=stage.name, **options)
    for task in TASKS:
        alone = to_torch(multitask((task.name,)), dtype=torch.float64)
        single = train_weights(alone, setting(TaskSet((task,))), stage.weights, STEPS, name="single-task", **options)
        np.testing.assert_allclose(curve(found, "loss", task.name), curve(single, "loss", task.name), rtol=1e-9)


def test_a_forced_search_takes_no_policy_gradient_astray():
    """The twin that must fail: one block skipped by one task gives another curve."""
    recipe = dataclasses.replace(recipe_named("adashare"), regularizers={})
    stage = dataclasses.replace(recipe.stages[1], policy=None, keep="last")
    search = forced(recipe, stage, "select")
    key = max(search.module.logits)
    with torch.no_grad():
        search.module.weight(search.module.logits[key]).copy_(torch.tensor([0.0, 1e6]))
    stage_ = dataclasses.replace(stage, curriculum=None)
    skipping = SearchStage(search.module, search.table, recipe, stage_, setting(), STEPS).run()
    expected = baseline(TASKS, stage_, "policy/weights")
    assert abs(curve(skipping, "loss", key[1])[-1] - curve(expected, "loss", key[1])[-1]) > 1e-6
