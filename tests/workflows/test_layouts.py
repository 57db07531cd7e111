"""A tree that is given: trained, emitted, verified and reported like a found one; and what cannot be asked with it."""

from __future__ import annotations

import pytest
from helpers.compiling import BASELINES, QUICK, TASKS, Children, digests

from onnxmtl import ir as graphs
from onnxmtl import ops
from onnxmtl.cost.count import count
from onnxmtl.deploy.html import html_of
from onnxmtl.deploy.report import plain
from onnxmtl.deploy.runfiles import read_run
from onnxmtl.errors import BudgetError, ModelError, OnnxMTLError, RunError
from onnxmtl.passes.spaces import layout_blocks
from onnxmtl.policy import Layout
from onnxmtl.runs import read_json
from onnxmtl.search import recipe_named
from onnxmtl.workflows import CompileConfig, compile, specialize, verify
from onnxmtl.workflows.method import resolve

NAMES = ("seg", "depth")
BLOCKS = ("relu5_out", "early", "late")
TREE = Layout(NAMES, (((0, 1),), ((0, 1),), ((0,), (1,))), BLOCKS)
BARE = Layout(NAMES, TREE.groups)


@pytest.fixture(scope="module")
def layout_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("layout") / "layout.json"
    path.write_text(TREE.to_json())
    return path


