"""Latencies of many models that are compared with each other."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers.graphs import GraphBuilder, small_resnet

from onnxmtl.deploy.bench import together
from onnxmtl.deploy.bench.timing import Times
from onnxmtl.deploy.bench.together import latencies, passed_and_worked
from onnxmtl.errors import ModelError
from onnxmtl.ir import to_bytes


def chain(layers: int, size: int | None = 24) -> bytes:
    """Of convolutions that leave the size as it is; None: the file leaves it open."""
    b = GraphBuilder(size=24)
    x = b.conv(b.image, 24)
    for _ in range(layers):
        x = b.conv(x, 24)
    b.graph.outputs.append(x)
    if size is None:
        for value in (*b.graph.inputs, *b.graph.outputs, *(out for node in b.graph for out in node.outputs)):
            value.shape = None if value not in b.graph.inputs else ir.Shape(["N", 3, "H", "W"])
    return to_bytes(ir.Model(b.graph, ir_version=10))


def test_longer_models_work_longer():
    image = np.zeros((1, 3, 24, 24), np.float32)
    short, long, again = latencies(
        [lambda: chain(1), lambda: chain(12), lambda: chain(1)], image, seconds=0.05, threads=1, worked=True
    )
    assert long > 2 * short > 0 and long > 2 * again > 0
    assert latencies([], image) == []


def test_few_are_open_at_a_time_and_the_first_is_in_every_group(monkeypatch):
    """Of a machine that is twice as slow while it measures the second group, nothing is left."""
    model = to_bytes(small_resnet())
    monkeypatch.setattr(together, "_AT_ONCE", 3 * len(model))
    made, groups = [], []

    def make(number):
        made.append(number)
        return model

    def interleaved(works, **_):
        groups.append(len(works))
        slower = len(groups)
        return [Times([[slower * (i + 1.0)] * 3], [[0.0] * 3]) for i in range(len(works))]

    monkeypatch.setattr(together, "interleaved", interleaved)
    image = np.zeros((1, 3, 8, 8), np.float32)
    found = latencies([lambda n=n: make(n) for n in range(5)], image)
    assert made == [0, 1, 2, 3, 4] and groups == [3, 3]
    assert found == pytest.approx([1.5, 3.0, 4.5, 3.0, 4.5])


def test_each_on_inputs_of_its_own():
    feeds = [np.zeros((1, 3, side, side), np.float32) for side in (24, 96, 24)]
    passed, worked = passed_and_worked([lambda: chain(4, None)] * 3, feeds, seconds=0.05, rounds=5, threads=1)
    assert len(passed) == 3 and worked[1] > 4 * max(worked[0], worked[2]) > 0


def test_a_model_that_does_not_run():
    model = to_bytes(small_resnet())
    with pytest.raises(ModelError, match="cannot run the model"):
        latencies([lambda: model], np.zeros((1, 3, 9, 9), np.float32))
