from __future__ import annotations

import dataclasses
import json
import math

import pytest

from onnxmtl.errors import RunError
from onnxmtl.kinds import TaskSet
from onnxmtl.search import (
    PRESETS,
    RECIPES,
    Curriculum,
    Recipe,
    Stage,
    Temperature,
    recipe_named,
    recipe_names,
    register_recipe,
    variants_of,
)
from onnxmtl.train.optimizers import OptimizerSpec

ADAM = OptimizerSpec()


@pytest.mark.parametrize("total", [1, 2, 6, 7, 400])
def test_shares(total):
    recipe = recipe_named("automtl")
    steps = [stage.steps(total) for stage in recipe.stages]
    assert min(steps) >= 1
    assert [stage.share for stage in recipe.stages] == pytest.approx([1 / 6, 2 / 6, 3 / 6])
    if total % 6 == 0:
        assert sum(steps) == total
    assert recipe.weight_steps(total) == sum(stage.weight_steps(total) for stage in recipe.stages)


def test_a_fresh_final_stage_counts_alone():
    for name in ("automtl", "adashare"):
        recipe = recipe_named(name, "paper")
        assert recipe.final_stage.fresh and recipe.weight_steps(600) == 300
        assert not recipe_named(name).final_stage.fresh


def test_the_default_adashare():
    """Warm-up with one trunk, policy with a curriculum from the back, retraining; the best of k samples and argmax."""
    recipe = recipe_named("adashare")
    assert [stage.relaxation for stage in recipe.stages] == ["shared", "gumbel", "selected"]
    warm_up, policy, _ = recipe.stages
    assert warm_up.policy is None and policy.holdout == 0.2 and policy.curriculum is not None
    assert set(recipe.regularizers) == {"sparsity", "adashare_sharing"} and not recipe.regularizer_options
    assert (recipe.decoder, recipe.samples, recipe.with_argmax) == ("sample", 8, True)


def test_describe_is_json_and_tells_recipes_apart():
    everything = [
        recipe_named(name, variant, preset)
        for name in recipe_names()
        for variant in ("", *variants_of(name))
        for preset in ("", *PRESETS.get((name, variant), {}))
    ]
    texts = {json.dumps(recipe.describe(), sort_keys=True) for recipe in everything}
    assert len(texts) == len(everything) >= 6 * 5


def test_names():
    with pytest.raises(
        RunError, match=r"unknown recipe 'nope'; there are: adashare, automtl, bmtas, cross-stitch, .*, treemtl$"
    ):
        recipe_named("nope")
    with pytest.raises(
        RunError, match=r"unknown recipe 'automtl-paper'; .*; say recipe 'automtl' and variant 'paper'$"
    ):
        recipe_named("automtl-paper")
    with pytest.raises(RunError, match=r"recipe 'automtl' has no variant 'x'; its variants: paper, released$"):
        recipe_named("automtl", "x")
    with pytest.raises(
        RunError, match=r"recipe 'automtl \(paper\)' has no preset 'nyuv2-2'; there are: cityscapes, nyu"
    ):
        recipe_named("automtl", "paper", "nyuv2-2")
    for key in ("automtl", "adashare/released"):
        with pytest.raises(RunError, match="registered already"):
            register_recipe(RECIPES[key])
    for name in recipe_names():
        for variant in ("", *variants_of(name)):
            recipe = recipe_named(name, variant)
            assert (recipe.name, recipe.variant) == (name, variant)


def test_loss_weights_of_a_preset_do_not_replace_the_users():
    recipe = recipe_named("adashare", preset="nyuv2")
    tasks = TaskSet.parse("seg=segmentation:13,depth,normals")
    seg, depth, normals = tasks
    given = TaskSet((seg, depth.replace(weight=7.0), normals))
    assert [task.weight for task in recipe.weighted(tasks)] == [1.0, 3.0, 20.0]
    assert [task.weight for task in recipe.weighted(given)] == [1.0, 7.0, 20.0]
    assert recipe_named("adashare").weighted(tasks) == tasks


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "Pre Train"}, "small letters"),
        ({"name": "decode"}, "another name"),
        ({"name": "separate-2"}, "another name"),
        ({"name": "single-task-1"}, "another name"),
        ({"share": 0.0}, "share"),
        ({"weights": None, "policy": None}, "neither"),
        ({"relaxation": "average"}, "teaches the policy nothing"),
        ({"relaxation": "shared"}, "teaches the policy nothing"),
        ({"relaxation": "selected"}, "no policy left"),
        ({"temperature": Temperature(5.0, 0.0)}, "temperatures"),
        ({"relaxation": "separate"}, "a network for every task teaches the policy nothing"),
        ({"policy": None, "policy_relaxation": "softmax"}, "trains no policy"),
        ({"temperature": Temperature(5.0, shape="decay", ratio=0.0)}, "temperatures"),
        ({"alternate": (0, 1)}, "one policy step"),
        ({"holdout": 1.0}, "holdout"),
        ({"unit": "epoch", "holdout": 0.0}, "holdout"),
        ({"curriculum": Curriculum(0)}, "curriculum"),
        ({"reference": -1}, "reference"),
        ({"policy": None, "keep": "best"}, "best policy"),
    ],
)
def test_a_stage_that_cannot_be_run_is_refused(fields, words):
    good = {"name": "policy", "share": 0.5, "relaxation": "gumbel", "weights": ADAM, "policy": ADAM}
    Stage(**good)
    with pytest.raises(RunError, match=words):
        Stage(**{**good, **fields})


def test_a_recipe_that_cannot_be_run_is_refused():
    stage = Stage("a", 0.5, "average", weights=ADAM)
    final = Stage("b", 0.5, "selected", weights=ADAM)
    with pytest.raises(RunError, match="two stages have one name"):
        Recipe("mine", "vcn", (stage, stage))
    with pytest.raises(RunError, match="only one stage"):
        Recipe("mine", "vcn", (stage, final, dataclasses.replace(final, name="c")))


def test_learning_rates():
    constant, cosine = OptimizerSpec(lr=0.1), OptimizerSpec(lr=0.1, schedule="cosine")
    assert [constant.lr_at(i, 10) for i in range(10)] == [0.1] * 10
    assert cosine.lr_at(0, 11) == pytest.approx(0.1) and cosine.lr_at(10, 11) == pytest.approx(0.001)
    assert cosine.lr_at(5, 11) == pytest.approx(0.1 * (0.01 + 0.99 / 2))
    assert all(math.isfinite(cosine.lr_at(0, n)) for n in (1, 2))
