"""Several models in one graph: each output is what its model computes alone, and what is equal is there once."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers.graphs import random_model, small_resnet
from helpers.merging import disguised, merged, needed, reached, tuned
from helpers.networks import Network, parse, run
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmtl.errors import ModelError
from onnxmtl.ir import clone, skeleton, sources
from onnxmtl.passes.instruments import find_violation
from onnxmtl.passes.merge_models import Part, canonical_parts, number_parts


def images(size: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((2, 3, size, size)).astype(np.float32)


def check(models: dict[str, ir.Model], size: int = 6) -> ir.Model:
    """Merge; every output is bit for bit what it was, and the graph is sound."""
    made = merged(models)
    assert find_violation(made.graph) is None
    onnx.checker.check_model(skeleton(made), full_check=True)
    alone = [array for model in models.values() for array in run(model, images(size))]
    for found, expected in zip(run(made, images(size)), alone, strict=True):
        assert found.dtype == expected.dtype and found.tobytes() == expected.tobytes()
    return made


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), draw=st.data())
def test_of_random_networks_what_depends_on_no_changed_weight_is_shared(seed, draw):
    """Exactly that: nodes behind a changed weight are there twice, all others once, however a model is written down."""
    base = random_model(seed, tasks=2)
    names = draw.draw(st.lists(st.sampled_from(sorted(base.graph.initializers)), max_size=3, unique=True))
    models = {"one": base, "two": tuned(base, names)}
    if draw.draw(st.booleans()):
        models["two"] = disguised(models["two"], seed)
    made = check(models)
    outputs_twice = sum(v.producer() is not None and v.producer().op_type == "Identity" for v in made.graph.outputs)
    assert len(made.graph) - outputs_twice == len(needed(base)) + reached(base, names)


@pytest.mark.parametrize("seed", range(4))
def test_three_networks_of_two_families(seed):
    one, other = random_model(seed, tasks=1), random_model(seed + 100, tasks=1)
    late = list(one.graph.initializers)[-1]
    made = check({"a": one, "b": tuned(one, [late]), "c": other})
    assert len(made.graph) == len(needed(one)) + reached(one, [late]) + len(needed(other))


def test_the_same_network_twice_is_computed_once():
    base = small_resnet({"out": 3}, size=6)
    made = check({"a": base, "b": disguised(base)})
    assert [value.name for value in made.graph.outputs] == ["a", "b"]
    assert len(made.graph) == len(base.graph) + 1 and made.graph[-1].op_type == "Identity"
    assert len(made.graph.initializers) == len(base.graph.initializers)


def test_shared_nodes_tell_where_they_come_from_and_keep_the_first_names():
    base = small_resnet({"out": 3}, size=6)
    made = check({"a": base, "b": tuned(base, ["out.predict.weight"])})
    nodes = {str(node.name): node for node in made.graph}
    assert sources(nodes["stem"]) == ("a/stem", "b/stem")
    assert sources(nodes["b/out.predict"]) == ("b/out.predict",)
    assert {name for name in nodes if "/" in name} == {"b/out.predict"}


def test_equal_weights_of_nodes_that_differ_are_stored_once():
    """A trunk behind a BatchNormalization that moved is computed twice, from one set of weights."""
    base = small_resnet({"out": 3}, size=6)
    mean = next(name for name in base.graph.initializers if name.endswith(".mean"))
    made = check({"a": base, "b": tuned(base, [mean])})
    assert len(made.graph) == len(base.graph) + reached(base, [mean])
    assert len(made.graph.initializers) == len(base.graph.initializers) + 1


def test_weights_that_are_equal_within_one_model_stay_two():
    net = Network((2, 3, 6, 6))
    x = net.add("Mul", [net.image, net.weight("s", np.ones((1, 3, 1, 1), np.float32))])
    x = net.add("Add", [x, net.weight("t", np.ones((1, 3, 1, 1), np.float32))])
    model = net.model(x)
    other = tuned(model, ["s"])  # Add reads something else, with equal weights
    made = check({"a": model, "b": other})
    assert len(made.graph.initializers) == 3


def test_an_inner_value_of_one_is_the_output_of_the_other():
    long = small_resnet({"out": 3}, size=6)
    short = clone(long)
    inner = next(node for node in short.graph if node.name == "stem").outputs[0]
    short.graph.outputs[:] = [inner]
    for order in (("long", "short"), ("short", "long")):
        made = check({name: {"long": long, "short": short}[name] for name in order})
        assert len(made.graph) == len(long.graph)


def test_an_input_that_is_an_output_and_an_input_named_like_an_output():
    net = Network((2, 3, 6, 6))
    model = net.model(net.add("Relu", [net.image]))
    model.graph.outputs.append(model.graph.inputs[0])
    made = check({"image": model, "b": clone(model)})
    assert [value.name for value in made.graph.inputs] == ["image_input"]


OLD = """<ir_version: 7, opset_import: ["": 11]>
net (float[N,3,6,6] x) => (float[N,3,6,6] y) <float[3,3,1,1] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}, float[1] half = {0.5}>
{ a = Conv (x, w)  b = Relu(a)  c = Mul(b, half)  y = Softmax <axis = 1> (c) }"""


def test_opsets_differ():
    old = parse(OLD)
    new = ir.from_proto(onnx.version_converter.convert_version(ir.to_proto(old), 21))
    for order in (("old", "new"), ("new", "old")):
        made = check({name: {"old": old, "new": new}[name] for name in order})
        assert made.graph.opset_imports[""] == 21
        assert [node.op_type for node in made.graph].count("Conv") == 1


def test_constants_may_be_nodes_and_shapes_computed():
    text = """<ir_version: 10, opset_import: ["": 21]>
    net (float[2,3,6,6] x) => (float[2,108] y)
    { a = Constant <value = int64[1] {2}> ()  b = Constant <value_ints = [108]> ()  c = Concat <axis = 0> (a, b)
      y = Reshape(x, c) }"""
    plain = """<ir_version: 10, opset_import: ["": 21]>
    net (float[2,3,6,6] image) => (float[2,108] z) <int64[2] shape = {2, 108}> { z = Reshape(image, shape) }"""
    made = check({"a": parse(text), "b": parse(plain)})
    assert [node.op_type for node in made.graph] == ["Reshape", "Identity"]


def test_arithmetic_on_floats_is_not_folded():
    """Its last bit is the runtime's: exp of a constant stays a node, and is shared as one."""
    text = """<ir_version: 10, opset_import: ["": 21]>
    net (float[2,3,6,6] x) => (float[2,3,6,6] y) <float[3] s = {0.1, 0.2, 0.3}, int64[4] to = {1, 3, 1, 1}>
    { a = Exp(s)  b = Reshape(a, to)  y = Mul(x, b) }"""
    made = check({"a": parse(text), "b": parse(text)})
    assert [node.op_type for node in made.graph] == ["Exp", "Reshape", "Mul", "Identity"]


