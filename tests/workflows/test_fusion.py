"""MTL-NAS and soft sharing from backbone to emitted model: separate networks, edges, budgets, kills, baselines."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from helpers.compiling import QUICK, TASKS, digests
from safetensors.torch import load_file

from onnxmtl.analysis.sites import site_table
from onnxmtl.cost.count import count
from onnxmtl.cost.selected import count_architecture
from onnxmtl.deploy.verify import verify
from onnxmtl.errors import BudgetError, RunError
from onnxmtl.ir import Role, load, role_of
from onnxmtl.kinds import TaskSet
from onnxmtl.lowering import to_torch
from onnxmtl.policy import Architecture, Policy
from onnxmtl.policy.random import random_like
from onnxmtl.runs import derive_seed
from onnxmtl.search import Recipe, Stage, recipe_named
from onnxmtl.workflows import CompileConfig, compile, specialize
from onnxmtl.workflows.phases import limits
from onnxmtl.workflows.phases.job import Graphs
from onnxmtl.workflows.phases.searching import copy_tensors
from onnxmtl.workflows.preparation import prepare
from onnxmtl.workflows.source import Source

BACKBONES = {
    "tiny": "",  # the tests' own
    "resnet": "samples/backbones/resnet18-small.onnx",
    "vgg": "samples/backbones/vgg-small.onnx",
    "mobilenet": "samples/backbones/mobilenetv2-small.onnx",
}
TASK_SETS = {2: "seg=segmentation,depth", 4: "seg=segmentation,depth,normals,edges"}
RECIPES = ("mtlnas", "mtlnas/stochastic", "mtlnas/paper", "mtlnas/released", "mtlnas/supernet",
           "cross-stitch", "sluice", "nddr", "nddr/supernet", "mtan")  # fmt: skip
SMALL = {**QUICK, "input_size": (32, 32)}
OWN_NETWORKS = {"cross-stitch", "sluice", "nddr", "nddr/supernet", "mtlnas/supernet"}
FOUND_AT_ONCE = {  # one of each in every run of the tests
    ("mtlnas/released", "tiny", 2), ("mtlnas/paper", "tiny", 2), ("cross-stitch", "mobilenet", 2),
    ("sluice", "vgg", 2), ("nddr", "tiny", 2), ("mtan", "tiny", 4),
}  # fmt: skip
CASES = [
    pytest.param(recipe, net, tasks, marks=[] if (recipe, net, tasks) in FOUND_AT_ONCE else pytest.mark.slow)
    for recipe in RECIPES
    for net in BACKBONES
    for tasks in TASK_SETS
]


def folder(run: Path, phase: str) -> Path:
    (found,) = [path for path in (run / "phases").iterdir() if path.name.partition("-")[2] == phase]
    return found


def weights_after(run: Path, phase: str) -> dict[str, torch.Tensor]:
    return load_file(next(folder(run, phase).glob("*.safetensors")))


@pytest.mark.parametrize(("recipe", "net", "tasks"), CASES)
def test_every_recipe_on_every_backbone(recipe, net, tasks, backbone, tmp_path):
    name, _, variant = recipe.partition("/")
    options = {"recipe": name, "variant": variant, "out": tmp_path / "run", **(SMALL if BACKBONES[net] else QUICK)}
    done = compile(BACKBONES[net] or backbone, TASK_SETS[tasks], **options)
    assert verify(done.model).passed
    made, table = load(done.model), site_table(load(folder(done.path, "import") / "supermodel.onnx"))
    costs = done.report.costs["found"]
    assert costs.multiply_adds == count(made).multiply_adds
    searched = name == "mtlnas" and variant != "supernet"
    assert bool(table.sites) == bool(done.architecture.choices) == searched
    if searched:
        assert {site.option_names for site in table.sites} == {("edge", "cut")}
        assert costs.multiply_adds <= count_architecture(table, done.architecture)[1]  # idle units are folded away
        assert (done.path / "policy.json").exists() or (folder(done.path, "decode") / "policy.json").exists()
        assert done.report.weights == "recalibrated"
    else:
        assert done.report.decoding == "nothing to decide" and done.report.weights == "retrained"


# The tasks' own networks


@pytest.fixture(scope="module")
def found(backbone, tmp_path_factory):
    """A search of edges, compared with everything that can be."""
    out = tmp_path_factory.mktemp("fusion") / "run"
    baselines = ("single-task", "hard-sharing", "random", "random-cost")
    return compile(backbone, TASKS, recipe="mtlnas", out=out, **{**QUICK, "steps": 12, "baselines": baselines},
                   random_draws=1)  # fmt: skip


@pytest.mark.parametrize(
    ("task", "spec"), [pytest.param("seg", "seg=segmentation", marks=pytest.mark.slow), ("depth", "depth")]
)
def test_networks_are_trained_as_single_task_models_are(backbone, found, tmp_path, task, spec):
    """The stage's weights are those of training each task alone on as many steps, bit for bit."""
    stage = recipe_named("mtlnas").stages[0]
    steps = stage.steps(12)
    networks = weights_after(found.path, "networks")
    alone = compile(backbone, spec, recipe=alone_recipe(stage), out=tmp_path / task, **{**QUICK, "steps": steps})
    trained = load(folder(alone.path, "train") / "trained.onnx").graph.initializers
    compared = 0
    for name, value in trained.items():
        if role_of(value) in (Role.BACKBONE, Role.HEAD) and value.const_value.dtype.is_floating_point():
            key = f"{task}/{name}" if f"{task}/{name}" in networks else name
            if networks[key].ndim:
                assert torch.equal(networks[key], torch.tensor(value.const_value.numpy())), name
                compared += 1
    assert compared > 10


