"""``onnxmtl recommend`` as a user calls it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from helpers.compiling import write_backbone
from helpers.recommending import TABLE

from onnxmtl import cli

TOML = """
[tasks.seg]
kind = "segmentation"
classes = 3
[tasks.depth]
kind = "depth"
[tasks.normals]
kind = "normals"
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    write_backbone(tmp_path / "net.onnx")
    (tmp_path / "t.toml").write_text(TOML)
    (tmp_path / "table.csv").write_text(TABLE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ONNXMTL_DEBUG", raising=False)
    return tmp_path


def call(capsys, *words):
    code = cli.main(["recommend", *map(str, words)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


GIVEN = ("net.onnx", "--tasks", "t.toml", "--two-task", "table.csv")


def test_the_example_without_training(folder, capsys):
    code, out, err = call(capsys, *GIVEN, "--top", 10, "--budget", "models<=2", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["run"] == "runs/recommend-1" and len(found["layouts"]) == 10
    assert all(row["costs"]["models"] <= 2 for row in found["layouts"])
    scores = [row["score"] for row in found["layouts"]]
    assert scores == pytest.approx(sorted(scores, reverse=True), abs=1e-12)
    assert (folder / "runs/recommend-1/layouts/10.json").is_file()


def test_people_see_a_table_a_tree_and_what_to_do_next(folder, capsys):
    code, out, _ = call(capsys, *GIVEN, "--sweep", "-o", "run")
    assert code == 0
    for words in ("Recommended layouts", "The best one", "The Pareto front", "task weights", "report: run/report.html"):
        assert words in out
    assert "--layout run/layouts/01.json" in out
    code, brief, _ = call(capsys, "run", "--quiet", "--budget", "trunk.madds<=0.7x")
    assert code == 0 and "The best one" not in brief and "Recommended layouts" in brief


def test_no_torch_without_training(folder):
    program = (
        "import sys, onnxmtl.cli as c; code = c.main(sys.argv[1:]); "
        "found = {name.partition('.')[0] for name in sys.modules}; "
        "heavy = {'torch', 'lightning_fabric', 'safetensors', 'scipy'} & found; "
        "assert not heavy, heavy; sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "recommend", *GIVEN, "--sweep", "-o", "run"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    again = [sys.executable, "-c", program, "recommend", "run", "--budget", "trunk.params<=0.9x"]
    assert subprocess.run(again, capture_output=True, text=True).returncode == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((*GIVEN, "--budget", "madds<=1k"), "madds<=1k: no layout keeps it; sharing everything has"),
        ((*GIVEN, "--budget", "models<=x"), "write models<=2, a whole number"),
        ((*GIVEN, "--at", "nowhere"), "the backbone is cut into 2"),
        (("net.onnx", "--tasks", "seg=segmentation:3", "--two-task", "table.csv"), "there is one task, 'seg'"),
        (("net.onnx", "--two-task", "table.csv"), "no tasks given"),
        (("net.onnx", "--tasks", "t.toml", "--two-task", "none.csv"), "cannot read the two-task table none.csv"),
        ((*GIVEN, "--traffic", "none.json"), "cannot read the traffic none.json"),
        ((*GIVEN, "--estimator", "rsa"), "--two-task trains none"),
        ((*GIVEN, "-o", "."), "is not empty"),
        ((*GIVEN, "-o", "none", "--resume"), "cannot resume none: it does not exist"),
        (("none.onnx", "--tasks", "t.toml", "--two-task", "table.csv"), "none.onnx"),
    ],
)
def test_every_mistake_is_one_line(folder, capsys, words, told):
    code, out, err = call(capsys, *words)
    assert (code, out) == (1, "")
    assert err.startswith("error: ") and err.count("\n") == 1 and told in err, err


@pytest.mark.parametrize(
    "words",
    [
        (*GIVEN, "--blocks", "three"),
        (*GIVEN, "--blocks", "1,0"),
        (*GIVEN, "--resume"),
        (*GIVEN, "--workers", "2", "--ray", "local"),
        (*GIVEN, "--top", "0"),
        (),
    ],
)
def test_wrong_usage_is_2(folder, capsys, words):
    assert call(capsys, *words)[0] == 2
    assert sorted(file.name for file in folder.iterdir()) == ["net.onnx", "t.toml", "table.csv"]


def test_a_table_of_another_run_can_be_used(folder, capsys):
    assert call(capsys, *GIVEN, "-o", "run")[0] == 0
    again = call(capsys, "net.onnx", "--tasks", "t.toml", "--two-task", "run/table.csv", "--json", "-o", "again")
    first = json.loads((folder / "run/recommendation.json").read_text())
    assert json.loads(again[1])["layouts"] == first["layouts"]


def test_report_does_not_overwrite_the_page_of_a_recommendation(folder, capsys):
    assert call(capsys, *GIVEN, "-o", "run")[0] == 0
    before = (folder / "run/report.html").read_bytes()
    assert cli.main(["report", "run"]) == 1
    assert "onnxmtl recommend run" in capsys.readouterr().err
    assert (folder / "run/report.html").read_bytes() == before
