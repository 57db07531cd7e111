"""Which additions close a residual block, and which do not; on graphs written by hand."""

from __future__ import annotations

import time

import numpy as np
import onnx_ir as ir
import pytest
from helpers.graphs import GraphBuilder, random_model, small_resnet
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmtl.analysis.shortcuts import refused_additions, residual_blocks
from onnxmtl.ir import head_of


def add(b: GraphBuilder, *terms: ir.Value, op: str = "Add") -> ir.Value:
    return b.node(op, list(terms), terms[0].shape, f"add{len(b.graph)}")


def conv(b: GraphBuilder, x: ir.Value, out: int = 0, **options) -> ir.Value:
    return b.conv(x, out or x.shape[1], bias=False, **options)


def start(channels: int = 4) -> tuple[GraphBuilder, ir.Value]:
    b = GraphBuilder()
    return b, b.block(b.image, channels, name="stem")


def up(b: GraphBuilder, x: ir.Value) -> ir.Value:
    n, c, h, w = x.shape
    size = b.weight(f"size{len(b.graph)}", np.array([1, 1, 2, 2], np.float32))
    empty = b.weight(f"roi{len(b.graph)}", np.zeros(0, np.float32))
    return b.node("Resize", [x, empty, size], [n, c, 2 * h, 2 * w])


def ids(b: GraphBuilder) -> list[str]:
    return [block.id for block in residual_blocks(b.graph)]


def why(b: GraphBuilder) -> str:
    (remark,) = refused_additions(b.graph)
    assert remark.code == "no-block"
    return remark.message


def test_identity_and_projection() -> None:
    model = small_resnet()
    first, second = residual_blocks(model.graph)
    assert first.identity and first.entry is first.shortcut and first.shortcut_nodes == ()
    layer = ["Conv", "BatchNormalization"]
    assert [node.op_type for node in first.branch] == [*layer, "Relu", *layer]
    assert [node.op_type for node in first.tail] == ["Add", "Relu"]
    assert (first.id, first.add) == (first.tail[0].name, first.tail[0])
    assert first.exit is first.tail[-1].outputs[0]
    assert second.entry is first.exit and not second.identity
    assert [node.op_type for node in second.shortcut_nodes] == layer
    assert second.shortcut is second.shortcut_nodes[-1].outputs[0]
    assert len(set(second.nodes)) == len(second.nodes) == 5 + 2 + 2
    assert refused_additions(model.graph) == []


def test_the_order_of_the_operands_does_not_matter() -> None:
    for swapped in (False, True):
        b, x = start()
        y = conv(b, b.block(x, 6, 2), 6)
        s = conv(b, x, 6, k=1, stride=2)
        b.graph.outputs.append(add(b, *((s, y) if swapped else (y, s))))
        (block,) = residual_blocks(b.graph)
        assert block.shortcut is s and len(block.branch) == 4


def test_without_activation_behind_it_the_sum_is_the_exit() -> None:
    b, x = start()
    y = add(b, x, conv(b, x))
    z = conv(b, y)
    b.graph.outputs.append(z)
    (block,) = residual_blocks(b.graph)
    assert block.exit is y and block.tail == (y.producer(),)


@pytest.mark.parametrize("outer", [False, True])
def test_an_activation_that_does_not_read_the_sum_alone_is_outside(outer: bool) -> None:
    b, x = start()
    y = add(b, x, conv(b, x))
    z = b.relu(y)
    b.graph.outputs.append(z)
    if outer:
        b.graph.outputs.append(y)
    else:
        b.graph.outputs.append(b.concat(y, z))
    (block,) = residual_blocks(b.graph)
    assert block.exit is y


def test_silu_of_two_nodes_is_an_activation() -> None:
    b, x = start()
    y = add(b, x, conv(b, x))
    gate = b.node("Sigmoid", [y], y.shape)
    z = b.node("Mul", [y, gate], y.shape)
    b.graph.outputs.append(conv(b, z))
    (block,) = residual_blocks(b.graph)
    assert block.exit is z and [node.op_type for node in block.tail] == ["Add", "Sigmoid", "Mul"]
    b.graph.outputs.append(gate)  # read by somebody else, it is no private gate
    assert residual_blocks(b.graph)[0].exit is y


def test_pre_activation_with_shared_first_activation() -> None:
    """He et al. 2016b: the projection reads what the branch reads; later blocks take the shortcut before the norm."""
    b = GraphBuilder()
    x = b.conv(b.image, 4, name="stem")
    o = b.relu(b.norm(x))
    y = add(b, conv(b, b.relu(b.norm(conv(b, o, 6, stride=2))), 6), conv(b, o, 6, k=1, stride=2))
    z = add(b, conv(b, b.relu(b.norm(y))), y)
    last = b.relu(z)
    b.graph.outputs.append(last)
    one, two = residual_blocks(b.graph)
    assert one.entry is o and len(one.shortcut_nodes) == 1 and one.exit is y
    assert two.entry is y and two.identity
    assert two.exit is z  # the last ReLU belongs to what follows, as all others do


