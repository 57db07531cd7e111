"""Sluice networks: α and β by hand, which weights are marked as subspaces, and identity."""

from __future__ import annotations

import pytest
import torch
from helpers import zoo
from helpers.graphs import GraphBuilder, random_model, small_resnet
from helpers.meeting import alone, chain, chains, computed, conv, images, numbers, resized, stirred
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onnxmtl import ops
from onnxmtl.analysis.networks import network_layers
from onnxmtl.ir import Role, clone, diagnostics, is_choice, role_of
from onnxmtl.ir.passes import Refused
from onnxmtl.kinds import TaskSet
from onnxmtl.lowering import to_torch
from onnxmtl.passes.heads import AttachHeads
from onnxmtl.passes.instruments import CheckInvariants
from onnxmtl.passes.pipelines import Pipeline
from onnxmtl.passes.spaces import Sluice
from onnxmtl.passes.spaces._mixing import levels
from onnxmtl.passes.spaces.sluice import subspaces_of

TASKS = {"seg": 3, "depth": 1}


def sluiced(model, **options):
    made = Pipeline([Sluice(**options)], instruments=[CheckInvariants()])(clone(model)).model
    assert not any(map(is_choice, made.graph))
    return made


def weights_named(model, what):
    return {n: v for n, v in model.graph.initializers.items() if n.endswith(f"{what}.weight")}


def marked(model):
    return {n: s for n, v in model.graph.initializers.items() if (s := subspaces_of(v)) is not None}


def test_the_features_are_mixed_as_the_paper_says():
    """Halves of the channels (of 7: 3 and 4) in a 2T x 2T matrix; the ends of stages resized and projected."""
    layers = [("a", 4, 1), ("b", 7, 2), ("c", 7, 1), ("d", 8, 2)]
    model = stirred(sluiced(chain(TASKS, layers)))
    w, x = numbers(model), images(model)
    own = dict.fromkeys(TASKS, x)
    stages = {t: [] for t in TASKS}
    for run in (["a"], ["b", "c"], ["d"]):
        for layer in run:
            own = {t: torch.relu(conv(y, w, f"{t}/conv_{layer}", 2 if layer in "bd" else 1)) for t, y in own.items()}
        first = next(iter(own.values())).shape[1] // 2
        halves = {t: (y[:, :first], y[:, first:]) for t, y in own.items()}
        mixed = {}
        for t in own:
            made = []
            for a, like in enumerate(halves[t]):
                total = torch.zeros_like(like)
                for s, parts in halves.items():
                    for b, part in enumerate(parts):
                        base = f"{t}/{run[-1]}/sluice/{a + 1}/{s}.{b + 1}"
                        if part.shape[1] != like.shape[1]:
                            part = conv(part, w, f"{base}/adapter")
                        total = total + w[f"{base}/alpha.weight"] * part
                made.append(total)
            mixed[t] = torch.cat(made, 1)
            stages[t].append(mixed[t])
        own = mixed
    for task, found in computed(model).items():
        end = stages[task][-1]
        total = w[f"{task}/d/sluice_beta/d/beta.weight"] * end
        for layer, y in zip("ac", stages[task], strict=False):
            base = f"{task}/d/sluice_beta/{layer}"
            total = total + w[f"{base}/beta.weight"] * conv(resized(y, end), w, f"{base}/adapter")
        torch.testing.assert_close(found, conv(total, w, f"{task}.predict"), rtol=1e-6, atol=1e-6)


def test_what_the_weights_begin_with():
    model = sluiced(chain(TASKS), own=0.7, last=0.6)
    alphas, betas = weights_named(model, "alpha"), weights_named(model, "beta")
    assert len(alphas) == 3 * 4 * 4 and len(betas) == 2 * 3
    for name, value in alphas.items():
        target, _, _, half, source, _ = name.split("/")
        assert value.const_value.numpy() == pytest.approx(0.7 if source == f"{target}.{half}" else 0.1)
    for name, value in betas.items():
        assert value.const_value.numpy() == pytest.approx(0.6 if name.split("/")[3] == "d" else 0.2)
    trained = ops.trainable_values(model.graph)
    assert all(v in trained and role_of(v) is Role.FUSION for v in [*alphas.values(), *betas.values()])


