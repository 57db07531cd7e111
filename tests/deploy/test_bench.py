"""Models measured side by side."""

from __future__ import annotations

import json
import math
import os
import time

import numpy as np
import onnx_ir as ir
import pytest
from helpers.graphs import GraphBuilder, small_resnet
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmtl import runtime
from onnxmtl.cost.count import count
from onnxmtl.deploy.bench import bench as measuring
from onnxmtl.deploy.bench.bench import BenchOptions, bench
from onnxmtl.deploy.bench.candidates import Candidate, multiply_adds, named, separate
from onnxmtl.deploy.bench.feeds import Port, feeds_for, parse_shape
from onnxmtl.deploy.bench.memory import measure_memory
from onnxmtl.deploy.bench.profiling import Profile, operator_times, profile
from onnxmtl.deploy.bench.results import Bench, Measurement, Spread, Subject, explain, follows
from onnxmtl.deploy.bench.timing import Times, interleaved, pinned
from onnxmtl.deploy.html.bench_page import bench_page
from onnxmtl.deploy.html.latency import latency_figure
from onnxmtl.errors import MissingDependencyError, ModelError
from onnxmtl.ir import save

QUICK = BenchOptions(seconds=0.0, rounds=3, memory=False, profile=False)
OPSETS = {"": 21, "com.microsoft": 1}
numbers = st.lists(st.floats(0.001, 1e4), min_size=1, max_size=30)


@pytest.fixture
def both(tmp_path):
    """A model of two tasks, and the two models of one."""
    save(small_resnet(), tmp_path / "both.onnx")
    for task, channels in (("seg", 3), ("depth", 1)):
        save(small_resnet({task: channels}), tmp_path / f"{task}.onnx")
    return tmp_path


def wide(path, width=64, size=32):
    b = GraphBuilder(size=size)
    save(b.heads(b.block(b.block(b.image, width), width), {"seg": 2}), path)
    return path


# Timing


def test_all_works_run_in_every_round_the_first_of_a_turn_uncounted():
    calls = []
    works = [[lambda n=name, p=part: (calls.append((n, p)), time.sleep(0.011)) for part in range(2)] for name in "ab"]
    found = interleaved(works, seconds=0.0, rounds=3, warmup=1)
    assert [len(part) for times in found for part in times.passed] == [3] * 4
    for name in "ab":  # warm-up, then per round a turn that is not timed and one that is
        assert [part for n, part in calls if n == name] == [0, 1] * (1 + 2 * 3)
    rounds = [{name for name, _ in calls[4 + 8 * i : 12 + 8 * i]} for i in range(3)]
    assert rounds == [{"a", "b"}] * 3


def test_time_that_passes_and_time_that_is_worked():
    def work():
        end = time.process_time() + 0.02
        while time.process_time() < end:
            pass

    asleep, busy = interleaved([[lambda: time.sleep(0.02)], [work]], seconds=0.0, rounds=3, warmup=1)
    assert min(asleep.passed[0]) >= 20 and max(asleep.worked[0]) < 10
    assert min(busy.worked[0]) >= 20


def test_threads_stay_on_their_cores():
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("the system does not let programs choose their cores")
    before = os.sched_getaffinity(0)
    with pinned(1) as cores:
        assert os.sched_getaffinity(0) == set(cores) and len(cores) == 1
    assert os.sched_getaffinity(0) == before
    with pinned(10_000) as cores:
        assert cores == () and os.sched_getaffinity(0) == before


@settings(max_examples=30, deadline=None)
@given(numbers)
def test_quartiles(values):
    found = Spread.of(values)
    assert found.count == len(values)
    expected = np.percentile(values, [25, 50, 75])
    np.testing.assert_allclose([found.low, found.median, found.high], expected, rtol=1e-9)


# What is measured


def test_the_same_model_is_as_fast_as_itself_and_separate_models_are_the_sum_of_their_parts(both):
    shared = Candidate("shared", (both / "both.onnx",))
    apart = Candidate("separate models", (both / "seg.onnx", both / "depth.onnx"))
    found = bench([shared], apart, BenchOptions(threads=(1, 2), batch=(1, 3), seconds=0.0, rounds=5, memory=False))
    assert [(m.threads, m.batch, m.candidate) for m in found.measurements] == [
        (threads, batch, name) for threads in (1, 2) for batch in (1, 3) for name in ("shared", "separate models")
    ]
    ours, theirs = found.subjects
    assert ours.multiply_adds == count(small_resnet()).multiply_adds
    singles = [count(small_resnet(heads)).multiply_adds for heads in ({"seg": 3}, {"depth": 1})]
    assert theirs.multiply_adds == sum(singles)
    assert ours.file_bytes == (both / "both.onnx").stat().st_size
    for one in found.measurements:
        assert one.throughput == pytest.approx(1e3 * one.batch / one.latency.median)
        assert (one.ratio is None) == (one.candidate == "separate models") == (one.ideal is None)
        assert 0 < one.profile.share <= 1 and one.latency.count == 5
    assert [len(m.parts) for m in found.measurements[:2]] == [1, 2]
    assert found.measurements[0].ideal == ours.multiply_adds / theirs.multiply_adds
    assert found.to_json()["measurements"][0]["throughput"] == found.measurements[0].throughput
    json.dumps(found.to_json(), allow_nan=False)


