from __future__ import annotations

import dataclasses
import itertools
import json
import math

import pytest

from onnxmtl.errors import RunError
from onnxmtl.search import RECIPES, Recipe, Stage, Temperature, recipe_named, register_recipe
from onnxmtl.train.optimizers import OptimizerSpec

ADAM = OptimizerSpec()


def test_exponential_temperature_has_equal_ratios():
    values = [Temperature(5.0, 0.1).at(step, 21) for step in range(21)]
    assert values[0] == 5.0 and values[-1] == pytest.approx(0.1, rel=1e-12)
    ratios = [b / a for a, b in itertools.pairwise(values)]
    assert ratios == pytest.approx([ratios[0]] * 20, rel=1e-12)


def test_linear_temperature_has_equal_differences():
    values = [Temperature(5.0, 1.0, "linear").at(step, 9) for step in range(9)]
    assert values == pytest.approx([5.0 - 0.5 * i for i in range(9)])


def test_a_stage_of_one_step_ends_where_it_starts():
    assert Temperature(5.0, 0.5).at(0, 1) == pytest.approx(0.5)


@pytest.mark.parametrize(("alternate", "pattern"), [((1, 1), "pwpwpwpw"), ((2, 1), "ppwppwpp"), ((1, 3), "pwwwpwww")])
def test_alternation(alternate, pattern):
    stage = Stage("s", 1.0, "gumbel", weights=ADAM, policy=ADAM, alternate=alternate)
    assert "".join("p" if stage.is_policy_step(i) else "w" for i in range(8)) == pattern
    assert stage.weight_steps(8) == pattern.count("w")


def test_what_is_trained_alone_takes_all_steps():
    assert not any(Stage("s", 1.0, "gumbel", weights=ADAM).is_policy_step(i) for i in range(5))
    assert all(Stage("s", 1.0, "gumbel", policy=ADAM).is_policy_step(i) for i in range(5))


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
    recipe = recipe_named("automtl-paper")
    assert recipe.final_stage.fresh
    assert recipe.weight_steps(600) == 300


def test_describe_is_json_and_tells_recipes_apart():
    texts = {json.dumps(recipe_named(name).describe(), sort_keys=True) for name in RECIPES}
    assert len(texts) == len(RECIPES) >= 2


def test_names():
    with pytest.raises(RunError, match="unknown recipe 'nope'; there are: automtl, automtl-paper"):
        recipe_named("nope")
    with pytest.raises(RunError, match="registered already"):
        register_recipe(RECIPES["automtl"])
    assert all(recipe_named(name).name == name for name in RECIPES)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "Pre Train"}, "small letters"),
        ({"name": "decode"}, "another name"),
        ({"name": "separate-2"}, "another name"),
        ({"share": 0.0}, "share"),
        ({"weights": None, "policy": None}, "neither"),
        ({"relaxation": "average"}, "teaches the policy nothing"),
        ({"relaxation": "selected"}, "no policy left"),
        ({"temperature": Temperature(5.0, 0.0)}, "temperatures"),
        ({"alternate": (0, 1)}, "one policy step"),
        ({"holdout": 1.0}, "holdout"),
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
