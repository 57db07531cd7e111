"""Metrics of an emitted model, computed by ONNX Runtime over a data set."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from onnxmtl import runtime
from onnxmtl.data import Dataset, iterate
from onnxmtl.kinds import Task, TaskSet
from onnxmtl.train.metrics import metric_for

# Where float32 probabilities end: beyond it a logit cannot be told.
_LEAST = 1e-7


def evaluate_emitted(
    session: runtime.Session, tasks: TaskSet, dataset: Dataset, *, batch_size: int = 32
) -> dict[str, dict[str, float]]:
    """Task -> metric -> value over the whole set.

    Args:
        session: Of a model with one image input, whose outputs are the tasks in the form of their output contract.
        tasks: The tasks.
        dataset: Labelled samples.
        batch_size: Images at once.

    Raises:
        DataError: A sample does not fit its task.
        ModelError: ONNX Runtime does not run the model.
    """
    name = session.get_inputs()[0].name
    metrics = {task.name: metric_for(task) for task in tasks}
    for batch in iterate(dataset, tasks, batch_size):
        found = runtime.run(session, {name: batch.images.numpy()}, list(batch.tasks))
        for task, output in found.items():
            target = batch.targets[task]
            metrics[task].update(raw_prediction(tasks[task], output, tuple(target.shape)), target, batch.labelled[task])
    return {name: dict(metric.compute()) for name, metric in metrics.items()}


def raw_prediction(task: Task, output: np.ndarray[Any, np.dtype[Any]], target: tuple[int, ...] = ()) -> torch.Tensor:
    """A prediction as metrics take it, from the emitted output: what the output contract's last step was given.

    Logits are found up to what that step forgets: a constant over the classes of a softmax, all but the largest class
    of an argmax, the length of a unit vector, what was clipped. No metric but the cross-entropy and the five likeliest
    classes of an argmax depends on these.

    Args:
        task: Whose output it is.
        output: As the model returns it, a batch.
        target: Shape of the labels: class numbers at another resolution become scores, which can be resized.
    """
    found = torch.from_numpy(np.ascontiguousarray(output))
    if task.output == "probabilities":
        safe = found.double().clamp(_LEAST, 1 - _LEAST)
        return safe.logit() if found.shape[1] == 1 else safe.log()
    if task.output == "argmax" and task.dense and found.shape[-2:] != target[-2:]:
        return torch.nn.functional.one_hot(found.long(), task.channels).movedim(-1, 1).float()
    return found