def test_pre_activation_without_norm() -> None:
    for activate in (b_relu, silu):
        b = GraphBuilder()
        x = b.conv(b.image, 4)
        y = add(b, x, conv(b, activate(b, x)))
        b.graph.outputs.append(b.relu(y))
        (block,) = residual_blocks(b.graph)
        assert block.exit is y


def b_relu(b: GraphBuilder, x: ir.Value) -> ir.Value:
    return b.relu(x)


def silu(b: GraphBuilder, x: ir.Value) -> ir.Value:
    return b.node("Mul", [x, b.node("Sigmoid", [x], x.shape)], x.shape)


def test_downsampling_without_weights() -> None:
    """Option A of He et al. 2016a: every second row and column, channels filled up with zeros."""
    b, x = start()
    ints = {name: np.array(value) for name, value in {"a": [0, 0], "e": [99, 99], "x": [2, 3], "s": [2, 2]}.items()}
    consts = [integers(b, f"slice.{key}", value) for key, value in ints.items()]
    s = b.node("Slice", [x, *consts], ["N", 4, 4, 4])
    s = b.node("Pad", [s, integers(b, "pads", np.array([0, 0, 0, 0, 0, 2, 0, 0]))], ["N", 6, 4, 4])
    b.graph.outputs.append(b.relu(add(b, s, conv(b, b.block(x, 6, 2)))))
    (block,) = residual_blocks(b.graph)
    assert [node.op_type for node in block.shortcut_nodes] == ["Slice", "Pad"] and block.entry is x


def integers(b: GraphBuilder, name: str, array: np.ndarray) -> ir.Value:
    tensor = ir.tensor(array.astype(np.int64), name=name)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
    b.graph.register_initializer(value)
    return value


def test_pooled_projection_and_a_bias_behind_it() -> None:
    """ResNet-D: average pooling, 1x1 convolution, norm; and a bias that an exporter left as an Add."""
    b, x = start()
    s = b.node("AveragePool", [x], ["N", 4, 4, 4], kernel_shape=[2, 2], strides=[2, 2])
    s = b.norm(conv(b, s, 6, k=1))
    s = b.node("Add", [s, b.weight("bias", np.ones((6, 1, 1), np.float32))], s.shape)
    b.graph.outputs.append(add(b, conv(b, b.block(x, 6, 2)), s))
    (block,) = residual_blocks(b.graph)
    assert block.shortcut is s  # with its bias: a skipped block is not without it
    assert [node.op_type for node in block.shortcut_nodes] == ["AveragePool", "Conv", "BatchNormalization", "Add"]


def test_several_operands_are_one_addition() -> None:
    """RepVGG as it is trained: 3x3, 1x1 and a norm alone side by side, as two Adds or one Sum."""
    for op in ("Add", "Sum"):
        b, x = start()
        parts = [b.norm(conv(b, x)), b.norm(conv(b, x, k=1)), b.norm(x)]
        total = add(b, *parts, op="Sum") if op == "Sum" else add(b, add(b, *parts[:2]), parts[2])
        b.graph.outputs.append(b.relu(total))
        (block,) = residual_blocks(b.graph)
        assert block.shortcut is parts[2] and block.entry is x and block.add is total.producer()
        assert sum(node.op_type == "Conv" for node in block.branch) == 2
        assert [node.op_type for node in block.tail] == [op] * (1 if op == "Sum" else 2) + ["Relu"]


def test_parallel_branches_beside_one_shortcut() -> None:
    b, x = start()
    b.graph.outputs.append(add(b, add(b, x, conv(b, x)), conv(b, b.relu(x))))
    (block,) = residual_blocks(b.graph)
    assert block.identity and len(block.tail) == 2 and len(block.branch) == 3


def test_a_constant_beside_the_operands_belongs_to_the_sum() -> None:
    b, x = start()
    bias = b.weight("bias", np.ones((4, 1, 1), np.float32))
    b.graph.outputs.append(b.node("Sum", [x, bias, conv(b, x)], x.shape, "sum"))
    (block,) = residual_blocks(b.graph)
    assert (block.id, block.shortcut) == ("sum", x)


def test_adding_a_constant_is_no_block() -> None:
    b, x = start()
    b.graph.outputs.append(b.node("Add", [conv(b, x), b.weight("bias", np.ones((4, 1, 1), np.float32))], x.shape))
    assert ids(b) == [] and refused_additions(b.graph) == []


