"""The best policy of a stage, judged on held-out data after turns of the policy (AdaShare, Section 3.3)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from onnxmtl.data import Dataset
from onnxmtl.kinds import TaskSet
from onnxmtl.lowering import Draw, LoweredModule
from onnxmtl.lowering.agreement import from_first
from onnxmtl.search.setting import Setting
from onnxmtl.train.metrics import higher_is_better
from onnxmtl.train.objective import evaluate
from onnxmtl.train.recalibrate import average_statistics, momenta_of

Metrics = Mapping[str, Mapping[str, float]]

BATCHES = 8
"""Training batches that running statistics are averaged over before a policy is judged."""


class BestPolicy:
    """Remembers the logits with the best metrics so far.

    A policy is judged by its most probable architecture on held-out training data, with the weights of the supermodel
    and running statistics of each task's own path, averaged over a few training batches: those of the search belong to
    mixtures of options, with which a decided model does hardly better than chance. It replaces the best one if over all
    metrics of a task, then all tasks, it is better on average, each change relative to the larger of the two values.
    (The released code samples a policy and judges eleven batches of the test set, with the statistics of the search,
    against numbers written down in it.)

    Args:
        module: The supermodel.
        setting: Tasks and device.
        dataset: What policies are judged on; None: what the setting holds out.
    """

    def __init__(self, module: LoweredModule, setting: Setting, dataset: Dataset | None = None) -> None:
        self.module, self.setting = module, setting
        self.dataset = setting.held() if dataset is None else dataset
        self.logits: dict[str, torch.Tensor] = {}
        self.metrics: dict[str, dict[str, float]] = {}

    def judge(self) -> dict[str, float]:
        """Judge the policy as it is; the tasks' primary metrics, as ``held-out/TASK``."""
        module, tasks = self.module, self.setting.tasks
        picks = {key: int(module.weight(name).argmax()) for key, name in module.logits.items()}
        found: Metrics = from_first(lambda: self._measured(Draw(options=picks)))
        if not self.metrics or improvement(tasks, found, self.metrics) > 0:
            self.metrics = {name: dict(values) for name, values in found.items()}
            self.logits = {name: module.weight(name).detach().clone() for name in module.logits.values()}
        shown = {task.name: found[task.name][task.primary] for task in tasks}
        return {f"held-out/{name}": value for name, value in shown.items() if math.isfinite(value)}

    def _measured(self, draw: Draw) -> dict[str, dict[str, float]]:
        """Metrics of a decided model; the module stays as it is."""
        module, setting = self.module, self.setting
        momenta = momenta_of(module.nodes)
        kept = {name: module.weight(name).detach().clone() for name in momenta}
        found: dict[str, dict[str, float]] = {}
        try:
            for task in setting.tasks:
                alone = setting.alone(task.name)

                def run(k: int, alone: Setting = alone, name: str = task.name) -> object:
                    return module(alone.images(alone.data.train, "recalibrate", k), tasks=[name], draw=draw)

                average_statistics(module, momenta, run, BATCHES)
                found |= evaluate(
                    module,
                    alone.tasks,
                    self.dataset,
                    batch_size=max(32, setting.batch_size),
                    device=setting.device,
                    draw=draw,
                )
        finally:
            for name, tensor in kept.items():
                module.weight(name).copy_(tensor)
        return found

    def restore(self) -> None:
        """Put the best logits back; nothing if no policy was judged."""
        with torch.no_grad():
            for name, tensor in self.logits.items():
                self.module.weight(name).copy_(tensor)

    def state(self) -> dict[str, torch.Tensor]:
        """All of it, as tensors."""
        if not self.metrics:
            return {}
        values = [self.metrics[task.name][metric] for task in self.setting.tasks for metric in task.metrics]
        return {**self.logits, "metrics": torch.tensor(values, dtype=torch.float64)}

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from what :meth:`state` returned."""
        if state:
            values = iter(state["metrics"].tolist())
            self.metrics = {t.name: {metric: next(values) for metric in t.metrics} for t in self.setting.tasks}
            self.logits = {
                name: state[name].to(self.module.weight(name).device) for name in self.module.logits.values()
            }


def improvement(tasks: TaskSet, found: Metrics, best: Metrics) -> float:
    """How much better `found` is: in [−2, 2], 0 for equal ones, and the negative if the two are exchanged.

    A metric without a value is worse than any other.
    """
    each = []
    for task in tasks:
        terms = []
        for metric in task.metrics:
            new, old = found[task.name][metric], best[task.name][metric]
            if math.isnan(new) or math.isnan(old):
                terms.append(float(math.isnan(old)) - float(math.isnan(new)))
                continue
            size = max(abs(new), abs(old))
            change = (new - old) / size if size else 0.0
            terms.append(change if higher_is_better(metric) else -change)
        each.append(sum(terms) / len(terms))
    return sum(each) / len(each)
