"""MTAN: the attention modules by hand, one trunk for all tasks, costs, and backbones that people bring."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import zoo
from helpers.graphs import GraphBuilder, small_resnet
from helpers.line import without_gradient
from helpers.meeting import chain, chains, computed, conv, images, numbers, stirred
from torch.nn import functional as F

from onnxmtl.cost.count import count
from onnxmtl.ir import Role, clone, head_of, is_choice, role_of, tasks_of_nodes
from onnxmtl.ir.passes import Refused
from onnxmtl.kinds import TaskSet
from onnxmtl.lowering import to_torch
from onnxmtl.passes.heads import AttachHeads
from onnxmtl.passes.instruments import CheckInvariants
from onnxmtl.passes.pipelines import Pipeline
from onnxmtl.passes.spaces import Mtan, space

TASKS = {"seg": 3, "depth": 1}
LAYERS = [("a", 4, 1), ("b", 6, 1), ("c", 5, 2), ("d", 8, 1), ("e", 8, 1), ("f", 8, 2)]


def attentive(model, **options):
    made = Pipeline([Mtan(**options)], instruments=[CheckInvariants()])(clone(model)).model
    assert not any(map(is_choice, made.graph))
    return made


def norm(x, w, name):
    mean, var = w[f"{name}.mean"], w[f"{name}.var"]
    return F.batch_norm(x, mean, var, w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-5)


def layer(x, w, name):
    return torch.relu(norm(conv(x, w, f"{name}/conv"), w, f"{name}/bn"))


def trunk(x, w, layers=LAYERS):
    found = {}
    for name, _, stride in layers:
        x = found[name] = torch.relu(conv(x, w, f"conv_{name}", stride))
    return found


def test_the_modules_compute_what_the_paper_says():
    """Stages ab, cde and f of strides 1, 2 and 4: u is the layer before the last one, or the last one itself."""
    model = stirred(attentive(chain(TASKS, LAYERS), reduction=2))
    w, x = numbers(model), images(model)
    maps = trunk(x, w)
    for task, found in computed(model).items():
        base, handed = f"{task}_attention", None
        for number, (u, p, following) in enumerate([("a", "b", "d"), ("d", "e", "f"), ("f", "f", None)], 1):
            name = f"{base}/stage{number}"
            read = maps[u] if handed is None else torch.cat([maps[u], handed], 1)
            hidden = layer(read, w, f"{name}/gather")
            assert hidden.shape[1] == maps[p].shape[1] // 2
            mask = torch.sigmoid(norm(conv(hidden, w, f"{name}/mask/conv"), w, f"{name}/mask/bn"))
            attended = mask * maps[p]
            if following:
                handed = F.max_pool2d(layer(attended, w, f"{name}/hand_on"), 2)
                assert handed.shape == maps[following].shape
        torch.testing.assert_close(found, conv(attended, w, f"{task}.predict"), rtol=1e-8, atol=1e-8)


def test_the_trunk_is_there_once():
    model = attentive(chain(TASKS, LAYERS))
    needed = tasks_of_nodes(model.graph)
    for node in model.graph:
        if head_of(node) is None:
            ours = str(node.name).startswith(("seg_attention", "depth_attention"))
            assert len(needed[node]) == (1 if ours else 2)
    for name, value in model.graph.initializers.items():
        if "_attention/" in name and value.const_value.dtype.is_floating_point():
            assert role_of(value) is (Role.STATISTIC if name.endswith((".mean", ".var")) else Role.FUSION)


def test_costs():
    """Per task and stage the two 1x1 convolutions of the mask and a 3x3 one, on 8x8, 4x4 and 2x2 pixels."""
    plain, made = chain(TASKS, LAYERS), attentive(chain(TASKS, LAYERS), reduction=2)
    per_task = 64 * (4 * 3 + 3 * 6 + 9 * 6 * 8) + 16 * ((8 + 8) * 4 + 4 * 8 + 9 * 8 * 8) + 4 * ((8 + 8) * 4 + 4 * 8)
    assert count(made).multiply_adds_trunk == count(plain).multiply_adds_trunk + 2 * per_task


def test_depthwise_networks_hand_on_by_depthwise_convolutions():
    b = GraphBuilder()
    x = b.relu(b.conv(b.image, 4, name="conv_a"))
    x = b.relu(b.conv(b.relu(b.conv(x, 4, group=4, stride=2)), 6, k=1))
    model = attentive(b.heads(x, TASKS))
    groups = {n.name: n.attributes.get_int("group", 1) for n in model.graph if n.op_type == "Conv"}
    assert groups["seg_attention/stage1/depthwise/conv"] == 4 and groups["seg_attention/stage1/point/conv"] == 1
    assert not any("hand_on" in name for name in groups)
    computed(stirred(model))


def test_what_is_handed_on_has_the_next_stages_size():
    """9 pixels become 5 by a convolution of stride 2 with padding; also where a network grows again."""
    for strided in ("conv", "grow"):
        b = GraphBuilder(size=9)
        x = b.relu(b.conv(b.image, 4, stride=1))
        x = b.relu(b.conv(x, 6, stride=2))
        if strided == "grow":
            x = b.relu(b.conv(x, 6))
            sizes = b.weight("sizes", np.array([9, 9]))
            sizes.const_value = type(sizes.const_value)(np.array([9, 9], np.int64), name="sizes")
            sizes.type = type(sizes.type)(sizes.const_value.dtype)
            x = b.node("Resize", [x, None, None, sizes], ["N", 6, 9, 9], mode="linear", axes=[2, 3])
            x = b.relu(b.conv(x, 4))
        model = stirred(attentive(b.heads(x, TASKS)))
        stages = 3 if strided == "grow" else 2
        assert sum(n.name.endswith("attended") for n in model.graph) == 2 * stages
        computed(model)


def test_a_pooling_before_the_head_is_every_tasks_own():
    """The head reads what is pooled of the attended map, and its weights stay where they are."""
    b = GraphBuilder()
    x = b.relu(b.conv(b.image, 4, name="conv_a"))
    x = b.relu(b.conv(x, 6, stride=2, name="conv_b"))
    x = b.node("MaxPool", [x], ["N", 6, 2, 2], kernel_shape=[2, 2], strides=[2, 2])
    model = stirred(attentive(b.heads(x, TASKS)))
    assert sum(node.op_type == "MaxPool" and head_of(node) is None for node in model.graph) == 2 + 2  # f, and the tail
    w, x = numbers(model), images(model)
    maps = trunk(x, w, [("a", 4, 1), ("b", 6, 2)])
    for task, found in computed(model).items():
        base = f"{task}_attention"
        y = torch.sigmoid(
            norm(conv(layer(maps["a"], w, f"{base}/stage1/gather"), w, f"{base}/stage1/mask/conv"), w,
                 f"{base}/stage1/mask/bn")
        )  # fmt: skip
        handed = F.max_pool2d(layer(y * maps["a"], w, f"{base}/stage1/hand_on"), 2)
        read = torch.cat([maps["b"], handed], 1)
        mask = norm(conv(layer(read, w, f"{base}/stage2/gather"), w, f"{base}/stage2/mask/conv"), w,
                    f"{base}/stage2/mask/bn")  # fmt: skip
        pooled = F.max_pool2d(torch.sigmoid(mask) * maps["b"], 2)
        torch.testing.assert_close(found, conv(pooled, w, f"{task}.predict"), rtol=1e-8, atol=1e-8)


def test_heads_of_earlier_features_attend_to_those():
    """A task that reads the end of the second stage has two modules."""
    b = GraphBuilder()
    early = b.relu(b.conv(b.relu(b.conv(b.image, 4)), 6, stride=2))
    late = b.relu(b.conv(early, 8, stride=2))
    model = attentive(b.heads({"seg": late, "depth": early}, TASKS))
    found = {t: sum(str(n.name).startswith(f"{t}_") and str(n.name).endswith("attended") for n in model.graph)
             for t in TASKS}  # fmt: skip
    assert found == {"seg": 3, "depth": 2}
    computed(stirred(model))


def test_weights_are_drawn_from_the_seed():
    def drawn(**options):
        model = attentive(small_resnet(), **options)
        return model.graph.initializers["seg_attention/stage1/gather/conv.weight"].const_value.numpy()

    assert np.array_equal(drawn(seed=3), drawn(seed=3)) and not np.array_equal(drawn(seed=3), drawn(seed=4))
    assert space("mtan", seed=5).seed == 5 and not hasattr(space("sluice", seed=5), "seed")


def test_one_task_may_attend_too():
    assert computed(stirred(attentive(chain({"seg": 3}))))["seg"].shape == (2, 3, 2, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_backbones_that_people_bring(name):
    """What torch computes ONNX Runtime computes too, and every weight gets a gradient."""
    pytest.importorskip("onnxscript")
    model = Pipeline([AttachHeads(TaskSet.parse("seg=segmentation:3,depth"))])(zoo.backbone(name, "legacy")).model
    made = attentive(model)
    computed(made)
    module = to_torch(made, dtype=torch.float64).train()
    generator = torch.Generator().manual_seed(0)
    outputs = module(torch.rand(images(model).shape, generator=generator, dtype=torch.float64)).values()
    sum((y * torch.randn(y.shape, generator=generator)).mean() for y in outputs).backward()
    assert not without_gradient(module)


def test_refusals():
    with pytest.raises(Refused, match="network of its own"):
        Mtan()(chains({"seg": [("a", 4, 1)], "depth": [("p", 4, 1)]}))
    with pytest.raises(Refused, match="reduction is a number from 1 on"):
        Mtan(reduction=0)(chain(TASKS))
    b = GraphBuilder()
    shallow = b.heads(b.relu(b.image), TASKS)
    with pytest.raises(Refused, match="nothing to attend to"):
        Mtan()(shallow)
