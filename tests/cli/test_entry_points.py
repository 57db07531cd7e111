"""``onnxmtl specialize … --entry-points``."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from helpers.backbones import resnet34
from helpers.compiling import QUICK, TASKS, write_backbone
from helpers.graphs import GraphBuilder

from onnxmtl import runtime
from onnxmtl.cli import main
from onnxmtl.ir import save
from onnxmtl.workflows import compile, write_entry_points


@pytest.fixture
def file(tmp_path):
    b = GraphBuilder(size=64)
    trunk = b.block(b.image, 32, stride=2)
    return save(
        b.heads({"seg": b.block(trunk, 256), "depth": b.block(trunk, 256)}, {"seg": 3, "depth": 1}),
        tmp_path / "model.onnx",
    )


def test_the_tables_say_what_each_task_runs(file, capsys):
    assert main(["specialize", str(file.parent), "--entry-points"]) == 0
    said = capsys.readouterr().out
    assert "seg" in said and "0-all.onnx" in said and "bit for bit what model.onnx computes" in said
    assert runtime.load(file.parent / "entry_points").outputs == ("seg", "depth")


def test_an_onnx_file_and_json(file, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["specialize", str(file), "--entry-points", "-o", str(out), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["path"] == str(out) and [row["task"] for row in content["tasks"]] == ["seg", "depth"]
    assert content["tasks"][0]["share"] < 1 and content["tasks"][0]["segments"] == ["all", "seg"]


def test_quiet(file, capsys):
    assert main(["specialize", str(file), "--entry-points", "--quiet"]) == 0
    assert capsys.readouterr().out.strip() == str(file.parent / "entry_points")


@pytest.mark.parametrize("what", ["missing", "empty", "occupied"])
def test_mistakes_are_one_line(what, file, tmp_path, capsys):
    place = {"missing": tmp_path / "missing.onnx", "empty": tmp_path / "empty", "occupied": file}[what]
    (tmp_path / "empty").mkdir()
    (tmp_path / "entry_points").mkdir()
    (tmp_path / "entry_points" / "mine").touch()
    assert main(["specialize", str(place), "--entry-points"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and "Traceback" not in said


def test_it_needs_neither_torch_nor_data(file):
    code = (
        "import sys, onnxmtl.cli as c; "
        f"assert c.main(['specialize', {str(file)!r}, '--entry-points', '-q']) == 0; "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"


def test_small_heads_run_with_the_trunk(tmp_path, capsys):
    file = save(resnet34(3), tmp_path / "model.onnx")
    assert [row.name for row in write_entry_points(file).segments] == ["all"]
    assert len(write_entry_points(file, tmp_path / "apart", join=False).segments) == 4


@pytest.mark.slow
def test_a_run_and_another_architecture_of_it(tmp_path, capsys):
    done = compile(write_backbone(tmp_path / "b.onnx"), TASKS, out=tmp_path / "run", **QUICK)
    assert main(["specialize", str(done.path), "--entry-points"]) == 0
    again = tmp_path / "again"
    words = ["specialize", str(done.path), "--budget", "madds<=1x", "--entry-points", "-o", str(again), "--json"]
    capsys.readouterr()
    assert main(words) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["model"] == str(again / "model.onnx") and content["entry_points"]["path"] == str(
        again / "entry_points"
    )
    for run in (done.path, again):
        whole, parts = (runtime.load(run / name, optimize=False) for name in ("model.onnx", "entry_points"))
        image = np.random.default_rng(0).random([2, *whole.shape[1:]], np.float32)
        expected = whole(image)
        for task in parts.outputs:
            assert parts(image, [task])[task].tobytes() == expected[task].tobytes()
