"""How messages write shapes, values and numbers of things."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from onnxmtl.ir import counted, dims_of, listed, shape_text, value_text


@pytest.mark.parametrize(
    ("shape", "text", "dims"),
    [
        (None, "unknown", None),
        ([], "[]", ()),
        (["N", 3, "H", None], "[N, 3, H, ?]", ("N", 3, "H", "?")),
        (["2*N", 4], "[2*N, 4]", ("2*N", 4)),
    ],
)
def test_shapes(shape, text, dims):
    found = None if shape is None else ir.Shape(shape)
    assert shape_text(found) == text
    assert dims_of(ir.Value(name="x", shape=found)) == dims


def test_values_say_what_is_known():
    typed = ir.Value(name="x", type=ir.TensorType(ir.DataType.UINT8), shape=ir.Shape([1, "C"]))
    assert value_text(typed) == "x: uint8 [1, C]"
    assert value_text(ir.Value(name="y")) == "y: type unknown of unknown shape"


def test_numbers_and_lists():
    assert [counted(n, "node") for n in (0, 1, 2)] == ["0 nodes", "1 node", "2 nodes"]
    assert listed(["a"]) == "a" and listed(list("abcd")) == "a, b, c, d"
    assert listed(list("abcdef")) == "a, b, c, d and 2 more"
