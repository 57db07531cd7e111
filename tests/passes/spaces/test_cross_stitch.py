"""Cross-stitch units: the formula by hand, and that at identity every task has its own network, in every mode."""

from __future__ import annotations

import pytest
import torch
from helpers import zoo
from helpers.graphs import GraphBuilder, random_model, small_resnet
from helpers.meeting import alone, chain, chains, computed, conv, images, numbers, resized, stirred
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onnxmtl import ops
from onnxmtl.analysis.networks import Layer, network_layers
from onnxmtl.cost.count import count
from onnxmtl.errors import RunError
from onnxmtl.ir import Role, clone, is_choice, role_of
from onnxmtl.ir.passes import Refused
from onnxmtl.kinds import TaskSet
from onnxmtl.lowering import to_torch
from onnxmtl.passes.heads import AttachHeads
from onnxmtl.passes.instruments import CheckInvariants
from onnxmtl.passes.pipelines import Pipeline
from onnxmtl.passes.spaces import CrossStitch, Vcn, space
from onnxmtl.passes.spaces._mixing import levels

TASKS = {"seg": 3, "depth": 1}
THREE = {"seg": 3, "depth": 1, "normals": 3}
MIXED = {"seg": [("a", 4, 1), ("b", 6, 2), ("c", 6, 1)], "depth": [("p", 5, 1), ("q", 5, 1), ("r", 3, 2)]}


def stitched(model, **options):
    made = Pipeline([CrossStitch(**options)], instruments=[CheckInvariants()])(clone(model)).model
    assert not any(map(is_choice, made.graph))
    return made


def alphas(model):
    return {name: value for name, value in model.graph.initializers.items() if name.endswith("alpha.weight")}


@pytest.mark.parametrize("per", ["tensor", "channel"])
def test_the_features_are_mixed_as_the_paper_says(per):
    model = stirred(stitched(chain(THREE), per=per))
    w, x = numbers(model), images(model)
    own = dict.fromkeys(THREE, x)
    for layers in (["a"], ["b", "c"], ["d"]):  # the strides 1, 2 and 4
        for layer in layers:
            stride = 2 if layer in "bd" else 1
            own = {t: torch.relu(conv(y, w, f"{t}/conv_{layer}", stride)) for t, y in own.items()}
        own = {t: sum(w[f"{t}/{layers[-1]}/cross_stitch/{s}/alpha.weight"] * y for s, y in own.items()) for t in own}
    expected = {t: conv(y, w, f"{t}.predict") for t, y in own.items()}
    found = computed(model)
    for task, y in expected.items():
        torch.testing.assert_close(found[task], y, rtol=1e-10, atol=1e-10)
    assert all(
        v.shape.numpy() == ((1,) if per == "tensor" else (channels_of(n), 1, 1)) for n, v in alphas(model).items()
    )


def channels_of(name: str) -> int:
    return {"a": 4, "c": 6, "d": 8}[name.split("/")[1]]


def test_networks_of_other_widths_and_depths_meet_through_projections():
    """Stage by stage; here 4 and 5, and 6 and 3 channels."""
    model = stirred(stitched(chains(MIXED)))
    w, x = numbers(model), images(model)

    def relu(y, name, stride=1):
        return torch.relu(conv(y, w, name, stride))

    def unit(layers, own):
        found = {}
        for t, y in own.items():
            base = f"{t}/{layers[t]}/cross_stitch"
            (s,) = own.keys() - {t}
            foreign = conv(own[s], w, f"{base}/{s}/adapter")
            assert foreign.shape == y.shape
            found[t] = w[f"{base}/{t}/alpha.weight"] * y + w[f"{base}/{s}/alpha.weight"] * foreign
        return found

    own = {"seg": relu(x, "seg/conv_a"), "depth": relu(relu(x, "depth/conv_p"), "depth/conv_q")}
    own = unit({"seg": "a", "depth": "q"}, own)
    own = {
        "seg": relu(relu(own["seg"], "seg/conv_b", 2), "seg/conv_c"),
        "depth": relu(own["depth"], "depth/conv_r", 2),
    }
    own = unit({"seg": "c", "depth": "r"}, own)
    for task, y in computed(model).items():
        torch.testing.assert_close(y, conv(own[task], w, f"{task}.predict"), rtol=1e-10, atol=1e-10)