@pytest.fixture(scope="module")
def done(backbone, layout_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("done") / "run"
    return compile(backbone, TASKS, layout=layout_file, out=out, **{**QUICK, "baselines": BASELINES})


def test_the_emitted_model_is_the_tree(done):
    start, emitted = (graphs.load(path) for path in (next(done.path.glob("phases/*-import/backbone.onnx")), done.model))
    blocks = layout_blocks(start, TREE)
    assert tuple(block.name for block in blocks) == BLOCKS
    madds = [sum(map(ops.multiply_adds, block.nodes)) for block in blocks]
    assert count(emitted).multiply_adds_trunk == TREE.cost(madds) == madds[0] + madds[1] + 2 * madds[2]
    assert Layout.from_json(emitted.metadata_props["onnxmtl.layout"]) == TREE
    assert [stage["name"] for stage in read_json(done.path / "run.json")["config"]["with_recipe"]["stages"]] == [
        "train"
    ]
    verify(done.path)
    # The branches were trained apart: their copies of one weight are not equal any more.
    shared, own = (emitted.graph.initializers[name] for name in _copies(emitted))
    assert shared.shape == own.shape and not (shared.const_value.numpy() == own.const_value.numpy()).all()


def _copies(model):
    own = next(name for name in sorted(model.graph.initializers) if name.endswith("/depth") and "weight" in name)
    return own.removesuffix("/depth"), own


def test_the_report_shows_the_tree(done):
    report = done.report
    assert report.layout == TREE and report.decoding == "the layout was given (number 3 of 4)"
    assert report.weights == "retrained" and set(report.delta) == {"found", "shared"}
    assert TREE.text() in plain(report)
    page = html_of(read_run(done.path))
    assert 'id="figure-tree"' in page and "blocks 0 to 1 seg, depth; block 2 seg; block 2 depth" in page
    assert read_json(done.path / "report.json")["layout"] == TREE.to_dict()["layout"]


def test_all_shared_is_the_baseline_with_one_trunk(backbone, tmp_path):
    """The same model, trained the same way: the same figures to the last bit."""
    layout = Layout.shared(NAMES, 2)
    found = compile(backbone, TASKS, layout=layout, out=tmp_path / "run", **{**QUICK, "baselines": ("hard-sharing",)})
    for task in found.report.tasks:
        assert all(metric.values["found"] == metric.values["shared"] for metric in task.metrics)
    assert found.report.costs["found"].multiply_adds == found.report.costs["shared"].multiply_adds


def test_a_layout_without_names_takes_blocks_of_equal_work(backbone, tmp_path):
    one = compile(backbone, "depth,seg=segmentation", layout=BARE, out=tmp_path / "one", **QUICK)
    assert one.report.layout.blocks == BLOCKS and one.report.layout.tasks == ("depth", "seg")


def test_another_recipe_trains_the_tree_with_its_last_stage(backbone):
    recipe, _ = resolve("adashare", CompileConfig(), fixed=False, layout=TREE)
    final = recipe_named("adashare").final_stage
    assert [(stage.name, stage.share, stage.weights) for stage in recipe.stages] == [("retrain", 1.0, final.weights)]
    assert (recipe.space, recipe.space_options, recipe.regularizers) == ("tree", {}, {})
    assert resolve(None, CompileConfig(), fixed=False, layout=TREE)[0] == recipe_named("treemtl")
    assert resolve("automtl", CompileConfig(), fixed=False, layout=TREE)[0].name == "automtl"
    released = resolve(None, CompileConfig(variant="released", preset="nyuv2"), fixed=False, layout=TREE)
    assert released[0] == recipe_named("treemtl", "released", "nyuv2") and released[1].steps == 20_000


class Stop(Exception):
    """The user's patience ends."""


class Impatient:
    """An observer that stops the run at a step of the stage ``train``."""

    def __init__(self, last):
        self.last, self.name = last, ""

    def stage(self, name, total, start=0):
        self.name = name

    def update(self, step, losses, cost=None):
        if (self.name, step) == ("train", self.last):
            raise Stop


def test_a_run_that_was_stopped_goes_on(done, backbone, layout_file, tmp_path):
    out, options = tmp_path / "run", {**QUICK, "baselines": BASELINES, "checkpoint_every": 1}
    with pytest.raises(Stop):
        compile(backbone, TASKS, layout=layout_file, out=out, observer=Impatient(4), **options)
    compile(backbone, TASKS, layout=TREE, out=out, resume=True, **options)
    assert digests(out) == digests(done.path)


@pytest.mark.slow
def test_a_kill_at_any_moment_changes_nothing(backbone, layout_file, tmp_path):
    children, options = Children(), {**QUICK, "layout": str(layout_file), "baselines": ("hard-sharing",)}
    whole = tmp_path / "whole"
    children.finish(backbone, whole, options)
    out = tmp_path / "run"
    for renames in (4, 11):  # each of the killed runs goes on from the one before
        assert children.kill_at_rename(renames, backbone, out, options)
    children.finish(backbone, out, options)
    assert digests(out) == digests(whole)


def test_resuming_with_another_layout_is_refused(backbone, done):
    other = Layout.shared(NAMES, 3)
    with pytest.raises(RunError, match=r"cannot resume .*layout"):
        compile(backbone, TASKS, layout=other, out=done.path, resume=True, **{**QUICK, "baselines": BASELINES})


def test_a_budget_is_checked_before_training_and_judged_behind_it(backbone, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(
        BudgetError, match=r"^params<=0\.6x: the layout has parameters of 28\.05 k, more than 17\.07 k; "
    ):
        compile(backbone, TASKS, layout=TREE, out=out, **{**QUICK, "budget": "madds<=0.95x,params<=0.6x"})
    assert not out.exists()
    found = compile(backbone, TASKS, layout=TREE, out=out, **{**QUICK, "budget": "madds<=0.95x,latency<=10s"})
    assert [(row.quantity, row.met) for row in found.report.budget] == [("multiply-adds", True), ("latency", True)]
    assert found.report.budget[0].value == found.report.costs["found"].multiply_adds


def test_specialize_says_that_nothing_was_searched(done):
    with pytest.raises(RunError, match="nothing was searched in"):
        specialize(done.path, budget="madds<=0.5x")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"policy": "random"}, "--layout says what the tasks share, and so does --policy random"),
        ({"samples": 3}, "--samples"),
        ({"shared_prefix": 3}, "--decode-prefix"),
        ({"space": {"skip": "none"}}, "so does --skip: leave"),
        ({"space": {"shared_prefix": 1}}, "so does --shared-prefix: leave"),
        ({"space": {"groups": 4}}, "so does --blocks: leave"),
    ],
)
def test_what_contradicts_a_layout(options, words):
    with pytest.raises(RunError, match=words):
        resolve(None, CompileConfig(**options), fixed=False, layout=TREE)


def test_the_recipe_needs_a_layout():
    with pytest.raises(RunError, match="recipe 'treemtl' trains a tree that is given: name its file with --layout"):
        resolve("treemtl", CompileConfig(), fixed=False)
    with pytest.raises(RunError, match="--architecture"):
        resolve(None, CompileConfig(), fixed=True, layout=TREE)


@pytest.mark.parametrize(
    ("layout", "error", "words"),
    [
        (Layout.shared(("seg", "normals"), 3), ModelError, "the layout is for the tasks seg, normals, not for seg, d"),
        (TREE.with_blocks(("relu5_out", "body", "late")), ModelError, "no tensor, node or boundary 'body'"),
        (Layout.shared(NAMES, 30), ModelError, "cannot be cut into 30 groups"),
        ("nowhere.json", ModelError, "cannot read the layout nowhere.json"),
    ],
)
def test_layouts_that_do_not_fit(layout, error, words, backbone, tmp_path):
    with pytest.raises(OnnxMTLError, match=words) as caught:
        compile(backbone, TASKS, layout=layout, out=tmp_path / "run", **QUICK)
    assert isinstance(caught.value, error) and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
