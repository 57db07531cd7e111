"""What a compilation depends on, as data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

from onnxmtl.errors import RunError

_LOWEST = {
    "steps": 1,
    "batch_size": 1,
    "seed": 0,
    "output_stride": 0,
    "samples": 0,
    "recalibration": 0,
    "train_size": 0,
    "val_size": 0,
}


@dataclasses.dataclass(frozen=True)
class CompileConfig:
    """Options of :func:`onnxmtl.workflows.compile`. Everything here can change the result.

    Attributes:
        recipe: Name of the search recipe.
        data: ``scenes``, or ``module:callable``.
        steps: Steps of the whole search; the recipe's stages take shares of it.
        batch_size: Images per step.
        seed: Of everything random.
        features: Names of the tensors the heads may read; empty: found.
        output_stride: Turn strides into dilations down to this stride; 0: keep.
        batchnorm: ``insert`` puts normalization back where it was folded away at export.
        input_size: (height, width) of the images; (0, 0): the model's own, or the data set's.
        space: Arguments of the space's pass that replace the recipe's (skip, norm, granularity, shared_prefix).
        regularizers: Weights that replace the recipe's, by name.
        samples: Architectures to draw from the policy, the best on validation data is taken; 0: the recipe's way.
        recalibration: Training batches that running statistics are averaged over after selection.
        train_size: Number of training samples (``scenes`` only); 0: its default.
        val_size: Number of validation samples (``scenes`` only); 0: its default.
        baselines: Whether separate models and the all-shared model are trained for comparison.
        fold: Whether BatchNormalization is folded into convolutions in the emitted model.
    """

    recipe: str = "automtl"
    data: str = "scenes"
    steps: int = 400
    batch_size: int = 16
    seed: int = 0
    features: tuple[str, ...] = ()
    output_stride: int = 0
    batchnorm: Literal["keep", "insert"] = "keep"
    input_size: tuple[int, int] = (0, 0)
    space: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    regularizers: Mapping[str, float] = dataclasses.field(default_factory=dict)
    samples: int = 0
    recalibration: int = 20
    train_size: int = 0
    val_size: int = 0
    baselines: bool = True
    fold: bool = True

    def __post_init__(self) -> None:
        for name, lowest in _LOWEST.items():
            value = getattr(self, name)
            if value < lowest:
                msg = f"--{name.replace('_', '-')} must be {lowest} or more, not {value}"
                raise RunError(msg)
        if self.batch_size < 2:
            msg = "--batch-size must be 2 or more: normalization needs statistics over several images"
            raise RunError(msg)
        for name, weight in self.regularizers.items():
            if not (math.isfinite(weight) and weight >= 0):
                msg = f"--regularizer {name}: its weight must be a number of 0 or more, not {weight}"
                raise RunError(msg)

    def describe(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self)