def test_a_branch_needs_a_layer() -> None:
    b, x = start()
    b.graph.outputs.append(add(b, x, b.node("MaxPool", [b.norm(x)], x.shape, kernel_shape=[3, 3], pads=[1] * 4)))
    assert ids(b) == [] and refused_additions(b.graph) == []


def test_squeeze_and_excitation_stochastic_depth_and_layer_scale_are_inside() -> None:
    b, x = start()
    y = b.block(x, 4)
    pooled = b.node("GlobalAveragePool", [y], ["N", 4, 1, 1])
    gate = b.node("Sigmoid", [b.conv(b.relu(b.conv(pooled, 2, k=1)), 4, k=1)], ["N", 4, 1, 1])
    y = b.node("Mul", [y, gate], y.shape)
    y = b.node("Mul", [conv(b, y), b.weight("scale", np.full((4, 1, 1), 0.1, np.float32))], y.shape)
    y = b.node("Dropout", [y], y.shape)
    b.graph.outputs.append(add(b, x, y))
    (block,) = residual_blocks(b.graph)
    assert {"GlobalAveragePool", "Sigmoid", "Mul", "Dropout"} <= {node.op_type for node in block.branch}


def test_two_branches_with_activations_are_no_block() -> None:
    b, x = start()
    b.graph.outputs.append(add(b, b.block(x, 4), b.relu(conv(b, x, k=1))))
    assert ids(b) == []
    assert "is what the others are computed from, or a plain projection of it" in why(b)


def test_a_projection_is_one_layer_and_cheaper_than_the_branch() -> None:
    b, x = start()
    two = conv(b, conv(b, x, k=1), k=1)
    b.graph.outputs.append(add(b, b.block(x, 4), two))
    assert ids(b) == [] and "plain projection" in why(b)
    b, x = start()
    b.graph.outputs.append(add(b, b.relu(conv(b, x, k=1)), conv(b, x, k=3)))
    assert ids(b) == [] and "its projection costs 9216 multiply-adds and what it would go around 1024" in why(b)


def test_a_shortcut_that_is_spread_over_the_sum_is_none() -> None:
    b, x = start()
    pooled = b.node("GlobalAveragePool", [x], ["N", 4, 1, 1])
    wide = b.node("Expand", [b.conv(pooled, 4, k=1), integers(b, "shape", np.array([1, 4, 8, 8]))], ["N", 4, 8, 8])
    b.graph.outputs.append(b.node("Add", [wide, pooled], ["N", 4, 8, 8]))
    assert ids(b) == [] and "has the shape" in why(b)


def test_what_is_read_inside_is_no_block() -> None:
    """A detector's head on the widened map inside an inverted residual: skipping would not save what it reads."""
    b, x = start()
    wide = b.block(x, 12)
    y = add(b, x, conv(b, wide, 4))
    b.graph.outputs.extend([y, b.conv(wide, 2, k=1, name="tap")])
    assert ids(b) == [] and "is read by 'tap' outside" in why(b)
    b, x = start()
    wide = b.block(x, 12)
    b.graph.outputs.extend([add(b, x, conv(b, wide, 4)), wide])
    assert ids(b) == [] and "is an output of the model" in why(b)


def test_asking_for_a_shape_is_no_reading() -> None:
    b, x = start()
    y = conv(b, x)
    shape = ir.Value(name="shape", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([4]))
    b.graph.append(ir.Node("", "Shape", [y], outputs=[shape]))
    b.graph.outputs.extend([add(b, x, y), shape])
    assert len(ids(b)) == 1


def test_lateral_additions_of_a_pyramid() -> None:
    b, x = start()
    low = b.block(x, 8, 2)
    b.graph.outputs.append(add(b, conv(b, x, k=1), up(b, conv(b, low, 4, k=1))))
    assert ids(b) == [] and "comes back from a coarser map" in why(b)


def test_an_encoder_and_decoder_with_added_skips() -> None:
    """LinkNet: every addition of an encoder's map spans all that is deeper; the innermost comes back by upsampling."""
    b, x = start()
    low = b.block(x, 8, 2)
    lower = b.block(low, 12, 2)
    y = add(b, low, up(b, conv(b, lower, 8, k=1)))
    b.graph.outputs.append(add(b, x, up(b, conv(b, y, 4, k=1))))
    assert ids(b) == [] and len(refused_additions(b.graph)) == 2


def test_upsampling_on_one_of_several_paths_is_inside() -> None:
    """A self-calibrated convolution: the gate is computed at a lower resolution, the branch itself stays."""
    b, x = start()
    low = b.node("AveragePool", [x], ["N", 4, 4, 4], kernel_shape=[2, 2], strides=[2, 2])
    gate = b.node("Sigmoid", [up(b, conv(b, low))], x.shape)
    b.graph.outputs.append(add(b, x, b.node("Mul", [conv(b, x), gate], x.shape)))
    assert len(ids(b)) == 1


