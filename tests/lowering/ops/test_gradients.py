"""gradcheck in float64: every operator with parameters, through all its float inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from onnxmtl.lowering.ops import Context, kernel_for

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
    op_type, shapes, attributes = CASES[name]
    constants = range(1, len(shapes))
    node = one_node(op_type, [np.zeros(s, np.float32) for s in shapes], attributes, constants=constants).node()
    kernel = kernel_for(node)
    assert torch.autograd.gradcheck(lambda *xs: kernel(xs, Context()), leaves(shapes))


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
