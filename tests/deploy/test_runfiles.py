"""Reading a run's directory: what is missing or broken becomes a sentence, what is no run one clear line."""

from __future__ import annotations

import json
import shutil

import pytest
from helpers.runfolders import write, write_run

from onnxmtl.deploy.html import html_of
from onnxmtl.deploy.runfiles import Curve, read_run
from onnxmtl.errors import RunError

PARTS = ("report.json", "architecture.json", "policy.json", "candidates.json", "history.json")


@pytest.fixture
def folder(tmp_path):
    return write_run(tmp_path / "run", layers=5, steps=4)


def files(folder, name):
    return sorted(folder.rglob(name))


def test_all_of_it_is_read(folder):
    run = read_run(folder)
    assert run.remarks == () and run.tasks == ("seg", "depth", "normals")
    assert run.title == "net.onnx on scenes" and run.report.title == run.title
    assert len(run.policy.sites) == 5 and run.policy.source == "policy-train"
    assert set(run.architecture.choices) == {site.site for site in run.policy.sites}
    assert [draw.taken for draw in run.candidates].count(True) == 1 and run.candidates[3].count == 4
    assert run.phases[0] == "import" and run.phases[-1] == "emit"
    names = [(training.phase, training.baseline) for training in run.trainings]
    assert names[0] == ("single-task-1", True) and names[3] == ("hard-sharing", True)
    assert names[-1] == ("post-train", False) and [t.single for t in run.trainings[:4]] == [True, True, True, False]
    assert run.trainings[0].steps == 1500
    site = run.policy.sites[0]
    assert site.of("seg") == site.probabilities[0] and site.of("nobody") is None


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize(
    "content", [None, "", "{", "[]", "{}", "null", "7", '[{"metrics": 1}]', '{"sites": [{"id": 1}]}']
)
def test_a_part_that_is_missing_or_broken_is_a_sentence(folder, name, content):
    for file in files(folder, name):
        if content is None:
            file.unlink()
        else:
            file.write_text(content)
    run = read_run(folder)
    # Without candidates or an architecture nothing is missed: an unsampled policy has no candidates.
    fine = {("candidates.json", "[]"), ("candidates.json", None), ("architecture.json", None)}
    assert bool(run.remarks) != ((name, content) in fine)
    assert all(remark.endswith(".") and "\n" not in remark and remark[0] != " " for remark in run.remarks)
    page = html_of(run)
    assert "Traceback" not in page and "</html>" in page


def test_an_unfinished_run_says_what_is_done(folder):
    (folder / "report.json").unlink()
    shutil.rmtree(next(folder.glob("phases/*-emit")))
    run = read_run(folder)
    assert run.report is None and run.tasks == ("seg", "depth", "normals")
    assert run.remarks == (
        "The run is not finished (done so far: import, single-task-1, single-task-2, single-task-3, hard-sharing, "
        "pre-train, policy-train, decode, post-train), so it has no metrics and costs; compile --resume ends it.",
    )
    page = html_of(run)
    assert "not finished" in page and "figure-policy" in page and "figure-curves" in page


def test_a_run_that_just_began(tmp_path):
    write(tmp_path / "run.json", {"config": {"data": "scenes", "tasks": "?"}, "seed": 0})
    run = read_run(tmp_path)
    assert run.tasks == () and "no phase is done yet" in run.remarks[0]
    assert "a model on scenes" in html_of(run)


def test_a_run_whose_architecture_was_given(folder):
    record = json.loads((folder / "run.json").read_text())
    record["config"]["architecture"] = {"a": {"seg": "shared"}}
    write(folder / "run.json", record)
    run = read_run(folder)
    assert run.policy is None
    assert run.remarks == ("The architecture was given with --architecture, so there is no policy.",)
    assert "given with --architecture" in html_of(run) and "figure-policy" not in html_of(run)


def test_a_report_of_an_earlier_version(folder):
    content = json.loads((folder / "report.json").read_text())
    for key in ("delta", "draws", "budget", "decoding"):
        content.pop(key)
    for task in content["tasks"]:
        task.pop("metrics"), task.pop("delta")
    for row in content["sharing"]:
        row.pop("multiply_adds")
    write(folder / "report.json", content)
    page = html_of(read_run(folder))
    assert "There is no Δ" in page and "figure-delta" not in page and "figure-sharing" in page
    assert "miou ↑" in page


def test_numbers_that_are_none_are_left_out_of_curves(folder):
    file = files(folder, "history.json")[0]
    content = json.loads(file.read_text())
    content["points"][1]["figures"]["loss/seg"] = None
    content["points"] = content["points"][:3]
    write(file, content)
    curve = read_run(folder).trainings[0].curves["loss/seg"]
    assert isinstance(curve, Curve) and len(curve.steps) == len(curve.values) == 2


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.write_text("x"), "is a file"),
        (lambda path: path.mkdir(), "is no run, it has no run.json"),
        (lambda path: write(path / "sweep.html", {}), "it is a sweep, whose page is"),
        (lambda path: write(path / "run.json", []), "is no run of onnxmtl"),
        (lambda path: write(path / "run.json", {"config": 3}), "is no run of onnxmtl"),
    ],
)
def test_what_is_no_run_gives_one_line(tmp_path, make, words):
    path = tmp_path / "thing"
    make(path)
    with pytest.raises(RunError) as caught:
        read_run(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and words in text and "give the directory of a run" in text and "\n" not in text


def test_a_run_json_that_is_cut_off(folder):
    (folder / "run.json").write_text('{"config": {')
    with pytest.raises(RunError, match=r"run\.json: not valid JSON"):
        read_run(folder)
