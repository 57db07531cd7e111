"""The report's parts about the device: read from the run's files, shown with all their numbers, and never another
model's."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from html import unescape
from re import sub

import pytest
from helpers.devicefiles import SHA256, manifest, measured, quantized, verified, write, write_device
from helpers.graphs import small_resnet
from helpers.runfolders import write_run

from onnxmtl.deploy.bench.bench import BenchOptions
from onnxmtl.deploy.entry_points import FOLDER
from onnxmtl.deploy.html import as_json, figures_of, html_of
from onnxmtl.deploy.html.device import entry_points_figure
from onnxmtl.deploy.ondevice import ENTRY_POINTS, VERIFY_FILE, EntryPointParts, OnDevice, read_device
from onnxmtl.deploy.runfiles import read_run
from onnxmtl.deploy.verify import REPORT_FILE
from onnxmtl.errors import OnnxMTLError, RunError
from onnxmtl.ir import save
from onnxmtl.workflows import report


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_device(write_run(tmp_path_factory.mktemp("device") / "run", layers=4))


@pytest.fixture
def folder(made, tmp_path):
    shutil.copytree(made.parent, tmp_path / "all")
    return tmp_path / "all" / "run"


def text_of(run):
    return " ".join(unescape(sub(r"<[^>]+>", " ", sub(r"(?s)<style>.*?</style>", "", html_of(run)))).split())


def test_names_are_those_that_are_written():
    assert (ENTRY_POINTS, VERIFY_FILE) == (FOLDER, REPORT_FILE) == ("entry_points", "verify.json")


def test_what_was_written_is_read(made):
    run = read_run(made)
    assert run.remarks == ()
    assert run.device.verified == verified() and run.device.bench == measured()
    assert [one.report for one in run.device.int8] == [quantized()] and run.device.int8[0].name == "run-int8"
    points = run.device.entry_points
    assert points.total == sum(row["multiply_adds"] for row in manifest()["segments"]) == 69_000_000
    assert [segment.name for segment in points.needed("depth")] == ["all", "depth+normals", "depth"]
    assert points.share("depth") == pytest.approx(63 / 69)
    assert points.differences["normals"].ulps == 34 and points.differences["seg"].ulps is None


def test_all_numbers_are_on_the_page(made):
    run = read_run(made)
    text = text_of(run)
    for words in (
        "61 weights and 83 operators", "99.99%", "1.5e-6", "5e-6", "byte for byte",  # parity
        "1 thread, batch 1", "2 threads, batch 1", "0.402×", "62 MB", "a processor", "93.0%",  # latency
        "8 of 9 blocks in int8", "trunk.2", "17.2 ms → 9.4 ms", "0.004 (1%)", "held", "run-int8", "layer8.conv1",
        "depth+normals", "91%", "normals 2e-7 (34 ulp)",  # entry points
    ):  # fmt: skip
        assert words in text, words
    for one in run.device.bench.measurements:
        assert f"{one.latency.median:.3g}" in text
    assert "/somewhere" not in text and "Not on this page yet" not in text
    assert {"latency", "entry-points"} <= set(figures_of(run))


def test_as_json(made):
    content = json.loads(json.dumps(as_json(read_run(made))["device"]))
    assert content["verified"]["passed"] and content["bench"]["measurements"][0]["ratio"]["median"] > 0
    assert content["int8"][0]["name"] == "run-int8" and content["int8"][0]["held"]
    assert content["entry_points"]["shares"]["depth"] == pytest.approx(63 / 69)


def test_nothing_is_there(tmp_path):
    run = read_run(write_run(tmp_path / "run", layers=4))
    assert run.device == OnDevice() and run.remarks == ()
    text = text_of(run)
    for command in ("onnxmtl verify RUN", "report RUN --bench", "quantize RUN", "specialize RUN --entry-points"):
        assert command in text
    assert "How fast it is" not in text and "int8 In the directory" not in text


def test_another_models_files_are_left_out(folder):
    """The model was emitted again: nothing that was measured before is about it."""
    (folder / "model.onnx").write_bytes(b"another")
    run = read_run(folder)
    assert run.device == OnDevice()
    assert [remark.split(" is about another model.onnx")[0] for remark in run.remarks] == [
        "verify.json", "bench.json", "manifest.json"
    ]  # fmt: skip
    assert all(remark.endswith(".") and "onnxmtl " in remark for remark in run.remarks)


def test_a_measurement_that_names_no_model_is_believed(folder):
    """As `onnxmtl bench --json` prints it."""
    write(folder / "bench.json", {"html": None, "svg": None, **measured().to_json()})
    run = read_run(folder)
    assert run.device.bench == measured() and run.remarks == ()


@pytest.mark.parametrize("content", [b"", b"[]", b'{"tasks": 1, "segments": 2, "measurements": "x"}'])
@pytest.mark.parametrize(
    "name", ["verify.json", "bench.json", "entry_points/manifest.json", "../run-int8/quantization.json"]
)
def test_damaged_files(folder, name, content):
    (folder / name).write_bytes(content)
    run = read_run(folder)
    found = run.device
    assert [found.verified, found.bench, found.entry_points, *found.int8].count(None) == (not name.startswith(".."))
    assert len(found.int8) == (not name.startswith(".."))
    said = [remark for remark in run.remarks if "cannot be read" in remark]
    assert len(run.remarks) == len(said) == (not name.startswith(".."))  # beside the run may lie anything
    html_of(run)


def test_a_model_that_differs(folder):
    bad = verified()
    tasks = (dataclasses.replace(bad.tasks[1], plain_error=0.5, optimized_error=math.inf), *bad.tasks[2:])
    problems = ("weight 'conv1' is not the one that was emitted",)
    write(folder / "verify.json", dataclasses.replace(bad, tasks=tasks, problems=problems, same_file=False).to_json())
    run = read_run(folder)
    text, page = text_of(run), html_of(run)
    assert problems[0] in text and "not finite" in text and "not the file that was emitted" in text
    assert '<b class="bad">differs</b>' in page and '<td class="bad">5e-1</td>' in page


def test_a_float16_model_is_held_to_another_measure(folder):
    half = verified(precision="float16", plain_tolerance=1e-2, optimized_tolerance=1e-2)
    integer = dataclasses.replace(half.tasks[0], plain_error=0.004)
    write(folder / "verify.json", dataclasses.replace(half, tasks=(integer, *half.tasks[1:])).to_json())
    page, text = html_of(read_run(folder)), text_of(read_run(folder))
    for words in ("as far as float16 can", "Length of the difference", "at most 1e-2", "precision float16"):
        assert words in text, words
    assert "<td>4e-3</td>" in page  # of a float32 model that would be too much
    assert "as far as" not in text_of(read_run(write_device(folder)))


def test_a_task_that_is_not_held(folder):
    tasks = (dataclasses.replace(quantized().tasks[0], held=False), *quantized().tasks[1:])
    write(folder.with_name("run-int8") / "quantization.json", quantized(tasks=tasks, times=None).to_json())
    page = html_of(read_run(folder))
    assert '<td class="bad">NOT held</td>' in page and "but a task is not held" in page


def test_int8_models_are_found_and_given(folder, tmp_path):
    far = tmp_path / "far" / "away"
    write(far / "quantization.json", quantized(reduce_range=True).to_json())
    write(folder / "inside" / "quantization.json", quantized().to_json())
    write(folder.with_name("stranger") / "quantization.json", quantized(source_sha256="0" * 64).to_json())
    assert [one.name for one in read_run(folder).device.int8] == ["inside", "run-int8"]
    run = read_run(folder, [far, folder / "inside" / "quantization.json"])
    assert [one.name for one in run.device.int8] == ["away", "inside", "run-int8"]
    text = text_of(run)
    assert "weights in 7 bits" in text and text.count("all 9 blocks") == 3


def test_what_is_given_must_be_of_this_run(folder, tmp_path):
    write(tmp_path / "other" / "quantization.json", quantized(source_sha256="0" * 64).to_json())
    with pytest.raises(RunError, match="was made of another model"):
        read_run(folder, [tmp_path / "other"])
    with pytest.raises(RunError, match=r"is no quantization\.json of this version; give the directory"):
        read_run(folder, [tmp_path])
    with pytest.raises(RunError, match="give the run of the float model, and this one with --quantized"):
        read_run(folder.with_name("run-int8"))


def test_without_a_model_nothing_is_beside_it(folder):
    (folder / "model.onnx").unlink()
    remarks = []
    assert read_device(folder, remarks).int8 == () and len(remarks) == 3


def test_work_that_is_unknown_is_not_drawn(folder):
    content = manifest()
    content["segments"][1]["multiply_adds"] = None
    write(folder / "entry_points" / "manifest.json", content)
    run = read_run(folder)
    assert run.device.entry_points.share("seg") is None and "entry-points" not in figures_of(run)
    assert "depth+normals" in text_of(run)
    assert entry_points_figure(EntryPointParts((), ())) is None


def test_bars_are_as_wide_as_the_work(made):
    """A row per task; what runs for it, in the places that the segments have in all of them."""
    from xml.etree import ElementTree

    points = read_run(made).device.entry_points
    (panel,) = entry_points_figure(points).panels
    root = ElementTree.fromstring(f"<svg>{panel.body}</svg>")
    bars = [box for group in root.iter("g") for box in group.iter("rect")]
    wide = {float(box.get("width")) for box in bars if box.get("class") == "bar"}
    assert len(bars) == 2 + 3 + 3 and max(wide) == pytest.approx(318 * 40 / 69 - 1, abs=0.01)
    places = sorted({float(box.get("x")) for box in bars if box.get("class") == "bar"})
    assert places == [0, pytest.approx(318 * 40 / 69, abs=0.01)]


# Measuring


def test_measured_now(folder):
    """The run's imported graphs are not there, so the model is measured alone and the page says why."""
    save(small_resnet(), folder / "model.onnx")
    options = BenchOptions(seconds=0, rounds=2, memory=False)
    told = []
    written = report(folder, measure=options, tell=told.append)
    assert told == ["1 thread, batch 1: 1 candidates"]
    found = json.loads((folder / "bench.json").read_text())
    assert [row["candidate"] for row in found["measurements"]] == ["this model"] and found["model"] != SHA256
    assert "measured alone" in " ".join(found["remarks"]) and str(folder) not in found["subjects"][0]["files"]
    assert written.run.device.bench is not None and "How fast it is" in written.html.read_text()


@pytest.mark.parametrize(
    ("change", "out", "words"),
    [
        (lambda run: (run / "model.onnx").unlink(), None, "has no model.onnx to be measured"),
        (lambda run: None, "page.txt", r"ends in \.html"),
        (lambda run: (run / "run.json").unlink(), None, "is no run"),
        (lambda run: None, None, "cannot load it"),  # MODEL is no model
    ],
)
def test_what_cannot_be_measured(folder, change, out, words):
    before = (folder / "bench.json").read_bytes()
    change(folder)
    with pytest.raises(OnnxMTLError, match=words):
        report(folder, out and folder / out, measure=BenchOptions(seconds=0, rounds=1, memory=False))
    assert (folder / "bench.json").read_bytes() == before and not (folder / "report.html").exists()
