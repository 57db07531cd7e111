from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.graphs import small_resnet

from onnxmtl.data import collate
from onnxmtl.kinds import TaskSet
from onnxmtl.lowering import to_torch
from onnxmtl.train.losses import loss_for
from onnxmtl.train.metrics import metric_for
from onnxmtl.train.objective import Objective, evaluate

TASKS = TaskSet.parse("seg=segmentation:3,depth")


class Images:
    def __init__(self, count: int, gaps: bool = False) -> None:
        self.count, self.gaps = count, gaps

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        image = np.random.default_rng(index).random((3, 8, 8)).astype(np.float32)
        targets = {"seg": (image.sum(0) * 0.99).astype(np.int64), "depth": image[:1] + 1}
        if self.gaps and index % 2:
            del targets["depth"]
        return image, targets


def module_of():
    return to_torch(small_resnet({"seg": 3, "depth": 1}))


def outputs_for(batch, size: int = 8):
    """Predictions as large as the labels, from a module whose last stride halves them."""
    found = module_of()(batch.images)
    return {name: torch.nn.functional.interpolate(value, (size, size)) for name, value in found.items()}


def test_losses_and_their_weighted_sum():
    tasks = TaskSet(tuple(task.replace(weight=w) for task, w in zip(TASKS, (2.0, 0.5), strict=True)))
    batch = collate([Images(4)[i] for i in range(4)], tasks)
    outputs, objective = outputs_for(batch), Objective(tasks)
    losses = objective.losses(outputs, batch)
    for task in tasks:
        expected = loss_for(task)(outputs[task.name], batch.targets[task.name], batch.labelled[task.name])
        assert torch.equal(losses[task.name], expected)
    total = 2.0 * float(losses["seg"].detach()) + 0.5 * float(losses["depth"].detach())
    assert float(objective.total(losses).detach()) == pytest.approx(total, rel=1e-6)


def test_only_the_asked_tasks():
    batch = collate([Images(2)[i] for i in range(2)], TASKS)
    assert set(Objective(TASKS).losses({"depth": outputs_for(batch)["depth"]}, batch)) == {"depth"}


def test_a_task_without_labels_in_the_batch_costs_nothing():
    samples = [(image, {"seg": targets["seg"]}) for image, targets in (Images(3)[i] for i in range(3))]
    batch = collate(samples, TASKS)
    losses = Objective(TASKS).losses(outputs_for(batch), batch)
    assert float(losses["depth"].detach()) == 0.0 and losses["depth"].requires_grad


@pytest.mark.parametrize("gaps", [False, True])
def test_metrics_do_not_depend_on_the_size_of_batches(gaps):
    module, found = module_of(), []
    for size in (1, 3, 7):
        found.append(evaluate(module, TASKS, Images(7, gaps), batch_size=size, device=torch.device("cpu")))
    assert all(np.isfinite(list(found[0]["depth"].values())))
    for other in found[1:]:
        for task in found[0]:
            assert other[task] == pytest.approx(found[0][task], rel=1e-5)


def test_metrics_are_of_the_evaluated_module():
    module, data = module_of(), Images(5)
    batch = collate([data[i] for i in range(5)], TASKS)
    with torch.no_grad():
        outputs = module.eval()(batch.images)
    found = evaluate(module, TASKS, data, batch_size=2, device=torch.device("cpu"))
    for task in TASKS:
        metric = metric_for(task)
        metric.update(outputs[task.name], batch.targets[task.name], batch.labelled[task.name])
        assert found[task.name] == pytest.approx(metric.compute(), rel=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_evaluating_changes_nothing(training):
    module = module_of().train(training)
    before = {name: tensor.detach().clone() for name, tensor in module.tensors().items()}
    evaluate(module, TASKS, Images(3), batch_size=2, device=torch.device("cpu"))
    assert module.training is training
    assert all(torch.equal(before[name], tensor) for name, tensor in module.tensors().items())
    assert all(parameter.grad is None for parameter in module.parameters())
