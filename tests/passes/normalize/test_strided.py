"""torch's as_strided of contiguous memory: a Gather from a flattened tensor becomes a Reshape, or nothing at all."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers import zoo
from helpers.networks import Network, image_of, run

from onnxmtl.passes.instruments import CheckInvariants, find_violation
from onnxmtl.passes.normalize import normalize
from onnxmtl.passes.normalize.fold import FoldConstants, remove_dead
from onnxmtl.passes.normalize.names import NameNodes
from onnxmtl.passes.normalize.strided import GatherToReshape

C, H, W = 6, 4, 5


def prepared(net: Network, *outputs: ir.Value) -> ir.Model:
    model = net.model(*outputs)
    NameNodes()(model)
    FoldConstants()(model)
    return model


def flat(batch: int | str) -> tuple[Network, ir.Value]:
    """Doubled images as one vector."""
    net = Network((batch, C, H, W))
    doubled = net.add("Add", [net.image, net.image], "doubled")
    return net, net.add("Reshape", [doubled, net.weight("all", [-1])], "flat")


def fixed(positions: np.ndarray, batch: int = 2) -> ir.Model:
    net, vector = flat(batch)
    return prepared(net, net.add("Neg", [net.add("Gather", [vector, net.weight("positions", positions)], "strided")]))


def open_batch(
    shape: tuple[int, ...], strides: tuple[int, ...], lead: int, *, offset: int = 0, count: int = 0, scale: int = 1
) -> ir.Model:
    """as_strided with the batch as the first dimension, spelled as torch's exporter spells it.

    Args:
        shape: Dimensions behind the batch.
        strides: Of these, in elements.
        lead: Elements from one image to the next.
        offset: Of the first element.
        count: A fixed number of images instead of the batch; 0: the batch.
        scale: The Range goes to this many times the batch.
    """
    net, vector = flat("N")
    rank = 1 + len(shape)
    zero, one, scalar = (
        net.weight(name, np.array(n, np.int64)) for name, n in (("zero", 0), ("one", 1), ("lead", lead))
    )
    size = net.add("Squeeze", [net.add("Shape", [net.image], start=0, end=1)])
    if count:
        size = net.weight("count", np.array(count, np.int64))
    elif scale != 1:
        size = net.add("Mul", [size, net.weight("scale", np.array(scale, np.int64))])
    first = net.add("Mul", [net.add("Range", [zero, size, one]), scalar])
    found = net.add("Unsqueeze", [first, net.weight("behind", list(range(1, rank)))])
    for axis, (dim, stride) in enumerate(zip(shape, strides, strict=True), start=1):
        term = np.arange(dim, dtype=np.int64) * stride + (offset if axis == 1 else 0)
        found = net.add(
            "Add", [found, net.weight(f"term{axis}", term.reshape([-1 if i == axis else 1 for i in range(rank)]))]
        )
    return prepared(net, net.add("Neg", [net.add("Gather", [vector, found], "strided")]))


def ops(model: ir.Model) -> list[str]:
    remove_dead(model.graph)
    return [node.op_type for node in model.graph]


def becomes(model: ir.Model, expected: list[str], batches: tuple[int, ...]) -> None:
    """The pass makes these nodes of the model, at the same numbers, and has nothing to do after that."""
    images = [image_of(model, batch) if batch else image_of(model) for batch in batches]
    before = [run(model, image) for image in images]
    assert GatherToReshape()(model).modified
    assert find_violation(model.graph) is None
    assert ops(model) == expected
    for image, arrays in zip(images, before, strict=True):
        for a, b in zip(run(model, image), arrays, strict=True):
            np.testing.assert_array_equal(a, b)
    assert not GatherToReshape()(model).modified


def stays(model: ir.Model) -> None:
    before = ops(model)
    assert not GatherToReshape()(model).modified
    assert ops(model) == before and "Gather" in before


ALL = np.arange(2 * C * H * W)


@pytest.mark.parametrize("shape", [(2, C * H * W), (2, C, H * W), (C, 2, W, H), (2 * C * H * W,), (2, C, H, 1, W)])
def test_all_elements_in_order_are_a_reshape(shape):
    model = fixed(ALL.reshape(shape))
    becomes(model, ["Add", "Reshape", "Reshape", "Neg"], (0,))
    assert list(model.graph.node("strided").outputs[0].shape) == list(shape)


def test_what_only_undoes_the_flattening_goes():
    becomes(fixed(ALL.reshape(2, C, H, W)), ["Add", "Neg"], (0,))


@pytest.mark.parametrize(
    "positions",
    [
        ALL[::-1].reshape(2, -1),
        ALL[:-1],
        np.concatenate([ALL, ALL[:1]]),
        np.zeros_like(ALL),
        ALL.reshape(2, C, H, W).transpose(0, 1, 3, 2),
        np.where(ALL == 0, -1, ALL),
    ],
)
def test_any_other_gather_stays(positions):
    stays(fixed(np.ascontiguousarray(positions)))


def test_a_table_stays():
    """Rows of a weight that are looked up in order are a weight still."""
    net = Network((2, C, H, W))
    table, order = net.weight("table", net.normal(4)), net.weight("order", np.arange(4))
    model = net.model(
        net.add(
            "Add", [net.image, net.add("Reshape", [net.add("Gather", [table, order]), net.weight("s", [1, 1, 4, 1])])]
        )
    )
    NameNodes()(model)
    assert not GatherToReshape()(model).modified


@pytest.mark.parametrize(
    ("shape", "strides", "expected"),
    [
        ((C, H, W), (H * W, W, 1), ["Add", "Neg"]),
        ((C * H * W,), (1,), ["Add", "Reshape", "Reshape", "Neg"]),
        ((C, H * W), (H * W, 1), ["Add", "Reshape", "Reshape", "Neg"]),
        ((C * H * W, 1, 1), (1, 99, 7), ["Add", "Reshape", "Reshape", "Neg"]),
    ],
)
def test_with_an_open_batch(shape, strides, expected):
    model = open_batch(shape, strides, C * H * W)
    becomes(model, expected, (1, 2, 3))
    node = next(node for node in model.graph if node.op_type == "Neg")
    assert list(node.inputs[0].shape) == [ir.SymbolicDim("N"), *shape]


def test_rows_of_images_with_an_open_batch():
    model = open_batch((H * W,), (1,), H * W, scale=C)
    becomes(model, ["Add", "Reshape", "Reshape", "Neg"], (1, 2))
    assert list(model.graph.node("strided").outputs[0].shape) == [ir.SymbolicDim("6*N"), H * W]


@pytest.mark.parametrize(
    ("shape", "strides", "lead", "options"),
    [
        ((C, H, W), (1, C * W, C), C * H * W, {}),  # channels stand last in memory
        ((C, H, W), (H * W, W, 1), 0, {}),  # the first image again and again
        ((C, H, W - 1), (H * W, W, 1), C * H * W, {}),  # a part of each
        ((H, W), (W, 1), C * H * W, {}),
        ((C, H, W - 1), (H * W, W, 1), C * H * W, {"offset": 1}),
        ((C, H, W), (H * W, W, 1), C * H * W, {"count": 1}),  # one image, however many there are
        ((H, W), (W, 1), H * W, {"scale": 2}),
    ],
)
def test_other_strides_with_an_open_batch_stay(shape, strides, lead, options):
    stays(open_batch(shape, strides, lead, **options))


def test_positions_that_depend_on_the_image_stay():
    net, vector = flat("N")
    first = net.add("Cast", [net.add("Reshape", [net.image, net.weight("every", [-1])])], to=ir.DataType.INT64.value)
    stays(prepared(net, net.add("Neg", [net.add("Gather", [vector, first], "strided")])))


def test_long_chains_and_large_positions_stay_without_being_computed():
    net, vector = flat("N")
    zero, one = (net.weight(name, np.array(n, np.int64)) for name, n in (("zero", 0), ("one", 1)))
    found = net.add("Range", [zero, net.add("Size", [net.image]), one])
    for _ in range(200):
        found = net.add("Add", [found, zero])
    stays(prepared(net, net.add("Neg", [net.add("Gather", [vector, found])])))
    net, vector = flat("N")
    zero, one = (net.weight(name, np.array(n, np.int64)) for name, n in (("zero", 0), ("one", 1)))
    many = net.add("Mul", [net.add("Size", [net.image]), net.weight("many", np.array(2**40, np.int64))])
    stays(prepared(net, net.add("Neg", [net.add("Gather", [vector, net.add("Range", [zero, many, one])])])))


@pytest.mark.parametrize("exporter", ["dynamo", "dynamo-raw"])
def test_convnext_with_an_open_batch(exporter):
    pytest.importorskip("onnxscript")
    proto = zoo.export("convnext", exporter, batch=None)
    assert any(node.op_type == "Range" for node in proto.graph.node)  # what this is about
    model = normalize(ir.from_proto(proto), instruments=[CheckInvariants()])
    assert [str(value.shape) for value in model.graph.outputs] == ["[N,48,4,4]"]
    assert not {"Gather", "Range", "ReduceMean"} & {node.op_type for node in model.graph}
    fixed = zoo.backbone("convnext", exporter)
    image = np.random.default_rng(0).random((3, 3, zoo.SIZE, zoo.SIZE), dtype=np.float32)
    for a, b in zip(run(model, image), run(fixed, image), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