def alone_recipe(stage):
    """All steps train one network, as the stage does."""
    return Recipe("alone", "vcn", (Stage("train", 1.0, "selected", weights=stage.weights),))


def test_networks_take_their_place_in_the_supermodel(found):
    """Before the search, units pass on what the networks compute; their weights are the networks'."""
    before = load(folder(found.path, "import") / "supermodel.onnx")
    after, start = weights_after(found.path, "networks"), to_torch(before).tensors()
    roles = {name: role_of(value) for name, value in before.graph.initializers.items()}
    moved = {name for name, tensor in after.items() if not torch.equal(tensor, start[name])}
    assert {roles[name] for name in moved} == {Role.BACKBONE, Role.HEAD, Role.STATISTIC}
    assert not any(roles[name] in (Role.FUSION, Role.LOGITS) for name in moved)
    searched = weights_after(found.path, "search")
    changed = {roles[name] for name in after if not torch.equal(after[name], searched[name])}
    assert {Role.FUSION, Role.LOGITS, Role.BACKBONE} <= changed


def test_weights_are_copied_by_name_or_not_at_all(found):
    supermodel = load(folder(found.path, "import") / "supermodel.onnx")
    networks = to_torch(load(folder(found.path, "import") / "separate.onnx"))
    module = to_torch(supermodel)
    with torch.no_grad():
        for tensor in networks.parameters():
            tensor.add_(1.0)
    copy_tensors(networks, module)
    for name, parameter in networks.parameters_with().items():
        assert torch.equal(module.weight(name), parameter)
    other = to_torch(load(folder(found.path, "import") / "multitask.onnx"))
    with pytest.raises(RunError, match=r"not in the supermodel as it is: .*--without networks"):
        copy_tensors(networks, other)


