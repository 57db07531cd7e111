"""The sample that fuses two trained networks runs with tiny settings and prints what the emitted model has."""

from __future__ import annotations

import contextlib
import io
import re
import runpy
import sys
from pathlib import Path

import onnx
import pytest

from onnxmtl.workflows import verify

SAMPLE = Path(__file__).parents[2] / "samples" / "fuse_networks.py"


@pytest.mark.slow  # three trainings; tests/workflows/test_networks.py fuses smaller networks in every run
def test_two_different_networks_are_fused(tmp_path):
    out, text = tmp_path / "run", io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(text):
        patch.setattr(sys, "argv", [SAMPLE.name, "--steps", "4", "--train-size", "8", "--out", str(out)])
        runpy.run_path(str(SAMPLE), run_name="__main__")
    assert verify(out).passed
    edges = re.findall(r"^(seg|depth) \S+ -> (seg|depth) \S+: [\d.]+, (kept|cut)$", text.getvalue(), re.MULTILINE)
    kept = sum(state == "kept" for _, _, state in edges)
    assert text.getvalue().rstrip().endswith(f"\n{kept} of {len(edges)} edges")
    assert {(source, target) for source, target, _ in edges} == {("seg", "depth"), ("depth", "seg")}
    model = onnx.load(out / "model.onnx")
    assert [output.name for output in model.graph.output] == ["seg", "depth"]
    units = [node for node in model.graph.node if node.op_type == "Concat" and "/fusion" in node.name]
    assert sum(len(node.input) - 1 for node in units) == kept  # a unit reads its own features, and one map per edge
