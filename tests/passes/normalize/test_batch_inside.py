"""The batch inside of a shape: windows, heads, tokens; exported for one image or two, any number afterwards."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers.networks import run
from onnx import parser

from onnxmtl.errors import ModelError
from onnxmtl.passes.normalize.batch import DynamicBatch
from onnxmtl.passes.normalize.fold import FoldConstants
from onnxmtl.passes.normalize.names import NameNodes
from onnxmtl.passes.normalize.shapes import InferShapes

# [N, 4, 4, 4] in every case; B is the exported batch size, shapes are initializers s0, s1, ...
CASES = {
    # windows of 2x2, and back
    "windows": (
        """a = Reshape(x, s0) b = Transpose <perm = [0, 2, 4, 3, 5, 1]> (a) c = Reshape(b, s1) d = Softmax(c)
        e = Reshape(d, s2) y = Relu(e)""",
        lambda b: [[b, 4, 2, 2, 2, 2], [b * 4, 4, 4], [b, 64]],
    ),
    # nn.MultiheadAttention: [L, N, C], [L, N·heads, d], [N·heads, L, d], [L·N, C], [N, L, C]
    "batch second": (
        """a = Reshape(x, s0) t = Transpose <perm = [2, 0, 1]> (a) h = Reshape(t, s1)
        u = Transpose <perm = [1, 0, 2]> (h) p = Softmax(u) v = Transpose <perm = [1, 0, 2]> (p) r = Reshape(v, s2)
        m = MatMul(r, w) q = Reshape(m, s3) y = Transpose <perm = [1, 0, 2]> (q)""",
        lambda b: [[b, 4, 16], [16, b * 2, 2], [16 * b, 4], [16, b, 4]],
    ),
    # torch's packed projection: [N, L, 3, heads, d] with the batch behind the three
    "packed": (
        """a = Reshape(x, s0) t = Transpose <perm = [2, 0, 3, 1, 4]> (a) q = Gather <axis = 0> (t, one)
        r = Transpose <perm = [0, 2, 1, 3]> (q) y = Reshape(r, s1)""",
        lambda b: [[b, 8, 2, 2, 2], [b, 8, 4]],
    ),
    "class token": ("a = Reshape(x, s0) c = Concat <axis = 1> (token, a) y = Relu(c)", lambda b: [[b, 16, 4]]),
    "expanded token": (
        "a = Reshape(x, s0) t = Expand(token, s1) c = Concat <axis = 1> (t, a) y = Relu(c)",
        lambda b: [[b, 16, 4], [b, 1, 4]],
    ),
    "repeated positions": ("a = Reshape(x, s0) y = Add(a, positions)", lambda b: [[b, 16, 4]]),
}


def model(name: str, batch: int) -> ir.Model:
    body, shapes = CASES[name]
    proto = parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 21]> g (float[{batch}, 4, 4, 4] x) => (float y) {{ {body} }}'
    )
    rng = np.random.default_rng(0)
    token = np.repeat(rng.standard_normal((1, 1, 4)), batch if name == "class token" else 1, 0)
    arrays = {
        "token": token.astype(np.float32),
        "positions": np.repeat(rng.standard_normal((1, 16, 4)), batch, 0).astype(np.float32),
        "w": rng.standard_normal((4, 4)).astype(np.float32),
        "one": np.array(1),
        **{f"s{i}": np.array(shape) for i, shape in enumerate(shapes(batch))},
    }
    used = {value for node in proto.graph.node for value in node.input}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in arrays.items() if n in used)
    return ir.from_proto(proto)


def opened(name: str, batch: int) -> ir.Model:
    found = model(name, batch)
    for pass_ in (NameNodes(), FoldConstants(), DynamicBatch(), InferShapes(complete=True)):
        pass_(found)
    return found


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_any_number_of_images(name, batch):
    image = np.random.default_rng(1).standard_normal((3, 4, 4, 4)).astype(np.float32)
    found = opened(name, batch)
    shape = found.graph.outputs[0].shape
    assert shape[0] == ir.SymbolicDim("N") and all(isinstance(dim, int) for dim in list(shape)[1:])
    # The network for one image, image by image, is the truth.
    want = np.concatenate([run(model(name, 1), image[i : i + 1])[0] for i in range(3)])
    np.testing.assert_allclose(run(found, image)[0], want, rtol=1e-6, atol=1e-6)


def test_positions_that_differ_from_image_to_image_are_refused():
    found = model("repeated positions", 2)
    value = found.graph.initializers["positions"]
    value.const_value = ir.tensor(np.random.default_rng(2).standard_normal((2, 16, 4)).astype(np.float32))
    NameNodes()(found)
    FoldConstants()(found)
    with pytest.raises(ModelError, match="batch size is baked into"):
        DynamicBatch()(found)


def test_a_batch_of_one_behind_an_open_input():
    """The file says any batch size, its Reshapes say one: both of them open."""
    text = """<ir_version: 8, opset_import: ["" : 17]> agraph (float[N, 4, 4, 4] image) => (float[N, 4, 4, 4] y)
    <int64[5] split = {1, 2, 2, 4, 4}, int64[4] joined = {1, 4, 4, 4}> {
        groups = Reshape(image, split)
        turned = Transpose<perm = [0, 2, 1, 3, 4]>(groups)
        y = Reshape(turned, joined)
    }"""
    found = ir.from_proto(onnx.parser.parse_model(text))
    for pass_ in (NameNodes(), FoldConstants(), DynamicBatch(), InferShapes(complete=True)):
        pass_(found)
    image = np.random.default_rng(1).standard_normal((3, 4, 4, 4)).astype(np.float32)
    want = image.reshape(3, 2, 2, 4, 4).transpose(0, 2, 1, 3, 4).reshape(image.shape)
    np.testing.assert_array_equal(run(found, image)[0], want)


def test_a_batch_that_broadcasts_against_rows_is_refused():
    """Right for one image only; onnx's inference lets it pass."""
    text = """<ir_version: 8, opset_import: ["" : 17]> agraph (float[1, 1, 4, 4] image) => (float[1, 1, 4, 4] y)
    {
        d = Det(image)
        y = Add(d, image)
    }"""
    found = ir.from_proto(onnx.parser.parse_model(text))
    NameNodes()(found)
    FoldConstants()(found)
    with pytest.raises(ModelError, match="joins the batch with a dimension of 4"):
        DynamicBatch()(found)
