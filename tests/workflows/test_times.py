"""Measured microseconds as a cost in the search: what is measured, and that a run reads what it has measured."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from helpers.compiling import QUICK, digests, write_backbone
from helpers.graphs import random_model, small_resnet
from helpers.skipping import random_architecture

from onnxmtl import ops, runtime
from onnxmtl.analysis.sites import site_table
from onnxmtl.cost.selected import count_architecture
from onnxmtl.errors import RunError
from onnxmtl.kinds import TaskSet
from onnxmtl.passes.pipelines import Pipeline
from onnxmtl.passes.select import select_passes
from onnxmtl.passes.spaces import SelectOrSkip, Vcn
from onnxmtl.runs import read_json
from onnxmtl.search import recipe_named
from onnxmtl.workflows import compile
from onnxmtl.workflows.config import CompileConfig
from onnxmtl.workflows.method import resolve
from onnxmtl.workflows.phases import times
from onnxmtl.workflows.phases.times import _form, _node_alone

TASKS = TaskSet(tuple(t.replace(head="light") for t in TaskSet.parse("seg=segmentation,depth")))
PULL = {"latency": 2.0}


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    return write_backbone(tmp_path_factory.mktemp("net") / "net.onnx", size=32)


class Clock:
    """In the place of a measurement: other numbers at every call, and how many models it was asked for."""

    def __init__(self, monkeypatch, scale: float = 1.0) -> None:
        self.calls, self.scale = 0, scale
        monkeypatch.setattr(times, "latencies", self)
        monkeypatch.setattr(runtime, "latency", lambda model, _: self.one(model))

    def __call__(self, models, feeds, **_) -> list[float]:
        return [self.one(make()) for make in models]

    def one(self, model: bytes) -> float:
        self.calls += 1
        return self.scale * (len(model) / 1e4 + (self.calls * 7919 % 13) / 1e3)


def times_of(run) -> dict:
    (folder,) = (run / "phases").glob("*-times")
    return read_json(folder / "times.json")


@pytest.mark.parametrize("recipe", ["bmtas", "automtl"])
def test_a_search_that_was_killed_goes_on_with_the_times_it_had(net, tmp_path, monkeypatch, recipe):
    """On a machine that has become another one meanwhile."""
    options = {**QUICK, "recipe": recipe, "steps": 8, "regularizers": PULL, "checkpoint_every": 1}
    stage = recipe_named(recipe).search_stages[-1].name
    Clock(monkeypatch)
    whole = compile(net, TASKS, out=tmp_path / "whole", **options)

    class Dying:
        def stage(self, name, total, start=0):
            self.name = name

        def update(self, step, losses, cost=None):
            if self.name == stage and step == 2:
                raise KeyboardInterrupt

    Clock(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        compile(net, TASKS, out=tmp_path / "killed", observer=Dying(), **options)
    later = Clock(monkeypatch, scale=50.0)
    again = compile(net, TASKS, out=tmp_path / "killed", resume=True, **options)
    assert later.calls == 0
    assert digests(again.path) == digests(whole.path)
    assert set(times_of(again.path)) == {"operators", "rest", "measured", "explained"}


def test_time_pulls_where_it_is_spent(net, tmp_path, monkeypatch):
    """Two runs that differ in the clock alone find other policies: the times do weigh."""
    options = {**QUICK, "recipe": "bmtas", "steps": 12, "regularizers": {"multiply_adds": 0.0, "latency": 30.0}}
    policies = []
    for name in ("a", "b"):
        clock = Clock(monkeypatch)
        if name == "b":  # nothing takes time but what cannot be changed
            monkeypatch.setattr(clock, "one", lambda _: 1.0)
        run = compile(net, TASKS, out=tmp_path / name, **options)
        (decoded,) = (run.path / "phases").glob("*-decode")
        sites = read_json(decoded / "policy.json")["sites"]
        policies.append([site["logits"] for site in sites])
    assert policies[0] != policies[1]


def test_without_the_regularizer_nothing_is_measured(net, tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    run = compile(net, TASKS, out=tmp_path / "run", **{**QUICK, "recipe": "bmtas"})
    assert clock.calls == 0 and not list((run.path / "phases").glob("*-times"))


def test_a_real_machine_is_measured(net, tmp_path, monkeypatch):
    for name in ("_SECONDS", "_WHOLE"):
        monkeypatch.setattr(times, name, 0.01)
    monkeypatch.setattr(times, "_ROUNDS", 3)
    run = compile(net, TASKS, out=tmp_path / "run", **{**QUICK, "regularizers": PULL})
    found = times_of(run.path)
    operators = found["operators"]
    assert len(found["measured"]) == len(found["explained"]) == 9
    assert all(time > 0 for time in (*found["measured"], *found["explained"])) and found["rest"] >= 0
    assert len(operators) >= 4 and all(np.isfinite(time) and time >= 0 for time in operators.values())
    assert max(operators.values()) > 0
    assert all(re.match(r"(Conv|Gemm|MatMul) 1x", form) for form in operators)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("space", [Vcn, SelectOrSkip])
def test_a_table_in_another_unit_counts_the_selected_graph(seed, space):
    """Whatever a node costs, the table adds up what the selected graph has."""
    model = random_model(seed, tasks=3) if space is Vcn else small_resnet()
    model = Pipeline([space()])(model).model
    names = sorted({_form(node) for node in model.graph if ops.multiply_adds(node)})

    def cost(node) -> int:
        return 3 + 5 * names.index(_form(node))

    table = site_table(model, cost)
    architecture = random_architecture(table, seed)
    selected = Pipeline(select_passes(architecture))(model.clone()).model
    assert count_architecture(table, architecture)[1] == sum(
        cost(node) for node in selected.graph if ops.multiply_adds(node)
    )


def test_an_operator_alone_computes_what_it_does_in_the_graph():
    model = small_resnet()
    nodes = [node for node in model.graph if ops.multiply_adds(node)]
    assert nodes
    for node in nodes:
        bytes_, feeds = _node_alone(node)
        (found,) = runtime.run(bytes_, feeds).values()
        assert found.shape == tuple(1 if not isinstance(dim, int) else dim for dim in node.outputs[0].shape)
        assert found.any()


def test_with_a_budget_a_recipes_pull_is_left_out():
    recipe = recipe_named("bmtas")

    timed = dataclasses.replace(recipe, regularizers={"latency": 1.0})
    for budget, left in (("madds<=0.5x", set()), ("latency<=5ms", set()), ("", {"latency"})):
        found, _ = resolve(timed, CompileConfig(budget=budget), fixed=False)
        assert set(found.regularizers) == left
    found, _ = resolve("bmtas", CompileConfig(budget="madds<=0.5x", regularizers=PULL), fixed=False)
    assert set(found.regularizers) == {"latency"}


def test_a_stage_may_not_take_the_name():
    stages = recipe_named("bmtas").stages

    with pytest.raises(RunError, match="times"):
        dataclasses.replace(stages[0], name="times")
