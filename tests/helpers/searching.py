"""Small stages of a search: two tasks on random images, a supermodel of each space, and runs that are killed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from helpers.graphs import GraphBuilder, small_resnet
from onnxmtl.analysis.sites import site_table
from onnxmtl.data import DataSource, InputSpec, Parts
from onnxmtl.ir import Role
from onnxmtl.kinds import TaskSet
from onnxmtl.lowering import to_torch
from onnxmtl.passes.spaces import SelectOrSkip, Vcn
from onnxmtl.search import Recipe, Stage, Temperature
from onnxmtl.search.engine import SearchStage, Setting
from onnxmtl.train.optimizers import OptimizerSpec

TASKS = TaskSet.parse("seg=segmentation:3,depth")
WEIGHTS = OptimizerSpec("adam", lr=1e-2, weight_decay=1e-3)
POLICY = OptimizerSpec("adam", lr=1e-1, weight_decay=1e-3)
STAGE = Stage("policy-train", 1.0, "gumbel", weights=WEIGHTS, policy=POLICY, temperature=Temperature(5.0, 0.5))
RECIPE = Recipe("r", "vcn", (STAGE,), regularizers={"sharing": 0.1, "multiply_adds": 0.5})


class Images:
    """Remembers which samples were asked for."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.asked: set[int] = set()

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.asked.add(index)
        image = np.random.default_rng(index).random((3, 8, 8)).astype(np.float32)
        return image, {"seg": (image.sum(0) * 0.99).astype(np.int64), "depth": image[:1] + 1}


class Plain:
    """Fabric's part of a step, on the CPU."""

    device = "cpu"

    @staticmethod
    def backward(loss: torch.Tensor) -> None:
        loss.backward()


def setting(count: int = 20, **changes) -> Setting:
    """Two tasks, so many training images, batches of 4; `changes` are fields of Setting."""
    data = DataSource("images", Images(count), Images(4), InputSpec(3, 8, 8))
    return dataclasses.replace(Setting(TASKS, data, 0, 4, Plain()), **changes)


def search(
    stage: Stage = STAGE, steps: int = 6, recipe: Recipe = RECIPE, weighting: str = "static", **changes
) -> SearchStage:
    """AutoMTL's supermodel of a small residual network; `changes` are those of :func:`setting`."""
    model = small_resnet({"seg": 3, "depth": 1})
    Vcn()(model)
    where = setting(**changes)
    return SearchStage(to_torch(model), site_table(model), recipe, stage, where, steps, weighting=weighting)


def blocks(stage: Stage, steps: int, recipe: Recipe, count: int = 4, **changes) -> SearchStage:
    """AdaShare's supermodel of a chain of blocks."""
    b = GraphBuilder()
    x = b.block(b.image, 4, name="stem")
    for _ in range(count):
        x = b.residual(x, 4)
    model = b.heads(x, {"seg": 3, "depth": 1})
    SelectOrSkip()(model)
    return SearchStage(to_torch(model), site_table(model), recipe, stage, setting(**changes), steps)


def state(stage: SearchStage) -> dict[str, torch.Tensor]:
    """Copies of all weights, logits and statistics."""
    return {name: tensor.detach().clone() for name, tensor in stage.module.tensors().items()}


def changed(before, after) -> set[str]:
    """Names of the tensors that are not the same bits."""
    return {name for name in before if not torch.equal(before[name], after[name])}


def names_with(stage: SearchStage, *roles: Role) -> set[str]:
    """Names of the tensors with one of these roles."""
    return {name for name, role in stage.module.roles.items() if role in roles}


def killed(make, stops, checkpoints):
    """Run what `make()` gives, dying before the steps in `stops`, then to the end; the last object and its history."""
    for stop in stops:
        stage = make()
        step = stage.step

        def dying(number, step=step, stop=stop):
            if number == stop:
                raise KeyboardInterrupt
            return step(number)

        stage.step = dying
        with pytest.raises(KeyboardInterrupt):
            stage.run(checkpoints)
    last = make()
    return last, last.run(checkpoints)


def disjoint(counts=(12, 28)) -> DataSource:
    """A data set of so many images for each of the two tasks."""
    sets = [Images(count) for count in counts]
    return DataSource("two", Parts([(sets[0], ["seg"]), (sets[1], ["depth"])]), Images(4), InputSpec(3, 8, 8))
