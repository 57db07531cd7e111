"""The fusion space: what it computes, and that table, draws and selection agree."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir
import pytest
import torch
from helpers.architectures import random_policy
from helpers.fusing import different, drifted, everything, fused, mobile, separated, vgg
from helpers.graphs import random_model, small_resnet
from helpers.skipping import close, draw_of, images_for, random_architecture, selected_from
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onnxmtl import runtime
from onnxmtl.analysis.sites import site_table
from onnxmtl.cost.count import count
from onnxmtl.cost.expected import ExpectedCost
from onnxmtl.ir import choices, clone, to_bytes
from onnxmtl.ir.passes import Refused
from onnxmtl.lowering import Draw, to_torch
from onnxmtl.lowering.mixing import GateMixer, find_mixers
from onnxmtl.lowering.program import build_program
from onnxmtl.passes.spaces import Fusion
from onnxmtl.policy import Architecture, decode_budgeted, random_at_cost, random_like
from onnxmtl.policy.budget import Absolute

NETWORKS = {
    "vgg": vgg,
    "mobile": mobile,
    "resnet": small_resnet,
    "three": lambda: vgg(3, norm=True),
    "different": different,
}


def built(seed: int, tasks: int, **settings) -> ir.Model:
    model = random_model(seed, tasks=tasks, layers=3)
    try:
        return fused(model, **settings)
    except Refused:
        assume(False)
        raise


def outputs(model: ir.Model, images: torch.Tensor, **call) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return to_torch(model, dtype=torch.float64).eval()(images, **call)


def one_hot(architecture: Architecture, model: ir.Model) -> list[np.ndarray]:
    """Per site [tasks, options]; the rows of tasks that do not decide hold numbers that must not matter."""
    table = site_table(model)
    rows = []
    for site in table.sites:
        row = np.full((len(table.tasks), len(site.options)), 0.37)
        for task in table.tasks_at(site):
            row[table.tasks.index(task)] = np.eye(len(site.options))[
                site.option_index(architecture.choices[site.id][task])
            ]
        rows.append(row)
    return rows


# -- the start ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("same_stage", [True, False])
def test_with_all_edges_cut_every_task_computes_what_its_own_network_does(name, same_stage) -> None:
    before = NETWORKS[name]()
    model = fused(before, same_stage=same_stage)
    images = images_for(before)
    expected = outputs(before, images)
    table = site_table(model)
    cut = everything(model, "cut")
    for found in (outputs(model, images, draw=draw_of(cut, table)), outputs(selected_from(model, cut), images)):
        assert all(close(found[task], expected[task], 1e-12) for task in expected)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 3), st.booleans())
def test_the_same_on_random_networks(seed, tasks, same_stage) -> None:
    model = built(seed, tasks, same_stage=same_stage)
    before = random_model(seed, tasks=tasks, layers=3)
    images = images_for(before)
    expected, found = outputs(before, images), outputs(selected_from(model, everything(model, "cut")), images)
    assert all(close(found[task], expected[task], 1e-12) for task in expected)


def test_it_would_be_seen_if_an_edge_were_open() -> None:
    """The twin of the test above: with w_own < 1 an open edge between different networks changes the output."""
    before = different()
    model = fused(before, own=0.5, same_stage=False)
    images = images_for(before)
    found = outputs(selected_from(model, everything(model, "edge")), images)
    assert not any(close(found[task], value, 1e-2) for task, value in outputs(before, images).items())


def test_between_equal_networks_open_edges_of_one_layer_change_nothing_at_the_start() -> None:
    """w_own·x + w_other·x' = x if both networks are the same and only equal layers are read: the weights sum to 1."""
    before = vgg(3)
    model = fused(before, edges="same-layer", own=0.4)
    images = images_for(before)
    found = outputs(selected_from(model, everything(model, "edge")), images)
    assert all(close(found[task], value, 1e-6) for task, value in outputs(before, images).items())


def test_without_choices_all_edges_are_open() -> None:
    with_choices, without = (fused(vgg(3), own=0.9, choices=c) for c in (True, False))
    images = images_for(without)
    one = outputs(selected_from(with_choices, everything(with_choices, "edge")), images)
    assert all(close(value, one[task], 1e-12) for task, value in outputs(without, images).items())


# -- the formula -------------------------------------------------------------------------------------------------------


