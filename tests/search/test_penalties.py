"""Penalties on weights: the orthogonality of sluice networks by hand, and that weight steps follow their gradient."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from helpers.graphs import GraphBuilder, small_resnet
from helpers.searching import STAGE, search, setting

from onnxmtl.errors import RunError
from onnxmtl.lowering import to_torch
from onnxmtl.passes.spaces import CrossStitch, Fusion, Mtan, Sluice
from onnxmtl.passes.spaces.sluice import subspaces_of
from onnxmtl.search import Recipe
from onnxmtl.search.penalties import PENALTIES, penalties, penalty, register_penalty
from onnxmtl.search.training import stitches, train_weights
from onnxmtl.train.optimizers import OptimizerSpec

SGD = OptimizerSpec("sgd", lr=1e-2, weight_decay=0.0)


def sluices(dtype=torch.float64):
    """A sluice network of two tasks: (module, names of the weights with subspaces)."""
    model = small_resnet({"seg": 3, "depth": 1}, width=5)
    Sluice(at="layers")(model)
    marked = [name for name, value in model.graph.initializers.items() if subspaces_of(value) is not None]
    return to_torch(model, dtype=dtype), marked


def by_hand(weight: torch.Tensor) -> float:
    """Every filter of the first half with every one of the second: the square of their inner product."""
    first = len(weight) // 2
    return sum(float((u * v).sum()) ** 2 for u in weight[:first] for v in weight[first:])


def test_orthogonality_by_hand():
    module, marked = sluices()
    assert len(marked) == 2 * 3  # of the block with a projection both convolutions
    value = penalty("orthogonality", module)()
    assert float(value.detach()) == pytest.approx(
        sum(by_hand(module.weight(name).detach()) for name in marked), rel=1e-12
    )
    value.backward()
    reached = {name for name, parameter in module.parameters_with().items() if parameter.grad is not None}
    assert reached == set(marked)


def test_orthogonal_subspaces_cost_nothing():
    module, marked = sluices()
    with torch.no_grad():
        for name in marked:
            weight = module.weight(name)
            first, half = len(weight) // 2, weight.shape[1] // 2
            weight[:first, half:] = 0  # the filters of the halves read different channels
            weight[first:, :half] = 0
    assert float(penalty("orthogonality", module)().detach()) == 0


def test_a_weight_step_follows_the_gradient_of_losses_and_penalties():
    """Of one step of gradient descent; with a penalty the difference is its own gradient, and the figure its value."""
    results = {}
    for weight in (0.0, 0.5):
        module, marked = sluices(torch.float32)
        value = penalty("orthogonality", module)()
        gradients = torch.autograd.grad(value, [module.weight(name) for name in marked])
        history = train_weights(module, setting(), SGD, 1, name="train", penalized={"orthogonality": weight})
        results[weight] = {name: module.weight(name).detach().clone() for name in module.parameters_with()}
        assert dict(history.points[0].figures).get("penalty/orthogonality") == (
            float(value.detach()) if weight else None
        )
    for name, plain in results[0.0].items():
        expected = plain
        if name in marked:
            expected = plain - SGD.lr * 0.5 * gradients[marked.index(name)]
        torch.testing.assert_close(results[0.5][name], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "weighting", ["gradnorm", *(pytest.param(name, marks=pytest.mark.slow) for name in ("static", "uncertainty"))]
)
def test_training_makes_the_subspaces_orthogonal(weighting):
    """Whatever the weighting makes of the losses; without the penalty they stay as they are."""
    ends = {}
    for weight in (0.0, 0.1):
        module, _ = sluices(torch.float32)
        begin = float(penalty("orthogonality", module)().detach())
        spec = OptimizerSpec("adam", lr=1e-2, weight_decay=0.0)
        penalized = {"orthogonality": weight}
        train_weights(module, setting(), spec, 30, name="train", weighting=weighting, penalized=penalized)
        ends[weight] = float(penalty("orthogonality", module)().detach()) / begin
    assert ends[0.1] < 0.3 < ends[0.0]


def test_the_search_has_penalties_in_weight_steps_only():
    """A penalty of one's own, in a supermodel."""
    calls = []

    @register_penalty("smallness")
    def smallness(module):
        def value():
            calls.append(1)
            return sum(p.square().sum() for name, p in module.parameters_with().items() if name not in logits)

        logits = set(module.logits.values())
        return value

    try:
        recipe = Recipe("r", "vcn", (STAGE,), penalties={"smallness": 0.1})
        found = search(recipe=recipe, steps=4)
        points = [found.step(number) for number in range(4)]
        assert [("lr/weights" in point, point.get("penalty/smallness", 0) > 0) for point in points] == 2 * [
            (False, False), (True, True),
        ]  # fmt: skip
        assert len(calls) == 2
        assert not search(dataclasses.replace(STAGE, weights=None), 2, recipe).losses.penalties
    finally:
        del PENALTIES["smallness"]


def test_a_penalty_that_is_no_number_stops_the_training():
    module, marked = sluices(torch.float32)
    with torch.no_grad():
        module.weight(marked[0])[0, 0, 0, 0] = 1e30
    with pytest.raises(RunError, match="the loss of 'orthogonality' is inf"):
        train_weights(module, setting(), SGD, 1, name="train", penalized={"orthogonality": 1.0})


def test_layers_without_subspaces_of_filters_have_no_penalty():
    """A concatenation: the recipe trains all the same."""
    b = GraphBuilder()
    x = b.concat(b.relu(b.conv(b.image, 4)), b.relu(b.conv(b.image, 4, k=1)))
    model = b.heads(x, {"seg": 3, "depth": 1})
    Sluice()(model)
    history = train_weights(to_torch(model), setting(), SGD, 2, name="train", penalized={"orthogonality": 1.0})
    assert [dict(point.figures)["penalty/orthogonality"] for point in history.points] == [0.0, 0.0]


def test_refusals():
    module = to_torch(small_resnet())
    with pytest.raises(RunError, match="unknown penalty 'norm'; there are: orthogonality"):
        penalty("norm", module)
    with pytest.raises(RunError, match="it is for the search space 'sluice'"):
        penalties({"orthogonality": 0.1}, module)
    assert penalties({"orthogonality": 0.0}, module) == []
    with pytest.raises(RunError, match="registered already"):
        register_penalty("orthogonality")(PENALTIES["orthogonality"])


@pytest.mark.parametrize("made_by", [CrossStitch(), CrossStitch(per="channel"), Sluice()])
def test_weight_decay_leaves_the_factors_of_features_alone(made_by):
    """It would pull them to 0; all other weights take it."""
    model = small_resnet({"seg": 3, "depth": 1})
    made_by(model)
    ends = {}
    for decay in (0.0, 0.5):
        module = to_torch(model)
        train_weights(module, setting(), dataclasses.replace(SGD, weight_decay=decay), 1, name="train")
        ends[decay] = {name: module.weight(name).detach().clone() for name in module.parameters_with()}
    alike = {name for name, weight in ends[0.0].items() if torch.equal(weight, ends[0.5][name])}
    factors = {name for name in ends[0.0] if name.endswith(("alpha.weight", "beta.weight"))}
    assert factors == stitches(module) <= alike
    assert not any(ends[0.0][name].any() for name in alike - factors)  # what is 0 stays 0


@pytest.mark.parametrize("made_by", [Fusion(choices=False), Mtan()])
def test_units_without_factors(made_by):
    model = small_resnet({"seg": 3, "depth": 1})
    made_by(model)
    assert stitches(to_torch(model)) == set()
