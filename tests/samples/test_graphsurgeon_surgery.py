"""The graphsurgeon sample runs, changes what it says, and would notice if it broke something."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import sys
from pathlib import Path

import onnx_graphsurgeon as gs
import onnx_ir as ir
import pytest

from onnxmtl.ir import save
from onnxmtl.passes.graphsurgeon import GraphSurgeonPass

SAMPLE = Path(__file__).parents[2] / "samples" / "graphsurgeon_surgery.py"


@pytest.fixture(scope="module")
def sample():
    spec = importlib.util.spec_from_file_location("sample_graphsurgeon_surgery", SAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_main(sample, *arguments) -> str:
    text = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(text):
        patch.setattr(sys, "argv", [str(SAMPLE), *map(str, arguments)])
        sample.main()
    return text.getvalue()


def test_prints_what_it_did(sample, tmp_path):
    lines = run_main(sample, save(sample.small_model(), tmp_path / "model.onnx")).splitlines()
    assert "new are frame/cast, frame/scale, frame/to_nchw" in lines[0]
    assert [line.partition(":")[0] for line in lines[1:]] == ["seg", "depth"]
    assert all(float(line.rpartition(" ")[2]) <= 1e-5 for line in lines[1:])


def test_the_model_takes_camera_frames(sample):
    before = sample.small_model()
    after = GraphSurgeonPass(sample.take_camera_frames)(before).model
    (frame,) = after.graph.inputs
    assert frame.dtype is ir.DataType.UINT8 and list(frame.shape)[1:] == [64, 64, 3]
    assert after.metadata_props == before.metadata_props


def test_would_notice_wrong_numbers(sample, monkeypatch):
    right = sample.take_camera_frames

    def wrong(graph: gs.Graph) -> gs.Graph:
        edited = right(graph)
        node = next(node for node in edited.nodes if node.op == "Mul")
        node.inputs[1].values = node.inputs[1].values * 2
        return edited

    monkeypatch.setattr(sample, "take_camera_frames", wrong)
    with pytest.raises(SystemExit, match="changed what the network computes"):
        run_main(sample)