BRANCHES = """<ir_version: 10, opset_import: ["": 21]>
net (float[2,3,6,6] x) => (float[2,3,6,6] y)
{ m = ReduceMax <keepdims = 0> (x)  zero = Constant <value = float {0.0}> ()  yes = Greater(m, zero)  r = Relu(x)
  y = If (yes) <then_branch = then () => (float[2,3,6,6] t) { t = Add(r, r) },
                else_branch = else () => (float[2,3,6,6] e) { e = Neg(r) }> }"""


def test_nodes_with_graphs_inside_stay_and_read_what_is_shared():
    made = check({"a": parse(BRANCHES), "b": parse(BRANCHES)})
    kinds = [node.op_type for node in made.graph]
    assert (kinds.count("If"), kinds.count("Relu"), kinds.count("ReduceMax")) == (2, 1, 1)


def test_random_nodes_stay():
    text = """<ir_version: 10, opset_import: ["": 21]>
    net (float[2,3,6,6] x) => (float[2,3,6,6] y) { r = RandomUniformLike <seed = 1.0> (x)  y = Add(x, r) }"""
    made = merged({"a": parse(text), "b": parse(text)})
    assert [node.op_type for node in made.graph].count("RandomUniformLike") == 2


def test_functions_are_expanded():
    text = """<ir_version: 10, opset_import: ["": 21, "mine": 1]>
    net (float[2,3,6,6] x) => (float[2,3,6,6] y) { y = mine.twice(x) }
    <domain: "mine", opset_import: ["": 21]> twice (v) => (w) { w = Add(v, v) }"""
    made = check({"a": parse(text), "b": parse(text)})
    assert [node.op_type for node in made.graph] == ["Add", "Identity"] and "mine" not in made.graph.opset_imports


