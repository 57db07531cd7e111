"""From the user's words to the recipe of a run, and the options that it fills in."""

from __future__ import annotations

import dataclasses

from onnxmtl.errors import RunError
from onnxmtl.kinds import TaskSet
from onnxmtl.policy import Layout
from onnxmtl.policy.budget import Limit, parse_budget
from onnxmtl.search import Recipe, recipe_named, relaxed, without
from onnxmtl.workflows.config import DEFAULT_BATCH_SIZE, DEFAULT_STEPS, TREE_BASELINES, CompileConfig

DEFAULT_OF_LAYOUTS = "treemtl"


def resolve(
    given: Recipe | str | None, config: CompileConfig, *, fixed: bool, layout: Layout | None = None
) -> tuple[Recipe, CompileConfig]:
    """The recipe with the user's changes, and the options with what the recipe says where the user said nothing.

    Args:
        given: A recipe, or the name of one; None takes ``config.recipe``.
        config: The options.
        fixed: Whether the architecture is given: nothing is searched then.
        layout: The tree, if that is given; then None as `given` takes the recipe ``treemtl`` in the place of the
            default one, and of any other recipe the stage that trains the selected model trains the tree.

    Raises:
        RunError: No such recipe, variant, preset or ablation; or options that contradict each other.
        BudgetError: The budget cannot be read.
    """
    limits = parse_budget(config.budget)
    if layout is not None and given is None and config.recipe == CompileConfig.recipe:
        given = DEFAULT_OF_LAYOUTS
    if isinstance(given, Recipe):
        if config.variant or config.preset:
            msg = "a recipe that is given as an object has no variants and presets; give its name instead"
            raise RunError(msg)
        recipe = given
    else:
        recipe = recipe_named(given or config.recipe, config.variant, config.preset)
    recipe = without(recipe, config.without) if config.without else recipe
    recipe = dataclasses.replace(recipe, regularizers=_pulls(recipe, limits))
    recipe = relaxed(recipe, config.relaxation) if config.relaxation else recipe
    stages = tuple(
        dataclasses.replace(stage, fresh=config.retrain == "scratch")
        if config.retrain and stage.relaxation == "selected"
        else stage
        for stage in recipe.stages
    )
    recipe = dataclasses.replace(
        recipe,
        stages=stages,
        space_options={**recipe.space_options, **config.space},
        regularizers={**recipe.regularizers, **config.regularizers},
        decoder="sample" if config.samples else recipe.decoder,
        samples=config.samples or recipe.samples,
        shared_prefix=max(recipe.shared_prefix, config.shared_prefix),
    )
    if config.retrain and recipe.final_stage is None:
        msg = f"--retrain {config.retrain}: recipe {recipe.name!r} does not train the selected model"
        raise RunError(msg)
    decides = any(stage.policy is not None for stage in recipe.stages)
    if not decides and layout is None and recipe.space != "tree":
        for is_asked, what in (
            (config.policy == "random", "--policy random draws an architecture"),
            (config.samples > 0, "--samples draws architectures"),
            (config.shared_prefix > 0, "--decode-prefix decides sites"),
            (bool(config.regularizers), "--regularizer is for steps of the policy"),
        ):
            if is_asked:
                msg = f"{what} and recipe {recipe.title!r} has nothing to decide: leave it out"
                raise RunError(msg)
    if config.shared_prefix and recipe.space == "fusion":
        msg = "--decode-prefix forces sites to be shared, and the sites of fusion are edges: leave it out"
        raise RunError(msg)
    if fixed and limits:
        msg = "--budget chooses an architecture and --architecture gives one: leave one of them out"
        raise RunError(msg)
    if fixed and config.policy == "random":
        msg = "--policy random draws an architecture and --architecture gives one: leave one of them out"
        raise RunError(msg)
    if layout is not None:
        recipe = _of_layout(recipe, config, fixed=fixed)
    elif recipe.space == "tree":
        msg = f"recipe {recipe.title!r} trains a tree that is given: name its file with --layout"
        raise RunError(msg)
    elif fixed or config.policy == "random":
        recipe = recipe.without_search()
    if config.relaxation and not recipe.search_stages:
        msg = f"--relaxation {config.relaxation} is for the search, and here nothing is searched: leave it out"
        raise RunError(msg)
    if any(config.search_input_size) and not recipe.search_stages:
        msg = "--search-input-size is for the search, and here nothing is searched: leave it out"
        raise RunError(msg)
    trees = [name for name in config.baselines if name in TREE_BASELINES]
    if trees and recipe.space not in ("branch", "tree"):
        msg = f"--baselines {trees[0]} is about trees: take the recipe bmtas, or give one with --layout"
        raise RunError(msg)
    cuts = {"groups": "--blocks", "at": "--at"}
    # A word is a setting of soft sharing: at=stages, at=layers.
    asked = [cuts[name] for name, value in config.space.items() if name in cuts and not isinstance(value, str)]
    if asked and recipe.space not in ("branch", "tree"):
        msg = f"{asked[0]} says where trees can branch: take the recipe bmtas, or leave it out"
        raise RunError(msg)
    filled = dataclasses.replace(
        config,
        steps=config.steps or recipe.steps or DEFAULT_STEPS,
        batch_size=config.batch_size or recipe.batch_size or DEFAULT_BATCH_SIZE,
        input_size=config.input_size if any(config.input_size) else (recipe.crop, recipe.crop),
    )
    return recipe, filled


def _of_layout(recipe: Recipe, config: CompileConfig, *, fixed: bool) -> Recipe:
    """The recipe with all its steps in the stage that trains the tree."""
    for asked, option in (
        (fixed, "--architecture"),
        (config.policy == "random", "--policy random"),
        (config.samples > 0, "--samples"),
        (config.shared_prefix > 0, "--decode-prefix"),
        *((True, "--blocks" if name == "groups" else f"--{name.replace('_', '-')}") for name in config.space),
    ):
        if asked:
            msg = f"--layout says what the tasks share, and so does {option}: leave one of them out"
            raise RunError(msg)
    trained = recipe.without_search()
    return dataclasses.replace(trained, space="tree", space_options={}, decoder="argmax", shared_prefix=0)


def _pulls(recipe: Recipe, limits: tuple[Limit, ...]) -> dict[str, float]:
    """The weights of the regularizers. With a budget cost weighs nothing unless the user asks: the decoder keeps it.

    A pull down to the budget acts on the expected cost of a policy that is still undecided. What it makes cheaper is
    skipping, which pays at once, and not sharing, which pays only where tasks have not parted before; and the most
    probable architecture of such a policy then lies far below the budget. Without it AutoMTL's models were better in 8
    of 8 pairs (README, "Method and budget"), those of AdaShare and BMTAS neither better nor worse.
    """
    found = dict(recipe.regularizers)
    if limits:
        for pull in ("multiply_adds", "parameters", "bmtas_released", "latency"):
            found.pop(pull, None)
    return found


def completed(recipe: Recipe, tasks: TaskSet) -> TaskSet:
    """The tasks with the preset's loss weights and number of classes, where the user gave none."""
    classes = recipe.classes
    weighted = recipe.weighted(tasks)
    if not classes:
        return weighted
    return TaskSet(
        tuple(
            task.replace(channels=classes) if task.kind == "segmentation" and not task.channels else task
            for task in weighted
        )
    )
