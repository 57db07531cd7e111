"""Costs of nodes, blocks and graphs: by hand, against torch's own counter on the lowered graph, against brute force."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from helpers import zoo
from helpers.graphs import GraphBuilder, random_model, small_resnet
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from onnxmtl.cost.count import count
from onnxmtl.cost.profile import NodeCost, group_cost, node_cost, peak_activation_bytes
from onnxmtl.errors import ModelError
from onnxmtl.ir import Role, set_role
from onnxmtl.ir.passes import RemoveUnusedNodesPass
from onnxmtl.lowering import to_torch
from onnxmtl.ops import multiply_adds, trainable_values


def parse(text: str, opset: int = 21, **weights: tuple[int, ...]) -> ir.Model:
    """A model from ONNX's text form, shapes inferred; weights are ones."""
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]> g {text}')
    for name, shape in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(shape, np.float32), name))
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True))


def flops(model: ir.Model, batch: int) -> int:
    """What torch counts on the lowered graph."""
    shape = [d for d in model.graph.inputs[0].shape or () if isinstance(d, int)]
    module = to_torch(model).eval()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        module(torch.rand(batch, *shape))
    return int(counter.get_total_flops())


def agrees(model: ir.Model) -> None:
    ours = group_cost(model.graph).multiply_adds
    assert ours == sum(multiply_adds(node) for node in model.graph)
    assert [flops(model, 1), flops(model, 2)] == [2 * ours, 4 * ours]
    assert ours > 0


# -- torch's counter -------------------------------------------------------------------------------------------------


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[str, dict[str, tuple[int, ...]]]:
    """Any convolution of a 9 × 8 image: groups, strides, dilations, pads that differ on all four sides."""
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    groups, c_in, c_out = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    kernel, strides, dilations = draw(pair), draw(pair), draw(pair)
    transposed = draw(st.booleans())
    pads = draw(st.lists(st.integers(0, 1), min_size=4, max_size=4))
    span = [d * (k - 1) for k, d in zip(kernel, dilations, strict=True)]
    attributes = {"group": groups, "strides": [*strides], "dilations": [*dilations], "pads": pads}
    if transposed:
        attributes["pads"] = [min(p, s // 2) for p, s in zip(pads, [*span, *span], strict=True)]
        attributes["output_padding"] = [draw(st.integers(0, s - 1)) for s in strides]
    if draw(st.booleans()):
        del attributes["pads"]
        attributes["auto_pad"] = "SAME_UPPER" if transposed else draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER"]))
        attributes.pop("output_padding", None)
    listed = ", ".join(f'{k} = "{v}"' if isinstance(v, str) else f"{k} = {v}" for k, v in attributes.items())
    weight = (c_in * groups, c_out, *kernel) if transposed else (c_out * groups, c_in, *kernel)
    op = "ConvTranspose" if transposed else "Conv"
    text = f"(float[N,{c_in * groups},9,8] x) => (float[N,c,h,w] y) {{ y = {op} <{listed}> (x, w, b) }}"
    return text, {"w": weight, "b": (c_out * groups,)}


@settings(max_examples=60, deadline=None)
@given(convolutions())
def test_torch_counts_convolutions_the_same(case: tuple[str, dict[str, tuple[int, ...]]]) -> None:
    text, weights = case
    agrees(parse(text, **weights))


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 5), st.integers(2, 6), st.integers(1, 7), st.booleans(), st.sampled_from(["gemm", "left", "right"])
)
def test_torch_counts_products_with_weights_the_same(rows: int, inner: int, columns: int, transpose: bool, kind: str):
    shape = (columns, inner) if transpose else (inner, columns)
    if kind == "gemm":
        agrees(parse(f"(float[N,{inner}] x) => (y) {{ y = Gemm <transB={int(transpose)}> (x, w) }}", w=shape))
    elif kind == "right":
        agrees(parse(f"(float[N,{rows},{inner}] x) => (y) {{ y = MatMul(x, w) }}", w=(inner, columns)))
    else:
        agrees(parse(f"(float[N,{rows},{inner}] x) => (y) {{ y = MatMul(w, x) }}", w=(columns, rows)))


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 3), st.integers(2, 5), st.integers(2, 4), st.sampled_from(["MatMul", "Einsum", "Attention"]))
def test_torch_counts_attention_the_same(heads: int, length: int, size: int, writing: str) -> None:
    """Queries, keys and values from one projection; scores and their product with the values."""
    width = heads * size
    shape = f"int64[4] s = {{0, 0, {heads}, {size}}}, int64[3] joined = {{0, 0, {width}}}"
    before = "p = MatMul(x, w) a, b, c = Split <axis=2, num_outputs=3> (p)"
    q, k, v = (f"{new} = Reshape({old}, s)" for new, old in (("q", "a"), ("k", "b"), ("v", "c")))
    swap = "Transpose <perm=[0,2,1,3]>"
    core = {
        "MatMul": f"qt = {swap}(q) kt = Transpose <perm=[0,2,3,1]> (k) vt = {swap}(v) z = MatMul(qt, kt) "
        f"e = Softmax(z) u = MatMul(e, vt) ut = {swap}(u) y = Reshape(ut, joined)",
        "Einsum": 'z = Einsum <equation="nqhd,nkhd->nhqk"> (q, k) e = Softmax(z) '
        'u = Einsum <equation="n...qk,nk...d->nq...d"> (e, v) y = Reshape(u, joined)',
    }
    if writing == "Attention":
        body = f"{before} y = Attention <q_num_heads={heads}, kv_num_heads={heads}> (a, b, c)"
    else:
        body = f"{before} {q} {k} {v} {core[writing]}"
    text = f"(float[N,{length},{width}] x) => (y) <{shape}> {{ {body} }}"
    model = parse(text, opset=23 if writing == "Attention" else 21, w=(width, 3 * width))
    agrees(model)
    products = length * width * 3 * width + 2 * heads * length * length * size
    assert group_cost(model.graph).multiply_adds == products


