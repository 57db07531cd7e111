from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys

import numpy as np
import onnx_ir as ir
import pytest
from rich.console import Console

from onnxmtl.cost.count import Costs
from onnxmtl.cost.sharing import How, SharingRow, Use
from onnxmtl.deploy.report import (
    BudgetResult,
    DrawResult,
    LayerRow,
    MetricResult,
    Report,
    TaskResult,
    amount,
    cost_rows,
    metric_rows,
    plain,
    print_report,
    run_command,
    sharing_rows,
)
from onnxmtl.ir import save


@pytest.fixture
def report():
    return Report(
        title="resnet18-small on scenes",
        tasks=(
            TaskResult("seg", "segmentation", "miou", True, found=0.5, constant=0.1, separate=0.52, shared=0.48),
            TaskResult("depth", "depth", "abs_err", False, found=0.3, constant=1.2, separate=0.28),
        ),
        costs={
            "separate": Costs(20_000_000, 24_000_000, 3_000_000_000, 3_000_000_000, 0.0, 19_000_000, 96_000_000),
            "found": Costs(12_000_000, 16_000_000, 1_800_000_000, 3_000_000_000, 0.625, 11_000_000, 64_123_456),
        },
        sharing=(
            LayerRow("conv1", "Conv", {"seg": "once with depth", "depth": "once with seg"}, (("seg", "depth"),), 9408),
            LayerRow("conv2", "Conv", {"seg": "own", "depth": "skipped"}, (("seg",),), 36864),
            LayerRow("fc", "Gemm", {"seg": "skipped", "depth": "skipped"}, (), 10),
        ),
        model="runs/demo-1/model.onnx",
        command=run_command("runs/demo-1/model.onnx", "input", (1, 3, 64, 64), python="python"),
        notes=("BatchNorm was folded at export [conv9]",),
    )


def test_a_constant_without_error_gives_no_percentage(report):
    """Walls that all face one way: the best constant is off by 1e-15 degrees, and the share has twenty digits."""
    task = dataclasses.replace(report.tasks[1], constant=1.9e-15, found=16.3)
    assert metric_rows(dataclasses.replace(report, tasks=(task,)))[1][-1] == "-16.3"
    assert metric_rows(report)[1][-1] == "0.4 (+400%)"


def test_json_round_trip(report):
    content = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert Report.from_json(content) == report
    assert content["tasks"][0]["margin"] == pytest.approx(0.4)
    assert content["tasks"][1]["margin"] == pytest.approx(0.9)


def test_nan_is_null_in_json(report):
    bad = dataclasses.replace(report, tasks=(dataclasses.replace(report.tasks[0], found=math.nan),))
    content = json.loads(json.dumps(bad.to_json(), allow_nan=False))
    assert content["tasks"][0]["found"] is None and content["tasks"][0]["margin"] is None
    assert math.isnan(Report.from_json(content).tasks[0].found)
    assert "nan" in plain(bad)


def test_metric_rows(report):
    header, seg, depth = metric_rows(report)
    assert header[2:6] == ["separate models", "all shared", "found", "constant"]
    assert seg == ["seg", "miou ↑", "0.52", "0.48", "0.5", "0.1", "0.4 (+400%)"]
    assert depth == ["depth", "abs_err ↓", "0.28", "–", "0.3", "1.2", "0.9 (+75%)"]


def test_worse_than_constant_is_negative(report):
    worse = dataclasses.replace(report.tasks[1], found=1.5)
    assert worse.margin == pytest.approx(-0.3)
    assert metric_rows(dataclasses.replace(report, tasks=(worse,)))[1][-1] == "-0.3 (-25%)"


def test_cost_rows(report):
    rows = {row[0]: row[1:] for row in cost_rows(report)}
    assert rows[""] == ["separate models", "found", "found / separate"]
    assert rows["parameters, trunk"] == ["20 M", "12 M", "0.600×"]
    assert rows["multiply-adds, executed"] == ["3 G", "1.8 G", "0.600×"]
    assert rows["multiply-adds, without sharing"] == ["3 G", "3 G", "1.000×"]
    assert rows["file size"] == ["96 MB", "64.12 MB", "0.668×"]


def test_sharing_rows(report):
    rows = sharing_rows(report)
    assert rows[0] == ["layer", "op", "seg", "depth", "runs", "parameters"]
    assert rows[1] == ["conv1", "Conv", "once", "once", "seg+depth", "9.408 k"]
    assert rows[2] == ["conv2", "Conv", "own", "skipped", "seg", "36.86 k"]
    assert rows[3][-2:] == ["–", "10"]


