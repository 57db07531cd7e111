"""A recipe with a part left out or replaced, to see what the part is good for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Literal

from onnxmtl.errors import RunError
from onnxmtl.search.recipe import Recipe

# What each word leaves out, as names of regularizers.
_LOSSES = {
    "sparsity": ("sparsity",),
    "sharing": ("sharing", "adashare_sharing"),
    "entropy": ("entropy",),
    "cost": ("multiply_adds", "parameters", "bmtas_released", "latency", "budget"),
}
COSTS = _LOSSES["cost"]
"""Regularizers that pull towards low costs."""
ABLATIONS = ("regularizer", "curriculum", "warm-up", "networks", *_LOSSES)


def without(recipe: Recipe, names: Iterable[str]) -> Recipe:
    """The recipe without some of its parts; all else stays.

    Args:
        recipe: The whole recipe.
        names: ``regularizer`` (all that is added to the task losses, penalties on weights too), ``curriculum`` (all
            sites decide from the start), ``warm-up`` (the stage of that name; the others stay as long as they are),
            ``networks`` (the stage that trains every task's own network, likewise), ``sparsity``, ``sharing``,
            ``entropy``, ``cost`` (the regularizers of that kind).

    Raises:
        RunError: An unknown name, or the recipe has no such part.
    """
    wanted = tuple(dict.fromkeys(names))
    for name in wanted:
        if name not in ABLATIONS:
            msg = f"cannot leave out {name!r}; what can be left out: {', '.join(ABLATIONS)}"
            raise RunError(msg)
        if not _has(recipe, name):
            msg = f"recipe {recipe.title!r} has no {name} to leave out"
            raise RunError(msg)
    if "curriculum" in wanted:
        stages = tuple(dataclasses.replace(stage, curriculum=None) for stage in recipe.stages)
        recipe = dataclasses.replace(recipe, stages=stages)
    if "warm-up" in wanted:
        stages = tuple(stage for stage in recipe.stages if stage.name != "warm-up")
        recipe = dataclasses.replace(recipe, stages=stages)
    if "networks" in wanted:
        stages = tuple(stage for stage in recipe.stages if stage.relaxation != "separate")
        recipe = dataclasses.replace(recipe, stages=stages)
    gone = {loss for name in wanted for loss in _LOSSES.get(name, ())}
    if "regularizer" in wanted:
        return dataclasses.replace(recipe, regularizers={}, penalties={})
    kept = {name: weight for name, weight in recipe.regularizers.items() if name not in gone}
    return dataclasses.replace(recipe, regularizers=kept)


def relaxed(recipe: Recipe, relaxation: Literal["softmax", "gumbel", "hard-gumbel"]) -> Recipe:
    """The recipe with another relaxation in the stages that train its policy; all else stays.

    Raises:
        RunError: It trains no policy.
    """
    if not any(stage.policy is not None for stage in recipe.stages):
        msg = f"recipe {recipe.title!r} trains no policy, so it has no relaxation to replace by {relaxation!r}"
        raise RunError(msg)
    stages = tuple(
        stage if stage.policy is None else dataclasses.replace(stage, relaxation=relaxation, policy_relaxation="")
        for stage in recipe.stages
    )
    return dataclasses.replace(recipe, stages=stages)


def _has(recipe: Recipe, name: str) -> bool:
    if name == "curriculum":
        return any(stage.curriculum is not None for stage in recipe.stages)
    if name == "warm-up":
        return any(stage.name == "warm-up" for stage in recipe.stages)
    if name == "networks":
        return recipe.separates
    if name == "regularizer":
        return bool(recipe.regularizers or recipe.penalties)
    return any(loss in recipe.regularizers for loss in _LOSSES[name])
