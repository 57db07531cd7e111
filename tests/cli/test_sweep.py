"""``onnxmtl sweep``: options, table, JSON."""

from __future__ import annotations

import json

import pytest
from helpers.compiling import write_backbone

from onnxmtl.cli import main

OPTIONS = ["--steps", "6", "--batch-size", "2", "--train-size", "8", "--val-size", "4"]


def test_a_sweep_from_the_command_line(tmp_path, capsys):
    net, out = write_backbone(tmp_path / "net.onnx"), tmp_path / "sweep"
    words = ["sweep", str(net), "--tasks", "seg=segmentation,depth", "--regularizer", "multiply_adds=3,0", *OPTIONS]
    words += ["--blocks", "2", "--baselines", "single-task", "--fixed", "parameters=0.1", "-o", str(out)]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [point["weight"] for point in found["points"]] == [0.0, 3.0] and found["sweep"] == str(out)
    assert all(point["tree"].startswith("block") for point in found["points"])
    config = json.loads((out / "multiply_adds-3" / "run.json").read_text())["config"]
    assert config["regularizers"] == {"parameters": 0.1, "multiply_adds": 3.0} and config["space"] == {"groups": 2}
    assert main([*words, "--resume"]) == 0
    shown = capsys.readouterr().out
    assert "separate models" in shown and str(out / "sweep.html") in shown.replace("\n", "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--regularizer", "multiply_adds"], "--regularizer takes NAME=WEIGHT,WEIGHT"),
        (["--resume"], "--resume needs --output"),
        (["--blocks", "0"], "--blocks takes a number, as 5"),
        (["--search-input-size", "small"], "--search-input-size takes HEIGHTxWIDTH"),
    ],
)
def test_wrong_usage(words, message, capsys):
    assert main(["sweep", "net.onnx", "--tasks", "depth", *words]) == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", "").split())
