"""The training loss of a set of tasks, and their metrics over a data set."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from onnxmtl.data import Batch, Dataset, iterate
from onnxmtl.kinds import TaskSet
from onnxmtl.lowering import Draw, LoweredModule
from onnxmtl.lowering.agreement import agreed, from_first
from onnxmtl.lowering.together import totals, whole
from onnxmtl.train.losses import Parts, loss_for, parts_for
from onnxmtl.train.metrics import metric_for


class Objective:
    """Losses of all tasks. Each is normalised by what is labelled; tasks add up with their weights.

    Where several processes train together each has a part of the batch, and what is labelled is counted in all of it.
    """

    def __init__(self, tasks: TaskSet) -> None:
        self._weights = {task.name: task.weight for task in tasks}
        self._parts = {task.name: parts_for(task) for task in tasks}

    def losses(self, outputs: Mapping[str, torch.Tensor], batch: Batch) -> dict[str, torch.Tensor]:
        """Task -> loss (scalar), unweighted, for the tasks in `outputs`.

        Of several processes each gets the loss of the whole batch, with the gradient of its own part of it.
        """

        def compute() -> list[Parts]:
            return [
                self._parts[name](output, batch.targets[name], batch.labelled[name]) for name, output in outputs.items()
            ]

        parts = agreed(compute)
        counts = totals([part.counts for part in parts])
        found = whole([part.value(count) for part, count in zip(parts, counts, strict=True)])
        return dict(zip(outputs, found, strict=True))

    def total(self, losses: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Σ_t w_t L_t."""
        return torch.stack([loss * self._weights[name] for name, loss in losses.items()]).sum()


def check_tasks(tasks: TaskSet) -> None:
    """Look up the loss and the metrics of every task, users' too: before hours of training, not after.

    Raises:
        TaskError: One of them does not exist, or cannot be imported.
    """
    for task in tasks:
        loss_for(task)
        metric_for(task)


def evaluate(
    module: LoweredModule,
    tasks: TaskSet,
    dataset: Dataset,
    *,
    batch_size: int,
    device: torch.device,
    draw: Draw | None = None,
) -> dict[str, dict[str, float]]:
    """Task -> metric -> value, in evaluation mode, accumulated over the whole set; by the first process for all."""

    def measure() -> dict[str, dict[str, float]]:
        was_training = module.training
        module.eval()
        metrics = {task.name: metric_for(task) for task in tasks}
        with torch.no_grad():
            for batch in iterate(dataset, tasks, batch_size):
                moved = batch.to(device)
                # Disjoint data sets have tasks of their own: no other is computed on their images.
                for name, output in module(moved.images, batch.tasks, draw=draw).items():
                    metrics[name].update(output, moved.targets[name], moved.labelled[name])
        module.train(was_training)
        return {name: dict(metric.compute()) for name, metric in metrics.items()}

    return from_first(measure)