def test_row_of_the_analysis(report):
    uses = {"seg": Use(How.ONCE, ("depth",)), "depth": Use(How.ONCE, ("seg",))}
    row = SharingRow("conv1", "Conv", uses, (("seg", "depth"),), parameters=9408, multiply_adds=1)
    assert LayerRow.of(row) == dataclasses.replace(report.sharing[0], multiply_adds=1)


def test_text_has_all_of_it(report):
    text = plain(report)
    assert "62.5% of the executed multiply-adds, 1 of 3 layers with parameters" in text
    assert "model: runs/demo-1/model.onnx" in text and report.command in text
    assert "note: BatchNorm was folded at export [conv9]" in text
    assert "\x1b" not in text and all(line == line.rstrip() for line in text.splitlines())


def test_rich_has_the_same(report):
    out = Console(width=200, force_terminal=False, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_report(report, out)
    text = out.export_text()
    for word in ("What is shared", "seg+depth", "0.4 (+400%)", "64.12 MB", "[conv9]", report.command):
        assert word in text


def test_the_command_is_not_broken_into_lines(report):
    narrow = Console(width=60, force_terminal=False, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_report(report, narrow)
    assert report.command in narrow.export_text()


@pytest.mark.parametrize("name", ["model.onnx", "it's a 'model' $HOME.onnx"])
def test_the_command_runs_in_a_shell(tmp_path, name):
    x = ir.Value(name="in put", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["N", 3, 4, 4]))
    node = ir.Node("", "Relu", [x], name="relu")
    y = node.outputs[0]
    y.name, y.type, y.shape = "depth", x.type, x.shape
    save(ir.Model(ir.Graph([x], [y], nodes=[node], opset_imports={"": 21}, name="g"), ir_version=10), tmp_path / name)
    command = run_command(tmp_path / name, "in put", np.zeros((1, 3, 4, 4)).shape, python=sys.executable)
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "{'depth': (1, 3, 4, 4)}"


def test_the_interpreter_is_the_running_one(monkeypatch, tmp_path):
    assert run_command("m.onnx", "x", (1, 3, 4, 4)).split()[0].endswith("python") or "python" in sys.executable
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv" / "bin" / "python"))
    assert run_command("m.onnx", "x", (1, 3, 4, 4)).startswith(".venv/bin/python -c ")


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (0, "0"), (999, "999"), (1000, "1 k"), (11_170_000, "11.17 M"), (2.5e9, "2.5 G")]
)
def test_amount(value, text):
    assert amount(value) == text


def test_delta_budget_and_decoding(report):
    rows = (
        BudgetResult("params<=0.6x", "parameters", 14_400_000, 16_000_000),
        BudgetResult("latency<=4ms", "latency", 4.0, 3.14159),
    )
    full = dataclasses.replace(
        report,
        tasks=(dataclasses.replace(report.tasks[0], delta={"found": 1.25, "shared": -2.0}), report.tasks[1]),
        delta={"shared": -2.0, "found": 1.25, "random": math.nan},
        budget=rows,
        decoding="the most probable one",
    )
    header, seg, depth = metric_rows(full)
    assert header[-2:] == ["Δ to separate", "better than constant by"] and (seg[-2], depth[-2]) == ("+1.2%", "–")
    text = plain(full)
    assert "Δ to separate models, all tasks and metrics: +1.2% (all shared -2.0%, random –)" in text
    assert "budget params<=0.6x: parameters 16 M of at most 14.4 M, NOT MET" in text
    assert (
        "budget latency<=4ms: latency 3.14 ms of at most 4 ms, met" in text and "decided: the most probable one" in text
    )
    content = json.loads(json.dumps(full.to_json(), allow_nan=False))
    assert [row["met"] for row in content["budget"]] == [False, True] and content["delta"]["random"] is None
    again = Report.from_json(content)
    assert again.budget == rows and math.isnan(again.delta["random"]) and again.tasks == full.tasks


def test_draws_and_metrics_come_back(report):
    draw = DrawResult(
        "policy", {"seg": {"miou": 0.5, "other": math.nan}}, 10, 20, {"seg": 1.0}, 1.0, count=3, taken=True
    )
    metric = MetricResult("miou", True, {"found": 0.5, "separate": 0.25}, "degrees")
    full = dataclasses.replace(
        report, draws=(draw,), tasks=(dataclasses.replace(report.tasks[0], metrics=(metric,)), report.tasks[1])
    )
    again = Report.from_json(json.loads(json.dumps(full.to_json(), allow_nan=False)))
    assert again.tasks == full.tasks and math.isnan(again.draws[0].metrics["seg"]["other"])
    assert dataclasses.replace(again.draws[0], metrics={}) == dataclasses.replace(draw, metrics={})
    assert DrawResult.from_json({**draw.to_json(), "architecture": {}, "score": 1}).count == 3
