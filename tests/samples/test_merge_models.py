"""The sample that merges fine-tuned models: a trunk that was really frozen is shared, a careless one is told of."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import onnx
import pytest

SAMPLE = Path(__file__).parents[2] / "samples" / "merge_models.py"


@pytest.mark.slow  # four exports by torch
@pytest.mark.parametrize("careless", [False, True])
def test_fine_tuned_models(careless, tmp_path, capsys, monkeypatch):
    more = ["--careless"] if careless else []
    monkeypatch.setattr(sys, "argv", [SAMPLE.name, "--steps", "3", "--out", str(tmp_path), *more])
    runpy.run_path(str(SAMPLE), run_name="__main__")
    out = capsys.readouterr().out
    convolutions = [node for node in onnx.load(tmp_path / "both.onnx").graph.node if node.op_type == "Conv"]
    assert len(convolutions) == (8 if careless else 5)
    assert out.count("bit-identical") == 2
    assert ("a BatchNormalization was folded into it that kept updating" in out) == careless
