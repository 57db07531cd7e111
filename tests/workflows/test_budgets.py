"""A budget holds for the emitted graph: counted there, and the most probable architecture that keeps it."""

from __future__ import annotations

import itertools
import json

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers.compiling import BASELINES, QUICK, TASKS

from onnxmtl import runtime
from onnxmtl.analysis.sites import site_table
from onnxmtl.cost.count import count
from onnxmtl.cost.selected import count_architecture
from onnxmtl.errors import BudgetError, RunError
from onnxmtl.ir import load
from onnxmtl.kinds import TaskSet
from onnxmtl.passes.instruments import CheckInvariants
from onnxmtl.policy import Architecture, Policy
from onnxmtl.policy.budget import Absolute
from onnxmtl.workflows import CompileConfig, compile, specialize, verify
from onnxmtl.workflows.method import resolve
from onnxmtl.workflows.phases import limits, times
from onnxmtl.workflows.phases.job import Graphs
from onnxmtl.workflows.preparation import prepare
from onnxmtl.workflows.source import Source


def graphs(backbone, **options):
    recipe, config = resolve(None, CompileConfig(**{**QUICK, **options}), fixed=False)
    made = prepare(Source(backbone), TaskSet.parse(TASKS), config, recipe)
    return Graphs(
        made.backbone, made.multitask, made.supermodel, made.tasks, made.data.input, config, (CheckInvariants(),)
    )


def every(made):
    """Architecture -> (costs as emitted, parameters and multiply-adds on the table)."""
    table = site_table(made.supermodel)
    cells = [(site.index, task, n) for site in table.sites for task in range(2) for n in [len(site.options)]]
    found = {}
    for picks in itertools.product(*(range(n) for _, _, n in cells)):
        indices = {(site, task): option for (site, task, _), option in zip(cells, picks, strict=True)}
        architecture = Architecture.from_indices(table, indices)
        found[architecture] = (made.costs_of(architecture), count_architecture(table, architecture))
    return found


def log_probability(policy, architecture):
    logs = [np.log(p) for p in policy.probabilities()]
    return sum(logs[site][task, option] for (site, task), option in architecture.indices(policy.table).items())