def test_maps_of_one_stride_and_two_sizes_are_resized():
    """A convolution without padding: stride 1, but 6x6 pixels where the other network has 8x8."""
    b = GraphBuilder()
    wide = b.relu(b.conv(b.image, 4, name="seg/conv_a"))
    narrow = b.relu(
        b.node(
            "Conv",
            [b.image, b.weight("depth/conv_p.weight", b.rng.normal(size=(4, 3, 3, 3)))],
            ["N", 4, 6, 6],
            "depth/conv_p",
            kernel_shape=[3, 3],
        )
    )
    wide.name, narrow.name = "seg/a", "depth/p"
    model = stirred(stitched(b.heads({"seg": wide, "depth": narrow}, TASKS)))
    w, x = numbers(model), images(model)
    seg = torch.relu(conv(x, w, "seg/conv_a"))
    depth = torch.relu(torch.nn.functional.conv2d(x, w["depth/conv_p.weight"]))
    alpha = {key: w[f"{key}/alpha.weight"] for key in ("seg/a/cross_stitch/seg", "seg/a/cross_stitch/depth")}
    mixed = alpha["seg/a/cross_stitch/seg"] * seg + alpha["seg/a/cross_stitch/depth"] * resized(depth, seg)
    torch.testing.assert_close(computed(model)["seg"], conv(mixed, w, "seg.predict"), rtol=1e-6, atol=1e-6)


def test_what_the_weights_begin_with():
    model = stitched(chain(THREE), own=0.7)
    for name, value in alphas(model).items():
        target, _, _, source, _ = name.split("/")
        assert value.const_value.numpy() == pytest.approx(0.7 if source == target else 0.15)
        assert role_of(value) is Role.FUSION
    values = ops.trainable_values(model.graph)
    assert all(value in values for value in alphas(model).values())  # single numbers, too
    assert not any("adapter" in name for name in model.graph.initializers)


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    tasks=st.integers(2, 4),
    per=st.sampled_from(["tensor", "channel"]),
    at=st.sampled_from(["stages", "layers"]),
)
def test_at_identity_every_task_has_its_own_network(seed, tasks, per, at):
    """In evaluation and in training, running statistics included."""
    model = random_model(seed, tasks)
    separate = alone(model)
    assume(levels(network_layers(separate), at))
    made = stitched(model, own=1.0, per=per, at=at)
    stir = {name: value.const_value for name, value in stirred(separate, seed).graph.initializers.items()}
    for name, tensor in stir.items():
        made.graph.initializers[name].const_value = tensor
    for train in (False, True):
        x = images(model)
        ours, theirs = (to_torch(m, dtype=torch.float64).train(train) for m in (made, separate))
        found, expected = ours(x), theirs(x)
        for task, y in expected.items():
            torch.testing.assert_close(found[task], y, rtol=1e-12, atol=1e-12)
        kept = ours.tensors()
        for name, tensor in theirs.tensors().items():
            torch.testing.assert_close(kept[name], tensor, rtol=1e-12, atol=1e-12)


def test_tasks_influence_each_other_unless_at_identity():
    """The twin of the test above: it can fail."""
    model = chain(TASKS)
    for own, equal in ((1.0, True), (0.9, False)):
        found = computed(stirred_networks(stitched(model, own=own)))
        expected = computed(stirred_networks(alone(model)))
        assert all(torch.allclose(found[t], expected[t], rtol=1e-12) for t in TASKS) == equal


def stirred_networks(model):
    """The tasks' networks differ, the units are as they begin."""
    kept = {name: value.const_value for name, value in alphas(model).items()}
    order = list(model.graph.initializers)
    for name in order:  # the same numbers whatever units there are
        value = model.graph.initializers[name]
        if name not in kept and value.const_value.numpy().dtype == "float32":
            array = value.const_value.numpy()
            factor = 1 + (sum(map(ord, name)) % 7) / 10
            value.const_value = type(value.const_value)(array * array.dtype.type(factor), name=name)
    return model