EINSUMS = [
    ("ij,jk->ik", {"w": (3, 4)}),
    ("bij,jk", {"w": (3, 4)}),  # the result is what only one has, in order
    ("bij,jk,kl->bil", {"w": (3, 4), "v": (4, 2)}),
    ("bij,jk->b", {"w": (3, 4)}),  # k is summed before
    ("...j,jk->...k", {"w": (3, 4)}),
]


@pytest.mark.parametrize(("equation", "weights"), EINSUMS)
def test_torch_counts_einsum_the_same(equation: str, weights: dict[str, tuple[int, ...]]) -> None:
    rank = 3 if equation[0] in "b." else 2
    shape = "N,5,3" if rank == 3 else "N,3"
    agrees(parse(f'({f"float[{shape}]"} x) => (y) {{ y = Einsum <equation="{equation}"> (x, {", ".join(weights)}) }}',
                 **weights))  # fmt: skip


def test_torch_counts_a_deformable_convolution_the_same() -> None:
    text = (
        "(float[N,4,6,5] x) => (y) { o = Conv <pads=[1,1,1,1]> (x, a) "
        "y = DeformConv <pads=[1,1,1,1], group=2, kernel_shape=[3,3]> (x, w, o) }"
    )
    agrees(parse(text, a=(18, 4, 3, 3), w=(6, 2, 3, 3)))


def test_what_torchs_counter_does_not_see() -> None:
    """A matrix times a vector runs, and so it counts; torch has no entry for it. If this fails, torch learnt it."""
    model = parse("(float[N,7,5] x) => (y) { y = MatMul(x, w) }", w=(5,))
    assert (group_cost(model.graph).multiply_adds, flops(model, 1)) == (35, 0)
    # einsum over labels of size 1 alone is an elementwise product to torch, as MatMul is not
    model = parse('(float[N,7,1] x) => (y) { y = Einsum <equation="nij,jk->nik"> (x, w) }', w=(1, 3))
    assert (group_cost(model.graph).multiply_adds, flops(model, 1)) == (21, 0)


_SLOW = [pytest.param(n, e, marks=pytest.mark.slow) for n in zoo.NETWORKS for e in zoo.EXPORTERS if e != "legacy-train"]


@pytest.mark.parametrize(("name", "exporter"), [*((name, "legacy-train") for name in zoo.NETWORKS), *_SLOW])
def test_torch_counts_every_network_the_same(name: str, exporter: zoo.Exporter) -> None:
    agrees(zoo.backbone(name, exporter))


# -- by hand ---------------------------------------------------------------------------------------------------------


def test_every_number_by_hand() -> None:
    b = GraphBuilder(size=8)
    x = b.norm(b.conv(b.image, 4, stride=2, name="stem"), name="bn")
    x = b.relu(x)
    b.graph.outputs.append(x)
    conv, norm, relu = b.graph
    assert node_cost(conv) == NodeCost(4 * 27 + 4, 16 * 4 * 27, 16 * 4 * 4, (4 * 27 + 4) * 4)
    assert node_cost(norm) == NodeCost(8, 0, 16 * 4 * 4, 16 * 4)
    assert node_cost(relu) == NodeCost(0, 0, 16 * 4 * 4, 0)
    assert group_cost(b.graph) == NodeCost(4 * 27 + 4 + 8, 16 * 4 * 27, 3 * 16 * 4 * 4, (4 * 27 + 4 + 16) * 4)
    # the image and the convolution's result, or two results of 4 channels on 4 × 4: the first is more
    assert peak_activation_bytes(b.graph) == (3 * 64 + 4 * 16) * 4


def test_a_shared_weight_counts_once_and_its_work_twice() -> None:
    text = "(float[N,3,4,4] x) => (y) { a = Conv(x, w) y = Conv(a, w) }"
    model = parse(text, w=(3, 3, 1, 1))
    first, second = model.graph
    assert node_cost(first) == node_cost(second)
    both = group_cost([first, second])
    assert (both.parameters, both.weight_bytes) == (9, 36)
    assert both.multiply_adds == 2 * node_cost(first).multiply_adds == 2 * 16 * 9


