"""prune_fusion: a cut edge leaves neither a place in the concatenation nor a slice of the weight."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from helpers.fusing import different, drifted, everything, fused, vgg
from helpers.graphs import small_resnet
from helpers.skipping import close, draw_of, images_for, random_architecture, selected_from

from onnxmtl import ops, runtime
from onnxmtl.analysis.sites import site_table
from onnxmtl.cost.count import count
from onnxmtl.ir import Role, role_of, to_bytes
from onnxmtl.lowering import to_torch
from onnxmtl.passes.select import JoinEdges
from onnxmtl.passes.spaces import Vcn
from onnxmtl.policy import Architecture


def some(model: ir.Model, *open_edges: str) -> Architecture:
    """Only these edges are open."""
    table = site_table(model)
    return Architecture(
        {s.id: dict.fromkeys(table.tasks_at(s), "edge" if s.id in open_edges else "cut") for s in table.sites}
    )


def nodes(model: ir.Model) -> dict[str, ir.Node]:
    return {str(n.name): n for n in model.graph}


def weight(model: ir.Model, name: str) -> np.ndarray:
    return model.graph.initializers[name].const_value.numpy()


def test_open_edges_become_one_convolution_of_the_concatenated_features() -> None:
    model = drifted(fused(vgg()))
    selected = selected_from(model, some(model, "seg/relu0_1<depth/relu0_1", "depth/relu0_1<seg/relu0_0"))
    concat, conv = (nodes(selected)[f"seg/relu0_1/fusion/{kind}"] for kind in ("concat", "conv"))
    assert [v.name for v in concat.inputs] == ["seg/relu0_1", "depth/relu0_1"]
    assert conv.inputs[0].producer() is concat and list(concat.outputs[0].shape) == ["N", 6, 8, 8]
    slices = [weight(model, f"seg/relu0_1/fusion/{name}.weight") for name in ("own", "depth/relu0_1")]
    assert np.array_equal(weight(selected, "seg/relu0_1/fusion.weight"), np.concatenate(slices, axis=1))
    assert role_of(conv.inputs[1]) is Role.FUSION and conv.inputs[1] in ops.trainable_values(selected.graph)
    (norm,) = conv.outputs[0].consumers()
    assert norm.op_type == "BatchNormalization"


def test_nothing_is_left_of_cut_edges() -> None:
    model = fused(vgg())
    selected = selected_from(model, some(model, "seg/relu0_1<depth/relu0_1"))
    left = [name for name in selected.graph.initializers if "/fusion/" in name and "/bn." not in name]
    # seven units without an edge keep the weight of their own features; the eighth has the joined one
    assert len(left) == 7 and all(name.endswith("/own.weight") for name in left)
    assert not {"Sum", "ConstantOfShape", "Choice2"} & {n.op_type for n in selected.graph}
    assert [n.name for n in selected.graph if n.op_type == "Concat"] == ["seg/relu0_1/fusion/concat"]


def test_costs_fall_by_the_slices() -> None:
    model = fused(vgg())
    table = site_table(model)
    all_open = count(selected_from(model, everything(model, "edge")))
    for site in table.sites:
        edge = site.options[0]
        rest = some(model, *(other.id for other in table.sites if other is not site))
        found = count(selected_from(model, rest))
        assert all_open.multiply_adds - found.multiply_adds == edge.multiply_adds > 0
        assert all_open.parameters - found.parameters == edge.parameters_own + edge.parameters_shared > 0


@pytest.mark.parametrize("build", [vgg, small_resnet, different], ids=lambda f: f.__name__)
@pytest.mark.parametrize("seed", range(3))
def test_outputs_are_equal_before_and_after(build, seed) -> None:
    model = drifted(fused(build(), same_stage=False), seed)
    table = site_table(model)
    architecture, images = random_architecture(table, seed), images_for(model)
    selected = selected_from(model, architecture)
    with torch.no_grad():
        before = to_torch(model, dtype=torch.float64).eval()(images, draw=draw_of(architecture, table))
        after = to_torch(selected, dtype=torch.float64).eval()(images)
    file = to_bytes(selected)
    onnx.checker.check_model(onnx.load_from_string(file), full_check=True)
    session = runtime.session(file, optimize=False, threads=1)
    judged = runtime.run(session, {"image": images.numpy().astype(np.float32)})
    for task, value in before.items():
        assert close(after[task], value, 1e-10)
        assert close(torch.from_numpy(judged[task]).double(), value, 1e-4)


def test_in_training_mode_too() -> None:
    """Batch statistics of a unit are those of the whole sum."""
    model = drifted(fused(vgg()))
    table = site_table(model)
    architecture, images = random_architecture(table, 5), images_for(model)
    before = to_torch(model, dtype=torch.float64).train()
    after = to_torch(selected_from(model, architecture), dtype=torch.float64).train()
    one, two = before(images, draw=draw_of(architecture, table)), after(images)
    assert all(close(two[task], value, 1e-10) for task, value in one.items())
    for name in after.tensors():
        if name.endswith((".mean", ".var")):
            assert close(after.weight(name), before.weight(name), 1e-10)


def test_a_feature_of_another_size_is_resized_once_for_all_its_readers() -> None:
    model = fused(vgg(), same_stage=False)
    both = [f"seg/relu1_{i}<depth/relu0_1" for i in (0, 1)]
    selected = selected_from(model, some(model, *both))
    (resize,) = [n for n in selected.graph if n.op_type == "Resize"]
    assert {n.name for n in resize.outputs[0].consumers()} == {f"seg/relu1_{i}/fusion/concat" for i in (0, 1)}


def test_the_weight_trains_further() -> None:
    model = fused(vgg(), own=0.9)
    module = to_torch(selected_from(model, everything(model, "edge"))).train()
    sum(value.pow(2).sum() for value in module(images_for(model).float()).values()).backward()
    gradient = module.weight("depth/relu0_1/fusion.weight").grad
    assert gradient is not None and gradient.abs().sum() > 0 and gradient.shape == (3, 9, 1, 1)


def test_other_graphs_and_undecided_units_are_left_alone() -> None:
    supermodel = fused(vgg())
    vcn = small_resnet()
    Vcn()(vcn)
    for model in (small_resnet(), vcn, supermodel):
        before = to_bytes(model)
        assert not JoinEdges()(model).modified and to_bytes(model) == before
