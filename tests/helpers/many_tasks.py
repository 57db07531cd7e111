"""Random graphs in which any node may feed any later one, and any of them may be a task."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

SHAPE = ["N", 3, 4, 4]
WEIGHTS = 3


@st.composite
def graphs(draw: st.DrawFn, most_nodes: int = 14, most_tasks: int = 4) -> onnx.ModelProto:
    """Nodes of one or two inputs; weights are shared by any of them; some nodes may lead nowhere."""
    count = draw(st.integers(2, most_nodes))
    values = ["image"]
    nodes = []
    for i in range(count):
        op = draw(st.sampled_from(("Sigmoid", "Neg", "Add", "Mul", "Scale", "Softmax")))
        first = draw(st.sampled_from(values))
        other = f"w{draw(st.integers(0, WEIGHTS - 1))}" if op == "Scale" else draw(st.sampled_from(values))
        inputs = [first, other] if op in ("Add", "Mul", "Scale") else [first]
        nodes.append(helper.make_node("Mul" if op == "Scale" else op, inputs, [f"v{i}"], name=f"n{i}"))
        values.append(f"v{i}")
    tasks = draw(st.lists(st.sampled_from(values[1:]), min_size=1, max_size=most_tasks, unique=True))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    weights = [numpy_helper.from_array(rng.random((1, 3, 1, 1), np.float32), f"w{i}") for i in range(WEIGHTS)]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE) for name in tasks],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def subsets(tasks: tuple[str, ...]) -> list[tuple[str, ...]]:
    """All of one task or more."""
    return [chosen for size in range(1, len(tasks) + 1) for chosen in itertools.combinations(tasks, size)]