@pytest.mark.parametrize("options", [{"fold": False}, {"fold": True}, {"fold": True, "norm": "per_task"}], ids=str)
def test_against_all_architectures(backbone, options):
    """Unfolded, the emitted graph costs what the table says, and the best is found. Folded, the budget is kept too."""
    options = dict(options)
    space = {"skip": "none", "shared_prefix": 4, **({"norm": options.pop("norm")} if "norm" in options else {})}
    made = graphs(backbone, space=space, **options)
    table = site_table(made.supermodel)
    all_of_them = every(made)
    assert 8 <= len(all_of_them) <= 64
    rng = np.random.default_rng(1)
    policy = Policy(table, tuple(rng.normal(size=(2, len(site.options))) for site in table.sites))
    emitted = sorted({costs.parameters for costs, _ in all_of_them.values()})
    if not options["fold"]:
        assert all((costs.parameters, costs.multiply_adds) == on for costs, on in all_of_them.values())
    for bound in (emitted[0], emitted[len(emitted) // 2], emitted[-1] + 1):
        limit = Absolute("parameters", float(bound))
        fitted = limits.fit(made, policy, [limit])
        costs, _ = all_of_them[fitted.architecture]
        assert costs == fitted.costs and costs.parameters <= bound
        fits = {
            a: log_probability(policy, a)
            for a, (c, on) in all_of_them.items()
            if (c.parameters <= bound and max(c.parameters, on[0]) <= bound)
        }
        if fits:  # what keeps the budget before and after folding is surely seen
            assert log_probability(policy, fitted.architecture) >= max(fits.values()) - 1e-9
    with pytest.raises(BudgetError, match="params"):
        limits.fit(made, policy, [Absolute("parameters", emitted[0] - 1.0)])


def test_latency_is_measured_on_the_emitted_model(backbone, monkeypatch):
    """A clock that goes by multiply-adds: the limit is kept, and by no smaller model than needed.

    The machine is twice as fast as when the table was measured: the measurement decides.
    """
    made = graphs(backbone)
    table = site_table(made.supermodel)
    timed = []

    def clock(made, final: ir.Model) -> float:
        timed.append(count(final).multiply_adds)
        return timed[-1] / 1e6

    monkeypatch.setattr(limits, "measure", clock)
    clocked(monkeypatch, lambda model: 2 * (1e-9 + multiply_adds(model) / 1e6))
    own = Policy(table, tuple(np.tile([-3.0, 3.0, -1.0][: len(s.options)], (2, 1)) for s in table.sites))
    most, least = made.costs_of(limits.fit(made, own, []).architecture), made.costs_of(
        Architecture.uniform(table, "shared")
    )  # fmt: skip
    bound = (most.multiply_adds + least.multiply_adds) / 2e6
    fitted = limits.fit(made, own, [Absolute("latency", bound)])
    assert fitted.costs.multiply_adds / 1e6 <= bound < most.multiply_adds / 1e6
    assert len(timed) <= 6
    surely = limits.fit(made, own, [Absolute("multiply_adds", 0.97e6 * bound)])
    assert fitted.decoded.log_probability >= surely.decoded.log_probability - 1e-9
    with pytest.raises(BudgetError, match=r"latency<=0.01: of the \d architectures .* the smallest has \d\.\d+ ms"):
        limits.fit(made, own, [Absolute("latency", 0.01)])
    (row,) = limits.verdict(made, [Absolute("latency", bound)], made.finalize(made.multitask), least)
    assert row.quantity == "latency" and row.value == timed[-1] / 1e6


def clocked(monkeypatch, milliseconds):
    """In the place of what measures models for the table, in turns and alone."""
    monkeypatch.setattr(times, "latencies", lambda models, *_, **__: [milliseconds(make()) for make in models])
    monkeypatch.setattr(runtime, "latency", lambda model, _: milliseconds(model))


def multiply_adds(model: bytes) -> int:
    proto = onnx.shape_inference.infer_shapes(onnx.load_from_string(model))
    return count(ir.from_proto(proto)).multiply_adds


def test_a_latency_that_the_table_does_not_know_of(backbone, monkeypatch):
    """By the table all take the same, too much, and it is wrong: what is measured decides."""
    made = graphs(backbone)
    table = site_table(made.supermodel)
    monkeypatch.setattr(limits, "measure", lambda made, final: 1.0)
    clocked(monkeypatch, lambda _: 5.0)
    fitted = limits.fit(made, Policy.uniform(table), [Absolute("latency", 2.0)])
    assert fitted.architecture.validate(table)


@pytest.mark.slow
def test_compiled_within_a_latency(backbone, tmp_path, monkeypatch):
    """The search pays for time, the run keeps what was measured, and goes on from there."""
    clocked(monkeypatch, lambda model: 1e-3 * len(model))
    done = compile(backbone, TASKS, out=tmp_path / "run", budget="latency<=10s", **QUICK)
    assert [(row.quantity, row.met) for row in done.report.budget] == [("latency", True)]
    (folder,) = done.path.glob("phases/*-times")
    assert json.loads((folder / "times.json").read_text())["rest"] >= 0
    config = json.loads((done.path / "run.json").read_text())["config"]
    assert config["with_recipe"]["regularizers"]["budget"] == 1.0

    def broken(*_, **__):
        raise AssertionError

    other = specialize(done.path, budget="latency<=9s", out=tmp_path / "other")
    assert list(other.path.glob("phases/*-times")) and verify(other.path).passed
    monkeypatch.setattr(times, "latencies", broken)
    again = compile(backbone, TASKS, out=tmp_path / "run", budget="latency<=10s", resume=True, **QUICK)
    assert again.architecture == done.architecture


BUDGET = "params<=0.97x, madds<=0.9x, trunk.params<=4k"


@pytest.mark.parametrize("recipe", ["automtl", "adashare"])
def test_compiled_within_a_budget(backbone, tmp_path, recipe):
    done = compile(
        backbone, TASKS, out=tmp_path / "run", recipe=recipe, budget=BUDGET, **{**QUICK, "baselines": BASELINES}
    )
    assert verify(done.path).passed
    counted, separate = count(load(done.model)), done.report.costs["separate"]
    assert counted.parameters <= 0.97 * separate.parameters
    assert counted.multiply_adds <= 0.9 * separate.multiply_adds
    assert counted.parameters_trunk <= 4000
    assert [row.met for row in done.report.budget] == [True] * 3
    assert [row.value for row in done.report.budget] == [
        counted.parameters, counted.multiply_adds, counted.parameters_trunk
    ]  # fmt: skip


def test_samples_within_a_budget(backbone, tmp_path):
    done = compile(backbone, TASKS, out=tmp_path / "run", budget="madds<=0.9x", samples=4, shared_prefix=2, **QUICK)
    (file,) = done.path.glob("phases/*-decode/candidates.json")
    rows = json.loads(file.read_text())
    assert sum(row["count"] for row in rows) == 4 and sum(row["taken"] for row in rows) == 1
    (bound,) = [row.bound for row in done.report.budget]
    assert all(row["multiply_adds"] <= bound for row in rows)
    (file,) = done.path.glob("phases/*-decode/policy.json")
    first = [site["id"] for site in json.loads(file.read_text())["sites"][:2]]
    assert all(set(row["architecture"][site].values()) == {"shared"} for row in rows for site in first)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"budget": "params<=0.01x"}, BudgetError, "no architecture of the supermodel is that small"),
        ({"budget": "parms<=1x"}, BudgetError, "parms"),
        ({"budget": "madds<=0.5x", "architecture": Architecture({})}, RunError, "leave one of them out"),
    ],
)
def test_refused_before_anything_is_written(backbone, tmp_path, options, error, words):
    with pytest.raises(error, match=words) as refused:
        compile(backbone, TASKS, out=tmp_path / "run", **{**QUICK, **options})
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []
