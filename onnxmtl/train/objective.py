"""The training loss of a set of tasks, and their metrics over a data set."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from onnxmtl.data import Batch, Dataset, iterate
from onnxmtl.kinds import TaskSet
from onnxmtl.lowering import Draw, LoweredModule
from onnxmtl.train.losses import loss_for
from onnxmtl.train.metrics import metric_for


class Objective:
    """Losses of all tasks. Each is normalised by what is labelled; tasks add up with their weights."""

    def __init__(self, tasks: TaskSet) -> None:
        self._weights = {task.name: task.weight for task in tasks}
        self._losses = {task.name: loss_for(task) for task in tasks}

    def losses(self, outputs: Mapping[str, torch.Tensor], batch: Batch) -> dict[str, torch.Tensor]:
        """Task -> loss (scalar), unweighted, for the tasks in `outputs`."""
        return {
            name: self._losses[name](output, batch.targets[name], batch.labelled[name])
            for name, output in outputs.items()
        }

    def total(self, losses: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Σ_t w_t L_t."""
        return torch.stack([loss * self._weights[name] for name, loss in losses.items()]).sum()


def evaluate(
    module: LoweredModule,
    tasks: TaskSet,
    dataset: Dataset,
    *,
    batch_size: int,
    device: torch.device,
    draw: Draw | None = None,
) -> dict[str, dict[str, float]]:
    """Task -> metric -> value, in evaluation mode, accumulated over the whole set."""
    was_training = module.training
    module.eval()
    metrics = {task.name: metric_for(task) for task in tasks}
    with torch.no_grad():
        for batch in iterate(dataset, tasks, batch_size):
            moved = batch.to(device)
            for name, output in module(moved.images, draw=draw).items():
                metrics[name].update(output, moved.targets[name], moved.labelled[name])
    module.train(was_training)
    return {name: dict(metric.compute()) for name, metric in metrics.items()}
