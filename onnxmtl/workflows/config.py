"""What a compilation depends on, as data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from onnxmtl.errors import RunError

TREE_BASELINES = ("permutations", "vanilla")
BASELINES = ("single-task", "hard-sharing", "random", "random-cost", *TREE_BASELINES)
DEFAULT_STEPS, DEFAULT_BATCH_SIZE = 400, 16

_LOWEST = {
    "steps": 0,
    "batch_size": 0,
    "seed": 0,
    "output_stride": 0,
    "samples": 0,
    "random_draws": 1,
    "shared_prefix": 0,
    "recalibration": 0,
    "train_size": 0,
    "val_size": 0,
}
LATER = ("fuse_siblings", "float16")
_WORDS = {
    "policy": ("learned", "random"),
    "relaxation": ("", "softmax", "gumbel", "hard-gumbel"),
    "retrain": ("", "inherit", "scratch"),
    "heads": ("", "own", "new"),
}


@dataclasses.dataclass(frozen=True)
class CompileConfig:
    """Options of :func:`onnxmtl.workflows.compile`. Everything here can change the result.

    Attributes:
        recipe: Name of the search recipe.
        variant: Of the recipe: "" (ours), or another it has, such as ``paper`` and ``released``.
        preset: Name of a set of the recipe's hyper-parameters for one data set, such as ``nyuv2``; "": none.
        without: What of the recipe is left out, for ablations: ``regularizer``, ``curriculum``, ``sparsity``,
            ``sharing``, ``entropy``, ``cost``, ``warm-up``, ``networks``.
        relaxation: What Choices do while the policy is trained: ``softmax`` (its probabilities), ``gumbel`` (a soft
            sample), ``hard-gumbel`` (a sample, in weight steps); "": the recipe's way.
        policy: ``learned``, or ``random``: nothing is searched, the architecture is drawn and all steps train it.
        data: Name of a data set, ``NAME:PATH``, or ``module:callable``; ``task=…;task=…`` for one set per task.
        data_options: Options of the data set, by name.
        steps: Steps of the whole search; the recipe's stages take shares of it. 0: the preset's, or 400.
        batch_size: Images per step. 0: the preset's, or 16.
        seed: Of everything random.
        features: Names of the tensors the heads may read; empty: found.
        output_stride: Turn strides into dilations down to this stride; 0: keep.
        batchnorm: ``insert`` puts normalization back where it was folded away at export.
        input_size: (height, width) of the images; (0, 0): the model's own, or the data set's.
        search_input_size: (height, width) of the images while the supermodel is searched; (0, 0): as everywhere else.
        space: Arguments of the space's pass that replace the recipe's (skip, norm, granularity, shared_prefix).
        regularizers: Weights that replace the recipe's, by name.
        weighting: How the tasks' losses are weighed: ``static``, ``uncertainty``, ``dwa``, ``gradnorm`` or
            ``torchjd:AGGREGATOR``.
        budget: Limits of the emitted model, such as ``params<=0.6x, madds<=12M``; "": none.
        samples: Architectures to draw from the policy, the best on held-out data is taken; 0: the recipe's way.
        shared_prefix: The first so many sites take their first option whatever the policy says.
        retrain: The selected model's weights before its last stage: ``inherit`` those of the search, start from
            ``scratch``, or "": the recipe's way.
        heads: Of networks that are given one per task: ``own`` keeps their heads, ``new`` cuts them off and attaches
            new ones; "": own. A single backbone always gets new ones.
        recalibration: Training batches that running statistics are averaged over after selection.
        train_size: Number of training samples; 0: the data set's default.
        val_size: Number of validation samples; 0: the data set's default.
        baselines: What is trained for comparison: ``single-task``, ``hard-sharing``, ``random`` (AdaShare's two kinds
            of random policies), ``random-cost`` (random policies with the found one's multiply-adds); where a tree is
            searched or given, ``permutations`` (its tasks exchanged at random) and ``vanilla`` (all tasks branch off at
            one place, at about the same cost).
        random_draws: Random architectures, or permutations, of each kind.
        fold: Whether BatchNormalization is folded into convolutions in the emitted model.
        fuse_siblings: Whether convolutions of several tasks on one input become one convolution and a Split there
            where that saves work on a CPU (:class:`onnxmtl.passes.finalize.FuseSiblings`).
        float16: Whether the emitted model computes in float16 where that is safe; input and outputs stay float32.
    """

    recipe: str = "automtl"
    variant: str = ""
    preset: str = ""
    without: tuple[str, ...] = ()
    relaxation: Literal["", "softmax", "gumbel", "hard-gumbel"] = ""
    policy: Literal["learned", "random"] = "learned"
    data: str = "scenes"
    data_options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    steps: int = 0
    batch_size: int = 0
    seed: int = 0
    features: tuple[str, ...] = ()
    output_stride: int = 0
    batchnorm: Literal["keep", "insert"] = "keep"
    input_size: tuple[int, int] = (0, 0)
    search_input_size: tuple[int, int] = (0, 0)
    space: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    regularizers: Mapping[str, float] = dataclasses.field(default_factory=dict)
    weighting: str = "static"
    budget: str = ""
    samples: int = 0
    shared_prefix: int = 0
    retrain: Literal["", "inherit", "scratch"] = ""
    heads: Literal["", "own", "new"] = ""
    recalibration: int = 20
    train_size: int = 0
    val_size: int = 0
    baselines: tuple[str, ...] = ("single-task", "hard-sharing")
    random_draws: int = 8
    fold: bool = True
    fuse_siblings: bool = False
    float16: bool = False

    def __post_init__(self) -> None:
        for name in ("features", "without", "baselines"):
            given = getattr(self, name)
            object.__setattr__(self, name, _names(_option(name), given))
        for name in ("input_size", "search_input_size"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, lowest in _LOWEST.items():
            value = getattr(self, name)
            if value < lowest:
                msg = f"{_option(name)} must be {lowest} or more, not {value}"
                raise RunError(msg)
        if self.batch_size == 1:
            msg = "--batch-size must be 2 or more: normalization needs statistics over several images"
            raise RunError(msg)
        for name, weight in self.regularizers.items():
            if not (math.isfinite(weight) and weight >= 0):
                msg = f"--regularizer {name}: its weight must be a number of 0 or more, not {weight}"
                raise RunError(msg)
        if self.baselines == ("none",):
            object.__setattr__(self, "baselines", ())
        for name in self.baselines:
            if name not in BASELINES:
                msg = f"--baselines takes none, or names of {', '.join(BASELINES)}, not {name!r}"
                raise RunError(msg)
        for name, words in _WORDS.items():
            if getattr(self, name) not in words:
                shown = ", ".join(word for word in words if word)
                msg = f"{_option(name)} takes {shown}, not {getattr(self, name)!r}"
                raise RunError(msg)

    def describe(self) -> dict[str, Any]:
        """As JSON values; later options are left out where they are off, so that earlier runs can be gone on with."""
        content = dataclasses.asdict(self)
        return {name: value for name, value in content.items() if value or name not in LATER}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> CompileConfig:
        """Read what :meth:`describe` wrote, among other entries or not."""
        return cls(**{field.name: content[field.name] for field in dataclasses.fields(cls) if field.name in content})


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _names(option: str, given: Any) -> tuple[str, ...]:
    """A tuple of names; "a,b" is taken too."""
    parts: Sequence[Any] = given.split(",") if isinstance(given, str) else given
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        msg = f"{option} takes names, not {given!r}"
        raise RunError(msg)
    return tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))
