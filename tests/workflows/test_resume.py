"""A compilation that is killed, at any moment, ends with the same bytes."""

from __future__ import annotations

import random
import shutil
import time

import pytest
import torch
from helpers.compiling import QUICK, TASKS, Children, digests, moments

from onnxmtl.errors import RunError
from onnxmtl.workflows import compile

OPTIONS = {**QUICK, "steps": 8, "baselines": True, "samples": 2, "recalibration": 1}


@pytest.fixture(scope="module")
def children():
    return Children()


@pytest.fixture(scope="module")
def whole(children, backbone, tmp_path_factory):
    """An uninterrupted run, and how long it takes."""
    out = tmp_path_factory.mktemp("whole") / "run"
    children.finish(backbone, tmp_path_factory.mktemp("warm") / "run", OPTIONS)  # the server imports
    start = time.perf_counter()
    children.finish(backbone, out, OPTIONS)
    return out, time.perf_counter() - start


def test_kills_at_random_moments(children, backbone, whole, tmp_path):
    expected, seconds = whole
    out = tmp_path / "run"
    interrupted = [children.kill_after(moment, backbone, out, OPTIONS) for moment in moments(0, 3, seconds)]
    assert any(interrupted)
    children.finish(backbone, out, OPTIONS)
    assert digests(out) == digests(expected)


def test_dying_right_after_a_result_appears(children, backbone, whole, tmp_path):
    """Every phase, checkpoint and file appears by a rename."""
    out = tmp_path / "run"
    draw = random.Random(1)
    deaths = 0
    while children.kill_at_rename(draw.randint(10, 25), backbone, out, OPTIONS):
        deaths += 1
    assert deaths >= 3
    assert digests(out) == digests(whole[0])


def test_dying_right_after_each_phase(children, backbone, whole, tmp_path):
    """What a kill leaves between two phases: the phases before, whole."""
    names = sorted(folder.name for folder in (whole[0] / "phases").iterdir())
    assert len(names) >= 8
    for count in (1, len(names) // 2, len(names) - 1):
        out = tmp_path / str(count)
        out.mkdir()
        shutil.copy(whole[0] / "run.json", out)
        for name in names[:count]:
            shutil.copytree(whole[0] / "phases" / name, out / "phases" / name)
        children.finish(backbone, out, OPTIONS)
        assert digests(out) == digests(whole[0])


@pytest.mark.slow
def test_twenty_kills(children, backbone, whole, tmp_path):
    expected, seconds = whole
    out = tmp_path / "run"
    times = iter(moments(2, 1000, seconds))
    kills = 0
    phases = []
    while kills < 20:
        if children.kill_after(next(times), backbone, out, OPTIONS):
            kills += 1
            phases.append(len(list(out.glob("phases/[0-9]*"))))
        else:  # done already: it must be right; again from the start, for the kills that are left
            assert digests(out) == digests(expected)
            shutil.rmtree(out)
    children.finish(backbone, out, OPTIONS)
    assert digests(out) == digests(expected)
    assert len(set(phases)) >= 4, "kills in as many different phases, or the test shows little"


@pytest.mark.slow
def test_dying_at_every_third_rename(children, backbone, whole, tmp_path):
    """Dies after the first rename; in a new run after the fourth, …; each followed by one resume."""
    number = 1
    while True:
        out = tmp_path / str(number)
        if not children.kill_at_rename(number, backbone, out, OPTIONS):
            break
        children.finish(backbone, out, OPTIONS)
        assert digests(out) == digests(whole[0]), number
        number += 3
    assert number > 40


@pytest.fixture(scope="module")
def finished(backbone, tmp_path_factory):
    return compile(backbone, TASKS, out=tmp_path_factory.mktemp("finished") / "run", **QUICK)


def test_resuming_a_finished_run_trains_nothing(backbone, finished, monkeypatch):
    before = digests(finished.path)

    def no_training(*_, **__):
        pytest.fail("something was trained again")

    monkeypatch.setattr(torch.optim.Adam, "step", no_training)
    again = compile(backbone, TASKS, out=finished.path, resume=True, **QUICK)
    assert again == finished
    assert digests(finished.path) == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"steps": 7}, "steps was 6 in the run and is 7 now"),
        ({"seed": 1}, "seed was 0"),
        ({"samples": 3}, "samples was 0"),
        ({"fold": False}, "fold was True"),
        ({"space": {"norm": "per_task"}}, "space.norm is 'per_task' now"),
        ({"regularizers": {"sharing": 1.0}}, "regularizers.sharing is 1.0 now"),
        ({"recipe": "automtl-paper"}, "recipe was 'automtl'"),
        ({"tasks": "seg=segmentation,normals"}, "tasks was"),
    ],
)
def test_resuming_with_other_options_is_refused(backbone, finished, change, named):
    before = digests(finished.path)
    with pytest.raises(RunError) as refused:
        compile(out=finished.path, resume=True, **{"tasks": TASKS, "model": backbone, **QUICK, **change})
    assert f": {named}" in str(refused.value) and "\n" not in str(refused.value)
    assert digests(finished.path) == before


def test_another_backbone_is_refused(backbone, finished, tmp_path):
    other = tmp_path / "other.onnx"
    other.write_bytes(backbone.read_bytes().replace(b"stem", b"stam"))
    with pytest.raises(RunError, match="model was"):
        compile(other, TASKS, out=finished.path, resume=True, **QUICK)


def test_how_often_states_are_kept_changes_nothing(backbone, finished, tmp_path):
    often = compile(backbone, TASKS, out=tmp_path / "often", checkpoint_every=1, **QUICK)
    assert digests(often.path) == digests(finished.path)
    compile(backbone, TASKS, out=often.path, resume=True, checkpoint_every=7, **QUICK)


@pytest.mark.parametrize("there", ["nothing", "file", "folder"])
def test_resuming_what_is_no_run(backbone, tmp_path, there):
    path = tmp_path / "run"
    if there == "file":
        path.write_text("keep me")
    if there == "folder":
        path.mkdir()
        (path / "keep.txt").write_text("keep me")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RunError, match="cannot resume"):
        compile(backbone, TASKS, out=path, resume=True, **QUICK)
    assert sorted(tmp_path.rglob("*")) == before


def test_one_process_per_run(children, backbone, tmp_path):
    out = tmp_path / "run"
    child = children.start(backbone, out, {**OPTIONS, "steps": 10_000})
    while not (out / "phases").exists():
        assert child.is_alive()
        time.sleep(0.01)
    with pytest.raises(RunError, match=f"in use by process {child.pid}"):
        compile(backbone, TASKS, out=out, resume=True, **{**OPTIONS, "steps": 10_000})
    child.kill()
    child.join()


def test_a_changed_head_is_trained_afresh(backbone, tmp_path, monkeypatch):
    """What the configuration only names is part of what the phases depend on."""
    heads = tmp_path / "my_changing_head.py"
    heads.write_text("def head(b, x, task, image):\n    return b.conv(x, task.channels, name='last')\n")
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "tasks.toml"
    file.write_text(
        '[tasks.depth]\nkind = "depth"\nhead = "my_changing_head:head"\n[tasks.normals]\nkind = "normals"\n'
    )
    first = compile(backbone, str(file), out=tmp_path / "run", **QUICK)
    before = digests(first.path)
    module = __import__("my_changing_head")
    monkeypatch.setattr(module, "head", lambda b, x, task, image: b.conv(x, task.channels, kernel=3, name="last"))
    compile(backbone, str(file), out=tmp_path / "run", resume=True, **QUICK)
    assert digests(first.path)["model.onnx"] != before["model.onnx"]
