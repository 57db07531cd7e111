"""``onnxmtl data preview``."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from helpers.pictures import fashion
from typer.testing import CliRunner

from onnxmtl.cli.data import data_app


def test_preview_writes_a_png(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(data_app, ["preview", "scenes", "--count", "2", "--size", "24"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "scenes.png").read_bytes().startswith(b"\x89PNG")
    assert done.output.startswith("scenes.png: 2 samples of scenes, ")


def test_preview_as_json(tmp_path):
    target = tmp_path / "x.png"
    arguments = ["preview", "--count", "1", "--size", "16", "--seed", "4", "-o", str(target), "--json"]
    done = CliRunner().invoke(data_app, arguments)
    found = json.loads(done.output)
    assert found["path"] == str(target) and found["count"] == 1 and found["class_names"][0] == "floor"


def test_preview_of_a_folder_with_an_option(tmp_path):
    folder = fashion(tmp_path / "items")
    arguments = ["preview", f"multifashion:{folder}", "-n", "3", "-o", str(tmp_path / "x.png")]
    done = CliRunner().invoke(data_app, [*arguments, "--data-option", "item=28", "--augment"])
    assert done.exit_code == 0, done.output
    assert done.output.startswith(f"{tmp_path / 'x.png'}: 3 samples of multifashion, ")
    for option, words in (("item", "write KEY=VALUE"), ("side=3", "has no option 'side'")):
        failed = CliRunner().invoke(data_app, [*arguments, "--data-option", option])
        assert failed.exit_code == 1 and words in str(failed.exception)


def test_help_has_an_example_and_loads_nothing_heavy():
    done = CliRunner().invoke(data_app, ["preview", "--help"])
    assert done.exit_code == 0 and "Example: onnxmtl data preview" in done.output
    code = "import sys, onnxmtl.cli.data; assert not {'numpy', 'torch', 'onnx'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["scenes", "multifashion"])
def test_looking_at_data_needs_no_torch(name, tmp_path):
    spec = name if name == "scenes" else f"{name}:{fashion(tmp_path / 'items')}"
    code = (
        "import sys; from pathlib import Path; from onnxmtl.data.sheet import write_preview; "
        f"write_preview({spec!r}, Path({str(tmp_path / 'x.png')!r}), count=1, size=16, seed=0); "
        "assert not {'torch', 'onnx', 'onnx_ir'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
