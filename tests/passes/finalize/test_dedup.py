"""DedupInitializers: equal content and equal role become one; weights and logits do not."""

import numpy as np
import onnx_ir as ir
import pytest
from helpers.graphs import GraphBuilder

from onnxmtl import runtime
from onnxmtl.ir import Role, new_initializer, set_role, to_bytes
from onnxmtl.passes.finalize import DedupInitializers


def constants(*arrays, roles=None):
    """A graph that reshapes and concatenates so that each array is used once, in a slot that is not trained."""
    b = GraphBuilder()
    for i, array in enumerate(arrays):
        value = new_initializer(b.graph, f"v{i}", np.asarray(array))
        if roles:
            set_role(value, roles[i])
        y = b.node("CastLike", [value, b.image], value.shape)
        y.name = f"out{i}"
        b.graph.outputs.append(y)
    return ir.Model(b.graph, ir_version=10)


def left(model, **kwargs):
    DedupInitializers(**kwargs)(model)
    return list(model.graph.initializers)


def test_equal_constants_become_the_first():
    model = constants(np.int64([1, 2]), np.int64([1, 2]), np.int64([2, 1]), np.int64([1, 2]))
    assert left(model) == ["v0", "v2"]
    assert [node.inputs[0].name for node in model.graph] == ["v0", "v0", "v2", "v0"]
    assert not DedupInitializers()(model).modified


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (np.int64([0]), np.float64([0])),  # equal bytes, other type
        (np.int64([1, 2]), np.int64([[1, 2]])),  # other shape
        (np.float32([0.0]), np.float32([-0.0])),  # equal numbers, other bytes
        (np.float32([1.0]), np.float32([np.nextafter(np.float32(1), np.float32(2))])),
    ],
)
def test_what_differs_in_anything_stays(first, second):
    assert left(constants(first, second)) == ["v0", "v1"]


def test_roles_keep_apart_and_logits_always_stay():
    zeros = [np.zeros(3, np.float32)] * 6
    roles = [Role.BACKBONE, Role.STATISTIC, Role.LOGITS, Role.LOGITS, Role.STATISTIC, Role.HEAD]
    assert left(constants(*zeros, roles=roles)) == ["v0", "v1", "v2", "v3", "v5"]


def two_convolutions():
    b = GraphBuilder()
    kernel = b.rng.normal(size=(2, 3, 3, 3))
    for i in range(2):
        w = b.weight(f"w{i}", kernel, Role.OWN)
        y = b.node("Conv", [b.image, w], ["N", 2, 8, 8], pads=[1] * 4)
        y.name = f"out{i}"
        b.graph.outputs.append(y)
    return ir.Model(b.graph, ir_version=10)


def test_own_copies_nobody_trained_stay_two_unless_asked():
    assert left(two_convolutions()) == ["w0", "w1"]
    model = two_convolutions()
    image = {"image": np.ones((1, 3, 8, 8), np.float32)}
    before = runtime.run(to_bytes(model), image)
    assert left(model, weights=True) == ["w0"]
    after = runtime.run(to_bytes(model), image)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_inputs_and_outputs_are_left_alone():
    model = constants(np.int64([1]), np.int64([1]))
    model.graph.outputs.append(model.graph.initializers["v0"])
    assert left(model) == ["v0", "v1"]