@pytest.mark.parametrize(
    ("penalty", "words"), [("orthogonality", "it is for the search space 'sluice'"), ("size", "unknown penalty 'size'")]
)
def test_a_penalty_that_cannot_be_is_refused_before_any_training(backbone, tmp_path, penalty, words):
    recipe = dataclasses.replace(recipe_named("mtlnas"), penalties={penalty: 0.1})
    with pytest.raises(RunError, match=words):
        compile(backbone, TASKS, recipe=recipe, out=tmp_path / "run", **QUICK)
    assert not (tmp_path / "run").exists()


# What a run consists of


def test_what_the_search_is_compared_with(found):
    draws = [draw.source for draw in found.report.draws]
    assert draws.count("random-total") == draws.count("random-per-task") == 1
    cost = found.report.costs["found"].multiply_adds
    for draw in found.report.draws:
        if draw.source == "random-cost":
            assert draw.multiply_adds == pytest.approx(cost, rel=0.03)
    assert "random-cost" in draws or any("random" in note for note in found.report.notes)
    assert {"found", "separate", "shared"} <= set(found.report.costs)
    assert verify(found.model).passed


def test_random_draws_begin_with_the_tasks_own_networks(backbone, found, tmp_path):
    """As the found model does: the same edges, given to a run with as many steps of both kinds, get the same weights,
    bit for bit."""
    networks, search = recipe_named("mtlnas").stages
    table = site_table(load(folder(found.path, "import") / "supermodel.onnx"))
    drawn = random_like(table, found.architecture, derive_seed(0, "random", "total", 0), "total")
    of_networks, joint = networks.steps(12), search.weight_steps(12)
    share = of_networks / (of_networks + joint)
    stages = dataclasses.replace(networks, share=share), Stage("train", 1 - share, "selected", weights=search.weights)
    options = {**QUICK, "steps": of_networks + joint}
    given = compile(backbone, TASKS, recipe=Recipe("given", "fusion", stages), architecture=drawn,
                    out=tmp_path / "run", **options)  # fmt: skip
    first, second = (
        load(folder(run.path, phase) / "trained.onnx").graph.initializers
        for run, phase in ((found, "random-total-1"), (given, "train"))
    )
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert value.const_value.tobytes() == second[name].const_value.tobytes(), name


def test_random_edges(backbone, tmp_path):
    done = compile(backbone, TASKS, recipe="mtlnas", policy="random", out=tmp_path / "run", **QUICK)
    assert verify(done.model).passed and "random policy" in done.report.decoding
    assert folder(done.path, "networks") and folder(done.path, "train")
    taken = [option for site in done.architecture.choices.values() for option in site.values()]
    assert set(taken) == {"edge", "cut"}


def test_edges_that_are_given(backbone, found, tmp_path):
    """The architecture of another run, trained from the start."""
    done = compile(backbone, TASKS, recipe="mtlnas", architecture=found.architecture, out=tmp_path / "run", **QUICK)
    assert done.architecture == found.architecture and done.report.weights == "retrained"
    assert done.report.costs["found"].multiply_adds == found.report.costs["found"].multiply_adds


def test_one_sample_of_the_policy(backbone, tmp_path):
    options = {**QUICK, "samples": 1, "relaxation": "gumbel", "without": ("entropy",)}
    done = compile(backbone, TASKS, recipe="mtlnas", out=tmp_path / "run", **options)
    assert "1 draws" in done.report.decoding
    config = json.loads((done.path / "run.json").read_text())["config"]
    assert config["with_recipe"]["stages"][1]["relaxation"] == "gumbel" and not config["with_recipe"]["regularizers"]


@pytest.mark.parametrize("recipe", ["mtlnas", pytest.param("nddr", marks=pytest.mark.slow)])
def test_without_networks(backbone, recipe, tmp_path):
    done = compile(backbone, TASKS, recipe=recipe, without=("networks",), out=tmp_path / "run", **QUICK)
    phases = {path.name.partition("-")[2] for path in (done.path / "phases").iterdir()}
    assert "networks" not in phases and verify(done.model).passed
    assert not (folder(done.path, "import") / "separate.onnx").exists()