def test_behind_every_residual_block():
    """The stem has no unit, unless it is asked for."""
    model = small_resnet()
    assert len(alphas(stitched(model, at="layers"))) == 2 * 4
    assert len(alphas(stitched(model, at="layers", stem=True))) == 3 * 4
    assert len(alphas(stitched(model, stem=True))) == 2 * 4  # the stem is not the end of its stage


def test_costs():
    """Two networks; a few numbers more, and no multiply-adds."""
    model = chain(TASKS)
    plain, made = count(model), count(stitched(model, per="channel"))
    assert made.multiply_adds_trunk == 2 * plain.multiply_adds_trunk
    assert made.parameters_trunk == 2 * plain.parameters_trunk + 4 * (4 + 6 + 8)


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_backbones_that_people_bring(name):
    pytest.importorskip("onnxscript")
    model = Pipeline([AttachHeads(TaskSet.parse("seg=segmentation:3,depth"))])(zoo.backbone(name, "legacy")).model
    expected, found = computed(model), computed(stitched(model, own=1.0, at="layers"))
    for task, y in expected.items():
        torch.testing.assert_close(found[task], y, rtol=1e-12, atol=1e-12)


def layers_of(*strides):
    return tuple(Layer(f"l{i}", f"l{i}", 4, stride, (i + 1) / len(strides), i) for i, stride in enumerate(strides))


def meet(*networks, at="layers"):
    names = "abc"[: len(networks)]
    found = levels(dict(zip(names, (layers_of(*strides) for strides in networks), strict=True)), at)
    return [tuple(level[n].index if n in level else None for n in names) for level in found]


def test_which_layers_meet():
    assert meet((2, 2, 4), (2, 2, 4)) == [(0, 0), (1, 1), (2, 2)]
    assert meet((2, 2, 4), (2, 2, 4), at="stages") == [(1, 1), (2, 2)]
    assert meet((2, 2, 2, 2, 4), (2, 2, 4)) == [(1, 0), (3, 1), (4, 2)]  # evenly spread, the last one among them
    assert meet((2, 4, 8), (4, 8, 16)) == [(1, 0), (2, 1)]
    assert meet((2, 4), (2, 4), (4,)) == [(0, 0, None), (1, 1, 0)]
    assert meet((2, 4, 2), (2, 4, 2)) == [(0, 0), (1, 1), (2, 2)]  # a decoder: twice the same stride
    assert meet((2, 4), (8,)) == [] and meet((2, 4), ()) == []


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.sampled_from([1, 2, 4, 8]), max_size=9), min_size=2, max_size=3))
def test_every_network_goes_forward(networks):
    """Else a layer would depend on itself."""
    for at in ("stages", "layers"):
        found = meet(*networks, at=at)
        for column in zip(*found, strict=True):
            indices = [i for i in column if i is not None]
            assert indices == sorted(set(indices))
        for row in found:
            strides = {network[i] for network, i in zip(networks, row, strict=True) if i is not None}
            assert len(strides) == 1 and sum(i is not None for i in row) > 1


def test_refusals():
    with pytest.raises(Refused, match="one task has nobody"):
        CrossStitch()(chain({"seg": 3}))
    with pytest.raises(Refused, match="own is a weight from 0 to 1"):
        CrossStitch(own=1.5)(chain(TASKS))
    with pytest.raises(Refused, match="per is 'tensor' or 'channel'"):
        CrossStitch(per="pixel")(chain(TASKS))
    with pytest.raises(Refused, match="at is 'stages' or 'layers'"):
        CrossStitch(at="blocks")(chain(TASKS))
    supermodel = small_resnet()
    Vcn()(supermodel)
    with pytest.raises(Refused, match="holds Choices"):
        CrossStitch()(supermodel)
    with pytest.raises(Refused, match="same stride"):
        CrossStitch()(chains({"seg": [("a", 4, 2)], "depth": [("p", 4, 4)]}))
    with pytest.raises(RunError, match="takes no setting 'stages'"):
        space("cross_stitch", stages=3)
