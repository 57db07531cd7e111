"""Separate networks: what is copied, what stays one, and that nothing is computed otherwise."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from helpers.fusing import different, mobile, vgg
from helpers.graphs import GraphBuilder, random_model, small_resnet
from helpers.skipping import close, images_for
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmtl import ops, runtime
from onnxmtl.cost.count import count
from onnxmtl.ir import Role, clone, head_of, role_of, sources, tasks_of_nodes, to_bytes
from onnxmtl.ir.passes import Refused
from onnxmtl.lowering import to_torch
from onnxmtl.passes.instruments import CheckInvariants
from onnxmtl.passes.pipelines import Pipeline
from onnxmtl.passes.spaces import Vcn
from onnxmtl.passes.spaces.separate import Separate, are_separate


def separate(model: ir.Model) -> ir.Model:
    return Pipeline([Separate()], instruments=[CheckInvariants()])(clone(model)).model


def test_every_layer_and_weight_is_there_once_per_task() -> None:
    model = separate(small_resnet({"a": 1, "b": 2, "c": 1}))
    trunk = [node for node in model.graph if head_of(node) is None]
    assert {str(node.name).split("/")[0] for node in trunk} == {"a", "b", "c"}
    tasks = tasks_of_nodes(model.graph)
    for node in trunk:
        assert tasks[node] == {str(node.name).split("/")[0]}
        for _, value in ops.weight_slots(node):
            assert str(value.name).startswith(str(node.name).split("/")[0] + "/") and len(value.uses()) == 1
    before = small_resnet({"a": 1, "b": 2, "c": 1})
    heads = sum(v.const_value.size for n, v in before.graph.initializers.items() if "predict" in n)
    trunk_before = count(before).parameters - heads
    assert count(model).parameters == 3 * trunk_before + heads


def test_copies_have_the_weights_the_roles_and_the_sources() -> None:
    before = small_resnet()
    after = separate(before)
    for name, value in before.graph.initializers.items():
        for copy in [name] if "predict" in name else [f"seg/{name}", f"depth/{name}"]:
            found = after.graph.initializers[copy]
            assert np.array_equal(found.const_value.numpy(), value.const_value.numpy())
            assert role_of(found) is role_of(value)
    assert {role_of(v) for v in after.graph.initializers.values()} == {Role.BACKBONE, Role.STATISTIC, Role.HEAD}
    assert sorted(sources(n) for n in after.graph if str(n.name).startswith("seg/")) == sorted(
        sources(n) for n in before.graph if head_of(n) is None
    )
    assert not any(name in after.graph.initializers for name in before.graph.initializers if "predict" not in name)


def test_constants_stay_one() -> None:
    graph = separate(mobile(3)).graph
    assert [name for name in graph.initializers if "/" not in name and "predict" not in name] == ["zero", "six"]


def test_sizes_of_the_image_stay_one_and_those_of_features_do_not() -> None:
    b = GraphBuilder()
    x = b.relu(b.conv(b.image, 4, stride=2))
    for read, name in ((b.image, "of_image"), (x, "of_feature")):
        size = b.node("Shape", [read], [2], name, start=2, end=4)
        size.type = ir.TensorType(ir.DataType.INT64)
        x = b.node("Resize", [x, None, None, size], ["N", 4, *list(read.shape)[2:]], mode="nearest", axes=[2, 3])
    model = separate(b.heads(b.conv(x, 4), {"a": 1, "b": 1}))
    assert sorted(str(n.name) for n in model.graph if n.op_type == "Shape") == [
        "a/of_feature",
        "b/of_feature",
        "of_image",
    ]
    onnx.checker.check_model(onnx.load_from_string(to_bytes(model)), full_check=True)


def test_separate_networks_are_left_alone() -> None:
    for model in (different(), separate(vgg(3))):
        before = to_bytes(model)
        assert are_separate(model.graph)
        result = Separate()(model)
        assert not result.modified and to_bytes(model) == before


def test_networks_with_one_weight_in_common_are_not_separate() -> None:
    model = different((((3, 1), (4, 2)), ((3, 1), (4, 2))))
    convs = {node.name: node for node in model.graph}
    convs["depth/conv0"].replace_input_with(1, convs["seg/conv0"].inputs[1])
    assert not are_separate(model.graph)
    after = separate(model)
    weights = {node.name: node.inputs[1] for node in after.graph if str(node.name).endswith("conv0")}
    assert len(set(weights.values())) == 2


def test_a_task_whose_output_is_a_feature_keeps_the_outputs_name() -> None:
    model = small_resnet({"a": 2, "b": 1})
    feature = next(n for n in model.graph if head_of(n) == "b").inputs[0]
    feature.name = "feature"
    model.graph.outputs.append(feature)
    after = separate(model)
    assert [v.name for v in after.graph.outputs] == ["a", "b", "feature"]
    assert are_separate(after.graph)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3))
def test_nothing_is_computed_otherwise(seed, tasks) -> None:
    model = random_model(seed, tasks=tasks)
    after = separate(model)
    images = images_for(model)
    one, two = (to_torch(m, dtype=torch.float64).eval()(images) for m in (model, after))
    assert list(one) == list(two)
    assert all(torch.equal(one[task], two[task]) for task in one)


def test_onnxruntime_agrees() -> None:
    model = small_resnet()
    images = {"image": images_for(model).numpy().astype(np.float32)}
    one, two = (
        runtime.run(runtime.session(to_bytes(m), optimize=False, threads=1), images) for m in (model, separate(model))
    )
    assert all(close(torch.from_numpy(one[t]), torch.from_numpy(two[t]), 1e-6) for t in one)


def test_refusals() -> None:
    model = small_resnet()
    Vcn()(model)
    with pytest.raises(Refused, match="separate: this model holds Choices"):
        Separate()(model)
    bare = small_resnet()
    for node in bare.graph:
        node.metadata_props.pop("onnxmtl.head", None)
    with pytest.raises(Refused, match="separate: the graph has no task heads; run AttachHeads first"):
        Separate()(bare)
