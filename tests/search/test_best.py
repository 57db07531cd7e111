"""How a policy is judged in the middle of a search: as the model that it stands for, recalibrated."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from helpers.graphs import GraphBuilder

from onnxmtl.analysis.sites import site_table
from onnxmtl.data import DataSource, InputSpec
from onnxmtl.ir import clone
from onnxmtl.kinds import TaskSet
from onnxmtl.lowering import to_torch, write_back
from onnxmtl.passes.pipelines import Pipeline
from onnxmtl.passes.select import select_passes
from onnxmtl.passes.spaces import SelectOrSkip, Vcn
from onnxmtl.policy import Policy
from onnxmtl.policy.decoders import argmax
from onnxmtl.search.best import BATCHES, BestPolicy
from onnxmtl.search.setting import Setting
from onnxmtl.train.objective import evaluate
from onnxmtl.train.recalibrate import recalibrate

TASKS = TaskSet.parse("seg=segmentation:3,depth,left=segmentation:3")
PICKS = ((0, 1, 1), (1, 0, 1), (0, 0, 1))  # by site and task


class Images:
    def __init__(self, count: int, first: int) -> None:
        self.count, self.first = count, first

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        image = np.random.default_rng(self.first + index).random((3, 8, 8)).astype(np.float32)
        classes = (image.sum(0) * 0.99).astype(np.int64)
        return image, {"seg": classes, "left": 2 - classes, "depth": image[:1] + 1}


class Plain:
    device = "cpu"


def setting() -> Setting:
    data = DataSource("images", Images(40, 0), Images(9, 100), InputSpec(3, 8, 8))
    return Setting(TASKS, data, 3, 4, Plain())


def supermodel(space):
    """Three blocks with weights that mean something, and running statistics that mean nothing."""
    b = GraphBuilder(1)
    x = b.block(b.image, 6, name="stem")
    for _ in range(3):
        x = b.residual(x, 6)
    model = b.heads(x, {"seg": 3, "depth": 1, "left": 3})
    space()(model)
    for name, value in model.graph.initializers.items():
        if name.endswith(".mean"):
            value.const_value.numpy()[...] += 3.0
    return model


@pytest.mark.parametrize("space", [SelectOrSkip, Vcn])
def test_a_policy_is_judged_as_the_selected_model_recalibrated(space):
    """Statistics of the search belong to mixtures of options; a task's own path has others, and shares none."""
    model = supermodel(space)
    module, where = to_torch(model), setting()
    with torch.no_grad():
        for (site, task), name in module.logits.items():
            index = [s.id for s in site_table(model).sites].index(site)
            module.weight(name)[PICKS[index % 3][TASKS.names.index(task)]] = 2.0
    before = {name: tensor.detach().clone() for name, tensor in module.tensors().items()}
    best = BestPolicy(module, where)
    told = best.judge()
    assert all(torch.equal(before[name], tensor) for name, tensor in module.tensors().items())

    write_back(module, model)
    table = site_table(model)
    chosen = argmax(Policy.of_model(model, table))
    selected = Pipeline(select_passes(chosen))(clone(model)).model
    lowered = to_torch(selected)
    stale = evaluate(lowered, TASKS, where.held(), batch_size=32, device=where.device)
    recalibrate(lowered, selected, lambda k: where.images(where.data.train, "recalibrate", k), BATCHES)
    expected = evaluate(lowered, TASKS, where.held(), batch_size=32, device=where.device)
    for task in TASKS:
        for metric in task.metrics:
            assert best.metrics[task.name][metric] == pytest.approx(expected[task.name][metric], rel=1e-3, abs=1e-6)
        assert told[f"held-out/{task.name}"] == best.metrics[task.name][task.primary]
    assert any(abs(stale[t.name][t.primary] - expected[t.name][t.primary]) > 0.01 for t in TASKS)


def test_judging_leaves_the_mode_and_needs_no_normalization():
    b = GraphBuilder(1)
    x = b.conv(b.image, 4, name="c")
    model = b.heads(b.relu(x), {"seg": 3, "depth": 1, "left": 3})
    Vcn()(model)
    module = to_torch(model).train()
    assert set(BestPolicy(module, dataclasses.replace(setting())).judge()) <= {f"held-out/{t}" for t in TASKS.names}
    assert module.training
