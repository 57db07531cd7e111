"""merge, as a user calls it."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from helpers.graphs import small_resnet
from helpers.merging import disguised, tuned
from helpers.networks import parse

from onnxmtl import cli, runtime
from onnxmtl.ir import save, save_external

HEAD = ["out.predict.weight"]


def run(capsys, *arguments):
    code = cli.main(["merge", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert ("Traceback" not in err and err.count("\n") <= 1) or "Usage" in err
    return code, out, err


@pytest.fixture
def files(tmp_path):
    base = small_resnet({"out": 3}, size=16)
    return (
        save(base, tmp_path / "seg.onnx"),
        save(disguised(tuned(base, HEAD)), tmp_path / "depth.onnx"),
        tmp_path / "both.onnx",
    )


def test_two_files_into_one(files, capsys):
    seg, depth, both = files
    before = [path.read_bytes() for path in (seg, depth)]
    code, out, err = run(capsys, seg, depth, "-o", both)
    assert (code, err) == (0, "")
    assert "seg and depth share 19 nodes of 20, 99.0% of the work" in out
    assert "they part at Conv 'out.predict'" in out and "its weight differs: max |Δ|" in out
    assert "seg (seg: out): bit-identical" in out and f"written to {both}" in out
    assert before == [path.read_bytes() for path in (seg, depth)]
    image = np.random.default_rng(0).random((1, 3, 16, 16), np.float32)
    found = runtime.load(both)(image)
    for name, path in {"seg": seg, "depth": depth}.items():
        np.testing.assert_allclose(found[name], runtime.load(path)(image)["out"], rtol=1e-5, atol=1e-6)
    assert sorted(path.name for path in both.parent.iterdir()) == ["both.onnx", "depth.onnx", "seg.onnx"]


def test_json_tasks_and_the_same_bytes_again(files, tmp_path, capsys):
    seg, depth, both = files
    code, out, err = run(capsys, seg, depth, "-o", both, "--tasks", "a, b", "--json")
    found = json.loads(out)
    assert (code, err) == (0, "") and found["model"] == str(both)
    assert found["outputs"] == {"a": {"model": "seg", "output": "out"}, "b": {"model": "depth", "output": "out"}}
    assert found["ratios"]["multiply_adds"] < 0.51 and found["ratios"]["parameters"] < 0.52
    assert [one["identical"] for one in found["parity"]] == [True, True]
    assert found["pairs"][0]["difference"]["cause"] == "weights"
    assert found["merged"]["file_bytes"] == both.stat().st_size
    other = tmp_path / "new" / "again.onnx"
    assert run(capsys, seg, depth, "-o", other, "--tasks", "a,b", "-q")[:2] == (0, f"{other}\n")
    assert other.read_bytes() == both.read_bytes()


def test_external_data(files, tmp_path, capsys):
    seg, depth, both = files
    (tmp_path / "far").mkdir()
    for path in (seg, depth):
        save_external(onnx_model(path), tmp_path / "far" / path.name, threshold=0)
    code, _, _ = run(capsys, *(tmp_path / "far" / path.name for path in (seg, depth)), "-o", both)
    assert code == 0 and both.with_name("both.onnx.data").stat().st_size > 0
    onnx.checker.check_model(both, full_check=True)
    image = np.zeros((1, 3, 16, 16), np.float32)
    for name, path in {"seg": seg, "depth": depth}.items():
        np.testing.assert_allclose(runtime.load(both)(image)[name], runtime.load(path)(image)["out"], atol=1e-6)


def onnx_model(path):
    from onnxmtl.frontends.onnx import load

    return load(path)


def test_run_directories_are_called_by_their_names(files, tmp_path, capsys):
    seg, depth, both = files
    for name, path in (("one", seg), ("two", depth)):
        (tmp_path / name).mkdir()
        path.rename(tmp_path / name / "model.onnx")
    code, out, _ = run(capsys, tmp_path / "one", tmp_path / "two" / "model.onnx", "-o", both, "--json")
    assert code == 0 and set(json.loads(out)["outputs"]) == {"one", "two"}


def test_one_name_for_two_files(files, tmp_path, capsys):
    seg, _, both = files
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "seg.onnx").write_bytes(seg.read_bytes())
    code, out, _ = run(capsys, seg, tmp_path / "other" / "seg.onnx", "-o", both, "--json")
    assert code == 0 and set(json.loads(out)["outputs"]) == {"seg", "seg_2"}


def test_outputs_that_do_not_clash_keep_their_names(tmp_path, capsys):
    base = small_resnet({"seg": 3, "depth": 1}, size=16)
    other = small_resnet({"seg": 3, "edges": 1}, size=16)
    paths = [save(base, tmp_path / "a.onnx"), save(other, tmp_path / "b.onnx")]
    code, out, _ = run(capsys, *paths, "-o", tmp_path / "c.onnx", "--json")
    assert code == 0 and list(json.loads(out)["outputs"]) == ["a_seg", "b_seg", "depth", "edges"]
    code, out, _ = run(capsys, *paths, "-o", tmp_path / "d.onnx", "--tasks", "x,y", "--json")
    assert code == 0 and list(json.loads(out)["outputs"]) == ["x_depth", "x_seg", "y_edges", "y_seg"]


def test_models_that_share_nothing_are_told_so(tmp_path, capsys):
    paths = [save(small_resnet({"out": 3}, seed=i, size=16), tmp_path / f"{i}.onnx") for i in (1, 2)]
    code, out, _ = run(capsys, *paths, "-o", tmp_path / "c.onnx")
    assert code == 0 and "1 and 2 share 0 nodes of 20" in out and "they part at Conv 'stem'" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["seg.onnx", "gone.onnx", "-o", "c.onnx"], "gone.onnx: no such file"),
        (["seg.onnx", "seg.onnx", "-o", "seg.onnx"], "seg.onnx exists; nothing was written"),
        (["seg.onnx", "depth.onnx", "-o", "c.bin"], "choose a name that ends in .onnx"),
        (["seg.onnx", "depth.onnx", "-o", "depth.onnx/c.onnx"], "cannot write depth.onnx/c.onnx: "),
        (["seg.onnx", "depth.onnx", "-o", "c.onnx", "--tasks", "a"], "--tasks gives 1 names (a) for 2 models"),
        (["seg.onnx", "depth.onnx", "-o", "c.onnx", "--tasks", "a,a"], "two outputs of the merged model would be"),
        (["seg.onnx", "depth.onnx", "-o", "c.onnx", "--tasks", "a,"], "--tasks has an empty name"),
        (["seg.onnx", "large.onnx", "-o", "c.onnx"], "large takes image: float [N, 3, 8, 8], seg takes image: float"),
        (["seg.onnx", "text.onnx", "-o", "c.onnx"], "text.onnx: is not an ONNX model, or is truncated"),
        (["seg.onnx", ".", "-o", "c.onnx"], ".: is a directory without a model.onnx"),
    ],
)  # fmt: skip
def test_bad_inputs(files, arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save(small_resnet({"out": 3}, size=8), tmp_path / "large.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    code, out, err = run(capsys, *arguments)
    assert code == 1 and out == "" and said in err
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}


def test_one_model_is_wrong_usage(files, capsys):
    assert run(capsys, files[0], "-o", files[2])[0] == 2


def test_a_model_that_onnxruntime_does_not_run_needs_no_check(tmp_path, capsys):
    text = """<ir_version: 10, opset_import: ["": 21, "lib": 1]> net (float[2] x) => (float[2] y)
    { r = Relu(x)  y = lib.f(r) }"""
    paths = [save(parse(text), tmp_path / f"{name}.onnx") for name in "ab"]
    target = tmp_path / "c.onnx"
    code, _, err = run(capsys, *paths, "-o", target)
    assert code == 1 and "ONNX Runtime cannot load it" in err and not target.exists()
    code, out, _ = run(capsys, *paths, "-o", target, "--no-check", "--json")
    assert code == 0 and json.loads(out)["parity"] == []
    assert [node.op_type for node in onnx.load(target).graph.node] == ["Relu", "f", "Identity"]


def test_a_merge_that_is_wrong_is_not_written(files, monkeypatch, capsys):
    """Whatever went wrong: here a weight changes on the way."""
    from onnxmtl.workflows import merging as workflow

    def wrong(*arguments):
        made = merge_models(*arguments)
        return tuned(made, ["bn3.scale"])

    merge_models = workflow.merge_models
    monkeypatch.setattr(workflow, "merge_models", wrong)
    code, _, err = run(capsys, *files[:2], "-o", files[2])
    assert code == 1 and "of the merged model differs from seg by" in err and "nothing was written" in err
    assert sorted(path.name for path in files[2].parent.iterdir()) == ["depth.onnx", "seg.onnx"]


def test_a_model_that_is_random_is_told_so(tmp_path, capsys):
    text = """<ir_version: 10, opset_import: ["": 21]> net (float[2] x) => (float[2] y)
    { r = RandomUniformLike(x)  y = Add(x, r) }"""
    paths = [save(parse(text), tmp_path / f"{name}.onnx") for name in "ab"]
    code, _, err = run(capsys, *paths, "-o", tmp_path / "c.onnx")
    assert code == 1 and "a computes something else each time (output 'y')" in err
