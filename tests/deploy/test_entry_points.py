"""A directory of entry points: the same bits as the model, weights once, nothing left behind where it fails."""

from __future__ import annotations

import json
import threading

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers.fusing import drifted, fused, vgg
from helpers.graphs import GraphBuilder, random_model, small_resnet
from helpers.many_tasks import subsets
from helpers.skipping import random_architecture, selected_from

from onnxmtl import runtime
from onnxmtl.analysis.sites import site_table
from onnxmtl.deploy import entry_points
from onnxmtl.deploy.entry_points import WEIGHTS_FILE, write_entry_points
from onnxmtl.errors import ModelError, RunError, VerificationError
from onnxmtl.ir import external, save
from onnxmtl.passes.spaces import Vcn


def tree():
    b = GraphBuilder()
    trunk = b.residual(b.block(b.image, 8), 16, stride=2)
    branch = b.residual(trunk, 16)
    return b.heads({"seg": branch, "depth": branch, "edges": b.residual(trunk, 16)}, {"seg": 3, "depth": 1, "edges": 1})


def searched(model, seed):
    """A model that an architecture drawn at random selects: tasks share where they happen to agree."""
    table = site_table(model)
    return selected_from(model, random_architecture(table, seed))


MODELS = {
    "tree": tree,
    "vcn": lambda: searched(drifted(Vcn()(random_model(1, tasks=3)).model), 1),
    "vcn of a residual network": lambda: searched(drifted(Vcn()(small_resnet({"a": 2, "b": 1, "c": 1})).model), 2),
    "fusion": lambda: searched(drifted(fused(vgg(tasks=3))), 3),
}


@pytest.fixture
def file(tmp_path):
    return save(tree(), tmp_path / "model.onnx")


def images(seed=0):
    return np.random.default_rng(seed).standard_normal((2, 3, 8, 8)).astype(np.float32)


def files(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*"))


@pytest.mark.parametrize("name", MODELS)
def test_every_set_of_tasks_has_the_bits_of_the_model(name, tmp_path):
    model = MODELS[name]()
    image = np.random.default_rng(0).standard_normal([2, *list(model.graph.inputs[0].shape)[1:]]).astype(np.float32)
    file = save(model, tmp_path / "m.onnx")
    done = write_entry_points(file, join=False)
    assert done.path == tmp_path / "entry_points" and len(done.segments) > 2
    whole = runtime.load(file, optimize=False)(image)
    expected = runtime.load(file)(image)
    for by_segment in (False, True):
        parts = runtime.load(done.path, optimize=False, by_segment=by_segment)
        for tasks in subsets(parts.outputs):
            found = parts(image, tasks=tasks)
            assert list(found) == list(tasks)
            for task in tasks:
                assert found[task].tobytes() == whole[task].tobytes()
        optimized = runtime.load(done.path, by_segment=by_segment)(image)
        for task in parts.outputs:
            np.testing.assert_allclose(optimized[task], expected[task], rtol=1e-4, atol=1e-5)
    shares = [row.share for row in done.tasks]
    assert all(0 < share <= 1 for share in shares) and min(shares) < 1


def test_weights_are_in_one_file_each_once(file, tmp_path):
    """Three convolutions in three segments that use one kernel."""
    b = GraphBuilder()
    kernel = b.weight("kernel", b.rng.normal(size=(16, 3, 5, 5)))
    for task in ("a", "b", "c"):
        source = b.node("Mul", [b.image, b.weight(f"{task}.scale", np.array([2.0]))], b.image.shape)
        out = b.node("Conv", [source, kernel], ["N", 16, 8, 8], kernel_shape=[5, 5], pads=[2] * 4)
        out.name = task
        b.graph.outputs.append(out)
    done = write_entry_points(save(ir.Model(b.graph, ir_version=10), tmp_path / "k.onnx"), tmp_path / "out", join=False)
    assert len(done.segments) == 3
    assert done.weight_bytes == (done.path / WEIGHTS_FILE).stat().st_size == 16 * 3 * 5 * 5 * 4
    for row in done.segments:
        model = onnx.load(done.path / row.file, load_external_data=False)
        (place,) = [dict((e.key, e.value) for e in w.external_data) for w in model.graph.initializer if w.external_data]
        assert (place["location"], place.get("offset", "0")) == (WEIGHTS_FILE, "0")
        onnx.checker.check_model(str(done.path / row.file), full_check=True)


def test_the_manifest_says_what_is_there(file):
    done = write_entry_points(file, join=False)
    content = json.loads((done.path / "manifest.json").read_text())
    assert content["outputs"] == ["seg", "depth", "edges"] and content["metadata"]["onnxmtl.kind"] == "multitask"
    assert [segment["tasks"] for segment in content["segments"]] == [
        ["seg", "depth", "edges"], ["seg", "depth"], ["edges"], ["seg"], ["depth"],
    ]  # fmt: skip
    assert {tensor["from"]: tensor["to"] for tensor in content["tensors"]} == {
        "all": ["seg+depth", "edges"], "seg+depth": ["seg", "depth"],
    }  # fmt: skip
    assert files(done.path) == sorted(
        map(type(done.path), ["manifest.json", WEIGHTS_FILE, *(row.file for row in done.segments)])
    )
    by_task = {row.task: row.segments for row in done.tasks}
    assert by_task == {
        "seg": ("all", "seg+depth", "seg"),
        "depth": ("all", "seg+depth", "depth"),
        "edges": ("all", "edges"),
    }


def test_equal_models_give_equal_directories(file, tmp_path):
    first, second = write_entry_points(file, tmp_path / "a"), write_entry_points(file, tmp_path / "b")
    assert files(first.path) == files(second.path)
    assert all((first.path / name).read_bytes() == (second.path / name).read_bytes() for name in files(first.path))


def test_names_of_tasks_are_no_paths(tmp_path):
    model = tree()
    for value, name in zip(model.graph.outputs, ("../../seg", "a/b", "c d"), strict=True):
        value.name = name
    deep = tmp_path / "a" / "b"  # two folders up is still the test's own
    deep.mkdir(parents=True)
    done = write_entry_points(save(model, deep / "m.onnx"), join=False)
    assert runtime.load(done.path).outputs == ("../../seg", "a/b", "c d")
    assert not list(tmp_path.rglob("*seg"))
    assert all("/" not in row.file and ".." not in row.file for row in done.segments)


def test_nothing_of_the_user_is_overwritten(file, tmp_path):
    (tmp_path / "entry_points").mkdir()
    (tmp_path / "entry_points" / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="not empty; nothing was written"):
        write_entry_points(file)
    assert (tmp_path / "entry_points" / "mine.txt").read_text() == "mine"


def test_what_computes_something_else_is_not_written(file, tmp_path, monkeypatch):
    """The weights go wrong on the way to the file."""
    monkeypatch.setattr(external, "_write", lambda tensor, to: to.write(b"\0" * tensor.nbytes))
    with pytest.raises(VerificationError, match=r"computes the task .* otherwise; nothing was written"):
        write_entry_points(file)
    assert files(tmp_path) == [file.relative_to(tmp_path)]


@pytest.mark.parametrize("what", ["missing", "empty", "two inputs", "integers"])
def test_what_cannot_be_cut_is_told_in_one_line(what, tmp_path):
    file = tmp_path / "m.onnx"
    text = '<ir_version: 10, opset_import: ["" : 21]> g (%s) => (%s y) { y = Add(a, %s) }'
    if what == "empty":
        file.write_bytes(b"")
    elif what == "two inputs":
        onnx.save(onnx.parser.parse_model(text % ("float[1] a, float[1] b", "float[1]", "b")), file)
    elif what == "integers":
        onnx.save(onnx.parser.parse_model(text % ("int64[1] a", "int64[1]", "a")), file)
    with pytest.raises(ModelError) as error:
        write_entry_points(file)
    assert "m.onnx" in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "entry_points").exists()


