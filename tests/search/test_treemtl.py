"""The recipe that trains a given tree: one stage, and the published numbers."""

from __future__ import annotations

import pytest

from onnxmtl.search import recipe_named


def test_one_stage_and_nothing_to_search():
    recipe = recipe_named("treemtl")
    assert recipe.space == "tree" and not recipe.search_stages and not recipe.regularizers
    assert recipe.final_stage.steps(400) == 400 == recipe.weight_steps(400)
    assert recipe.final_stage.weights.schedule == "cosine"


@pytest.mark.parametrize(("preset", "steps"), [("nyuv2", 20_000), ("nyuv2-13", 20_000), ("taskonomy", 50_000)])
@pytest.mark.parametrize("variant", ["", "released"])
def test_methods_md_2_3(variant, preset, steps):
    """Adam 1e-3, betas (.5, .999), weight decay 1e-4, halved every 4000 steps, batch 16, all losses weigh 1."""
    recipe = recipe_named("treemtl", variant, preset)
    adam = recipe.final_stage.weights
    assert (recipe.steps, recipe.batch_size, set(recipe.loss_weights.values())) == (steps, 16, {1.0})
    assert (adam.name, adam.lr, adam.weight_decay) == ("adam", 1e-3, 1e-4)
    assert (adam.schedule, adam.decay, adam.every) == ("step", 0.5, 4000)
    assert adam.betas == ((0.5, 0.999) if variant else (0.9, 0.999))