@pytest.mark.parametrize("attribute", ["strides", "dilations", "pads", "group", "auto_pad"])
def test_an_attribute_that_matters_keeps_nodes_apart(attribute):
    def model(**attributes) -> ir.Model:
        net = Network((2, 3, 6, 6))
        weight = net.weight("w", np.ones((3, 3, 1, 1) if attribute != "group" else (3, 1, 1, 1), np.float32))
        group = 3 if attribute == "group" else 1
        return net.model(net.add("Conv", [net.image, weight], **{"group": group, **attributes}))

    values = {"strides": [2, 2], "dilations": [2, 2], "pads": [1, 1, 1, 1], "auto_pad": "SAME_UPPER"}
    if attribute == "group":
        assert len(check({"a": model(), "b": model(strides=[1, 1], dilations=[1, 1], pads=[0] * 4)}).graph) == 2
        return
    made = check({"a": model(), "b": model(**{attribute: values[attribute]})})
    assert [node.op_type for node in made.graph] == ["Conv", "Conv"]


def test_an_open_batch_and_a_fixed_one():
    base = small_resnet({"out": 3}, size=6)
    fixed = disguised(base)
    fixed.graph.inputs[0].shape = ir.Shape([2, 3, 6, 6])
    made = check({"a": base, "b": fixed})
    assert list(made.graph.inputs[0].shape) == [2, 3, 6, 6] and len(made.graph) == len(base.graph) + 1
    batch = clone(base)
    batch.graph.inputs[0].shape = ir.Shape(["batch", 3, 6, 6])
    made = check({"a": batch, "b": base})
    assert made.graph.inputs[0].shape[0] == "batch"
    assert "N" not in str([value.shape for node in made.graph for value in node.outputs])


def two_inputs(*names: str) -> ir.Model:
    values = ", ".join(f"float[2,3] {name}" for name in names)
    return parse(f"""<ir_version: 10, opset_import: ["": 21]>
    net ({values}) => (float[2,3] y) {{ y = Sub({", ".join(names)}) }}""")


def test_several_inputs_are_the_same_by_name():
    made = merged({"a": two_inputs("p", "q"), "b": two_inputs("q", "p")})
    assert [value.name for value in made.graph.inputs] == ["p", "q"]
    assert [node.op_type for node in made.graph] == ["Sub", "Sub"]
    made = merged({"a": two_inputs("p", "q"), "b": two_inputs("p", "r")})
    assert [value.name for value in made.graph.inputs] == ["p", "q", "r"]


def refused(*models: ir.Model) -> str:
    parts = [Part(f"m{i}", model, (f"m{i}",)) for i, model in enumerate(models)]
    with pytest.raises(ModelError) as caught:
        number_parts(parts, canonical_parts(parts))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_inputs_that_differ_are_refused():
    base = small_resnet({"out": 3}, size=6)
    other = clone(base)
    other.graph.inputs[0].shape = ir.Shape(["N", 3, 8, 8])
    assert "m1 takes image: float [N, 3, 8, 8], m0 takes image: float [N, 3, 6, 6]" in refused(base, other)
    other = clone(base)
    other.graph.inputs[0].type = ir.TensorType(ir.DataType.FLOAT16)
    assert "float16" in refused(base, other)


def test_versions_of_a_library_that_differ_are_refused():
    text = """<ir_version: 10, opset_import: ["": 21, "lib": {}]> net (float[2] x) => (float[2] y) {{ y = lib.f(x) }}"""
    said = refused(parse(text.format(1)), parse(text.format(2)))
    assert "m1 uses version 2 of the operators 'lib', m0 version 1" in said
    unused = text.replace("lib.f", "Relu")
    assert len(merged({"a": parse(unused.format(1)), "b": parse(unused.format(2))}).graph) == 2


def test_supermodels_are_refused():
    from onnxmtl.passes.spaces.vcn import Vcn

    supermodel = Vcn()(small_resnet(size=6)).model
    assert "m0: this model is a supermodel" in refused(supermodel, small_resnet(size=6))


def test_no_names_of_two_models_clash():
    """Two unlike networks whose nodes and weights are all called alike, twice over."""
    one, two = small_resnet({"out": 3}, size=6), small_resnet({"out": 3}, seed=5, size=6)
    two = tuned(two, list(two.graph.initializers))
    made = check({"a": one, "b": two, "b/stem": tuned(two, list(two.graph.initializers), 7)})
    assert len(made.graph) == 3 * len(one.graph)
