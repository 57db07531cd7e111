"""Other people's passes in our pipelines, ours in theirs: numbers and metadata are kept.

Supermodels are in test_supermodel_guard.py; here are backbones, before, and emitted models, after.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxscript.optimizer
import onnxscript.rewriter
import onnxscript.version_converter
import pytest
from helpers.compiling import write_backbone
from onnx_ir.passes import PassManager, common  # noqa: TID251  (foreign on purpose)

import onnxmtl
from onnxmtl import runtime
from onnxmtl.analysis.sites import site_table
from onnxmtl.frontends.onnx import load
from onnxmtl.ir import sources, to_bytes
from onnxmtl.ir.passes import InPlacePass, PassResult, Sequential
from onnxmtl.kinds import load_tasks
from onnxmtl.passes.finalize import FoldBatchNorm, finalize_passes
from onnxmtl.passes.heads import AttachHeads
from onnxmtl.passes.instruments import CheckInvariants, relative_error
from onnxmtl.passes.pipelines import Pipeline, import_pipeline
from onnxmtl.passes.select import select_passes
from onnxmtl.passes.select.merge import MergeEqualNodes
from onnxmtl.passes.spaces.vcn import Vcn
from onnxmtl.policy import Policy
from onnxmtl.policy.decoders import sample

TASKS = load_tasks("seg=segmentation:4,depth")


class Optimizer(InPlacePass):
    """onnxscript.optimizer as a pass, as one would write it."""

    def call(self, model):
        onnxscript.optimizer.optimize_ir(model, inline=True)
        return PassResult(model, True)


# The pass, and whether it means to drop metadata.
FOREIGN = {
    "AddDefaultAttributes": common.AddDefaultAttributesPass,
    "Checker": common.CheckerPass,
    "CommonSubexpressionElimination": common.CommonSubexpressionEliminationPass,
    "DeduplicateInitializers": common.DeduplicateInitializersPass,
    "DeduplicateHashedInitializers": common.DeduplicateHashedInitializersPass,
    "IdentityElimination": common.IdentityEliminationPass,
    "Inline": common.InlinePass,
    "LiftConstants": common.LiftConstantsToInitializersPass,
    "NameFix": common.NameFixPass,
    "OutputFix": common.OutputFixPass,
    "RemoveUnusedNodes": common.RemoveUnusedNodesPass,
    "ShapeInference": common.ShapeInferencePass,
    "TopologicalSort": common.TopologicalSortPass,
    "ConvertVersion": lambda: onnxscript.version_converter.ConvertVersionPass(22),
    "Rewrite": lambda: onnxscript.rewriter.RewritePass(onnxscript.rewriter._DEFAULT_REWRITE_RULES),
    "Optimizer": Optimizer,
}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_backbone(tmp_path_factory.mktemp("net") / "net.onnx")


@pytest.fixture(scope="module")
def models(file):
    """A backbone and an emitted model of it."""
    backbone = onnxmtl.load(file)
    supermodel = Vcn()(AttachHeads(TASKS, 0)(backbone.clone()).model).model
    (architecture,) = sample(Policy.of_model(supermodel, site_table(supermodel)), 1, 3)
    emitted = Pipeline([*select_passes(architecture), *finalize_passes(TASKS, {})])(supermodel).model
    return {"backbone": backbone, "emitted": emitted}


def answers(model: ir.Model) -> dict[str, np.ndarray]:
    image = np.random.default_rng(0).random((2, 3, 16, 16), np.float32)
    return runtime.run(runtime.session(to_bytes(model), optimize=False), image)


def same(model: ir.Model, expected: dict[str, np.ndarray], tolerance: float = 1e-5) -> None:
    found = answers(model)
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert relative_error(found[name], array) <= tolerance, name


@pytest.mark.parametrize("kind", ["backbone", "emitted"])
@pytest.mark.parametrize("make", FOREIGN.values(), ids=FOREIGN)
def test_theirs_in_our_pipeline(models, kind, make):
    model = models[kind].clone()
    expected = answers(model)
    known = {name for node in model.graph for name in sources(node)}
    result = Pipeline([make()], instruments=[CheckInvariants()])(model).model
    same(result, expected)
    assert result.metadata_props == models[kind].metadata_props
    left = {name for node in result.graph for name in sources(node)}
    # A rewrite rule may make new nodes of old ones; most must still know where they come from.
    assert left <= known and len(left) >= 0.5 * len(known)


def test_theirs_between_ours(file):
    """In the middle of an import, with the result the same as without."""
    plain = import_pipeline()(load(file)).model
    first, *rest = import_pipeline().passes
    passes = [first, common.IdentityEliminationPass(), *rest, common.TopologicalSortPass(), common.CheckerPass()]
    mixed = Pipeline(passes, instruments=[CheckInvariants()])(load(file)).model
    same(mixed, answers(plain))


def test_ours_in_their_sequence(models):
    model = models["backbone"].clone()
    expected = answers(model)
    sequence = Sequential(common.NameFixPass(), FoldBatchNorm(), common.RemoveUnusedNodesPass(), common.CheckerPass())
    folded = sequence(model).model
    assert "BatchNormalization" not in {node.op_type for node in folded.graph}
    same(folded, expected)


def test_ours_in_their_manager(models):
    """Until nothing changes: our passes say truly whether they did something."""
    model = models["backbone"].clone()
    expected = answers(model)
    manager = PassManager([FoldBatchNorm(), MergeEqualNodes(), common.RemoveUnusedNodesPass()], steps=5)
    same(manager(model).model, expected)
    assert not manager(model).modified


def test_a_pipeline_is_one_of_their_passes(models):
    model = models["backbone"].clone()
    nested = Sequential(Pipeline([MergeEqualNodes(), FoldBatchNorm()]), common.CheckerPass())
    same(nested(model).model, answers(models["backbone"]))


def test_between_onnxscripts_steps(models):
    """optimize, ours, rewrite: as a deployment script does it."""
    model = models["emitted"].clone()
    onnxscript.optimizer.optimize_ir(model)
    MergeEqualNodes()(model)
    rewritten = onnxscript.rewriter.rewrite(model)
    same(rewritten, answers(models["emitted"]))
    assert rewritten.metadata_props == models["emitted"].metadata_props
