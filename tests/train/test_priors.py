from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.graphs import GraphBuilder

from onnxmtl.data import Subset
from onnxmtl.kinds import TaskSet
from onnxmtl.lowering import to_torch
from onnxmtl.train.priors import label_priors, start_from

TASKS = TaskSet.parse("seg=segmentation:3,depth,normals,edges,room=classification:4,pose=regression:2")


class Images:
    """Class 1 three times as often as class 0, never class 2; depths of 2 to 4."""

    def __init__(self, count: int = 8, labelled: tuple[str, ...] = TASKS.names) -> None:
        self.count, self.labelled = count, labelled
        self.asked: list[int] = []

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.asked.append(index)
        seg = np.ones((4, 4), np.int64)
        seg[0] = 0
        seg[3, 3] = 255
        depth = np.full((1, 4, 4), 2 + index % 3, np.float32)
        depth[0, 0, 0] = 0
        normals = np.zeros((3, 4, 4), np.float32)
        normals[2] = 1
        targets = {
            "seg": seg,
            "depth": depth,
            "normals": normals,
            "edges": np.zeros((1, 4, 4), np.float32),
            "room": np.int64(index % 2),
            "pose": np.array([1, -2], np.float32),
        }
        return np.zeros((3, 4, 4), np.float32), {name: targets[name] for name in self.labelled}


def test_values():
    priors = label_priors(TASKS, Images(9))
    assert set(priors) == {"seg", "depth", "normals", "room", "pose"}, "edges start at 0"
    # One of each class is added, ignored labels are not counted: 9·4, 9·11 and 0.
    logs = np.log(np.array([37, 100, 1]))
    np.testing.assert_allclose(priors["seg"], logs - logs.mean(), rtol=1e-6)
    logs = np.log(np.array([6, 5, 1, 1]))
    np.testing.assert_allclose(priors["room"], logs - logs.mean(), rtol=1e-6)
    assert priors["depth"].tolist() == pytest.approx([3.0], rel=0.02)
    direction = priors["normals"] / priors["normals"].norm()
    np.testing.assert_allclose(direction, [0, 0, 1], atol=1e-6)
    np.testing.assert_allclose(priors["pose"], [1, -2], rtol=1e-6)


def test_evenly_spaced_samples():
    data = Images(1000)
    label_priors(TASKS, data, samples=5)
    assert sorted(set(data.asked)) == [0, 249, 499, 749, 999]


def test_a_task_without_labels_has_none():
    assert set(label_priors(TASKS, Images(labelled=("seg",)))) == {"seg"}
    assert label_priors(TASKS, Subset(Images(labelled=()), [0, 1])) == {}


def test_a_zero_image_gives_the_prior_when_all_else_is_zero():
    b = GraphBuilder(size=4)
    model = b.heads(b.image, {"seg": 3, "depth": 1})
    priors = {"seg": torch.tensor([1.0, 2.0, 3.0]), "depth": torch.tensor([5.0])}
    assert sorted(start_from(model, priors)) == ["depth", "seg"]
    with torch.no_grad():
        outputs = to_torch(model)(torch.zeros(1, 3, 4, 4))
    for task, prior in priors.items():
        np.testing.assert_array_equal(outputs[task][0, :, 1, 1], prior)


def test_a_backbone_is_never_touched_and_odd_shapes_are_left_alone():
    b = GraphBuilder(size=4)
    x = b.conv(b.image, 3, name="body")
    x.name = "seg"
    b.graph.outputs.append(x)
    b.task = "depth"
    y = b.conv(b.relu(x), 2, k=1)
    y.name = "depth"
    b.graph.outputs.append(y)
    from onnx_ir import Model

    model = Model(b.graph, ir_version=10)
    before = {name: value.const_value.numpy().copy() for name, value in model.graph.initializers.items()}
    assert start_from(model, {"seg": torch.ones(3), "depth": torch.ones(1)}) == []
    assert all(np.array_equal(before[n], v.const_value.numpy()) for n, v in model.graph.initializers.items())
