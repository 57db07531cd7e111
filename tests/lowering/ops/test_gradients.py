"""gradcheck in float64: every operator with parameters, through all its float inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from onnxmtl.lowering.ops import Context, kernel_for
from onnxmtl.ops import registered

CASES = {
    "conv": ("Conv", [(2, 4, 5, 4), (4, 2, 3, 2), (4,)], {"group": 2, "pads": [1, 1, 1, 1]}),
    "conv asymmetric": ("Conv", [(1, 2, 5, 4), (3, 2, 3, 3), (3,)], {"pads": [0, 1, 2, 1], "strides": [2, 1]}),
    "conv same": ("Conv", [(1, 2, 5, 4), (3, 2, 2, 2), (3,)], {"auto_pad": "SAME_LOWER"}),
    "conv transpose": ("ConvTranspose", [(1, 2, 3, 3), (2, 2, 2, 3), (2,)], {"strides": [2, 2]}),
    "conv transpose cropped": (
        "ConvTranspose",
        [(1, 2, 3, 3), (2, 2, 3, 3), (2,)],
        {"strides": [2, 2], "pads": [0, 1, 1, 1], "output_padding": [1, 1]},
    ),
    "gemm": ("Gemm", [(3, 4), (5, 4), (5,)], {"transB": 1}),
    "gemm general": ("Gemm", [(4, 3), (4, 5), (1, 5)], {"transA": 1, "alpha": 0.5, "beta": 2.0}),
    "matmul": ("MatMul", [(2, 3, 4), (4, 5)], {}),
    "instance normalization": ("InstanceNormalization", [(2, 3, 4, 2), (3,), (3,)], {}),
    "group normalization": ("GroupNormalization", [(2, 4, 3, 2), (4,), (4,)], {"num_groups": 2}),
    "layer normalization": ("LayerNormalization", [(2, 3, 4), (4,), (4,)], {}),
    "layer normalization broadcast": ("LayerNormalization", [(2, 3, 4), (1, 4), (1, 4)], {"axis": 1}),
    "prelu per channel": ("PRelu", [(2, 3, 4, 2), (3, 1, 1)], {}),
    "prelu broadcast": ("PRelu", [(2, 3, 4), (4,)], {}),
    "rms normalization": ("RMSNormalization", [(2, 3, 4), (4,)], {}, 23),
    "rms normalization broadcast": ("RMSNormalization", [(2, 3, 4), (1, 4)], {"axis": 1}, 23),
    "deformable": (
        "DeformConv",
        [(1, 4, 4, 4), (2, 2, 2, 2), (1, 16, 3, 3), (2,), (1, 8, 3, 3)],
        {"group": 2, "offset_group": 2, "pads": [0, 0, 0, 0], "kernel_shape": [2, 2]},
    ),
    "einsum": ("Einsum", [(2, 3, 4), (4, 5)], {"equation": "nij,jk->nki"}),
    "add": ("Add", [(2, 3, 4), (3, 1)], {}),
    "sub": ("Sub", [(2, 3, 4), (3, 1)], {}),
    "mul": ("Mul", [(2, 3, 4), (3, 1)], {}),
    "div": ("Div", [(2, 3, 4), (3, 1)], {}),
    "concat": ("Concat", [(2, 1, 4), (2, 3, 4)], {"axis": 1}),
    "attention": ("Attention", [(2, 2, 3, 4), (2, 2, 5, 4), (2, 2, 5, 4)], {"scale": 0.5}, 23),
    "attention grouped, causal": (
        "Attention",
        [(1, 4, 8), (1, 4, 4), (1, 4, 4), (4, 4)],
        {"q_num_heads": 4, "kv_num_heads": 2, "is_causal": 1, "softcap": 2.0},
        23,
    ),
    "grid sample": ("GridSample", [(1, 2, 4, 5), (1, 3, 2, 2)], {"mode": "linear"}),
    "lp pool": ("LpPool", [(1, 2, 5, 4)], {"kernel_shape": [2, 3], "pads": [1, 0, 0, 1], "p": 3}),
    "mean variance": ("MeanVarianceNormalization", [(2, 3, 2, 2)], {}),
    "lrn": ("LRN", [(2, 5, 2, 2)], {"size": 3, "alpha": 0.5}),
    "average pool": ("AveragePool", [(1, 2, 5, 4)], {"kernel_shape": [2, 3], "pads": [1, 0, 0, 1]}),
    "average pool dilated": ("AveragePool", [(1, 2, 6, 5)], {"kernel_shape": [2, 2], "dilations": [2, 1]}),
    "max pool": ("MaxPool", [(1, 2, 5, 4)], {"kernel_shape": [2, 3], "pads": [1, 0, 0, 1]}),
    "lp normalization": ("LpNormalization", [(2, 3, 2)], {"axis": 1}),
    "mish": ("Mish", [(3, 4)], {}),
}


def leaves(shapes):
    rng = np.random.default_rng(0)
    return [torch.tensor(rng.standard_normal(s), requires_grad=True) for s in shapes]


@pytest.mark.parametrize("name", CASES)
def test_gradients(one_node, name):
    op_type, shapes, attributes, *opset = CASES[name]
    constants = range(1, len(shapes))
    arrays = [np.zeros(s, np.float32) for s in shapes]
    node = one_node(op_type, arrays, attributes, constants=constants, opset=(opset or [21])[0]).node()
    kernel = kernel_for(node)
    assert torch.autograd.gradcheck(lambda *xs: kernel(xs, Context()), leaves(shapes))


TOKENS = {
    "expand": ("Expand", [(1, 2, 3), (3,)], {}, np.array([4, 2, 3])),
    "tile": ("Tile", [(1, 2, 3), (3,)], {}, np.array([4, 1, 1])),
    "gather": ("Gather", [(4, 2), (3, 3)], {}, np.array([[0, 1, 3], [3, 3, 1], [-1, 0, 0]])),
    "gather nd": ("GatherND", [(4, 2), (3, 1)], {}, np.array([[0], [3], [0]])),
}


@pytest.mark.parametrize("name", TOKENS)
def test_what_is_repeated_or_looked_up(one_node, name):
    """One element stands in several places: its gradients add up."""
    op_type, (shape, _), attributes, second = TOKENS[name]
    kernel = kernel_for(one_node(op_type, [np.zeros(shape, np.float32), second], attributes, constants=[1]).node())
    assert torch.autograd.gradcheck(lambda x: kernel([x, torch.from_numpy(second)], Context()), leaves([shape]))


def test_every_operator_with_parameters_is_here():
    tested = {case[0] for case in (*CASES.values(), *TOKENS.values())} | {"BatchNormalization"}
    assert {entry.op_type for entry in registered() if entry.slots} <= tested


@pytest.mark.parametrize("training", [True, False])
def test_batch_normalization(one_node, training):
    shapes = [(3, 2, 2, 2), (2,), (2,), (2,), (2,)]
    node = one_node("BatchNormalization", [np.ones(s, np.float32) for s in shapes], constants=(1, 2, 3, 4)).node()
    kernel = kernel_for(node)

    def function(x, scale, shift):
        running = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
        return kernel([x, scale, shift, *running], Context(training=training))

    assert torch.autograd.gradcheck(function, leaves(shapes[:3]))


@pytest.mark.parametrize(
    ("scales", "attributes"),
    [
        ([1, 1, 2, 1.5], {"mode": "linear"}),
        ([1, 1, 2, 0.6], {"mode": "linear", "coordinate_transformation_mode": "asymmetric"}),
        ([1, 1, 0.7, 1.5], {"mode": "cubic", "exclude_outside": 1}),
        ([1, 1, 2, 3], {"mode": "nearest"}),
        ([1, 1, 1.5, 0.7], {"mode": "nearest"}),
    ],
)
def test_resize(one_node, scales, attributes):
    arrays = [np.zeros((1, 2, 4, 5), np.float32), None, np.array(scales, np.float32)]
    kernel = kernel_for(one_node("Resize", arrays, attributes, constants=[2]).node())
    assert torch.autograd.gradcheck(lambda x: kernel([x, None, None], Context()), leaves([(1, 2, 4, 5)]))
