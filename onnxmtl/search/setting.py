"""What all trainings of a run have in common, and what one step of any of them does."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from onnxmtl.data import Batch, Dataset, DataSource, batches_at, limited, parts_of, split
from onnxmtl.errors import RunError
from onnxmtl.kinds import TaskSet
from onnxmtl.lowering import Draw, LoweredModule, together
from onnxmtl.lowering.agreement import agreed
from onnxmtl.runs import derive_seed
from onnxmtl.search.penalties import penalties
from onnxmtl.train.objective import Objective
from onnxmtl.train.weighting import Weighting, WeightingSpec, make_weighting, parse_weighting

JUDGED = 2000
"""Samples, of each data set, that policies and candidates are judged on at most."""
TRAIN_STREAM = "train"
"""Data order and dropout of everything that trains a model without Choices: a found architecture that shares all sees
the very images that the hard-sharing baseline sees."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all trainings of a run have in common.

    Attributes:
        tasks: The tasks.
        data: Train and validation sets.
        seed: All draws, orders and initial weights are functions of it.
        batch_size: Images per step (of each data set, where tasks have data sets of their own); of all processes.
        fabric: Device and precision (a ``lightning_fabric.Fabric``).
        checkpoint_every: Steps between checkpoints.
    """

    tasks: TaskSet
    data: DataSource
    seed: int
    batch_size: int
    fabric: Any
    checkpoint_every: int = 50

    @property
    def device(self) -> torch.device:
        """The device Fabric chose."""
        return torch.device(self.fabric.device)

    def batches(self, dataset: Dataset, stream: str, step: int) -> list[Batch]:
        """The batches of a step, on the device: one, or one per data set where tasks have their own.

        Where several processes train together, this one's part of them.
        """
        share = (together.rank(), together.world_size()) if together.world_size() > 1 else (0, 1)

        def read() -> list[Batch]:
            return batches_at(
                dataset,
                self.tasks,
                batch_size=self.batch_size,
                seed=self.seed,
                stream=stream,
                step=step,
                share=share,
            )

        return [batch.to(self.device) for batch in agreed(read)]

    def images(self, dataset: Dataset, stream: str, step: int) -> torch.Tensor:
        """The images of a step's batches, one after the other: [N, C, H, W]."""
        return torch.cat([batch.images for batch in self.batches(dataset, stream, step)])

    def held(self, holdout: float = 0.2) -> Dataset:
        """What policies and candidates are judged on: the part of the training data that is kept for policy steps.

        The validation set decides nothing, so that what is reported on it is no better than it should be.
        """
        _, held = split(self.data.train, 1.0 - (holdout or 0.2), self.seed)
        return limited(held, JUDGED)

    def alone(self, task: str) -> Setting:
        """The same setting for one of its tasks."""
        return dataclasses.replace(self, tasks=TaskSet((self.tasks[task],)))

    def epoch(self, dataset: Dataset) -> int:
        """Steps that go once through a data set; of disjoint ones, through the largest."""
        longest = max(len(part.dataset) for part in parts_of(dataset, self.tasks))
        return max(1, round(longest / self.batch_size))


class Losses:
    """The losses of a module's tasks, and how they become one.

    Args:
        module: The model.
        setting: Tasks and device.
        weighting: How the tasks' losses are weighed: a specification, its text (``dwa,temperature=1``), or None for the
            weights of the tasks alone.
        penalized: Penalty -> weight (:mod:`onnxmtl.search.penalties`): added in every backward pass of a weight step,
            whatever the weighting makes of the losses.
    """

    def __init__(
        self,
        module: LoweredModule,
        setting: Setting,
        weighting: WeightingSpec | str | None,
        penalized: Mapping[str, float] | None = None,
    ) -> None:
        self.module, self.setting = module, setting
        self.penalties = penalties(penalized or {}, module)
        self.objective = Objective(setting.tasks)
        spec = parse_weighting(weighting) if isinstance(weighting, str) else weighting or WeightingSpec()
        self.weighting: Weighting = make_weighting(spec, setting.tasks)

    def of(self, batches: Iterable[Batch], draw: Draw | None = None) -> dict[str, torch.Tensor]:
        """Task -> loss (scalar, unweighted) of the tasks that the batches label; a task of several batches adds up."""
        losses: dict[str, torch.Tensor] = {}
        for batch in batches:
            asked = [task for task in self.module.tasks if task in batch.targets]
            outputs = self.module(batch.images, tasks=asked, draw=draw)
            for name, loss in self.objective.losses(outputs, batch).items():
                losses[name] = losses[name] + loss if name in losses else loss
        return losses

    @functools.cached_property
    def shared(self) -> list[torch.Tensor]:
        """The parameters that several tasks can use, in the order of the model."""
        readers = Counter(name for task in self.module.tasks for name in self.module.read_by(task))
        return [parameter for name, parameter in self.module.parameters_with().items() if readers[name] > 1]

    def backward(self, losses: Mapping[str, torch.Tensor], step: int, steps: int) -> dict[str, float]:
        """The backward pass of a weight step, as the weighting does it, and of the penalties; their figures."""
        shared = [parameter for parameter in self.shared if parameter.requires_grad]
        told = self.weighting.backward(
            losses, shared=shared, backward=self.setting.fabric.backward, step=step, steps=steps
        )
        for weight, name, function in self.penalties:
            value = function()
            told |= figures("penalty", {name: value}, "training", step, steps)
            if value.requires_grad:
                self.setting.fabric.backward(together.once(weight * value))
        # What the weighting trains itself follows from the losses, and is the same in all processes already.
        together.sum_gradients(p for p in self.module.parameters_with().values() if p.requires_grad)
        return told


def figures(prefix: str, values: Mapping[str, torch.Tensor], stage: str, step: int, steps: int) -> dict[str, float]:
    """Losses as numbers, under ``prefix/NAME``. A step that would spoil the weights is never taken.

    Raises:
        RunError: One is not finite.
    """
    found = {name: float(value.detach()) for name, value in values.items()}
    for name, value in found.items():
        if not math.isfinite(value):
            msg = (
                f"{stage}, step {step + 1} of {steps}: the loss of {name!r} is {value}, the training diverged; "
                "look for extreme values in its labels, lower its weight in the task file, or take a larger batch"
            )
            diverged = RunError(msg)
            diverged.told_elsewhere = together.rank() > 0  # the figures are those of all processes
            raise diverged
    return {f"{prefix}/{name}": value for name, value in found.items()}


def seed_dropout(setting: Setting, stream: str, step: int) -> None:
    """Noise inside the network is a function of (seed, stream, step); of several processes each has its own."""
    process = (together.rank(),) if together.world_size() > 1 and together.rank() else ()
    torch.manual_seed(derive_seed(setting.seed, stream, step, "dropout", *process))
