"""One node as a model, run by onnxruntime and by its kernel."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import helper, numpy_helper

from onnxmtl import runtime
from onnxmtl.lowering.ops import Context, kernel_for


@dataclasses.dataclass(frozen=True)
class OneNode:
    """A model of a single node. Inputs listed in `constants` are initializers."""

    proto: onnx.ModelProto
    feeds: dict[str, np.ndarray]
    arrays: tuple[np.ndarray | None, ...]

    def node(self) -> ir.Node:
        return ir.from_proto(self.proto).graph[0]

    def lowered(self, ctx: Context | None = None) -> list[np.ndarray]:
        node = self.node()
        # Constant inputs are read from the graph: what the caller passes for them must not matter.
        tensors = [
            None if a is None or f"x{i}" not in self.feeds else torch.from_numpy(np.array(a))
            for i, a in enumerate(self.arrays)
        ]
        result = kernel_for(node)(tensors, ctx or Context())
        results = (result,) if isinstance(result, torch.Tensor) else result
        return [r.numpy() for r in results]

    def expected(self) -> list[np.ndarray]:
        opened = runtime.session(self.proto.SerializeToString(), optimize=False, threads=1)
        return list(runtime.run(opened, self.feeds).values())

    def check(self, rtol: float = 1e-6, atol: float = 1e-6) -> None:
        """Same shapes, types and values as onnxruntime. `atol` is relative to the largest value."""
        for got, want in zip(self.lowered(), self.expected(), strict=True):
            assert got.shape == want.shape
            assert got.dtype == want.dtype
            scale = float(np.abs(want).max()) if want.size and want.dtype.kind == "f" else 1.0
            np.testing.assert_allclose(got, want, rtol=rtol, atol=atol * max(scale, 1e-30))


def _one_node(op_type, inputs, attributes=None, *, constants=(), outputs=1, opset=21):
    names = ["" if a is None else f"x{i}" for i, a in enumerate(inputs)]
    node = helper.make_node(op_type, names, [f"y{i}" for i in range(outputs)], name="the_node", **(attributes or {}))
    weights, values, feeds = [], [], {}
    for i, array in enumerate(inputs):
        if array is None:
            continue
        if i in constants:
            weights.append(numpy_helper.from_array(array, names[i]))
        else:
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            values.append(helper.make_tensor_value_info(names[i], kind, array.shape))
            feeds[names[i]] = array
    results = [onnx.ValueInfoProto(name=name) for name in node.output]
    graph = helper.make_graph([node], "g", values, results, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return OneNode(model, feeds, tuple(inputs))


@pytest.fixture(scope="session")
def one_node():
    """``one_node(op_type, inputs, attributes, constants=indices, outputs=count)`` -> OneNode."""
    return _one_node
