"""``onnxmtl compile --layout`` as a user calls it."""

from __future__ import annotations

import json

import pytest
from helpers.compiling import TASKS

from onnxmtl import cli
from onnxmtl.policy import Layout

QUICK = ("--steps", "4", "--batch-size", "2", "--train-size", "8", "--val-size", "4", "--baselines", "none")
TREE = Layout(("seg", "depth"), (((0, 1),), ((0, 1),), ((0,), (1,))), ("relu5_out", "early", "late"))


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def folder(folder):
    """The user's directory, with a ``layout.json`` besides."""
    (folder / "layout.json").write_text(TREE.to_json())
    return folder


def compile_layout(capsys, *options):
    """Exit code, stdout, stderr."""
    code = cli.main(["compile", "net.onnx", "--tasks", TASKS, "--layout", "layout.json", *QUICK, *options])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_layout_from_file_to_model_and_back(folder, capsys):
    code, out, _ = compile_layout(capsys, "--data", "mine:fine", "-o", "run", "--budget", "madds<=0.95x")
    assert code == 0
    shown = " ".join(out.split())
    assert "decided: the layout was given (number 3 of 4)" in shown
    assert "blocks 0-1 (to early): seg, depth ├─ block 2 (to late): seg └─ block 2 (to late): depth" in shown
    assert "budget madds<=0.95x: multiply-adds" in shown and "met" in shown
    record = json.loads((folder / "run" / "run.json").read_text())
    assert record["config"]["layout"] == TREE.to_dict()["layout"]
    assert (record["config"]["recipe"], record["config"]["architecture"]) == ("treemtl", None)
    for command in (["verify", "run"], ["report", "run"], ["inspect", "run"]):
        assert cli.main(command) == 0
    assert "figure-tree" in (folder / "run" / "report.html").read_text()


def test_resume_gives_the_same_bytes(folder, capsys):
    options = ("--data", "mine:fine", "-o", "run", "--quiet")
    assert compile_layout(capsys, *options)[0] == 0
    before = (folder / "run" / "model.onnx").read_bytes()
    for name in ("model.onnx", "report.json"):
        (folder / "run" / name).unlink()
    code, out, _ = compile_layout(capsys, *options, "--resume")
    assert code == 0 and out.strip() == "run/model.onnx"
    assert (folder / "run" / "model.onnx").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--architecture", "a.json"), "and so does --architecture: leave one of them out"),
        (("--policy", "random"), "and so does --policy random: leave one of them out"),
        (("--budget", "params<=0.6x"), "params<=0.6x: the layout has parameters of"),
        (("--layout", "none.json"), "cannot read the layout none.json"),
        (("--layout", "net.onnx"), "cannot read the layout net.onnx"),
        (("--layout", "other.json"), "the layout is for the tasks a, b, not for seg, depth"),
    ],
)
def test_one_line_for_what_is_wrong(options, words, folder, capsys):
    (folder / "a.json").write_text('{"architecture": {}}')
    (folder / "other.json").write_text(Layout.shared(("a", "b"), 3).to_json())
    code, out, err = compile_layout(capsys, *options, "-o", "run")
    assert (code, out) == (1, "") and not (folder / "run").exists()
    lines = [line for line in err.splitlines() if line.strip()]
    assert len(lines) == 1 and words in lines[0]


def test_treemtl_without_a_layout(folder, capsys):
    code = cli.main(["compile", "net.onnx", "--tasks", TASKS, "--recipe", "treemtl", *QUICK])
    assert code == 1 and "name its file with --layout" in capsys.readouterr().err


def test_help_names_it(capsys):
    assert cli.main(["compile", "--help"]) == 0
    assert "--layout" in capsys.readouterr().out
