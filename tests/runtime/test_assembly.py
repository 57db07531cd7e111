"""One model of several segments: what is in it, and every way a file can be no model."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from onnxmtl import runtime
from onnxmtl.errors import ModelError
from onnxmtl.runtime.assembly import assemble

SHAPE = ["N", 2]


def value(name):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE)


def written(path, inputs, outputs, nodes, weights=()):
    """A segment, saved."""
    tensors = [helper.make_tensor(name, TensorProto.FLOAT, [2], [number, number]) for name, number in weights]
    graph = helper.make_graph(nodes, path.stem, [value(n) for n in inputs], [value(n) for n in outputs], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


@pytest.fixture
def files(tmp_path):
    """x = image + w; a = x * w; b = -x, and c, which is in b's file but no part of b."""
    node = helper.make_node
    return [
        written(tmp_path / "all.onnx", ["image"], ["x"], [node("Add", ["image", "w"], ["x"])], [("w", 2)]),
        written(tmp_path / "a.onnx", ["x"], ["a"], [node("Mul", ["x", "w"], ["a"])], [("w", 2)]),
        written(
            tmp_path / "b.onnx",
            ["x"],
            ["b", "c"],
            [node("Neg", ["x"], ["b"]), node("Clip", ["x", "", "high"], ["c"])],
            [("high", 1)],
        ),
    ]


def test_it_is_the_model_that_the_segments_are_of(files):
    found = onnx.load_from_string(assemble(files, "image", ["b", "a"]))
    onnx.checker.check_model(found, full_check=True)
    assert [node.op_type for node in found.graph.node] == ["Add", "Mul", "Neg"]
    assert [value.name for value in found.graph.input] == ["image"]
    assert [value.name for value in found.graph.output] == ["b", "a"]
    assert [tensor.name for tensor in found.graph.initializer] == ["w"]
    assert [value.name for value in found.graph.value_info] == ["x"]
    first = onnx.load(files[0])
    assert found.graph.name == first.graph.name and found.ir_version == 10
    assert [(o.domain, o.version) for o in found.opset_import] == [("", 21)]


def test_what_no_asked_output_needs_is_left_out(files):
    alone = onnx.load_from_string(assemble([files[0], files[2]], "image", ["b"]))
    assert [node.op_type for node in alone.graph.node] == ["Add", "Neg"] and len(alone.graph.initializer) == 1
    clipped = onnx.load_from_string(assemble([files[0], files[2]], "image", ["c"]))
    assert list(clipped.graph.node[1].input) == ["x", "", "high"] and len(clipped.graph.initializer) == 2


def test_a_tensor_between_segments_can_be_an_output(files):
    found = assemble(files, "image", ["x", "a"])
    image = np.ones((3, 2), np.float32)
    assert {name: float(array[0, 0]) for name, array in runtime.run(found, image).items()} == {"x": 3, "a": 6}


def test_an_output_that_nobody_computes(files):
    with pytest.raises(ModelError, match="no segment has the tensor 'depth'"):
        assemble(files, "image", ["depth"])


@given(st.integers(0, 10_000))
def test_a_file_that_ends_too_early(tmp_path_factory, cut):
    folder = tmp_path_factory.getbasetemp() / "cut"
    folder.mkdir(exist_ok=True)
    whole = written(
        folder / "whole.onnx", ["image"], ["x"], [helper.make_node("Add", ["image", "w"], ["x"])], [("w", 2)]
    )
    content = whole.read_bytes()
    part = folder / "part.onnx"
    part.write_bytes(content[: cut % len(content)])
    try:
        found = assemble([part], "image", ["x"])
    except ModelError as error:
        assert str(part) in str(error) and "\n" not in str(error)  # noqa: PT017  (some cuts are between two fields)
    else:
        assert len(found) <= len(content)


@given(st.binary(max_size=200))
def test_a_file_of_anything(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "anything.onnx"
    file.write_bytes(content)
    with pytest.raises(ModelError, match=r"anything\.onnx"):
        assemble([file], "image", ["x"])


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ModelError, match=r"gone\.onnx: cannot be read"):
        assemble([tmp_path / "gone.onnx"], "image", ["x"])


def test_long_names_and_many_fields(tmp_path):
    """Numbers of one, two and three bytes."""
    name = "t" * 20_000
    nodes = [helper.make_node("Relu", ["image"], [name]), helper.make_node("Neg", [name], ["x"])]
    file = written(tmp_path / "long.onnx", ["image"], ["x"], nodes)
    found = onnx.load_from_string(assemble([file], "image", ["x"]))
    assert found.graph.node[1].input[0] == name