def test_a_search_on_smaller_images(backbone, tmp_path):
    options = {**QUICK, "input_size": (32, 32), "search_input_size": (16, 16)}
    done = compile(backbone, TASKS, recipe="mtlnas", out=tmp_path / "run", **options)
    assert verify(done.model).passed
    assert [int(d) for d in load(done.model).graph.inputs[0].shape[2:]] == [32, 32]
    networks = weights_after(done.path, "networks")
    untrained = to_torch(load(folder(done.path, "import") / "separate.onnx"))
    assert not all(torch.equal(networks[name], tensor) for name, tensor in untrained.parameters_with().items())


def test_a_budget(backbone, tmp_path):
    """Within what separate networks cost no edge fits but those that pay for themselves; a little more, and some do."""
    done = compile(backbone, TASKS, recipe="mtlnas", budget="madds<=1.3x", out=tmp_path / "run", **QUICK)
    assert all(limit.met for limit in done.report.budget) and verify(done.model).passed


def test_a_budget_that_only_folded_units_keep():
    """The smallest emitted model is smaller than the table says: units without an edge fold into linear bottlenecks."""
    tasks = TaskSet.parse(TASK_SETS[2])
    config = CompileConfig(recipe="mtlnas", **SMALL)
    made = prepare(Source(BACKBONES["mobilenet"]), tasks, config, recipe_named("mtlnas"))
    graphs = Graphs(made.backbone, made.multitask, made.supermodel, made.tasks, made.data.input, config, ())
    table = site_table(made.supermodel)
    cut = Architecture({site.id: dict.fromkeys(table.tasks_at(site), "cut") for site in table.sites})
    least, counted = graphs.costs_of(cut).multiply_adds, count_architecture(table, cut)[1]
    assert least < counted
    fitted = limits.fit(graphs, Policy.uniform(table), limits.resolve(graphs, f"madds<={least}"))
    assert fitted.architecture == cut and fitted.costs.multiply_adds == least
    with pytest.raises(BudgetError):
        limits.fit(graphs, Policy.uniform(table), limits.resolve(graphs, f"madds<={least - 1}"))


def test_another_model_of_the_same_search(found, tmp_path):
    same = specialize(found.path, out=tmp_path / "same")
    assert same.architecture == found.architecture and verify(same.model).passed
    whole = found.report.costs["found"].multiply_adds
    smaller = specialize(found.path, budget=f"madds<={whole - 1}", out=tmp_path / "smaller")
    assert count(load(smaller.model)).multiply_adds < whole
    with pytest.raises(RunError, match="does not train the selected model"):
        specialize(found.path, weights="retrained", out=tmp_path / "trained")


def test_a_run_without_a_search_has_no_other_models(backbone, tmp_path):
    done = compile(backbone, TASKS, recipe="nddr", out=tmp_path / "run", **QUICK)
    with pytest.raises(RunError, match="nothing was searched"):
        specialize(done.path, out=tmp_path / "other")


# Kills


@pytest.mark.parametrize(
    ("recipe", "stage"),
    [
        ("mtlnas", "networks"),
        pytest.param("mtlnas", "search", marks=pytest.mark.slow),  # of networks that are given it always runs
        pytest.param("sluice", "train", marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_goes_on(backbone, tmp_path, recipe, stage):
    options = {**QUICK, "steps": 12, "checkpoint_every": 2}
    whole = compile(backbone, TASKS, recipe=recipe, out=tmp_path / "whole", **options)

    class Dying:
        def stage(self, name, total, start=0):
            self.name = name

        def update(self, step, losses, cost=None):
            if self.name == stage and step == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compile(backbone, TASKS, recipe=recipe, out=tmp_path / "killed", observer=Dying(), **options)
    again = compile(backbone, TASKS, recipe=recipe, out=tmp_path / "killed", resume=True, **options)
    assert digests(again.path) == digests(whole.path)