def test_ratios_are_taken_within_a_round(both, monkeypatch):
    """A machine that gets slower over time changes no ratio."""
    drifting = [
        Times([[2.0 * 3**i for i in range(5)]], [[1.0] * 5]),
        Times([[4.0 * 3**i for i in range(5)]], [[4.0] * 5]),
    ]
    monkeypatch.setattr(measuring, "interleaved", lambda *_, **__: drifting)
    found = bench(named([both / "seg.onnx", both / "depth.onnx"]), None, QUICK)
    assert found.baseline == "seg"
    one = found.measurements[1]
    assert (one.ratio.low, one.ratio.median, one.ratio.high) == (2, 2, 2) and one.work_ratio.median == 4
    assert any("Other programs" in remark for remark in found.remarks)  # 18 ms passed, 1 was worked


def test_any_model_file(tmp_path):
    """Integers, several inputs, open sizes; no multiply-adds can be counted on an operator that nobody knows."""
    ids = ir.Value(name="ids", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(["N", "length"]))
    image = ir.Value(name="image", type=ir.TensorType(ir.DataType.FLOAT16), shape=ir.Shape(["N", 3, "H", "W"]))
    known = ir.node("Identity", [ids])
    unknown = ir.node("Gelu", [image], domain="com.microsoft")
    for node, name, dtype in ((known, "y", ir.DataType.INT64), (unknown, "z", ir.DataType.FLOAT16)):
        node.outputs[0].name, node.outputs[0].type = name, ir.TensorType(dtype)
    opsets = {"": 21, "com.microsoft": 1}
    model = ir.Model(
        ir.Graph([ids, image], [known.outputs[0]], nodes=[known, unknown], opset_imports=opsets, name="g"),
        ir_version=10,
    )
    save(model, tmp_path / "any.onnx")
    with pytest.raises(ModelError, match=r"'ids' leaves dimension 1 \(length\) open.*--shape ids=Nx\?"):
        bench(named([tmp_path / "any.onnx"]), None, QUICK)
    shapes = dict(map(parse_shape, ["ids=Nx7", "image=Nx3x8x9"]))
    found = bench(
        named([tmp_path / "any.onnx"]), None, BenchOptions(**{**vars(QUICK), "shapes": shapes, "batch": (2,)})
    )
    assert found.subjects[0].multiply_adds is None and found.baseline == ""
    assert found.measurements[0].ratio is None and found.explanations() == ()


def test_open_sizes_count_as_given(tmp_path):
    b = GraphBuilder()
    b.image.shape = ir.Shape(["N", 3, "H", "W"])
    x = b.node("Conv", [b.image, b.weight("w", np.ones((4, 3, 3, 3)))], ["N", 4, "a", "b"], "conv", pads=[1, 1, 1, 1])
    b.graph.outputs.append(x)
    save(ir.Model(b.graph, ir_version=10), tmp_path / "open.onnx")
    assert multiply_adds(tmp_path / "open.onnx", {"image": (None, 3, 5, 6)}) == 5 * 6 * 4 * 3 * 9
    with pytest.raises(ModelError, match=r"open\.onnx: its multiply-adds cannot be counted"):
        multiply_adds(tmp_path / "open.onnx", {})


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.lists(st.one_of(st.integers(1, 5), st.none()), min_size=1, max_size=4))
def test_feeds_have_the_batch_and_the_shape_that_was_given(batch, dims):
    shape = (None, *dims)
    text = "x=" + "x".join("N" if dim is None else str(dim) for dim in shape)
    assert parse_shape(text) == ("x", shape)
    port = Port("x", "tensor(float)", tuple(f"d{i}" for i in range(len(shape))))
    feeds = feeds_for("file", [port], batch, {"x": shape})
    assert feeds["x"].shape == tuple(batch if dim is None else dim for dim in shape)
    assert feeds["x"].tobytes() == feeds_for("file", [port], batch, {"x": shape})["x"].tobytes()


