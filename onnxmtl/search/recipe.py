"""A search method as data: a space, stages, regularizers and a decoder."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

from onnxmtl.errors import RunError
from onnxmtl.train.optimizers import OptimizerSpec

# Phases of a run that are no stages: a stage may not take their names.
_PHASES = re.compile(r"import|all-shared|separate(-[0-9]+)?|decode|emit")
_STAGE_NAME = re.compile(r"[a-z][a-z0-9-]*")

Relaxation = Literal["average", "gumbel", "hard-gumbel", "selected"]


@dataclasses.dataclass(frozen=True)
class Temperature:
    """Temperature of the Gumbel softmax over one stage.

    Attributes:
        start: At the first step.
        end: At the last step.
        shape: ``exponential`` (equal ratios) or ``linear`` (equal differences).
    """

    start: float = 5.0
    end: float = 0.1
    shape: Literal["exponential", "linear"] = "exponential"

    def at(self, step: int, steps: int) -> float:
        """Temperature of step `step` (from 0) of `steps`."""
        share = step / (steps - 1) if steps > 1 else 1.0
        if self.shape == "linear":
            return self.start + (self.end - self.start) * share
        return self.start * math.exp(math.log(self.end / self.start) * share)


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of a recipe.

    Attributes:
        name: Used for phases, seeds and progress; unique in the recipe.
        share: Share of the run's steps it takes.
        relaxation: What Choices do: ``average`` (all options weigh the same), ``gumbel`` (a soft sample of the
            policy), ``hard-gumbel`` (a sample; one option runs, for weight steps only), or ``selected``: the stage
            trains the selected model, after decoding.
        weights: How weights are trained; None: they are not.
        policy: How the policy is trained; None: it is not.
        alternate: (policy steps, weight steps) of one cycle, if both are trained.
        temperature: Of the Gumbel softmax.
        holdout: Share of the training data kept for policy steps, where both are trained.
        fresh: Start from the weights before the search (``selected`` only), as AutoMTL's post-training does.
    """

    name: str
    share: float
    relaxation: Relaxation
    weights: OptimizerSpec | None = None
    policy: OptimizerSpec | None = None
    alternate: tuple[int, int] = (1, 1)
    temperature: Temperature = Temperature()
    holdout: float = 0.2
    fresh: bool = False

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem:
            msg = f"stage {self.name!r}: {problem}"
            raise RunError(msg)

    def _problem(self) -> str:
        """What is wrong with the stage, or ""."""
        if not _STAGE_NAME.fullmatch(self.name) or _PHASES.fullmatch(self.name):
            return "it needs another name: small letters, digits and dashes, not one of a run's other phases"
        if self.share <= 0:
            return f"its share of the steps must be more than 0, not {self.share}"
        if self.relaxation == "selected":
            return "the selected model has no policy left to train" if self.policy is not None else ""
        if self.weights is None and self.policy is None:
            return "it trains neither weights nor policy"
        if self.policy is not None and self.relaxation == "average":
            return "an average of all options teaches the policy nothing; take the relaxation 'gumbel'"
        if min(self.temperature.start, self.temperature.end) <= 0:
            return "its temperatures must be more than 0"
        if min(self.alternate) < 1 or not 0 <= self.holdout < 1:
            return "it needs one policy step and one weight step or more in turn, and a holdout from 0 to below 1"
        return ""

    def is_policy_step(self, step: int) -> bool:
        """Whether step `step` updates the policy (else the weights)."""
        if self.policy is None or self.weights is None:
            return self.policy is not None
        policy, weights = self.alternate
        return step % (policy + weights) < policy

    def steps(self, total: int) -> int:
        """Its number of steps in a run of `total` steps, at least one."""
        return max(1, round(total * self.share))

    def weight_steps(self, total: int) -> int:
        """How many of them update weights."""
        return sum(not self.is_policy_step(step) for step in range(self.steps(total)))


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A search method.

    Attributes:
        name: As in ``--recipe``.
        space: Name of the space (``onnxmtl.passes.spaces.SPACES``).
        space_options: Arguments of the space's pass.
        stages: In order; the last one may train the selected model.
        regularizers: Name -> weight, added to the loss of policy steps (``onnxmtl.search.regularizers``).
        decoder: ``argmax``, or ``sample``: several architectures are drawn and the best on validation data is taken.
        samples: How many the decoder draws.
    """

    name: str
    space: str
    stages: tuple[Stage, ...]
    regularizers: Mapping[str, float] = dataclasses.field(default_factory=dict)
    space_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    decoder: Literal["argmax", "sample"] = "argmax"
    samples: int = 4

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            msg = f"recipe {self.name!r}: two stages have one name"
            raise RunError(msg)
        if sum(stage.relaxation == "selected" for stage in self.stages) > 1:
            msg = f"recipe {self.name!r}: only one stage can train the selected model"
            raise RunError(msg)

    @property
    def search_stages(self) -> tuple[Stage, ...]:
        """The stages that train the supermodel."""
        return tuple(stage for stage in self.stages if stage.relaxation != "selected")

    @property
    def final_stage(self) -> Stage | None:
        """The stage that trains the selected model."""
        return next((stage for stage in self.stages if stage.relaxation == "selected"), None)

    def without_search(self) -> Recipe:
        """The recipe for an architecture that is given: all steps train the selected model.

        Raises:
            RunError: It never trains the selected model.
        """
        final = self.final_stage
        if final is None:
            msg = f"recipe {self.name!r} does not train the selected model, so it cannot train a given architecture"
            raise RunError(msg)
        return dataclasses.replace(self, stages=(dataclasses.replace(final, share=1.0),), regularizers={})

    def weight_steps(self, total: int) -> int:
        """Weight updates the found model has behind it after a run of `total` steps."""
        final = self.final_stage
        stages = (final,) if final is not None and final.fresh else self.stages
        return sum(stage.weight_steps(total) for stage in stages)

    def describe(self) -> dict[str, Any]:
        """The recipe as JSON values: part of a run's configuration."""
        return dataclasses.asdict(self)


RecipeFactory = Callable[[], Recipe]
RECIPES: dict[str, RecipeFactory] = {}


def register_recipe(factory: RecipeFactory) -> RecipeFactory:
    """Decorator: make a recipe available by the name it carries.

    Raises:
        RunError: The name is taken.
    """
    name = factory().name
    if name in RECIPES:
        msg = f"recipe {name!r} is registered already"
        raise RunError(msg)
    RECIPES[name] = factory
    return factory


def recipe_named(name: str) -> Recipe:
    """The recipe called `name`.

    Raises:
        RunError: There is none; the message lists those there are.
    """
    if name not in RECIPES:
        msg = f"unknown recipe {name!r}; there are: {', '.join(sorted(RECIPES))}"
        raise RunError(msg)
    return RECIPES[name]()
