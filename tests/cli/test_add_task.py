"""add-task, as a user calls it."""

from __future__ import annotations

import json

import pytest
from helpers.compiling import QUICK, TASKS, write_backbone

from onnxmtl import cli
from onnxmtl.workflows import compile


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    options = {**QUICK, "recipe": "adashare", "policy": "random"}
    return compile(write_backbone(folder / "net.onnx"), TASKS, out=folder / "run", **options).path


def run(capsys, *arguments):
    code = cli.main(["add-task", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert ("Traceback" not in err and err.count("\n") <= 1) or "Usage" in err
    return code, out, err


def test_a_task_more(base, tmp_path, capsys):
    words = ("--task", "pose=regression", "--candidates", 2, "--steps", 2, "--trial-steps", 1, "--baselines", "none")
    code, out, err = run(capsys, base, *words, "-o", tmp_path / "new")
    assert (code, err) == (0, "")
    assert "Where it could branch off" in out and "taken" in out
    assert "What was there before" in out and out.count("same bits") == 2
    assert "pose was added: " in out and f"model: {tmp_path / 'new' / 'model.onnx'}" in out
    code, out, err = run(capsys, base, *words, "-o", tmp_path / "new", "--resume", "--json")
    found = json.loads(out)
    assert (code, err) == (0, "") and found["model"] == str(tmp_path / "new" / "model.onnx")
    assert [row["identical"] for row in found["added"]["parity"]] == [True, True]
    assert [row["task"] for row in found["tasks"]] == ["seg", "depth", "pose"]
    assert found["added"]["after"]["multiply_adds"] >= found["added"]["before"]["multiply_adds"]


def test_wrong_words(base, tmp_path, capsys):
    new = ("-o", tmp_path / "new")
    code, _, err = run(capsys, base, "--task", "pose=regression", "--at", "nowhere", *new)
    assert code == 1 and err.startswith("error: the path of task 'seg' cannot be left at 'nowhere'; there are: image, ")
    code, _, err = run(capsys, tmp_path, "--task", "edges", *new)
    assert code == 1 and "is no run of compile: a task is added to the directory of a finished run" in err
    assert run(capsys, base, "--task", "edges", "--resume")[0] == 2
    assert run(capsys, base)[0] == 2
    assert list(tmp_path.iterdir()) == []