def test_exchange_between_resolutions() -> None:
    """HRNet: two maps side by side, each added to the other after resizing."""
    b, x = start()
    high, low = b.block(x, 4), b.block(x, 8, 2)
    high, low = b.residual(high, 4), b.residual(low, 8)
    blocks = ids(b)
    fused = add(b, high, up(b, conv(b, low, 4, k=1)))
    b.graph.outputs.extend([b.relu(fused), b.relu(add(b, low, b.norm(conv(b, high, 8, stride=2))))])
    assert ids(b) == blocks and len(blocks) == 2
    assert len(refused_additions(b.graph)) == 2


def test_inner_blocks_win() -> None:
    """EDSR: a shortcut around all blocks."""
    b, x = start()
    y = b.residual(b.residual(x, 4), 4)
    inner = ids(b)
    b.graph.outputs.append(add(b, x, conv(b, y)))
    assert ids(b) == inner and len(inner) == 2
    assert f"holds the residual block of {inner[0]!r}" in why(b)


def test_slices_of_channels_are_no_shortcut() -> None:
    """Res2Net: parts of a map, each added to what was computed from the part before; the block around them stays."""
    b, x = start(8)
    y = b.block(x, 8)
    cut = integers(b, "cut", np.array([4, 4]))
    n, _, h, w = y.shape
    first, second = (ir.Value(name=f"part{i}", type=y.type, shape=ir.Shape([n, 4, h, w])) for i in (0, 1))
    b.graph.append(ir.Node("", "Split", [y, cut], [ir.AttrInt64("axis", 1)], outputs=[first, second], name="split"))
    left = b.block(first, 4)
    right = b.block(add(b, left, second), 4)
    b.graph.outputs.append(add(b, conv(b, b.concat(left, right)), x))
    (block,) = residual_blocks(b.graph)
    assert block.entry is x and len(refused_additions(b.graph)) == 1


def test_a_part_of_a_split_can_be_an_entry() -> None:
    """CSP: bottlenecks on one half of the channels."""
    b, x = start(8)
    n, _, h, w = x.shape
    first, second = (ir.Value(name=f"part{i}", type=x.type, shape=ir.Shape([n, 4, h, w])) for i in (0, 1))
    cut = integers(b, "cut", np.array([4, 4]))
    b.graph.append(ir.Node("", "Split", [x, cut], [ir.AttrInt64("axis", 1)], outputs=[first, second], name="split"))
    total = add(b, second, conv(b, second))
    b.graph.outputs.append(b.concat(first, second, total))
    (block,) = residual_blocks(b.graph)
    assert block.entry is second
    # the other half beside it, and the same addition no longer comes from its own input alone
    b.graph.outputs.append(add(b, first, conv(b, second)))
    assert len(ids(b)) == 1


def test_joins_by_concatenation_are_no_blocks() -> None:
    b, x = start()
    b.graph.outputs.append(b.concat(x, b.block(x, 4)))
    assert ids(b) == [] and refused_additions(b.graph) == []


def test_heads_have_no_blocks() -> None:
    b, x = start()
    b.task = "a"
    y = add(b, x, conv(b, x))
    b.task = None
    b.graph.outputs.append(y)
    assert head_of(y.producer()) == "a"
    assert ids(b) == []


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_what_a_block_promises(seed: int) -> None:
    """Against a plain search: without the entry the image reaches nothing inside; nothing inside is read outside."""
    graph = random_model(seed, layers=6).graph
    nodes = list(graph)
    for block in residual_blocks(graph):
        branch, inside = set(block.branch), {*block.branch, *block.tail}
        reached = {graph.inputs[0]}
        for node in nodes:
            if any(value in reached and value is not block.entry for value in node.inputs):
                reached.update(node.outputs)
        for node in branch:
            assert not any(value in reached and value is not block.entry for value in node.inputs)
        for node in inside:
            for value in node.outputs:
                if value is not block.exit:
                    assert {use.node for use in value.uses()} <= inside
        assert block.shortcut.shape == block.exit.shape
    claimed = [node for block in residual_blocks(graph) for node in block.nodes]
    assert len(claimed) == len(set(claimed))


def test_deep_networks_take_linear_time() -> None:
    b, x = start()
    for _ in range(1500):
        x = add(b, x, conv(b, x, k=1))
    b.graph.outputs.append(x)
    begin = time.perf_counter()
    assert len(ids(b)) == 1500
    assert time.perf_counter() - begin < 5
