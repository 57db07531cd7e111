"""Runs the stages of a recipe: what a step is, for weights and for the policy."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch

from onnxmtl.analysis.table import SiteTable
from onnxmtl.data import Dataset, DataSource, batch_at, split
from onnxmtl.errors import RunError
from onnxmtl.ir import Role
from onnxmtl.kinds import TaskSet
from onnxmtl.lowering import Draw, LoweredModule
from onnxmtl.runs import Checkpoints, derive_seed
from onnxmtl.search.recipe import Recipe, Stage
from onnxmtl.search.regularizers import regularizer
from onnxmtl.search.relaxations import average_draw, by_site, gumbel_weights, harden
from onnxmtl.train.loop import Listener, fit
from onnxmtl.train.objective import Objective
from onnxmtl.train.optimizers import OptimizerSpec, build_optimizer, set_lr


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all trainings of a run have in common.

    Attributes:
        tasks: The tasks.
        data: Train and validation sets.
        seed: All draws, orders and initial weights are functions of it.
        batch_size: Images per step.
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

    def batch(self, dataset: Dataset, stream: str, step: int) -> Any:
        """The batch of a step, on the device."""
        batch = batch_at(dataset, self.tasks, batch_size=self.batch_size, seed=self.seed, stream=stream, step=step)
        return batch.to(self.device)


def train_weights(
    module: LoweredModule,
    setting: Setting,
    spec: OptimizerSpec,
    steps: int,
    *,
    name: str,
    checkpoints: Checkpoints | None = None,
    listener: Listener | None = None,
) -> None:
    """Train all weights of a model without Choices for `steps` steps.

    Args:
        module: Changed in place, left in evaluation mode.
        setting: Data, seed, device.
        spec: The optimizer.
        steps: Number of updates.
        name: Of the stage; seeds draws and the order of the data.
        checkpoints: For resuming.
        listener: Progress.
    """
    objective = Objective(setting.tasks)
    optimizer = build_optimizer(spec, module.parameters_with())

    def step(number: int) -> Mapping[str, float]:
        _seed_dropout(setting, name, number)
        set_lr(optimizer, spec.lr_at(number, steps))
        batch = setting.batch(setting.data.train, name, number)
        losses = objective.losses(module(batch.images), batch)
        figures = _figures(losses, name, number, steps)
        optimizer.zero_grad(set_to_none=True)
        setting.fabric.backward(objective.total(losses))
        optimizer.step()
        return figures

    module.train()
    fit(module, {"weights": optimizer}, step, steps, checkpoints=checkpoints, every=setting.checkpoint_every,
        listener=listener)  # fmt: skip
    module.eval()


class SearchStage:
    """One stage that trains a supermodel: weight steps, policy steps, or both in turns.

    In a weight step the policy takes no gradient; in a policy step the weights take none, so that Choices can use dot
    products (:mod:`onnxmtl.lowering.mixing`). Policy steps use the part of the training data held out for them.
    Where nothing is to be decided (one task, or all sites forced to be shared) policy steps do nothing.
    """

    def __init__(
        self, module: LoweredModule, table: SiteTable, recipe: Recipe, stage: Stage, setting: Setting, steps: int
    ) -> None:
        self.module, self.table, self.stage, self.setting, self.steps = module, table, stage, setting, steps
        self.objective = Objective(setting.tasks)
        self.regularizers = [(weight, name, regularizer(name, table)) for name, weight in recipe.regularizers.items()]
        policy = module.parameters_with(Role.LOGITS)
        self.logits = list(policy.values())
        others = {name: p for name, p in module.parameters_with().items() if name not in policy}
        self.weights = list(others.values())
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        if stage.weights is not None:
            self.optimizers["weights"] = build_optimizer(stage.weights, others)
        if stage.policy is not None and policy:
            self.optimizers["policy"] = build_optimizer(stage.policy, policy)
        train = setting.data.train
        self.data = {"weights": train, "policy": train}
        if stage.weights is not None and stage.policy is not None and stage.holdout > 0:
            kept, held = split(train, 1.0 - stage.holdout, setting.seed)
            self.data = {"weights": kept, "policy": held}

    def run(self, checkpoints: Checkpoints | None = None, listener: Listener | None = None) -> None:
        """Train in place; the module is left in evaluation mode with all gradients switched on."""
        self.module.train()
        try:
            fit(self.module, self.optimizers, self.step, self.steps, checkpoints=checkpoints,
                every=self.setting.checkpoint_every, listener=listener)  # fmt: skip
        finally:
            for parameter in (*self.weights, *self.logits):
                parameter.requires_grad_(True)
            self.module.eval()

    def step(self, number: int) -> Mapping[str, float]:
        """One update; a function of the state and `number`."""
        part = "policy" if self.stage.is_policy_step(number) else "weights"
        spec = self.stage.policy if part == "policy" else self.stage.weights
        if spec is None or part not in self.optimizers:
            return {}
        optimizer = self.optimizers[part]
        set_lr(optimizer, spec.lr_at(number, self.steps))
        for parameter in self.weights:
            parameter.requires_grad_(part == "weights")
        for parameter in self.logits:
            parameter.requires_grad_(part == "policy")
        _seed_dropout(self.setting, self.stage.name, number)
        draw = self.draw(number, part)
        batch = self.setting.batch(self.data[part], f"{self.stage.name}/{part}", number)
        losses = self.objective.losses(self.module(batch.images, draw=draw), batch)
        total = self.objective.total(losses)
        figures = _figures(losses, self.stage.name, number, self.steps)
        if part == "policy" and draw.weights is not None:
            sample = by_site(self.table, draw.weights)
            for weight, name, function in self.regularizers:
                value = function(sample)
                total = total + (weight * value).to(total.dtype)
                figures |= _figures({name: value}, self.stage.name, number, self.steps)
        optimizer.zero_grad(set_to_none=True)
        self.setting.fabric.backward(total)
        optimizer.step()
        return figures

    def draw(self, number: int, part: str) -> Draw:
        """What the Choices do in step `number`."""
        if self.stage.relaxation == "average":
            return average_draw(self.module)
        weights = gumbel_weights(
            self.module,
            self.stage.temperature.at(number, self.steps),
            seed=self.setting.seed,
            stage=self.stage.name,
            step=number,
        )
        if self.stage.relaxation == "hard-gumbel" and part == "weights":
            return harden(weights)
        return Draw(weights=weights)


def _figures(losses: Mapping[str, torch.Tensor], stage: str, step: int, steps: int) -> dict[str, float]:
    """The losses as numbers. A step that would spoil the weights is never taken.

    Raises:
        RunError: One is not finite.
    """
    found = {name: float(loss.detach()) for name, loss in losses.items()}
    for name, value in found.items():
        if not math.isfinite(value):
            msg = (
                f"{stage}, step {step + 1} of {steps}: the loss of {name!r} is {value}, the training diverged; "
                "look for extreme values in its labels, lower its weight in the task file, or take a larger batch"
            )
            raise RunError(msg)
    return found


def _seed_dropout(setting: Setting, stage: str, step: int) -> None:
    torch.manual_seed(derive_seed(setting.seed, stage, step, "dropout"))
