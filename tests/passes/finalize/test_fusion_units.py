"""A fusion unit without an edge folds into its neighbour where that is exact, and else says why not."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from helpers.fusing import different, drifted, everything, fused, mobile, separated, vgg
from helpers.graphs import GraphBuilder
from helpers.skipping import close, images_for, random_architecture, selected_from

from onnxmtl import runtime
from onnxmtl.analysis.sites import site_table
from onnxmtl.cost.count import count
from onnxmtl.deploy.structure import compare_structures
from onnxmtl.ir import clone, diagnostics, to_bytes
from onnxmtl.lowering import to_torch
from onnxmtl.passes.finalize import FoldBatchNorm, FoldFusionUnits
from onnxmtl.passes.instruments import CheckInvariants
from onnxmtl.passes.pipelines import Pipeline
from onnxmtl.policy import Architecture


def folded(model: ir.Model) -> ir.Model:
    return Pipeline([FoldBatchNorm(), FoldFusionUnits()], instruments=[CheckInvariants()])(clone(model)).model


def cut(model: ir.Model) -> ir.Model:
    """All edges of a supermodel cut."""
    return selected_from(model, everything(model, "cut"))


def same(one: ir.Model, two: ir.Model, tolerance: float = 1e-5) -> bool:
    images = images_for(one)
    with torch.no_grad():
        a, b = (to_torch(m, dtype=torch.float64).eval()(images) for m in (one, two))
    session = runtime.session(to_bytes(two), optimize=False, threads=1)
    c = runtime.run(session, {"image": images.numpy().astype(np.float32)})
    return all(close(b[t], a[t], tolerance) and close(torch.from_numpy(c[t]).double(), a[t], 10 * tolerance) for t in a)


def units(model: ir.Model) -> list[str]:
    return [str(n.name) for n in model.graph if n.op_type == "Conv" and "/fusion" in str(n.name)]


def reasons(model: ir.Model) -> set[str]:
    return {d.message.split(": ", 1)[1] for d in diagnostics(model) if d.code == "unit-kept"}


def set_weight(model: ir.Model, name: str, array: np.ndarray) -> None:
    value = model.graph.initializers[name]
    value.const_value = ir.tensor(array.astype(np.float32).reshape(list(value.shape)), name=name)


@pytest.mark.parametrize("build", [vgg, mobile, different], ids=lambda f: f.__name__)
def test_units_that_nobody_trained_disappear_with_their_activations(build) -> None:
    model = cut(fused(build(), same_stage=False))
    final, networks = folded(model), folded(separated(build()))
    assert units(model) and not units(final) and same(model, final)
    assert sorted(n.op_type for n in final.graph) == sorted(n.op_type for n in networks.graph)
    assert count(final).multiply_adds == count(networks).multiply_adds


def test_units_behind_a_relu_stay_and_say_why() -> None:
    model = cut(drifted(fused(vgg(norm=True))))
    final = folded(model)
    assert units(final) == units(model) and len(units(final)) == 8 and same(model, final)
    assert reasons(final) == {"Relu comes before it; its activation is at work"}


def test_units_without_activation_go_into_the_linear_bottleneck_before_or_the_convolution_behind() -> None:
    """The unit behind the bottleneck into it; the one behind a sum of bottlenecks into the head."""
    model = cut(drifted(fused(mobile())))
    final = folded(model)
    gone = sorted(set(units(model)) - set(units(final)))
    assert [name.split("/")[1].rstrip("0123456789_out") for name in gone] == ["add", "bn"] * 2 and same(model, final)
    assert count(model).multiply_adds - count(final).multiply_adds == 4 * 4 * 4 * 2 * 2  # 4 x 4 weights on 2 x 2 each


def test_a_bottleneck_that_another_network_reads_keeps_its_unit() -> None:
    model = drifted(fused(mobile()))
    table = site_table(model)
    (edge,) = [s.id for s in table.sites if s.id.startswith("depth/bn") and "<seg/bn" in s.id]
    architecture = {s.id: dict.fromkeys(table.tasks_at(s), "edge" if s.id == edge else "cut") for s in table.sites}
    selected = selected_from(model, Architecture(architecture))
    final = folded(selected)
    assert any(n.startswith("seg/bn") for n in units(final)) and same(selected, final)
    assert any(reason.startswith("others read 'seg/bn") for reason in reasons(final))


def forward(pads: int, bias: bool, sign: float = 1.0) -> ir.Model:
    """One layer with a unit whose weights are not negative, and a 1x1 or 3x3 convolution behind it."""
    b = GraphBuilder(size=6)
    x = b.relu(b.conv(b.image, 3, name="first"))
    x.name = "layer"
    k = 3 if pads else 1
    x = b.relu(b.conv(x, 4, k=k, stride=2, name="second"))
    model = drifted(fused(b.heads(x, {"a": 1, "b": 1})))
    rng = np.random.default_rng(0)
    for task in "ab":
        set_weight(model, f"{task}/layer/fusion/own.weight", sign * rng.uniform(0.1, 1, 9))
        for part in ("mean", "bias"):
            set_weight(model, f"{task}/layer/fusion/bn.{part}", np.zeros(3))
        set_weight(model, f"{task}/layer/fusion/bn.bias", np.full(3, 0.3 if bias else 0.0))
    return cut(model)


@pytest.mark.parametrize(("pads", "bias"), [(0, False), (0, True), (1, False)])
def test_a_unit_whose_relu_never_acts_goes_into_the_convolution_behind_it(pads, bias) -> None:
    model = forward(pads, bias)
    final = folded(model)
    assert not any("/layer/" in name for name in units(final)) and same(model, final)
    assert sum(n.op_type == "Relu" for n in model.graph) - sum(n.op_type == "Relu" for n in final.graph) == 2


def test_a_bias_would_be_missing_in_the_padding() -> None:
    model = forward(1, True)
    final = folded(model)
    assert any("/layer/" in name for name in units(final)) and same(model, final)
    assert "Relu comes before it; 'a/second' pads with zeros" in reasons(final)


def test_a_relu_that_acts_is_at_work() -> None:
    model = forward(0, False, sign=-1.0)
    final = folded(model)
    assert any("/layer/" in name for name in units(final)) and same(model, final)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("build", [vgg, mobile, different], ids=lambda f: f.__name__)
def test_whatever_was_selected_is_computed_and_proved(build, seed) -> None:
    model = fused(build(), same_stage=False, own=0.7)
    if seed % 2:
        drifted(model, seed)
    selected = selected_from(model, random_architecture(site_table(model), seed))
    final = folded(selected)
    assert same(selected, final)
    assert compare_structures(selected, final) == []
    assert count(final).multiply_adds <= count(selected).multiply_adds


def test_the_proof_sees_an_edge_that_was_not_selected() -> None:
    model = fused(vgg())
    selected, other = cut(model), selected_from(model, everything(model, "edge"))
    assert compare_structures(selected, folded(selected)) == []
    assert any(line.startswith("not selected: Conv (ours)") for line in compare_structures(selected, folded(other)))


def test_graphs_without_units_are_left_alone() -> None:
    model = vgg()
    before = to_bytes(model)
    assert not FoldFusionUnits()(model).modified and to_bytes(model) == before
