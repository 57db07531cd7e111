"""Heads that start from what the labels say on average, so that training need not learn it from nothing.

The bias of a task's last layer becomes the best constant raw prediction: log class frequencies, the median depth,
the commonest normal. A short search then compares architectures by what they see, not by how fast a bias grows.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import torch

from onnxmtl.data import Dataset, Subset, iterate
from onnxmtl.ir import Role, role_of
from onnxmtl.kinds import Task, TaskSet
from onnxmtl.train.constant import best_constant, has_constant
from onnxmtl.train.labels import valid_mask

SAMPLES = 64
_BALANCED = ("edges", "saliency")


def label_priors(tasks: TaskSet, dataset: Dataset, samples: int = SAMPLES) -> dict[str, torch.Tensor]:
    """Task -> best constant raw prediction [C], from `samples` evenly spaced samples.

    Edges and saliency are left out: under their balanced loss the best constant is 0, which is where heads start
    anyway. So is a task without a label that counts among the samples.
    """
    count = len(dataset)
    indices = sorted({int(i) for i in np.linspace(0, count - 1, min(samples, count))})
    targets: dict[str, list[torch.Tensor]] = {task.name: [] for task in tasks}
    for batch in iterate(Subset(dataset, indices), tasks, 1):
        for task in tasks:
            target = batch.targets[task.name]
            if bool(valid_mask(task, target, batch.labelled[task.name]).any()):
                targets[task.name].append(target)
    return {
        task.name: _prior(task, targets[task.name])
        for task in tasks
        if targets[task.name] and task.spec.name not in _BALANCED and has_constant(task)
    }


def _prior(task: Task, targets: list[torch.Tensor]) -> torch.Tensor:
    if not task.spec.categorical:
        return best_constant(task, targets)
    counts = torch.ones(task.channels, dtype=torch.float64)  # one of each, so that no class is impossible
    for target in targets:
        labels = target[valid_mask(task, target)].long()
        counts += torch.bincount(labels, minlength=task.channels)[: task.channels]
    logs = (counts / counts.sum()).log()
    return logs - logs.mean()


def start_from(model: ir.Model, priors: Mapping[str, torch.Tensor]) -> list[str]:
    """Set the bias of each task's last layer, in place; returns the tasks whose head has one.

    The last layer is the Conv or Gemm of the head behind which only resizing and reshaping happens.
    """
    done = []
    for output in model.graph.outputs:
        prior = priors.get(str(output.name))
        bias = _last_bias(output)
        if prior is None or bias is None or bias.const_value is None:
            continue
        old = bias.const_value.numpy()
        if old.shape == tuple(prior.shape):
            bias.const_value = ir.tensor(prior.numpy().astype(old.dtype), name=bias.name)
            done.append(str(output.name))
    return done


def _last_bias(value: ir.Value) -> ir.Value | None:
    node = value.producer()
    while node is not None and node.op_type in ("Resize", "Identity", "Reshape", "Flatten", "Squeeze"):
        first = node.inputs[0]
        node = first.producer() if first is not None else None
    if node is None or node.op_type not in ("Conv", "Gemm") or len(node.inputs) < 3:
        return None
    bias = node.inputs[2]
    return bias if bias is not None and bias.is_initializer() and role_of(bias) is Role.HEAD else None
