"""A search method as data: a space, stages, regularizers and a decoder."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

from onnxmtl.errors import RunError
from onnxmtl.kinds import TaskSet
from onnxmtl.search.schedule import Curriculum, Schedule, Temperature, Turns
from onnxmtl.train.optimizers import OptimizerSpec

# Phases of a run that are no stages: a stage may not take their names.
_PHASES = re.compile(
    r"import|all-shared|separate(-[0-9]+)?|single-task(-[0-9]+)?|hard-sharing|times|random.*|permutation.*|vanilla|decode|emit"
)
_STAGE_NAME = re.compile(r"[a-z][a-z0-9-]*")

_ANNEALED = Temperature()
# Relaxations in which nothing is decided by the policy.
_FIXED = {
    "average": "an average of all options",
    "shared": "one trunk for all tasks",
    "own-branch": "a branch for every task",
    "separate": "a network for every task",
}

Relaxation = Literal["average", "shared", "own-branch", "separate", "softmax", "gumbel", "hard-gumbel", "selected"]
Reset = Literal["weights", "policy", "statistics"]


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of a recipe.

    Attributes:
        name: Used for phases, seeds and progress; unique in the recipe.
        share: Share of the run's steps it takes.
        relaxation: What Choices do: ``average`` (all options weigh the same), ``shared`` (option 0 everywhere, the one
            trunk runs once), ``own-branch`` (in the space ``branch`` every task takes the branch of its own number),
            ``softmax`` (the policy's probabilities themselves, without noise and temperature: DARTS), ``gumbel`` (a
            soft sample of the policy: SNAS), ``hard-gumbel`` (a sample; one option runs, for weight steps only),
            ``separate`` (there is no supermodel yet: every task trains a network of its own, which then takes its
            place in the supermodel), or ``selected``: the stage trains the selected model, after decoding.
        weights: How weights are trained; None: they are not.
        policy: How the policy is trained; None: it is not.
        policy_relaxation: What Choices do in policy steps, where it is another one: ``softmax`` or ``gumbel``
            (MTL-NAS's code samples for weights and not for the policy).
        alternate: (policy steps, weight steps) of one cycle, if both are trained.
        temperature: Of the Gumbel softmax.
        holdout: Share of the training data kept for policy steps, where both are trained.
        fresh: Start from the weights before the search (``selected`` only), as AutoMTL's post-training does.
        unit: Of `alternate`: ``step``, or ``epoch``: as many steps as go once through the data of that part.
        first: Who begins a cycle.
        curriculum: Which sites decide; None: all of them from the start.
        sequential: One update per task on images of its own, as AutoMTL's code does; else one update for all tasks.
            ``weights``: only weight steps do so (BMTAS).
        sample: The sample that regularizers see: the ``same`` that the step used, or a ``fresh`` one.
        keep: The policy that the stage ends with: its ``last`` one, or the ``best`` one on held-out data, judged
            after turns of the policy once all sites decide (AdaShare).
        reference: Steps that all numbers of steps in here (`alternate`, decays, the curriculum) refer to; in a run of
            another length they are scaled. 0: they are meant as they are.
        reset: What begins afresh with a turn (BMTAS): the optimizer's state of the ``weights`` or of the ``policy``
            when their turn begins; ``statistics``: running statistics when a turn of the weights begins, and policy
            steps, which normalize with their batch's, leave them alone.
        per_task: The learning rate of a weight is divided by the number of tasks that use it (``selected`` only).
    """

    name: str
    share: float
    relaxation: Relaxation
    weights: OptimizerSpec | None = None
    policy: OptimizerSpec | None = None
    policy_relaxation: Literal["", "softmax", "gumbel"] = ""
    alternate: tuple[int, int] = (1, 1)
    temperature: Temperature = _ANNEALED
    holdout: float = 0.2
    fresh: bool = False
    unit: Literal["step", "epoch"] = "step"
    first: Literal["policy", "weights"] = "policy"
    curriculum: Curriculum | None = None
    sequential: bool | Literal["weights"] = False
    sample: Literal["same", "fresh"] = "same"
    keep: Literal["last", "best"] = "last"
    reference: int = 0
    reset: tuple[Reset, ...] = ()
    per_task: bool = False

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
        if self.policy is not None and self.relaxation in _FIXED:
            return f"{_FIXED[self.relaxation]} teaches the policy nothing; take the relaxation 'gumbel'"
        if self.policy_relaxation and self.policy is None:
            return f"it has the relaxation {self.policy_relaxation!r} for policy steps and trains no policy"
        if not self.temperature.legal:
            return "its temperatures must be more than 0"
        if min(self.alternate) < 1 or not 0 <= self.holdout < 1:
            return "it needs one policy step and one weight step or more in turn, and a holdout from 0 to below 1"
        if self.unit == "epoch" and self.holdout == 0:
            return "turns of whole epochs need a holdout: policy and weights go through data of their own"
        if self.curriculum is not None and self.curriculum.speed <= 0:
            return f"its curriculum's speed must be more than 0, not {self.curriculum.speed}"
        if self.keep == "best" and self.policy is None:
            return "it keeps the best policy but trains none"
        if self.per_task:
            return "only the selected model's learning rates are divided by tasks"
        if self.reference < 0:
            return f"its reference is a number of steps, not {self.reference}"
        return ""

    def relaxation_of(self, part: str) -> str:
        """What Choices do in steps that train the ``policy``, or the ``weights``."""
        return (self.policy_relaxation or self.relaxation) if part == "policy" else self.relaxation

    @property
    def alternates(self) -> bool:
        """Whether policy and weights are trained in turns."""
        return self.policy is not None and self.weights is not None

    def steps(self, total: int) -> int:
        """Its number of steps in a run of `total` steps, at least one."""
        return max(1, round(total * self.share))

    def schedule(self, steps: int, epochs: tuple[int, int] | None = None) -> Schedule:
        """What happens when, if the stage has `steps` steps.

        Args:
            steps: Its length in this run.
            epochs: Steps that go once through the data of (policy, weights); needed for ``unit="epoch"`` only, and
                without it the two are taken to be in the proportion of the holdout.
        """
        policy, weights = self.alternate
        if not self.alternates:
            policy, weights = int(self.policy is not None), int(self.policy is None)
        elif self.unit == "epoch":
            held = round(100 * self.holdout)
            of_policy, of_weights = epochs or (max(1, held), max(1, 100 - held))
            policy, weights = policy * of_policy, weights * of_weights
        published = Turns(policy, weights, self.first)
        reference = self.reference or steps
        turns = published.scaled(steps / reference)
        return Schedule(steps, reference, turns, published, self.temperature, self.curriculum)

    def weight_steps(self, total: int) -> int:
        """How many of its steps update weights in a run of `total` steps."""
        steps = self.steps(total)
        return steps - round(self.schedule(steps).turns.policy_steps(steps))


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A search method.

    Attributes:
        name: As in ``--recipe``.
        space: Name of the space (``onnxmtl.passes.spaces.SPACES``).
        stages: In order; the last one may train the selected model.
        regularizers: Name -> weight, added to the loss of policy steps (``onnxmtl.search.regularizers``).
        space_options: Arguments of the space's pass.
        decoder: ``argmax``, or ``sample``: several architectures are drawn and the best on held-out data is taken.
        samples: How many the decoder draws.
        variant: ``""`` is onnxmtl's own way, ``paper`` and ``released`` follow the paper and its authors' code.
        regularizer_options: Name -> settings of that regularizer, e.g. ``{"sharing": {"scale": 6.0}}``.
        with_argmax: Whether the most probable architecture is a candidate beside the samples.
        shared_prefix: The first so many sites are forced to option 0 when architectures are drawn.
        preset: Name of the preset that was applied, or "".
        steps: Steps of a whole run; 0: the run's own number.
        batch_size: Images per step; 0: the run's own.
        crop: Height and width of training crops; 0: the data set's own.
        classes: Classes of the segmentation the preset is for; 0: the data set's.
        loss_weights: Kind of task -> weight of its loss; kinds that are not in it keep the run's.
        penalties: Name -> weight, added to the loss of weight steps of the supermodel and of the selected model
            (``onnxmtl.search.penalties``).
    """

    name: str
    space: str
    stages: tuple[Stage, ...]
    regularizers: Mapping[str, float] = dataclasses.field(default_factory=dict)
    space_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    decoder: Literal["argmax", "sample"] = "argmax"
    samples: int = 4
    variant: str = ""
    regularizer_options: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    with_argmax: bool = False
    shared_prefix: int = 0
    preset: str = ""
    steps: int = 0
    batch_size: int = 0
    crop: int = 0
    classes: int = 0
    loss_weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    penalties: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            msg = f"recipe {self.name!r}: two stages have one name"
            raise RunError(msg)
        if sum(stage.relaxation == "selected" for stage in self.stages) > 1:
            msg = f"recipe {self.name!r}: only one stage can train the selected model"
            raise RunError(msg)

    @property
    def title(self) -> str:
        """Name and variant, as people say it."""
        return f"{self.name} ({self.variant})" if self.variant else self.name

    @property
    def search_stages(self) -> tuple[Stage, ...]:
        """The stages that train the supermodel."""
        return tuple(stage for stage in self.stages if stage.relaxation not in ("selected", "separate"))

    @property
    def early_stages(self) -> tuple[Stage, ...]:
        """The stages before the architecture is decided: those of separate networks, and those of the supermodel."""
        return tuple(stage for stage in self.stages if stage.relaxation != "selected")

    @property
    def separates(self) -> bool:
        """Whether a stage trains every task's own network."""
        return any(stage.relaxation == "separate" for stage in self.stages)

    @property
    def holdout(self) -> float:
        """Share of the training data that policies learn from; candidates are judged on it."""
        return next((s.holdout for s in reversed(self.search_stages) if s.alternates and s.holdout), 0.2)

    @property
    def final_stage(self) -> Stage | None:
        """The stage that trains the selected model."""
        return next((stage for stage in self.stages if stage.relaxation == "selected"), None)

    @property
    def trainer(self) -> Stage | None:
        """The stage as which all that is compared with the found model is trained: its last one with weights."""
        return self.final_stage or next((s for s in reversed(self.stages) if s.weights is not None), None)

    def without_search(self) -> Recipe:
        """The recipe for an architecture that is given: all steps train the selected model.

        A stage of separate networks stays; all others' steps go to the stage of the selected model. A recipe without
        one (it uses the search's weights as they are) trains it as its last stage trains weights.

        Raises:
            RunError: It trains no weights.
        """
        final = self.trainer
        if final is None or final.weights is None or final.relaxation == "separate":
            msg = f"recipe {self.name!r} trains no weights, so it cannot train a given architecture"
            raise RunError(msg)
        before = tuple(stage for stage in self.stages if stage.relaxation == "separate")
        if final.relaxation != "selected":
            final = Stage("train", 1.0, "selected", weights=final.weights, sequential=bool(final.sequential),
                          reference=final.reference)  # fmt: skip
        share = 1.0 - sum(stage.share for stage in before)
        return dataclasses.replace(self, stages=(*before, dataclasses.replace(final, share=share)), regularizers={})

    def weight_steps(self, total: int) -> int:
        """Weight updates the found model has behind it after a run of `total` steps."""
        final = self.final_stage
        stages = (final,) if final is not None and final.fresh else self.stages
        return sum(stage.weight_steps(total) for stage in stages)

    def weighted(self, tasks: TaskSet) -> TaskSet:
        """The tasks with the recipe's loss weights, where the user gave none (the kind's default stands)."""
        return TaskSet(
            tuple(
                task.replace(weight=self.loss_weights[task.kind])
                if task.kind in self.loss_weights and task.weight == task.spec.weight
                else task
                for task in tasks
            )
        )

    def describe(self) -> dict[str, Any]:
        """The recipe as JSON values: part of a run's configuration."""
        return dataclasses.asdict(self)


