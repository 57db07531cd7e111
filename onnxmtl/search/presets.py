"""The published numbers of a method for one data set, as data; applied to a recipe they replace its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

from onnxmtl.errors import RunError
from onnxmtl.search.recipe import Recipe, Stage
from onnxmtl.train.optimizers import OptimizerSpec


@dataclasses.dataclass(frozen=True)
class StagePreset:
    """The numbers of one stage. What is 0 or None stays as the recipe has it.

    Attributes:
        steps: Iterations.
        weight_lr: Learning rate of the weights.
        head_lr: Of the heads, where it is another one.
        policy_lr: Of the policy.
        decay: (factor, iterations): the weights' learning rate is multiplied so often.
        alternate: (policy, weights) of one cycle.
        unit: Of `alternate`.
        speed: The curriculum's: turns of policy training per site.
    """

    steps: int
    weight_lr: float = 0.0
    head_lr: float = 0.0
    policy_lr: float = 0.0
    decay: tuple[float, int] | None = None
    alternate: tuple[int, int] | None = None
    unit: Literal["step", "epoch"] = "step"
    speed: float = 0.0


@dataclasses.dataclass(frozen=True)
class Preset:
    """The numbers of one method for one data set.

    Attributes:
        name: As in ``--preset``.
        source: The tables they are from.
        stages: Stage -> its numbers, for every stage of the recipe.
        batch_size: Images per step.
        crop: Height and width of training crops.
        classes: Classes of the segmentation.
        loss_weights: Kind of task -> λ.
        regularizers: Name -> λ; those that the recipe does not have are left out.
        shared_prefix: Sites at the bottom that are forced to be shared when architectures are drawn.
    """

    name: str
    source: str
    stages: Mapping[str, StagePreset]
    batch_size: int
    crop: int
    classes: int
    loss_weights: Mapping[str, float]
    regularizers: Mapping[str, float]
    shared_prefix: int = 0

    @property
    def steps(self) -> int:
        """Iterations of all stages together."""
        return sum(stage.steps for stage in self.stages.values())


PRESETS: dict[tuple[str, str], dict[str, Preset]] = {}
"""(recipe, variant) -> name -> preset."""


def register_preset(recipe: str, preset: Preset, *variants: str) -> None:
    """Make a preset available for some variants of a recipe ("" is the default one).

    Raises:
        RunError: The name is taken.
    """
    for variant in variants or ("",):
        of_recipe = PRESETS.setdefault((recipe, variant), {})
        if preset.name in of_recipe:
            msg = f"preset {preset.name!r} of recipe {recipe!r} is registered already"
            raise RunError(msg)
        of_recipe[preset.name] = preset


def preset_named(recipe: Recipe, name: str) -> Preset:
    """The preset called `name` for `recipe`.

    Raises:
        RunError: There is none; the message lists those there are.
    """
    known = PRESETS.get((recipe.name, recipe.variant), {})
    if name not in known:
        has = f"there are: {', '.join(sorted(known))}" if known else "it has none"
        msg = f"recipe {recipe.title!r} has no preset {name!r}; {has}"
        raise RunError(msg)
    return known[name]


def apply_preset(recipe: Recipe, preset: Preset) -> Recipe:
    """The recipe with the preset's numbers in place of its own.

    Raises:
        RunError: The preset is for other stages.
    """
    if {stage.name for stage in recipe.stages} != set(preset.stages):
        msg = f"preset {preset.name!r} is for the stages {', '.join(preset.stages)}, not those of {recipe.title!r}"
        raise RunError(msg)
    known = {name: weight for name, weight in preset.regularizers.items() if name in recipe.regularizers}
    return dataclasses.replace(
        recipe,
        preset=preset.name,
        stages=tuple(_stage(stage, preset.stages[stage.name], preset.steps) for stage in recipe.stages),
        steps=preset.steps,
        batch_size=preset.batch_size,
        crop=preset.crop,
        classes=preset.classes,
        shared_prefix=preset.shared_prefix or recipe.shared_prefix,
        loss_weights={**recipe.loss_weights, **preset.loss_weights},
        regularizers={**recipe.regularizers, **known},
    )


def _stage(stage: Stage, numbers: StagePreset, total: int) -> Stage:
    changes: dict[str, object] = {"share": numbers.steps / total, "reference": numbers.steps}
    if stage.weights is not None:
        changes["weights"] = _optimizer(stage.weights, numbers)
    if stage.policy is not None and numbers.policy_lr:
        changes["policy"] = dataclasses.replace(stage.policy, lr=numbers.policy_lr)
    if numbers.alternate is not None and stage.alternates:
        changes |= {"alternate": numbers.alternate, "unit": numbers.unit}
    if numbers.speed and stage.curriculum is not None:
        changes["curriculum"] = dataclasses.replace(stage.curriculum, speed=numbers.speed, unit="turn")
    return dataclasses.replace(stage, **changes)  # type: ignore[arg-type]  # fields of Stage, by name


def _optimizer(spec: OptimizerSpec, numbers: StagePreset) -> OptimizerSpec:
    changed = dataclasses.replace(spec, lr=numbers.weight_lr or spec.lr, head_lr=numbers.head_lr)
    if numbers.decay is not None:
        factor, every = numbers.decay
        return dataclasses.replace(changed, schedule="step", decay=factor, every=every)
    if not numbers.weight_lr or changed.schedule == "poly":  # which falls over whatever number of steps there is
        return changed
    return dataclasses.replace(changed, schedule="constant")
