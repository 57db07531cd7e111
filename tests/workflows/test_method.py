"""From the user's words to a recipe and complete options."""

from __future__ import annotations

import dataclasses

import pytest

from onnxmtl.errors import RunError
from onnxmtl.kinds import TaskSet
from onnxmtl.search import recipe_named
from onnxmtl.workflows import CompileConfig
from onnxmtl.workflows.method import completed, resolve


def test_what_nobody_says_has_a_default():
    recipe, config = resolve(None, CompileConfig(), fixed=False)
    assert recipe == recipe_named("automtl")
    assert (config.steps, config.batch_size, config.input_size) == (400, 16, (0, 0))
    assert resolve("adashare", CompileConfig(), fixed=False)[0] == recipe_named("adashare")


def test_a_preset_fills_in_what_the_user_does_not_say():
    preset = recipe_named("adashare", "", "nyuv2")
    recipe, config = resolve(None, CompileConfig(recipe="adashare", preset="nyuv2"), fixed=False)
    assert (config.steps, config.batch_size) == (preset.steps, preset.batch_size) and preset.steps > 400
    assert config.input_size == (321, 321)
    tasks = completed(recipe, TaskSet.parse("seg=segmentation,normals,depth"))
    assert tasks["seg"].channels == preset.classes == 40
    assert completed(recipe, TaskSet.parse("seg=segmentation:13,depth"))["seg"].channels == 13
    weights = {task.name: task.weight for task in tasks}
    assert weights == {"seg": 1.0, "normals": 20.0, "depth": 3.0}, "AdaShare's for NYUv2 with three tasks"
    said = CompileConfig(recipe="adashare", preset="nyuv2", steps=30, batch_size=4, input_size=(64, 96))
    _, config = resolve(None, said, fixed=False)
    assert (config.steps, config.batch_size, config.input_size) == (30, 4, (64, 96))


def test_with_a_budget_nothing_pulls_towards_cheap_models():
    """The decoder keeps the budget; a pull gives up what the user was ready to pay for."""
    for budget in ("madds<=0.5x", "params<=0.5x", "latency<=4ms"):
        regularizers = resolve(None, CompileConfig(budget=budget), fixed=False)[0].regularizers
        assert set(regularizers) == {"sharing"}
    assert "multiply_adds" in resolve(None, CompileConfig(), fixed=False)[0].regularizers


def test_a_pull_that_is_asked_for_stays():
    asked = {"multiply_adds": 0.1, "budget": 0.2}
    regularizers = resolve(None, CompileConfig(budget="madds<=0.5x", regularizers=asked), fixed=False)[0].regularizers
    assert regularizers == {"sharing": 5e-4, **asked}
    for name in ("cost", "regularizer"):
        given = CompileConfig(budget="params<=0.5x", without=(name,))
        assert not {"budget", "multiply_adds"} & set(resolve(None, given, fixed=False)[0].regularizers)
    assert "budget" not in resolve(None, CompileConfig(), fixed=False)[0].regularizers


@pytest.mark.parametrize(("retrain", "fresh"), [("scratch", True), ("inherit", False)])
@pytest.mark.parametrize("name", ["automtl", "adashare"])
def test_weights_of_the_selected_model(name, retrain, fresh):
    recipe, _ = resolve(name, CompileConfig(retrain=retrain), fixed=False)
    assert recipe.final_stage is not None and recipe.final_stage.fresh is fresh


def test_without_a_policy_to_learn_nothing_is_searched():
    for config, fixed in ((CompileConfig(policy="random"), False), (CompileConfig(), True)):
        recipe, _ = resolve(None, config, fixed=fixed)
        assert recipe.search_stages == () and recipe.weight_steps(100) == 100


def own():
    automtl = recipe_named("automtl")
    return dataclasses.replace(automtl, name="own", stages=automtl.search_stages)


@pytest.mark.parametrize(
    ("given", "options", "fixed", "words"),
    [
        (own(), {"variant": "paper"}, False, "give its name"),
        (own(), {"retrain": "scratch"}, False, "does not train the selected model"),
        (None, {"budget": "params<=0.5x"}, True, "leave one of them out"),
        (None, {"policy": "random"}, True, "leave one of them out"),
    ],
)
def test_options_that_contradict_each_other(given, options, fixed, words):
    with pytest.raises(RunError, match=words):
        resolve(given, CompileConfig(**options), fixed=fixed)