def test_a_unit_computes_the_papers_formula() -> None:
    """y = ReLU(BN(W·x + Σ p_e·W_e·x_e)), from the layers' features by hand."""
    model = drifted(fused(vgg(norm=True)))
    for i, choice in enumerate(choices(model.graph)):
        choice.logits.const_value = ir.tensor(np.array([0.3 * i - 1, 0.2], np.float32))
    weight = {n: v.const_value.numpy().astype(np.float64) for n, v in model.graph.initializers.items()}
    probe = clone(model)
    values = {str(v.name): v for n in probe.graph for v in n.outputs}
    unit = next(n for n in probe.graph if n.name == "depth/relu0_1/fusion/relu").outputs[0]
    names = ["depth/relu0_1", "seg/relu0_0", "seg/relu0_1"]
    probe.graph.outputs.extend([*(values[name] for name in names), unit])
    found = {n: v.numpy() for n, v in outputs(probe, images_for(model)).items()}
    total = np.einsum("oi,nihw->nohw", weight["depth/relu0_1/fusion/own.weight"][:, :, 0, 0], found["depth/relu0_1"])
    for layer in ("relu0_0", "relu0_1"):
        logits = weight[f"depth/relu0_1<seg/{layer}/logits"]
        share = np.exp(logits[0]) / np.exp(logits).sum()
        kernel = weight[f"depth/relu0_1/fusion/seg/{layer}.weight"][:, :, 0, 0]
        total += share * np.einsum("oi,nihw->nohw", kernel, found[f"seg/{layer}"])
    gamma, beta, mean, var = (
        weight[f"depth/relu0_1/fusion/bn.{part}"][:, None, None] for part in ("weight", "bias", "mean", "var")
    )
    norm = next(n for n in model.graph if n.name == "depth/relu0_1/fusion/bn")
    y = gamma * (total - mean) / np.sqrt(var + norm.attributes["epsilon"].as_float()) + beta
    assert (y < 0).any() and np.allclose(found[str(unit.name)], np.maximum(y, 0), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_onnxruntime_runs_the_supermodel(name) -> None:
    model = drifted(fused(NETWORKS[name](), same_stage=False))
    images = images_for(model)
    session = runtime.session(to_bytes(model), optimize=False, threads=1)
    found = runtime.run(session, {"image": images.numpy().astype(np.float32)})
    expected = outputs(model, images)
    assert all(close(torch.from_numpy(found[t]).double(), expected[t], 1e-4) for t in expected)


# -- draws, selection, costs -------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 3), st.booleans())
def test_a_selection_computes_what_the_draw_does_and_costs_what_the_table_says(seed, tasks, same_stage) -> None:
    model = drifted(built(seed, tasks, same_stage=same_stage, own=0.6))
    table, images = site_table(model), images_for(model)
    architecture = random_architecture(table, seed)
    drawn = outputs(model, images, draw=draw_of(architecture, table))
    selected = selected_from(model, architecture)
    found = outputs(selected, images)
    assert all(close(found[task], drawn[task], 1e-9) for task in drawn)
    costs, expected = count(selected), ExpectedCost(table)
    p = one_hot(architecture, model)
    assert float(expected.multiply_adds(p)) == pytest.approx(costs.multiply_adds, rel=1e-12)
    assert float(expected.parameters(p)) == pytest.approx(costs.parameters, rel=1e-12)


def test_the_expected_cost_is_the_mean_over_all_architectures() -> None:
    model = fused(vgg(2, (2,)), within=2)
    table = site_table(model)
    rng = np.random.default_rng(0)
    p = [np.tile(row, (2, 1)) for row in rng.dirichlet((1, 1), len(table.sites))]
    expected, mean = ExpectedCost(table), np.zeros(2)
    for picks in itertools.product((0, 1), repeat=len(table.sites)):
        names = {
            s.id: {t: s.option_names[o] for t in table.tasks_at(s)} for s, o in zip(table.sites, picks, strict=True)
        }
        costs = count(selected_from(model, Architecture(names)))
        probability = np.prod([p[s][0, o] for s, o in enumerate(picks)])
        mean += probability * np.array([costs.multiply_adds, costs.parameters])
    assert len(table.sites) == 6
    assert float(expected.multiply_adds(p)) == pytest.approx(mean[0], rel=1e-12)
    assert float(expected.parameters(p)) == pytest.approx(mean[1], rel=1e-12)


def test_an_edge_costs_its_slice_and_a_cut_edge_nothing() -> None:
    """3 x 3 weights on 8 x 8 positions, and 4 x 4 on 4 x 4."""
    for site in site_table(fused(vgg())).sites:
        edge, cut = site.options
        expected = (3 * 3 * 64, 3 * 3) if "relu0" in site.id else (4 * 4 * 16, 4 * 4)
        assert (edge.multiply_adds, edge.parameters_own + edge.parameters_shared) == expected
        assert (cut.multiply_adds, cut.parameters_own + cut.parameters_shared) == (0, 0)


def test_decoding_for_a_budget_finds_the_best_architecture() -> None:
    model = fused(vgg(2, (2,)), within=2)
    table = site_table(model)
    policy = random_policy(table, np.random.default_rng(1), 1.0)
    costs, weights = {}, {}
    for picks in itertools.product((0, 1), repeat=len(table.sites)):
        names = {
            s.id: {t: s.option_names[o] for t in table.tasks_at(s)} for s, o in zip(table.sites, picks, strict=True)
        }
        costs[picks] = count(selected_from(model, Architecture(names))).multiply_adds
        rows = [logits[site.tasks[0]] for site, logits in zip(table.sites, policy.logits, strict=True)]
        weights[picks] = sum(row[o] - np.log(np.exp(row).sum()) for row, o in zip(rows, picks, strict=True))
    for limit in sorted(set(costs.values())):
        found = decode_budgeted(policy, [Absolute("multiply_adds", float(limit))])
        best = max(weights[picks] for picks, cost in costs.items() if cost <= limit)
        assert found.log_probability == pytest.approx(best, rel=1e-9)
        assert count(selected_from(model, found.architecture)).multiply_adds == found.multiply_adds <= limit


def test_the_baselines_of_random_edges() -> None:
    """As many edges, or the same multiply-adds."""
    model = fused(vgg(2, norm=True))
    table = site_table(model)
    like = random_architecture(table, 0)
    edges = sum(o == "edge" for of in like.choices.values() for o in of.values())
    for seed in range(5):
        found = random_like(table, like, seed)
        assert {s.id: set(found.choices[s.id]) for s in table.sites} == {
            s.id: set(table.tasks_at(s)) for s in table.sites
        }
        assert sum(o == "edge" for of in found.choices.values() for o in of.values()) == edges
    goal = count(selected_from(model, like)).multiply_adds
    for found in random_at_cost(table, goal, tolerance=0.01, count=2):
        assert count(selected_from(model, found)).multiply_adds == pytest.approx(goal, rel=0.01)


# -- lowering ----------------------------------------------------------------------------------------------------------


def test_a_task_asked_alone_follows_the_choices_of_others_before_it() -> None:
    model = drifted(fused(vgg(3)))
    table, images = site_table(model), images_for(model)
    module = to_torch(model, dtype=torch.float64).eval()
    with torch.no_grad():
        for draw in (draw_of(random_architecture(table, 3), table), None):
            together = module(images, draw=draw)
            for task in together:
                assert torch.equal(module(images, (task,), draw=draw)[task], together[task])
    others = {key: 0 for key in module.logits if key[1] == "seg"}
    with pytest.raises(ValueError, match=r"the draw says nothing for site '(depth|normals)/"):
        module(images, ("seg",), draw=Draw(options=others))


def test_zeros_are_not_made_where_edges_are_mixed() -> None:
    model = drifted(fused(vgg()))
    mixers = find_mixers(build_program(model))
    assert len(mixers) == 12 and all(isinstance(m, GateMixer) and m.option == 0 for m in mixers.values())
    found = []
    for mixing in ("auto", "never"):
        module = to_torch(model, dtype=torch.float64, mixing=mixing).train()
        loss = sum(value.pow(2).sum() for value in module(images_for(model)).values())
        loss.backward()
        found.append({"loss": loss.detach()} | {n: module.weight(n).grad for n in module.parameters_with()})
    for name, value in found[0].items():
        assert close(value, found[1][name], 1e-10), name


def test_a_choice_of_two_values_and_zeros_is_no_gate() -> None:
    model = fused(vgg())
    (first, second, *_) = choices(model.graph)
    first.node.replace_input_with(1, second.options[0])  # no zeros any more
    model.graph.sort()
    assert len(find_mixers(build_program(model))) == 11


def test_the_networks_are_those_of_separate_by_name() -> None:
    """Tensors trained before there were units are copied by name."""
    before, after = separated(vgg(norm=True)), fused(vgg(norm=True))
    assert before.graph.initializers.keys() <= after.graph.initializers.keys()
    new = after.graph.initializers.keys() - before.graph.initializers.keys()
    assert all("/fusion/" in name or name.endswith("/logits") for name in new)
    Fusion()(before)
    assert before.graph.initializers.keys() == after.graph.initializers.keys()