@pytest.mark.parametrize(
    ("port", "batch", "shapes", "message"),
    [
        (Port("x", "tensor(float)", (1, 3, 8, 8)), 2, {}, "fixed batch of 1, not 2; take --batch 1"),
        (Port("x", "tensor(float)", ("N", 3, 8, 8)), 1, {"x": (None, 4, 8, 8)}, "has 3 in dimension 1, not 4"),
        (Port("x", "tensor(float)", (1, 3, 8, 8)), 1, {"x": (2, 3, 8, 8)}, "has 1 in dimension 0, not 2"),
        (Port("x", "tensor(float)", ("N", 3)), 1, {"x": (None, 3, 1)}, "has 2 dimensions, --shape gives 3"),
        (Port("x", "tensor(string)", ("N",)), 1, {}, r"'x' is tensor\(string\); only numbers"),
        (Port("x", "tensor(float)", ("N", "a")), 9**9, {"x": (None, 99999)}, "elements; take a smaller --shape"),
    ],
)
def test_inputs_that_cannot_be_made(port, batch, shapes, message):
    with pytest.raises(ModelError, match=message):
        feeds_for("net.onnx", [port], batch, shapes)


def test_a_batch_beside_inputs_without_one():
    ports = [Port("anchors", "tensor(float)", (80, 4)), Port("image", "tensor(double)", (None, 3))]
    feeds = feeds_for("net.onnx", ports, 2, {})
    assert {name: (array.shape, array.dtype) for name, array in feeds.items()} == {
        "anchors": ((80, 4), np.float32),
        "image": ((2, 3), np.float64),
    }


@pytest.mark.parametrize("text", ["image", "=1x3", "image=", "image=1x-3", "image=1x3x", "image=ax3", "image=0x3"])
def test_no_shape(text):
    with pytest.raises(ModelError, match="NAME=Nx3x224x224"):
        parse_shape(text)