def test_behind_every_layer_stages_are_still_joined():
    model = sluiced(chain(TASKS), at="layers")
    assert len(weights_named(model, "alpha")) == 4 * 4 * 4 and len(weights_named(model, "beta")) == 2 * 3
    assert len(marked(model)) == 2 * 4


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), tasks=st.integers(2, 4), at=st.sampled_from(["stages", "layers"]))
def test_at_identity_every_task_has_its_own_network(seed, tasks, at):
    model = random_model(seed, tasks)
    separate = alone(model)
    assume(levels(network_layers(separate), at))
    made = sluiced(model, own=1.0, last=1.0, at=at)
    for name, value in stirred(separate, seed).graph.initializers.items():
        made.graph.initializers[name].const_value = value.const_value
    for train in (False, True):
        x = images(model)
        ours, theirs = (to_torch(m, dtype=torch.float64).train(train) for m in (made, separate))
        found, expected = ours(x), theirs(x)
        for task, y in expected.items():
            torch.testing.assert_close(found[task], y, rtol=1e-10, atol=1e-10)
        kept = ours.tensors()
        for name, tensor in theirs.tensors().items():
            torch.testing.assert_close(kept[name], tensor, rtol=1e-10, atol=1e-10)


def test_the_subspaces_are_filters_of_the_convolutions_that_compute_them():
    """A residual block adds two; what lies before the layer before is another layer's."""
    b = GraphBuilder()
    x = b.block(b.image, 4, name="stem")
    x = b.residual(x, 4)
    x = b.residual(x, 6, stride=2)
    made = sluiced(b.heads(x, TASKS), at="layers", stem=True)
    convs = {node.name: node for node in made.graph if node.op_type == "Conv"}
    ends = {
        "stem": 2,
        "conv11": 2,  # the second convolution of the block with an identity
        "conv22": 3,  # of the one with a projection
        "conv26": 3,  # its projection
    }
    names = {convs[f"{task}/{conv}"].inputs[1].name: half for task in TASKS for conv, half in ends.items()}
    assert marked(made) == names


def test_depthwise_convolutions_have_a_filter_per_channel():
    """The subspaces are filters of the 1x1 convolution before it; a gate of the channels is no part of them."""
    b = GraphBuilder()
    x = b.relu(b.conv(b.image, 8, k=1, name="point"))
    x = b.relu(b.conv(x, 8, group=8, stride=2, name="depthwise"))
    gate = b.node("GlobalAveragePool", [x], ["N", 8, 1, 1])
    gate = b.node("Sigmoid", [b.conv(gate, 8, k=1, name="gate")], ["N", 8, 1, 1])
    x = b.node("Mul", [x, gate], x.shape)
    made = sluiced(b.heads(x, TASKS))
    assert marked(made) == {f"{task}/point.weight": 4 for task in TASKS}


def test_a_layer_that_is_no_convolution_s_is_said_to_have_no_penalty():
    b = GraphBuilder()
    x = b.concat(b.relu(b.conv(b.image, 4)), b.relu(b.conv(b.image, 4, k=1)))
    made = sluiced(b.heads(x, TASKS))
    assert not marked(made)
    found = [remark for remark in diagnostics(made) if remark.code == "no-subspaces"]
    assert len(found) == 2 and "halves of one convolution's filters" in str(found[0])


def test_networks_of_other_widths():
    """It computes in torch what ONNX Runtime computes, and every weight has a gradient."""
    model = sluiced(chains({"seg": [("a", 4, 1), ("b", 6, 2)], "depth": [("p", 5, 1), ("q", 1, 1), ("r", 3, 2)]}))
    assert all("/p/" not in name and "/q/" not in name for name in weights_named(model, "alpha"))  # 1 channel
    computed(stirred(model))
    module = to_torch(model, dtype=torch.float64)
    sum(y.square().sum() for y in module(images(model)).values()).backward()
    assert all(p.grad is not None and p.grad.any() for p in module.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_backbones_that_people_bring(name):
    pytest.importorskip("onnxscript")
    model = Pipeline([AttachHeads(TaskSet.parse("seg=segmentation:3,depth"))])(zoo.backbone(name, "legacy")).model
    expected, found = computed(model), computed(sluiced(model, own=1.0, last=1.0))
    for task, y in expected.items():
        torch.testing.assert_close(found[task], y, rtol=1e-12, atol=1e-12)


def test_refusals():
    with pytest.raises(Refused, match="one task has nobody"):
        Sluice()(chain({"seg": 3}))
    with pytest.raises(Refused, match="own is a weight from 0 to 1"):
        Sluice(own=-0.1)(chain(TASKS))
    with pytest.raises(Refused, match="last is a weight from 0 to 1"):
        Sluice(last=2)(chain(TASKS))
    headless = small_resnet()
    for node in headless.graph:
        node.metadata_props.pop("onnxmtl.head", None)
    with pytest.raises(Refused, match="no task heads"):
        Sluice()(headless)