RecipeFactory = Callable[[], Recipe]
RECIPES: dict[str, RecipeFactory] = {}
"""``name`` or ``name/variant`` -> factory."""


def _key(name: str, variant: str) -> str:
    return f"{name}/{variant}" if variant else name


def register_recipe(factory: RecipeFactory) -> RecipeFactory:
    """Decorator: make a recipe available by the name and the variant it carries.

    Raises:
        RunError: The name is taken.
    """
    recipe = factory()
    if _key(recipe.name, recipe.variant) in RECIPES:
        msg = f"recipe {recipe.title!r} is registered already"
        raise RunError(msg)
    RECIPES[_key(recipe.name, recipe.variant)] = factory
    return factory


def recipe_names() -> tuple[str, ...]:
    """The names of all recipes."""
    return tuple(sorted({key.partition("/")[0] for key in RECIPES}))


def variants_of(name: str) -> tuple[str, ...]:
    """The variants of a recipe besides its default."""
    return tuple(sorted(key.partition("/")[2] for key in RECIPES if key.startswith(f"{name}/")))


def recipe_named(name: str, variant: str = "", preset: str = "") -> Recipe:
    """The recipe called `name`, in one of its variants, with the numbers of a preset.

    Raises:
        RunError: There is none of that name, variant or preset; the message lists those there are.
    """
    from onnxmtl.search.presets import apply_preset, preset_named  # presets are made of stages

    if name not in recipe_names():
        base, _, rest = name.rpartition("-")
        hint = f"; say recipe {base!r} and variant {rest!r}" if rest and rest in variants_of(base) else ""
        msg = f"unknown recipe {name!r}; there are: {', '.join(recipe_names())}{hint}"
        raise RunError(msg)
    if _key(name, variant) not in RECIPES:
        known = variants_of(name)
        has = f"its variants: {', '.join(known)}" if known else "it has none"
        msg = f"recipe {name!r} has no variant {variant!r}; {has}"
        raise RunError(msg)
    recipe = RECIPES[_key(name, variant)]()
    return apply_preset(recipe, preset_named(recipe, preset)) if preset else recipe
