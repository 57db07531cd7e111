"""One small multi-task network in which every way of sharing occurs."""

import numpy as np
import onnx_ir as ir
import pytest
from helpers.graphs import GraphBuilder

from onnxmtl.ir import Role, set_sources


def conv_like(b: GraphBuilder, x: ir.Value, source: ir.Value, name: str, kernel: ir.Value | None = None) -> ir.Value:
    """The convolution that made `source`, on `x`, with the same kernel or another one."""
    node = source.producer()
    y = b.node("Conv", [x, kernel or node.inputs[1], *node.inputs[2:]], source.shape, name, pads=[1] * 4)
    set_sources(y.producer(), [node.name])
    return y


@pytest.fixture
def four_ways() -> ir.Model:
    """8x8 pixels, 3x3 kernels, 4 channels in and out but the stem (3 in) and the heads (1x1).

    Four tasks: a and b run the second layer once; c runs it with the same weights after another first layer; d has a
    copy of its own. The third layer is a's and b's together; c skips it, d replaces it by a projection.
    """
    b = GraphBuilder()
    stem = b.conv(b.image, 4, bias=False, name="one")
    one = b.relu(stem)
    two_ab = b.conv(one, 4, bias=False, name="two")
    branch = b.node("Neg", [one], one.shape, "branch")
    two_c = conv_like(b, branch, two_ab, "two/c")
    own = b.weight("two.weight/d", np.ones((4, 4, 3, 3)), Role.OWN)
    two_d = conv_like(b, one, two_ab, "two/d", own)
    three_ab = b.conv(b.relu(two_ab), 4, bias=False, name="three")
    projection = b.weight("three/d/skip", np.ones((4, 4, 1, 1)), Role.SKIP)
    skip_d = b.node("Conv", [two_d, projection], two_d.shape, "three/d/skip")
    set_sources(skip_d.producer(), ["three"])
    features = {"a": three_ab, "b": three_ab, "c": two_c, "d": skip_d}
    model = b.heads(features, dict.fromkeys("abcd", 1))
    dead = b.conv(two_c, 16, name="dead")
    assert dead.producer() in list(model.graph)
    return model