def test_types_and_omitted_outputs() -> None:
    text = (
        "(float[N,4,4,4] x) => (half) <int64[1] s = {1}> { half = Cast <to=10> (x) y, mask = Dropout(x) r = Shape(x) }"
    )
    model = parse(text)
    cast, dropout, shape = model.graph
    assert [node_cost(n).activation_bytes for n in (cast, dropout, shape)] == [64 * 2, 64 * 4 + 64, 4 * 8]
    dropout.outputs[1].name = ""
    assert node_cost(dropout).activation_bytes == 64 * 4


def test_the_batch_may_stand_anywhere() -> None:
    model = parse("(float[N,4,6] x) => (y) { t = Transpose <perm=[1,0,2]> (x) y = MatMul(t, w) }", w=(6, 2))
    assert group_cost(model.graph).multiply_adds == 4 * 6 * 2
    model.graph[0].outputs[0].shape = ir.Shape([4, ir.SymbolicDim("M"), 6])
    with pytest.raises(ModelError, match=r"Transpose .*dimension 1 is M, not a number"):
        group_cost(model.graph)


def test_unknown_shapes_and_types_are_an_error() -> None:
    model = small_resnet()
    conv = model.graph[0]
    conv.name = "the_conv"
    conv.outputs[0].shape = None
    for cost in (lambda: node_cost(conv), lambda: peak_activation_bytes(model.graph)):
        with pytest.raises(ModelError, match="cannot count what Conv 'the_conv' costs"):
            cost()
    model = small_resnet()
    model.graph[0].outputs[0].type = None
    with pytest.raises(ModelError, match=r"the type of .* is unknown"):
        peak_activation_bytes(model.graph)
    model.graph[0].outputs[0].dtype = ir.DataType.STRING
    with pytest.raises(ModelError, match="is text"):
        peak_activation_bytes(model.graph)


# -- sums ------------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3))
def test_the_whole_is_what_other_rooms_count(seed: int, tasks: int) -> None:
    model = random_model(seed, tasks=tasks)
    RemoveUnusedNodesPass()(model)
    costs, whole = count(model), group_cost(model.graph)
    assert whole.multiply_adds == costs.multiply_adds
    assert whole.parameters == costs.parameters
    assert whole.parameters == sum(v.const_value.size for v in trainable_values(model.graph))
    assert whole.weight_bytes == sum(v.const_value.nbytes for v in model.graph.initializers.values())
    nodes = [node_cost(node) for node in model.graph]  # no weight is shared in these
    assert whole == NodeCost(*(sum(getattr(n, f) for n in nodes) for f in NodeCost.__dataclass_fields__))


def test_statistics_and_logits_are_no_parameters() -> None:
    b = GraphBuilder()
    b.graph.outputs.append(b.norm(b.conv(b.image, 4)))
    before = group_cost(b.graph)
    scale = b.graph[1].inputs[1]
    set_role(scale, Role.LOGITS)
    assert group_cost(b.graph).parameters == before.parameters - 4
    assert group_cost(b.graph).weight_bytes == before.weight_bytes


# -- peak ------------------------------------------------------------------------------------------------------------


def peak_by_force(graph: ir.Graph) -> int:
    """For every moment, every tensor: is it there?"""
    nodes = list(graph)

    @functools.cache
    def size(value: ir.Value) -> int:
        return 4 * int(np.prod([d if isinstance(d, int) else 1 for d in value.shape]))

    values = [*graph.inputs, *(v for node in nodes for v in node.outputs)]
    peak = 0
    for moment in range(len(nodes)):
        total = 0
        for value in values:
            born = -1 if value.producer() is None else nodes.index(value.producer())
            readers = [nodes.index(use.node) for use in value.uses()]
            dies = len(nodes) if value.is_graph_output() else max([born, *readers])
            total += size(value) if born <= moment <= dies and dies >= 0 else 0
        peak = max(peak, total)
    return peak


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(1, 6))
def test_peak_equals_brute_force(seed: int, tasks: int, layers: int) -> None:
    graph = random_model(seed, tasks=tasks, layers=layers).graph
    peak = peak_activation_bytes(graph)
    assert peak == peak_by_force(graph)
    image = 4 * 3 * 6 * 6
    assert peak < group_cost(graph).activation_bytes + image


@pytest.mark.parametrize("name", ["unet", "densenet", "inception_v3", "fpn"])
def test_peak_of_networks(name: str) -> None:
    graph = zoo.backbone(name, "legacy-train").graph
    assert peak_activation_bytes(graph) == peak_by_force(graph)


def test_long_chains() -> None:
    b = GraphBuilder(size=2)
    x = b.image
    for _ in range(2_000):
        x = b.relu(x)
    b.graph.outputs.append(x)
    assert peak_activation_bytes(b.graph) == 2 * 4 * 12
    assert group_cost(b.graph).activation_bytes == 2_000 * 4 * 12
