"""What two models share, and the first node in which they differ: the right one, for the right reason."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers.graphs import small_resnet
from helpers.merging import disguised, tuned
from helpers.networks import Network, parse

from onnxmtl.cost.count import count
from onnxmtl.deploy.differences import Pair, compare_parts
from onnxmtl.ir import clone
from onnxmtl.passes.finalize import FoldBatchNorm
from onnxmtl.passes.merge_models import Part, canonical_parts, number_parts

BASE = small_resnet({"out": 3}, size=16)


def compared(one: ir.Model, two: ir.Model) -> Pair:
    parts = [Part(name, clone(model), (name,)) for name, model in (("one", one), ("two", two))]
    return compare_parts(*parts, number_parts(parts, canonical_parts(parts)))


def test_of_a_frozen_trunk_the_head_is_what_differs():
    pair = compared(BASE, tuned(BASE, ["out.predict.weight", "out.predict.bias"]))
    found = pair.difference
    assert found is not None and (found.cause, found.node, found.operator, found.other) == (
        "weights", "out.predict", "Conv", "out.predict",
    )  # fmt: skip
    assert found.reason.startswith("its weight differs: max |Δ| 0.") and "; its bias differs" in found.reason
    assert not found.hint and pair.alike == 0
    head = 8 * 8 * 8 * 3  # multiply-adds of the 1x1 convolution: the rest is shared
    assert pair.multiply_adds == count(BASE).multiply_adds - head
    assert (pair.nodes, pair.parameters) == (len(BASE.graph) - 1, count(BASE).parameters - 8 * 3 - 3)


def test_a_batchnorm_that_kept_updating_is_named_and_what_it_costs():
    statistics = [name for name in BASE.graph.initializers if name.endswith((".mean", ".variance"))]
    pair = compared(BASE, tuned(BASE, statistics))
    found = pair.difference
    assert found is not None and (found.cause, found.node, found.operator) == (
        "statistics",
        "bn3",
        "BatchNormalization",
    )
    assert "its running mean differs" in found.reason and "its running variance differs" in found.reason
    assert "kept updating" in found.hint
    # The convolutions behind it are equal, the norms are not.
    assert pair.alike == sum(node.op_type == "Conv" for node in BASE.graph) - 1
    assert pair.alike_multiply_adds == count(BASE).multiply_adds - pair.multiply_adds


def folded(model: ir.Model) -> ir.Model:
    return FoldBatchNorm()(clone(model)).model


def test_a_batchnorm_that_kept_updating_is_seen_in_the_convolution_that_it_was_folded_into():
    """As torch's exporters write it."""
    statistics = [name for name in BASE.graph.initializers if name.endswith((".mean", ".variance"))]
    found = compared(folded(BASE), folded(tuned(BASE, statistics))).difference
    assert found is not None and (found.cause, found.node, found.operator) == ("statistics", "stem", "Conv")
    assert found.reason.startswith("each channel of its weight is a multiple") and "was folded into it" in found.hint
    found = compared(folded(BASE), folded(tuned(BASE, ["stem.weight", *statistics]))).difference
    assert found is not None and (found.cause, found.node, found.hint) == ("weights", "stem", "")


def test_a_batchnorm_that_is_folded_in_one_alone():
    found = compared(folded(BASE), BASE).difference
    assert found is not None and (found.cause, found.node) == ("folded", "stem") and "export both" in found.hint


def test_weights_that_were_rounded_otherwise():
    other = clone(BASE)
    value = other.graph.initializers["stem.weight"]
    array = value.const_value.numpy()
    value.const_value = ir.tensor(np.nextafter(array, np.float32(np.inf)), name="stem.weight")
    found = compared(BASE, other).difference
    assert found is not None and (found.cause, found.node) == ("rounding", "stem") and "export both" in found.hint


def test_the_scale_of_a_batchnorm_is_a_weight():
    found = compared(BASE, tuned(BASE, ["bn3.scale", "bn3.mean"])).difference
    assert found is not None and (found.cause, found.node) == ("weights", "bn3") and not found.hint
    assert found.reason.startswith("its scale differs") and "running mean" in found.reason


@pytest.mark.parametrize("name", ["stem.weight", "conv6.weight", "conv11.weight"])
def test_the_first_node_whose_weight_moved_is_found_in_any_order_and_under_any_name(name):
    other = disguised(tuned(BASE, [name, "out.predict.weight"]))
    for pair in (compared(BASE, other), compared(other, BASE)):
        assert pair.difference is not None and pair.difference.cause == "weights"
        assert name.removesuffix(".weight") in (pair.difference.node, pair.difference.other)


def test_equal_models_do_not_differ():
    pair = compared(BASE, disguised(BASE))
    assert pair.difference is None and pair.nodes == len(BASE.graph)


def net(text: str) -> ir.Model:
    return parse(f"""<ir_version: 10, opset_import: ["": 21]>
    net (float[2,3,6,6] x) => (float[2,k,h,w] y) <float[3,3,1,1] w = {{1, 2, 3, 4, 5, 6, 7, 8, 9}},
    float[2,3,1,1] narrow = {{1, 2, 3, 4, 5, 6}}, float[3] b = {{1, 2, 3}},
    int64[4] to = {{2, 3, 36, 1}}, int64[4] other = {{2, 3, 4, 9}}> {{ {text} }}""")


@pytest.mark.parametrize(
    ("one", "two", "cause", "words"),
    [
        ("y = Relu(x)", "y = Sigmoid(x)", "operator", "it is Relu, in the other Sigmoid"),
        ("y = Conv(x, w)", "y = Conv <strides = [2, 2]> (x, w)", "attribute", "its strides is [1, 1], in the other [2"),
        ("y = Conv(x, w)", "y = Conv(x, w, b)", "weights", "its bias is left out, in the other given"),
        ("y = Conv(x, w)", "y = Conv(x, narrow)", "weights", "shape [3, 3, 1, 1], in the other [2, 3, 1, 1]"),
        ("y = Reshape(x, to)", "y = Reshape(x, other)", "constant", "is [2, 3, 36, 1], in the other [2, 3, 4, 9]"),
        ("r = Relu(x) y = Neg(r)", "y = Relu(x)", "end", "computes nothing from what it reads"),
        ("y = Softmax <axis = 1> (x)", "y = Softmax(x)", "attribute", "its axis is 1, in the other -1"),
        ("y = RandomUniformLike(x)", "y = RandomUniformLike(x)", "operator", "something else each time"),
    ],
)  # fmt: skip
def test_reasons(one, two, cause, words):
    found = compared(net(one), net(two)).difference
    assert found is not None and found.cause == cause and words in found.reason, found


def test_zeros_of_two_signs_and_texts():
    nets = []
    for zero in (0.0, -0.0):
        b = Network((2, 3, 6, 6))
        nets.append(b.model(b.add("Add", [b.image, b.weight("w", np.full((1, 3, 1, 1), zero, np.float32))])))
    found = compared(*nets).difference
    assert found is not None and "sign of zeros" in found.reason