def test_open_sizes_are_cut_without_weighing(tmp_path):
    """What is not known at all cannot be weighed: no multiply-adds are claimed, nothing is joined."""
    text = """<ir_version: 10, opset_import: ["" : 21]>
    g (float[N, 3, H, W] image) => (float[N, 3, H, W] a, float[N, 3, H, W] b) {
        x = Relu(image)
        a = Neg(x)
        b = Exp(x)
    }"""
    file = tmp_path / "m.onnx"
    onnx.save(onnx.parser.parse_model(text), file)
    done = write_entry_points(file)
    assert len(done.segments) == 3
    assert runtime.load(done.path)(np.ones((1, 3, 5, 7), np.float32), ["b"])["b"].shape == (1, 3, 5, 7)


def test_a_task_that_does_not_look_at_the_image(tmp_path):
    text = """<ir_version: 10, opset_import: ["" : 21]>
    g (float[1, 3, 4, 4] image) => (float[1, 3, 4, 4] a, float[2] b) <float[2] w = {1.0, 2.0}> {
        x = Relu(image)
        a = Neg(x)
        b = Add(w, w)
    }"""
    file = tmp_path / "m.onnx"
    onnx.save(onnx.parser.parse_model(text), file)
    done = write_entry_points(file, join=False)
    for by_segment in (False, True):
        parts = runtime.load(done.path, by_segment=by_segment)
        np.testing.assert_array_equal(parts(images()[:1, :, :4, :4], ["b"])["b"], [2, 4])
        assert set(parts(images()[:1, :, :4, :4])) == {"a", "b"}


def test_a_model_of_one_task_is_one_segment(tmp_path):
    done = write_entry_points(save(small_resnet({"seg": 2}), tmp_path / "m.onnx"))
    assert [row.tasks for row in done.segments] == [("seg",)]


@pytest.mark.parametrize("by_segment", [False, True])
def test_threads_get_what_they_ask_for(file, by_segment):
    done = write_entry_points(file, join=False)
    parts = runtime.load(done.path, optimize=False, threads=1, by_segment=by_segment)
    whole = runtime.load(file, optimize=False)
    wrong: list[object] = []

    def work(seed):
        image, tasks = images(seed), [("seg",), ("depth", "edges"), ("edges",), None][seed % 4]
        expected = whole(image)
        for _ in range(10):
            for task, found in parts(image, tasks).items():
                if found.tobytes() != expected[task].tobytes():
                    wrong.append((seed, task))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_share_of_multiply_adds_is_that_of_the_nodes_it_needs(file):
    from onnxmtl.cost.count import count
    from onnxmtl.passes.finalize.unused import RemoveUnused

    done = write_entry_points(file, join=False)
    model = tree()
    for row in done.tasks:
        alone = model.clone()
        kept = [value for value in alone.graph.outputs if value.name == row.task]
        alone.graph.outputs.clear()
        alone.graph.outputs.extend(kept)
        RemoveUnused()(alone)
        assert row.multiply_adds == count(alone).multiply_adds
        assert row.share == pytest.approx(row.multiply_adds / count(model).multiply_adds)


def test_a_run_s_directory_is_taken_for_its_model(tmp_path):
    save(tree(), tmp_path / "model.onnx")
    assert write_entry_points(tmp_path).path == tmp_path / entry_points.FOLDER
