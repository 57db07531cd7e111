"""bench, as a user calls it."""

from __future__ import annotations

import json

import pytest
from helpers.graphs import small_resnet

from onnxmtl import cli
from onnxmtl.ir import save

QUICK = ("--seconds", "0", "--rounds", "2", "--no-memory")


@pytest.fixture
def file(tmp_path):
    save(small_resnet(), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def run(capsys, *arguments):
    code = cli.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_for_programs(file, capsys):
    save(small_resnet({"seg": 3}), file.parent / "seg.onnx")
    save(small_resnet({"depth": 1}), file.parent / "depth.onnx")
    against = ("--against", file.parent / "seg.onnx", "--against", file.parent / "depth.onnx")
    chart, page = file.parent / "chart.svg", file.parent / "page.html"
    code, out, err = run(
        capsys, "bench", file, *against, "--batch", "1,2", "--json", *QUICK, "--html", page, "--svg", chart
    )
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["baseline"] == "separate models" and found["html"] == str(page)
    assert [(row["candidate"], row["batch"]) for row in found["measurements"]] == [
        (name, batch) for batch in (1, 2) for name in ("net", "separate models")
    ]
    assert found["measurements"][0]["ratio"]["count"] == 2
    assert page.read_text().count("<svg") >= 2 and "separate models" in chart.read_text()


def test_for_people(file, capsys):
    code, out, err = run(capsys, "bench", file, "--against", file, *QUICK)
    assert (code, err) == (0, "")
    assert "Where the time goes" in out and "net (baseline)" in out and "multiply-adds" in out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--against", "single-task"), 1, "net.onnx is not in a run's directory"),
        (("--against", "single-task", "--against", "net.onnx"), 2, "single-task or files, not both"),
        (("--threads", "0"), 2, "--threads takes whole numbers from 1 on"),
        (("--batch", "1,x"), 2, "--batch takes whole numbers from 1 on"),
        (("--provider", "tpu"), 1, "error: the installed ONNX Runtime has no tpu, only "),
        (("--shape", "image:3"), 1, "error: a shape is given as NAME=Nx3x224x224"),
        (("--html", "page.txt"), 1, "ends in .html"),
        (("--svg", "chart.png"), 1, "ends in .svg"),
        (("--against", "missing.onnx"), 1, "error: missing.onnx: no such file"),
        (("net.onnx",), 1, "is given twice"),
    ],
)
def test_what_is_refused(file, capsys, monkeypatch, arguments, code, message):
    monkeypatch.chdir(file.parent)
    before = sorted(file.parent.iterdir())
    found, out, err = run(capsys, "bench", "net.onnx", *arguments, *QUICK)
    assert (found, out) == (code, "") and message in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err and sorted(file.parent.iterdir()) == before
