"""The fusion space: what is built, and what it refuses."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers.fusing import different, fused, mobile, resnet50, vgg
from helpers.graphs import GraphBuilder, small_resnet

from onnxmtl.analysis.sites import site_table
from onnxmtl.errors import RunError
from onnxmtl.ir import Role, choices, diagnostics, is_supermodel, role_of, to_bytes
from onnxmtl.ir.passes import Refused
from onnxmtl.passes.spaces import SPACES, Fusion, space
from onnxmtl.passes.spaces._fusion_units import activation_of


def array(model: ir.Model, name: str) -> np.ndarray:
    return model.graph.initializers[name].const_value.numpy()


def node(model: ir.Model, name: str) -> ir.Node:
    return next(n for n in model.graph if n.name == name)


# -- sites -------------------------------------------------------------------------------------------------------------


def test_one_choice_per_edge_decided_by_the_target() -> None:
    model = fused(vgg())
    found = list(choices(model.graph))
    expected = [
        ("seg/relu0_0<depth/relu0_0", "seg"),
        ("seg/relu0_1<depth/relu0_0", "seg"),
        ("seg/relu0_1<depth/relu0_1", "seg"),
        ("seg/relu1_0<depth/relu1_0", "seg"),
    ]
    assert [(c.site, c.task) for c in found if c.task == "seg"][:4] == expected
    assert len(found) == len({c.site for c in found}) == len({c.logits for c in found}) == 12
    for choice in found:
        assert choice.names == ("edge", "cut") and choice.site.startswith(f"{choice.task}/")
        assert role_of(choice.logits) is Role.LOGITS and np.array_equal(choice.logits.const_value.numpy(), [0, 0])
    table = site_table(model)
    assert {site.id: table.tasks_at(site) for site in table.sites} == {c.site: (c.task,) for c in found}
    assert is_supermodel(model) and model.metadata_props["onnxmtl.kind"] == "supermodel"


def test_the_prior_is_the_logit_of_the_edge() -> None:
    (first, *_) = choices(fused(vgg(), prior=1.5).graph)
    assert np.array_equal(first.logits.const_value.numpy(), [1.5, 0])


@pytest.mark.parametrize(
    ("settings", "per_direction"),
    [
        ({}, 6),
        ({"within": 1}, 4),
        ({"same_stage": False}, 9),
        ({"edges": "same-layer"}, 4),
        ({"edges": "stage-ends"}, 2),
    ],
)
def test_the_arguments_choose_the_edges(settings, per_direction) -> None:
    assert len(list(choices(fused(vgg(3), **settings).graph))) == 6 * per_direction


@pytest.mark.parametrize(("stem", "number"), [(False, 36), (True, 37)])
def test_resnet50_has_the_papers_number_of_edges(stem, number) -> None:
    assert len(site_table(fused(resnet50(size=32), stem=stem)).sites) == 2 * number


def test_a_layer_without_a_candidate_has_no_unit_and_a_remark() -> None:
    model = fused(different(), within=1)
    units = {str(n.name).removesuffix("/fusion/sum") for n in model.graph if str(n.name).endswith("/sum")}
    assert units == {"seg/relu1", "depth/relu2"}
    left_out = [d.node for d in diagnostics(model) if d.code == "unit-not-made"]
    assert sorted(left_out) == ["depth/relu0", "depth/relu1", "seg/relu0"]


def test_the_stem_is_left_out_and_said_so() -> None:
    left_out = [d for d in diagnostics(fused(small_resnet())) if d.code == "unit-not-made"]
    assert len(left_out) == 2 and all("stem of a residual network" in d.message for d in left_out)
    assert not any(d.code == "unit-not-made" for d in diagnostics(fused(small_resnet(), stem=True)))


def test_an_output_that_is_a_feature_itself_keeps_its_name() -> None:
    """A task without layers of its own behind the last feature."""
    model = vgg()
    head = next(n for n in model.graph if n.metadata_props.get("onnxmtl.head") == "depth")
    feature = head.inputs[0]
    model.graph.outputs[1] = feature
    feature.name = "depth"
    model.graph.remove(head, safe=False)
    after = fused(model)
    assert [v.name for v in after.graph.outputs] == ["seg", "depth"]
    assert after.graph.outputs[1].producer().name == "depth/depth/fusion/relu"
    onnx.checker.check_model(onnx.load_from_string(to_bytes(after)), full_check=True)


# -- units -------------------------------------------------------------------------------------------------------------


def test_a_unit_is_a_sum_of_1x1_convolutions_with_normalization_and_activation() -> None:
    model = fused(vgg())
    total = node(model, "seg/relu0_1/fusion/sum")
    assert [v.producer().op_type for v in total.inputs] == ["Conv", "Choice2", "Choice2"]
    own, *edges = [v.producer() for v in total.inputs]
    assert own.inputs[0].name == "seg/relu0_1"
    assert [c.inputs[0].producer().inputs[0].name for c in edges] == ["depth/relu0_0", "depth/relu0_1"]
    assert [c.inputs[1].producer().op_type for c in edges] == ["ConstantOfShape"] * 2
    (norm,) = total.outputs[0].consumers()
    (relu,) = norm.outputs[0].consumers()
    assert (norm.op_type, relu.op_type) == ("BatchNormalization", "Relu")
    assert [n.op_type for n in relu.outputs[0].consumers()] == ["MaxPool"]  # what read the layer before


def test_sources_are_read_before_their_own_unit() -> None:
    model = fused(vgg(3), same_stage=False)
    for choice in choices(model.graph):
        read = choice.options[0].producer().inputs[0]
        while read.producer().op_type == "Resize":
            read = read.producer().inputs[0]
        assert read.name == choice.site.split("<")[1]


@pytest.mark.parametrize("own", [1.0, 0.9, 0.25, 0.0])
def test_initial_weights_sum_to_one(own) -> None:
    model = fused(vgg(3), own=own)
    eye = np.eye(3, dtype=np.float32)
    slices = {
        name: weight
        for name, value in model.graph.initializers.items()
        if name.startswith("depth/relu0_1/fusion/") and name.endswith(".weight") and "bn" not in name
        for weight in [value.const_value.numpy()[:, :, 0, 0]]
    }
    assert len(slices) == 5  # its own features, two layers of seg and two of normals
    for name, weight in slices.items():
        assert np.array_equal(weight, np.float32(own if name.endswith("/own.weight") else (1 - own) / 4) * eye)


def test_w_own_per_layer() -> None:
    model = fused(vgg(), own={"relu0_0": 0.5})
    assert np.array_equal(array(model, "seg/relu0_0/fusion/own.weight")[:, :, 0, 0], 0.5 * np.eye(3))
    assert np.array_equal(array(model, "depth/relu0_0/fusion/seg/relu0_0.weight")[:, :, 0, 0], 0.5 * np.eye(3))
    assert np.array_equal(array(model, "seg/relu1_0/fusion/own.weight")[:, :, 0, 0], np.eye(4))
    assert not array(model, "seg/relu1_0/fusion/depth/relu1_0.weight").any()


def test_other_channels_start_as_a_rectangular_identity_and_other_sizes_are_resized() -> None:
    model = fused(different(), same_stage=False, own=0.5)
    weight = array(model, "depth/relu2/fusion/seg/relu1.weight")
    assert weight.shape == (5, 4, 1, 1) and np.array_equal(weight[:, :, 0, 0], 0.25 * np.eye(5, 4))
    resized = [n for n in model.graph if n.op_type == "Resize"]
    assert resized and all(n.attributes["mode"].as_string() == "linear" for n in resized)
    for n in resized:
        assert list(n.inputs[0].shape)[2:] != list(n.outputs[0].shape)[2:]
        assert list(n.inputs[3].const_value.numpy()) == list(n.outputs[0].shape)[2:]
    assert not any(n.op_type == "Resize" for n in fused(vgg()).graph)


def test_roles() -> None:
    model = fused(vgg(norm=True))
    for name, value in model.graph.initializers.items():
        if "/fusion/" in name:
            statistic = name.endswith((".mean", ".var"))
            assert role_of(value) is (Role.STATISTIC if statistic else Role.FUSION)
        else:
            assert role_of(value) in (Role.BACKBONE, Role.HEAD, Role.STATISTIC, Role.LOGITS)


@pytest.mark.parametrize("epsilon", [1e-3, 1e-5, 0.1])
def test_the_normalization_starts_neutral(epsilon) -> None:
    model = fused(vgg(), norm_epsilon=epsilon, norm_momentum=0.9)
    norm = node(model, "seg/relu0_0/fusion/bn")
    kept = norm.attributes["epsilon"].as_float()
    gamma, beta, mean, variance = (v.const_value.numpy() for v in norm.inputs[1:])
    assert np.all(gamma == 1) and not beta.any() and not mean.any()
    assert np.all(variance.astype(np.float64) + kept == 1.0)  # exactly, so that the unit is an identity
    assert kept == pytest.approx(epsilon, rel=0.01) and norm.attributes["momentum"].as_float() == np.float32(0.9)


def test_activations_follow_the_layers() -> None:
    """Behind ReLU6 the same, behind a linear bottleneck nothing, behind its sum nothing either."""
    model = fused(mobile(), stem=True)
    behind = {}
    for n in model.graph:
        if n.op_type == "BatchNormalization" and "/fusion/" in str(n.name) and str(n.name).startswith("seg/"):
            (user,) = {u.op_type for u in n.outputs[0].consumers()} & {"Clip"} or {None}
            behind[str(n.name).split("/")[1]] = user
    assert [behind[name] for name in sorted(behind, key=lambda s: int("".join(filter(str.isdigit, s))))] == [
        "Clip", "Clip", "Clip", None, None
    ]  # fmt: skip
    kinds = {op: {n.op_type for n in fused(vgg(), activation=op).graph} for op in ("none", "relu6")}
    assert "Clip" not in kinds["none"] and "Clip" in kinds["relu6"]


@pytest.mark.parametrize(
    ("ops", "expected"),
    [
        (("Relu",), "relu"), (("Relu", "Relu"), "relu"), (("Sigmoid",), "relu"), (("HardSwish",), "none"),
        (("Gelu",), "none"), (("Relu", "Identity"), "relu"), (("LeakyRelu",), "none"), (("Clip06",), "relu6"),
        (("Clip06", "Identity"), "relu6"), (("Clip01",), "relu"), (("Clip-1",), "none"), (("Relu", "Double"), "relu"),
        (("Clip06", "Double"), "relu"), (("Clip06", "Twice"), "relu6"), (("Relu", "Bent"), "none"), ((), "none"),
    ],
)  # fmt: skip
def test_which_activation_changes_nothing(ops, expected) -> None:
    b = GraphBuilder()
    x = b.conv(b.image, 4)
    for op in ops:
        if op.startswith("Clip"):
            low, high = {"Clip06": (0, 6), "Clip01": (0, 1), "Clip-1": (-1, 6)}[op]
            bounds = [b.weight(f"b{i}", np.array(v, np.float32)) for i, v in enumerate((low, high))]
            x = b.node("Clip", [x, *bounds], x.shape)
        elif op == "Double":
            x = b.node("Add", [x, x], x.shape)
        elif op == "Twice":
            x = b.concat(x, x)
        elif op == "Bent":
            x = b.node("Add", [x, b.conv(x, 4)], x.shape)
        else:
            x = b.node(op, [x], x.shape)
    assert activation_of(x) == expected


def test_without_choices_every_unit_has_one_convolution() -> None:
    """NDDR-CNN: behind the last layer of each stage."""
    model = fused(vgg(3), edges="stage-ends", choices=False, own=0.9)
    assert not is_supermodel(model) and model.metadata_props["onnxmtl.kind"] == "multitask"
    convs = [n for n in model.graph if n.op_type == "Conv" and "/fusion/" in str(n.name)]
    assert sorted(str(n.name) for n in convs) == sorted(
        f"{t}/relu{s}_1/fusion/conv" for t in ("seg", "depth", "normals") for s in (0, 1)
    )
    weight = array(model, "seg/relu0_1/fusion.weight")[:, :, 0, 0]
    expected = np.hstack([0.9 * np.eye(3), 0.05 * np.eye(3), 0.05 * np.eye(3)])
    assert np.allclose(weight, expected, rtol=1e-6) and not any(n.op_type == "Sum" for n in model.graph)
    assert [v.name for v in node(model, "seg/relu0_1/fusion/concat").inputs] == [
        "seg/relu0_1", "depth/relu0_1", "normals/relu0_1"
    ]  # fmt: skip


@pytest.mark.parametrize("build", [vgg, mobile, small_resnet, different], ids=lambda f: f.__name__)
def test_the_file_is_valid_and_two_builds_are_equal_to_the_byte(build) -> None:
    settings = {"same_stage": False}
    first = to_bytes(fused(build(), **settings))
    onnx.checker.check_model(onnx.load_from_string(first), full_check=True)
    assert first == to_bytes(fused(build(), **settings))


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"edges": "all"}, r"edges is 'stage' or 'same-layer' or 'stage-ends', not 'all'"),
        ({"activation": "gelu"}, r"activation is 'auto', 'relu', 'relu6' or 'none', not 'gelu'"),
        ({"within": 0}, r"within is a number of layers from 1 on, not 0"),
        ({"own": 1.5}, r"the weight of a layer's own features is in 0 … 1, not 1.5"),
        ({"own": {"relu0_0": -1}}, r"in 0 … 1, not -1 \(relu0_0\)"),
        ({"own": {"relu0_9": 1}}, r"own names 'relu0_9', which is no layer; close to it: relu0_1, relu0_0"),
        ({"own": {"xyz": 1}}, r"own names 'xyz', which is no layer; `onnxmtl inspect --space fusion` lists them"),
        ({"prior": float("nan")}, r"prior is a finite logit, not nan"),
        ({"norm_epsilon": 0.0}, r"norm_epsilon lies between 0 and 1 .* they are 0 and 0.95"),
    ],
)
def test_wrong_arguments(settings, message) -> None:
    with pytest.raises(Refused, match=message):
        fused(vgg(), **settings)


def test_wrong_models() -> None:
    with pytest.raises(Refused, match=r"fusion: one task has no other network to read; give two tasks or more"):
        fused(vgg(1))
    with pytest.raises(Refused, match=r"fusion: this model already holds Choices"):
        Fusion()(fused(vgg()))
    bare = vgg()
    for n in bare.graph:
        n.metadata_props.pop("onnxmtl.head", None)
    with pytest.raises(Refused, match=r"fusion: the graph has no task heads; run AttachHeads first"):
        fused(bare)
    apart = different((((3, 2),), ((3, 1), (5, 4))))
    with pytest.raises(
        Refused, match=r"no layer of one network fits one of another \(layers found: seg: 1, depth: 2\)"
    ):
        fused(apart)
    assert any(n.op_type == "Resize" for n in fused(apart, same_stage=False).graph)


def test_it_is_a_space_by_name() -> None:
    assert SPACES["fusion"] is Fusion and isinstance(space("fusion", within=2), Fusion)
    with pytest.raises(RunError, match="search space 'fusion' takes no setting 'depth'"):
        space("fusion", depth=2)
