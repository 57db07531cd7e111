"""``onnxmtl report`` and ``onnxmtl compare`` from the command line."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from helpers.devicefiles import measured, write_device
from helpers.runfolders import write_run

from onnxmtl.cli import main


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    where = tmp_path_factory.mktemp("runs")
    return [write_run(where / "a", layers=4), write_run(where / "b", layers=4, seed=1)]


def test_report(folders, tmp_path, capsys):
    assert main(["report", str(folders[0]), "-o", str(tmp_path / "x.html"), "--svg", str(tmp_path / "figures")]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines() == [f"7 figures: {tmp_path / 'figures'}", f"report: {tmp_path / 'x.html'}"]
    assert (tmp_path / "x.html").read_text().startswith("<!DOCTYPE html>")
    assert len(list((tmp_path / "figures").iterdir())) == 7


def test_report_as_json(folders, tmp_path, capsys):
    assert main(["report", str(folders[0]), "-o", str(tmp_path / "x.html"), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["html"] == str(tmp_path / "x.html") and content["svg"] == [] and content["remarks"] == []
    assert content["report"]["tasks"][0]["task"] == "seg" and len(content["policy"]["sites"]) == 4
    assert set(content["correlation"]) == {"seg", "depth", "normals"}
    assert content["trainings"][0]["curves"]["loss/seg"]["steps"]


def test_remarks_are_told(tmp_path, capsys):
    folder = write_run(tmp_path / "run", layers=4)
    (folder / "report.json").unlink()
    assert main(["report", str(folder)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("note: The run is not finished") and second == f"report: {folder / 'report.html'}"


def test_latency_is_measured_when_asked(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr("onnxmtl.workflows.reporting.bench", lambda *given: asked.append(given) or measured())
    folder = write_device(write_run(tmp_path / "run", layers=4), int8=tmp_path / "far" / "int8")
    (folder / "bench.json").unlink()
    words = ["--bench", "--threads", "1,2", "--seconds", "0.5", "--quantized", str(tmp_path / "far" / "int8")]
    assert main(["report", str(folder), *words, "--json"]) == 0
    (((candidate,), base, options, _),) = asked
    assert candidate.files == (folder / "model.onnx",) and base is None  # made up: no graphs to build them of
    assert (options.threads, options.seconds) == ((1, 2), 0.5)
    content = json.loads(capsys.readouterr().out)["device"]
    assert content["bench"]["baseline"] == "separate models" and [one["name"] for one in content["int8"]] == ["int8"]
    assert main(["report", str(folder)]) == 0 and len(asked) == 1  # what was measured is kept
    assert "How fast it is" in (folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--threads", "0"], 2, "--threads takes whole numbers from 1 on"),
        (["--quantized", "."], 1, "give the directory that onnxmtl quantize wrote"),
        (["--bench"], 1, "has no model.onnx to be measured; end the run with compile --resume, or leave --bench out"),
    ],
)
def test_what_is_refused(folders, tmp_path, monkeypatch, capsys, words, code, said):
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(folders[0]), "-o", "x.html", *words]) == code
    out, err = capsys.readouterr()
    assert out == "" and said in " ".join(err.replace("│", " ").split()) and "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [["report"], ["compare", "FIRST"]])
def test_no_run_is_one_line(folders, tmp_path, capsys, command):
    words = [str(folders[0]) if word == "FIRST" else word for word in command]
    assert main([*words, str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"error: {tmp_path}: is no run, it has no run.json") and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_compare(folders, tmp_path, capsys):
    assert main(["compare", *map(str, folders), "--html", str(tmp_path / "x.html")]) == 0
    out = capsys.readouterr().out
    for words in ("What they can do", "What they cost", "How they differ", "Δ to single-task", "change to a", "miou ↑"):
        assert words in out
    assert out.splitlines()[-1] == f"page: {tmp_path / 'x.html'}" and (tmp_path / "x.html").exists()


def test_compare_as_json(folders, capsys):
    assert main(["compare", *map(str, folders), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["names"] == ["a", "b"] and content["html"] is None
    assert content["tasks"][0]["metrics"][0]["values"][0] == pytest.approx(
        content["tasks"][0]["metrics"][0]["values"][0]
    )
    assert content["ratios"]["parameters"][0] == 1


def test_one_run_is_too_few(folders, capsys):
    assert main(["compare", str(folders[0])]) == 1
    assert "two runs or more" in capsys.readouterr().err


def test_torch_is_not_loaded(folders, tmp_path):
    code = (
        "import sys; from onnxmtl.cli import main; "
        f"assert main(['report', {str(folders[0])!r}, '-o', {str(tmp_path / 'x.html')!r}]) == 0; "
        f"assert main(['compare', {str(folders[0])!r}, {str(folders[1])!r}]) == 0; "
        "assert not {'torch', 'scipy', 'lightning_fabric', 'matplotlib', 'tensorboard'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
