"""export-prototxt, as a user calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from helpers.export import assert_same, layer_types, model_of

from onnxmtl import cli
from onnxmtl.frontends import prototxt

SAMPLE = Path(__file__).parents[2] / "samples" / "backbones" / "resnet18-small.onnx"


def run(capsys, *arguments):
    code = cli.main(["export-prototxt", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def files(tmp_path):
    return tmp_path / "net.prototxt", tmp_path / "net.caffemodel"


def test_the_example_of_the_help(files, capsys):
    target, weights = files
    code, out, err = run(capsys, SAMPLE, "-o", target, "--weights", weights)
    assert (code, err) == (0, "") and f"written to {target}, weights to {weights}" in out
    assert_same(onnx.load(SAMPLE), prototxt.load(target, weights=weights))
    assert layer_types(target)[-1] == "InnerProduct"


def test_json_and_automtl(files, capsys):
    code, out, err = run(capsys, SAMPLE, "-o", files[0], "--dialect", "automtl", "--backbone", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["prototxt"], found["weights"], found["dialect"]) == (str(files[0]), None, "automtl")
    assert {"features-found", "prototxt-renamed"} <= {remark["code"] for remark in found["remarks"]}
    assert set(layer_types(files[0])) == {"Convolution", "BatchNorm", "ReLU", "Eltwise"} and not files[1].exists()


def test_from_one_dialect_to_the_other(files, tmp_path, capsys):
    run(capsys, SAMPLE, "-o", files[0], "--weights", files[1])
    other, weights = tmp_path / "other.prototxt", tmp_path / "other.caffemodel"
    code, _, _ = run(capsys, files[0], "--source-weights", files[1], "-o", other, "--weights", weights,
                     "--dialect", "automtl")  # fmt: skip
    assert code == 0 and "Scale" not in layer_types(other)
    assert_same(onnx.load(SAMPLE), prototxt.load(other, weights=weights))


def test_features(files, capsys):
    code, _, _ = run(capsys, SAMPLE, "-o", files[0], "--features", "layer1.0.relu2,layer2.0.relu2")
    assert code == 0
    names = [value.name for value in prototxt.load(files[0]).graph.outputs]
    assert names == ["layer1.0.relu2.out", "layer2.0.relu2.out"]
    assert run(capsys, SAMPLE, "-o", files[0], "--features", "a", "--backbone")[0] == 2


def test_errors_are_one_line_and_leave_nothing(files, tmp_path, capsys):
    onnx.save(model_of("a = Erf (x) y = Gelu (a)"), tmp_path / "net.onnx")
    code, out, err = run(capsys, tmp_path / "net.onnx", "-o", files[0], "--weights", files[1])
    assert code == 1 and out == "" and err.startswith("error: 2 nodes cannot be said in a prototxt: Erf 'erf0'")
    assert err.count("\n") == 1 and [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
    code, _, err = run(capsys, tmp_path / "missing.onnx", "-o", files[0])
    assert code == 1 and "no such file" in err
    code, _, err = run(capsys, SAMPLE, "-o", tmp_path / "no" / "net.prototxt")
    assert code == 1 and err.startswith("error: cannot write") and err.count("\n") == 1


def test_what_is_read_is_never_written_over(files, capsys):
    target, weights = files
    run(capsys, SAMPLE, "-o", target, "--weights", weights)
    before = target.read_bytes(), weights.read_bytes()
    link = target.with_name("link.prototxt")
    os.link(target, link)
    for arguments in (
        [target, "-o", target],
        [target, "-o", link],
        [target, "--source-weights", weights, "-o", target.with_name("x.prototxt"), "--weights", weights],
    ):
        code, _, err = run(capsys, *arguments)
        assert code == 1 and "is the model that is read; nothing was written" in err
    assert (target.read_bytes(), weights.read_bytes()) == before
    assert run(capsys, SAMPLE, "-o", target)[0] == 0  # an older result is replaced


def test_torch_is_not_loaded(tmp_path):
    code = (
        "import sys, onnxmtl.cli as c; "
        f"assert c.main(['export-prototxt', {str(SAMPLE)!r}, '-o', {str(tmp_path / 'n.prototxt')!r}]) == 0; "
        "assert not {'torch', 'lightning_fabric', 'safetensors'} & set(sys.modules), 'torch is loaded'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
