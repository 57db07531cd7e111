"""Foreign passes on supermodels: harmless ones run, the others are refused with what they would break, or broke."""

from __future__ import annotations

import onnx_ir as ir
import onnxscript.optimizer
import onnxscript.rewriter
import onnxscript.version_converter
import pytest
from helpers.graphs import random_model, small_resnet
from onnx_ir.passes import common  # noqa: TID251  (foreign on purpose)

from onnxmtl.analysis.sites import site_table
from onnxmtl.errors import ModelError
from onnxmtl.ir import attach_functions, choices, set_role, to_bytes
from onnxmtl.ir.passes import InPlacePass, PassResult, Sequential
from onnxmtl.ir.roles import Role
from onnxmtl.passes import supermodel_guard
from onnxmtl.passes.instruments import CheckInvariants
from onnxmtl.passes.pipelines import Pipeline
from onnxmtl.passes.select import select_passes
from onnxmtl.passes.spaces.vcn import Vcn
from onnxmtl.passes.supermodel_guard import Choices, Guarded
from onnxmtl.policy import Policy
from onnxmtl.policy.decoders import argmax


def supermodel() -> ir.Model:
    """Own copies untrained, logits all zero: as redundant as it gets."""
    model = Vcn()(small_resnet({"a": 2, "b": 3})).model
    attach_functions(model)
    return model


class Foreign(InPlacePass):
    """Somebody's pass that does something to the model."""

    def __init__(self, function) -> None:
        self.function = function

    def call(self, model):
        self.function(model)
        return PassResult(model, True)


HARMLESS = [
    common.AddDefaultAttributesPass,
    common.CheckerPass,
    common.IdentityEliminationPass,
    common.LiftConstantsToInitializersPass,
    common.LiftSubgraphInitializersToMainGraphPass,
    common.NameFixPass,
    common.OutputFixPass,
    common.RemoveInitializersFromInputsPass,
    common.RemoveUnusedFunctionsPass,
    common.RemoveUnusedNodesPass,
    common.RemoveUnusedOpsetsPass,
    common.ShapeInferencePass,
    common.TopologicalSortPass,
    lambda: onnxscript.rewriter.RewritePass(onnxscript.rewriter._DEFAULT_REWRITE_RULES),
]
HARMFUL = {
    common.InlinePass: "it inlines functions",
    common.CommonSubexpressionEliminationPass: "it merges options of different sites",
    common.DeduplicateInitializersPass: "it merges weights of equal value",
    common.DeduplicateHashedInitializersPass: "it merges weights of equal value",
    common.ClearMetadataAndDocStringPass: "it drops from which layer",
    common.AddInitializersToInputsPass: "it turns weights and logits into inputs",
    lambda: onnxscript.version_converter.ConvertVersionPass(22): "it inlines functions",
}
# Of these, those whose harm shows in the Choices and weights; the others are known by name only.
SEEN = {
    common.InlinePass: "had 2 Choices of",
    common.CommonSubexpressionEliminationPass: "is not the value of its own any more",
    common.DeduplicateInitializersPass: "share their logits now",
    common.DeduplicateHashedInitializersPass: "share their logits now",
    lambda: onnxscript.version_converter.ConvertVersionPass(22): "had 2 Choices of",
}


def name(make) -> str:
    return type(make()).__name__


@pytest.mark.parametrize("make", HARMLESS, ids=name)
def test_harmless_passes_run(make):
    before = supermodel()
    table = site_table(before)
    after = Pipeline([make()], instruments=[CheckInvariants()])(before).model
    assert site_table(after).sites == table.sites


@pytest.mark.parametrize(("make", "reason"), HARMFUL.items(), ids=lambda v: name(v) if callable(v) else "")
def test_known_dissolvers_are_refused_before_they_touch_anything(make, reason):
    model = supermodel()
    before = to_bytes(model)
    with pytest.raises(ModelError, match=f"{name(make)} is refused on a supermodel: {reason}") as caught:
        Pipeline([make()])(model)
    assert "before the search space is inserted, or after" in str(caught.value) and "\n" not in str(caught.value)
    assert to_bytes(model) == before


