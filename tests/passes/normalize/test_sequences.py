"""Pieces in sequences become Splits; what is not known stays."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers.networks import Network, image_of, run

from onnxmtl.ir import sources
from onnxmtl.passes.instruments import CheckInvariants, find_violation
from onnxmtl.passes.normalize import normalize
from onnxmtl.passes.normalize.fold import FoldConstants
from onnxmtl.passes.normalize.names import NameNodes
from onnxmtl.passes.normalize.sequences import SplitSequences


def ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def pieces(split: list[int] | int | None, positions: list[int], axis: int = 1, **attributes: int) -> ir.Model:
    """Takes pieces out of an image of 6 channels and doubles each; every one is an output."""
    net = Network((2, 6, 4, 4))
    inputs = [net.image] + ([] if split is None else [net.weight("sizes", np.array(split, np.int64))])
    sequence = net.add("SplitToSequence", inputs, "split", axis=axis, **attributes)
    taken = []
    for i, position in enumerate(positions):
        index = net.weight(f"index{i}", np.array(position, np.int64))
        taken.append(net.add("SequenceAt", [sequence, index], f"piece{i}"))
    model = net.model(*(net.add("Add", [piece, piece]) for piece in taken))
    NameNodes()(model)
    FoldConstants()(model)
    return model


@pytest.mark.parametrize(
    ("split", "positions", "axis", "attributes"),
    [
        (3, [0, 1], 1, {}),
        (4, [1, 0], 1, {}),  # the last piece is smaller
        (4, [-1, -2], -3, {}),
        ([1, 2, 3], [2, 0], 1, {}),  # the one in the middle is not used
        ([6], [0], 1, {}),
        (2, [1, 1, 1], 1, {}),
        (2, [0, 1], 2, {"keepdims": 1}),
        (None, [5, 0, -2], 1, {}),
    ],
)
def test_the_same_numbers(split, positions, axis, attributes):
    model = pieces(split, positions, axis, **attributes)
    image = image_of(model)
    expected = run(model, image)
    assert SplitSequences()(model).modified
    assert find_violation(model.graph) is None
    assert ops(model) == ["Split", *["Add"] * len(positions)]
    for a, b in zip(run(model, image), expected, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not SplitSequences()(model).modified


def test_names_and_provenance_stay():
    model = pieces(3, [1, 0])
    SplitSequences()(model)
    split = model.graph[0]
    assert split.name == "split"
    assert [value.name for value in split.outputs] == ["piece1_out", "piece0_out"]
    assert sources(split) == ("piece0", "piece1", "split")


def test_pieces_that_are_outputs_of_the_graph():
    net = Network((2, 6, 4, 4))
    sequence = net.add("SplitToSequence", [net.image, net.weight("size", np.array(3))], "split", axis=1)
    pair = [net.add("SequenceAt", [sequence, net.weight(f"i{i}", np.array(i))], f"p{i}") for i in range(2)]
    model = net.model(*pair)
    FoldConstants()(model)
    SplitSequences()(model)
    image = image_of(model)
    assert [value.name for value in model.graph.outputs] == ["p0_out", "p1_out"]
    for i, array in enumerate(run(model, image)):
        np.testing.assert_array_equal(array, image[:, 3 * i : 3 * i + 3])


@pytest.mark.parametrize(
    ("split", "positions", "attributes"),
    [
        (3, [2], {}),  # there is none
        ([1, 2], [0], {}),  # they do not add up
        (None, [0], {"keepdims": 0}),
        (1, [0], {"keepdims": 0}),
        (0, [0], {}),
    ],
)
def test_what_cannot_be_said_stays(split, positions, attributes):
    model = pieces(split, positions, **attributes)
    before = ops(model)
    assert not SplitSequences()(model).modified
    assert ops(model) == before


def test_a_sequence_that_others_use_stays():
    net = Network((2, 6, 4, 4))
    sequence = net.add("SplitToSequence", [net.image, net.weight("size", np.array(3))], "split", axis=1)
    piece = net.add("SequenceAt", [sequence, net.weight("i", np.array(0))])
    model = net.model(net.add("ConcatFromSequence", [sequence], axis=1), piece)
    FoldConstants()(model)
    assert not SplitSequences()(model).modified
    assert len(model.graph) == 3


@pytest.mark.parametrize("batch", [1, 2, "N"])
def test_two_in_a_row_and_a_shuffle_without_annotations(batch):
    """Nothing is known behind the first but what inference and folding find out."""
    net = Network((batch, 4, 8, 8))
    x = net.image
    two, one = net.weight("two", np.array(2)), net.weight("one", np.array([1]))
    for i in range(2):
        sequence = net.add("SplitToSequence", [x, two], f"split{i}", axis=1)
        left, right = (
            net.add("SequenceAt", [sequence, net.weight(f"i{i}{j}", np.array(j))], f"p{i}{j}") for j in range(2)
        )
        right = net.conv(right, 2, 2, name=f"conv{i}")
        x = net.add("Concat", [left, right], axis=1)
        shape = net.add("Shape", [x])
        n, rest = (net.add("Slice", [shape, *ends]) for ends in _ends(net, i))
        channels = net.add("Gather", [shape, one])
        groups = net.weight(f"groups{i}", np.array([2]))
        half = net.add("Div", [channels, groups])
        x = net.add("Reshape", [x, net.add("Concat", [n, groups, half, rest], axis=0)])
        x = net.add("Reshape", [net.add("Transpose", [x], perm=[0, 2, 1, 3, 4]), shape])
    original = net.model(net.conv(x, 4, 4, name="last"))
    image = image_of(original, 2 if batch == "N" else batch)
    expected = run(original, image)
    model = normalize(original, instruments=[CheckInvariants()])
    assert ops(model).count("Split") == 2
    assert "Shape" not in ops(model)
    np.testing.assert_allclose(run(model, image)[0], expected[0], rtol=1e-6, atol=1e-6)
    assert run(model, image_of(model, 3))[0].shape == (3, 4, 8, 8)


def _ends(net: Network, i: int) -> list[list[ir.Value]]:
    return [
        [net.weight(f"start{i}{a}", np.array([a])), net.weight(f"end{i}{a}", np.array([b]))]
        for a, b in ((0, 1), (2, 4))
    ]