def test_names_tell_models_apart(tmp_path):
    for name in ("a/model.onnx", "b/model.onnx", "a/net.onnx", "b/net.onnx"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = [one.name for one in named([tmp_path / "a", tmp_path / "b" / "model.onnx"])]
    assert names == ["a", "b"]
    assert [one.name for one in named([tmp_path / "a" / "net.onnx", tmp_path / "b" / "net.onnx"])] == ["a/net", "b/net"]
    with pytest.raises(ModelError, match="twice"):
        named([tmp_path / "a", tmp_path / "a" / "model.onnx"])
    assert separate([tmp_path / "a"], named([tmp_path / "a"])).name == "a (baseline)"
    assert separate([tmp_path / "a", tmp_path / "b"], ()).name == "separate models"


def test_what_is_refused(both):
    with pytest.raises(ModelError, match=r"nothing\.onnx: no such file"):
        bench([Candidate("a", (both / "nothing.onnx",))], None, QUICK)
    with pytest.raises(ModelError, match="is a directory"):
        bench([Candidate("a", (both,))], None, QUICK)
    with pytest.raises(ModelError, match="called 'a'"):
        bench([Candidate("a", (both / "seg.onnx",))], Candidate("a", (both / "seg.onnx",)), QUICK)
    with pytest.raises(MissingDependencyError, match="no CUDAExecutionProvider"):
        bench(named([both / "seg.onnx"]), None, BenchOptions(providers=("CUDAExecutionProvider",)))
    with pytest.raises(ModelError, match="numbers from 1 on"):
        bench(named([both / "seg.onnx"]), None, BenchOptions(batch=(0,)))
    (both / "broken.onnx").write_bytes(b"\x08\x07 no model")
    with pytest.raises(ModelError, match=r"broken\.onnx"):
        bench(named([both / "broken.onnx"]), None, QUICK)


# Memory and profile


def test_memory_grows_with_the_activations(tmp_path):
    """From batch 1 to 16, two maps of 64 × 32 × 32 numbers live together: 15 · 2 · 256 KiB more."""
    file = wide(tmp_path / "wide.onnx")
    one, many = (measure_memory([file], batch=n, shapes={}, threads=1, providers=[runtime.CPU]) for n in (1, 16))
    if one is None:
        pytest.skip("the system does not tell how much memory a process takes")
    assert many.peak - one.peak > 0.5 * 15 * 2 * 4 * 64 * 32 * 32
    assert 0 < one.resident <= one.peak


def test_memory_of_a_model_that_cannot_be_run(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"broken\.onnx: its memory cannot be measured.*--no-memory"):
        measure_memory([tmp_path / "broken.onnx"], batch=1, shapes={}, threads=1, providers=[runtime.CPU])


def test_profile_tells_convolutions_from_the_rest(tmp_path):
    file = wide(tmp_path / "wide.onnx")
    b = GraphBuilder(size=256)
    resized = b.node("Softmax", [b.image], b.image.shape, axis=3)
    b.graph.outputs.append(resized)
    save(ir.Model(b.graph, ir_version=10), tmp_path / "soft.onnx")
    found = []
    for name in (file, tmp_path / "soft.onnx"):
        feeds = feeds_for(name, [Port("image", "tensor(float)", ("N", 3, *(32, 256)[name != file :][:1] * 2))], 1, {})
        found.append(profile([name], [feeds], threads=1, providers=[runtime.CPU]))
    assert found[0].share > 0.5 and "Conv" in found[0].operators
    assert found[1].share == 0 and set(found[1].operators) == {"Softmax"} and found[1].others()[0][1] == 1
    assert not list(tmp_path.glob("*.json")), "the trace is removed"


def test_times_of_a_trace():
    """Twelve runs, the first two not counted; a node in a loop runs three times per run."""
    events = [{"cat": "Session", "name": "model_run", "dur": 99.0}]
    for run in range(12):
        slow = 0.1 if run < 2 else 1.0 + run % 2
        events.append({"cat": "Node", "name": "a_kernel_time", "dur": 4.0 * slow, "args": {"op_name": "Conv"}})
        events.append({"cat": "Node", "name": "b_kernel_time", "dur": 6.0 * slow, "args": {"op_name": "Conv"}})
        events += [{"cat": "Node", "name": "c_kernel_time", "dur": 2.0, "args": {"op_name": "Add"}}] * 3
        events.append({"cat": "Node", "name": "c_fence_before", "dur": 100.0, "args": {"op_name": "Add"}})
    assert operator_times(events) == {"Conv": pytest.approx(0.010), "Add": pytest.approx(0.006)}


# Words


def measured(latency=20.0, ratio=None, ideal=None, conv=19.0, rest=1.0, ratio_spread=None, **other):
    spread = Spread(latency, latency, latency, 9)
    ratios = ratio_spread if ratio is None or ratio_spread is not None else Spread(ratio, ratio, ratio, 9)
    found = Profile({"Conv": conv, "Resize": rest}, conv + rest, conv)
    return Measurement(**{
        "candidate": "mt" if ratio else "separate", "threads": 1, "batch": 1, "latency": spread, "work": spread,
        "parts": (spread,), "ratio": ratios, "work_ratio": ratios, "ideal": ideal, "memory": None, "profile": found,
        **other,
    })  # fmt: skip


def test_whether_latency_follows_the_multiply_adds():
    base = measured()
    assert follows(measured(10.0, 0.50, 0.48), base) is True
    assert follows(measured(10.0, 0.55, 0.48), base) is False
    assert follows(measured(10.0, 0.55, 0.48, conv=8.0, rest=2.0), base) is None, "a fifth is not convolutions"
    assert follows(measured(10.0, 0.55, 0.48), measured(5.0)) is None, "a short run"
    assert follows(measured(10.0, 0.55, None), base) is None
    assert follows(measured(10.0, 0.5, 0.48, profile=None), base) is None


def test_rounds_that_differ_tell_nothing():
    noisy = measured(10.0, 0.5, 0.48, ratio_spread=Spread(0.5, 0.4, 0.6, 9))
    assert follows(noisy, measured()) is None and "differ by ±20%" in explain(noisy, measured())


def test_why_latency_does_not_follow_the_multiply_adds():
    base = measured(conv=15.0, rest=5.0)
    text = explain(measured(14.0, 0.625, 0.5, conv=7.5, rest=5.0), base)
    assert "0.625× of separate, by multiply-adds 0.500×" in text
    assert "75% of the profile of separate and take 0.500× (0.375 of the profile's ratio of 0.625)" in text
    assert "take 1.000× (of mt: Resize 40%)" in text and "same rate" not in text and "fixed costs" not in text
    assert "within 10%" in explain(measured(10.0, 0.51, 0.5), base)
    assert "same rate" in explain(measured(10.0, 0.7, 0.5, conv=11.0), base)
    assert explain(measured(10.0, 0.7, None), base) == ""


@settings(max_examples=10, deadline=None)
@given(
    st.lists(st.tuples(st.floats(1e-4, 1e5), st.one_of(st.none(), st.floats(1e-3, 1e3))), min_size=1, max_size=5),
    st.text(max_size=40),
)
def test_page_and_chart_of_anything(rows, name):
    found = Bench(
        {"processor": name},
        tuple(Subject(f"{name}{i}", ("a.onnx",), None, 1) for i in range(len(rows))),
        f"{name}0" if len(rows) > 1 else "",
        tuple(
            measured(ms, ratio if i else None, ratio if i else None, candidate=f"{name}{i}")
            for i, (ms, ratio) in enumerate(rows)
        ),
    )
    page = bench_page(found)
    assert page.startswith("<!DOCTYPE html>") and page.rstrip().endswith("</html>")
    assert len(latency_figure(found).panels) == 1
    assert not any(math.isnan(one.throughput) for one in found.measurements)