@pytest.mark.parametrize(("make", "reason"), SEEN.items(), ids=lambda v: name(v) if callable(v) else "")
def test_what_they_break_is_seen_too(make, reason, monkeypatch):
    """The check afterwards finds them without the list, so it finds others of their kind."""
    monkeypatch.setattr(supermodel_guard, "DISSOLVERS", {})
    with pytest.raises(ModelError, match=rf"{name(make)} broke the supermodel: .*{reason}"):
        Pipeline([make()])(supermodel())


def test_a_sequence_with_a_dissolver_inside():
    with pytest.raises(ModelError, match="InlinePass is refused"):
        Pipeline([Sequential(common.NameFixPass(), Sequential(common.InlinePass()))])(supermodel())


def test_onnxscripts_optimizer():
    with pytest.raises(ModelError, match=r"Foreign broke the supermodel: .* now has none"):
        Pipeline([Foreign(onnxscript.optimizer.optimize_ir)])(supermodel())


def share_weight(model):
    own = next(v for n, v in model.graph.initializers.items() if n.endswith("/a") and v.uses())
    own.replace_all_uses_with(model.graph.initializers[own.name.removesuffix("/a")])


def share_logits(model):
    first, second = (next(c for c in choices(model.graph) if c.task == task) for task in "ab")
    second.logits.replace_all_uses_with(first.logits)


def split_logits(model):
    choice = next(iter(choices(model.graph)))
    copy = ir.Value(name="split", type=choice.logits.type, shape=choice.logits.shape)
    copy.const_value = choice.logits.const_value
    model.graph.register_initializer(copy)
    choice.node.replace_input_with(len(choice.names), copy)


def rename_option(model):
    node = next(iter(choices(model.graph))).node
    node.attributes["options"] = ir.AttrStrings("options", ["shared", "own", "nothing"])


def forget_role(model):
    value = next(v for n, v in model.graph.initializers.items() if n.endswith("/a") and v.uses())
    set_role(value, Role.HEAD)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (share_weight, r"the own weight .* is gone"),
        (share_logits, "share their logits now"),
        (split_logits, "read 2 logits instead of one"),
        (rename_option, "had 2 Choices of .* and now has 2 with the options"),
        (forget_role, "has the role head now"),
    ],
)
def test_every_harm_is_named(harm, words):
    with pytest.raises(ModelError, match=f"Foreign broke the supermodel: .*{words}"):
        Pipeline([Foreign(harm)])(supermodel())


def test_a_pass_that_says_so_may_change_choices():
    class Mine(Foreign):
        changes_choices = True

    Pipeline([Mine(rename_option)])(supermodel())


def test_nothing_is_refused_without_choices():
    Pipeline([common.DeduplicateInitializersPass(), common.InlinePass()])(small_resnet({"a": 2, "b": 3}))


def test_our_own_passes_are_not_watched():
    model = supermodel()
    architecture = argmax(Policy.of_model(model, site_table(model)))
    selected = Pipeline(select_passes(architecture))(model).model
    assert not list(choices(selected.graph))


def test_in_somebody_elses_sequence():
    sequence = Sequential(Guarded(common.NameFixPass()), Guarded(common.InlinePass()))
    with pytest.raises(Exception) as caught:
        sequence(supermodel())
    assert "InlinePass is refused" in str(caught.value.__cause__ or caught.value)
    assert Guarded(common.NameFixPass())(small_resnet({"a": 2})).model


def test_reading_a_table_twice_is_the_same():
    for seed in range(5):
        model = Vcn()(random_model(seed)).model
        assert Choices.of(model) == Choices.of(model.clone())
        assert Choices.of(model).broken(Choices.of(model)) is None
