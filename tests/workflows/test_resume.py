"""A compilation that is killed, at any moment, ends with the same bytes."""

from __future__ import annotations

import dataclasses
import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.compiling import BASELINES, QUICK, TASKS, Children, digests, moments

from onnxmtl.errors import RunError
from onnxmtl.workflows import compile

COMMON = {**QUICK, "steps": 8, "recalibration": 1, "samples": 2}
# Between them: every kind of baseline, weightings with a state, a curriculum, a budget, weights inherited and afresh.
AUTOMTL = {**COMMON, "baselines": (*BASELINES, "random"), "random_draws": 1, "weighting": "uncertainty"}
ADASHARE = {**COMMON, "recipe": "adashare", "baselines": BASELINES, "weighting": "dwa", "budget": "params<=0.95x"}
RETRAINED = {"weights": "retrained", "steps": 5, "budget": "madds<=0.9x"}


@pytest.fixture(scope="module")
def children():
    return Children()


@dataclasses.dataclass(frozen=True)
class Whole:
    """An uninterrupted run, and how long it takes."""

    source: Path
    options: dict[str, Any]
    path: Path
    seconds: float


@pytest.fixture(scope="module")
def automtl(children, backbone, tmp_path_factory):
    children.finish(backbone, tmp_path_factory.mktemp("warm") / "run", COMMON)  # the server imports
    return timed(children, backbone, tmp_path_factory.mktemp("automtl") / "run", AUTOMTL)


@pytest.fixture(scope="module")
def adashare(automtl, children, backbone, tmp_path_factory):
    return timed(children, backbone, tmp_path_factory.mktemp("adashare") / "run", ADASHARE)


@pytest.fixture(scope="module")
def specialized(automtl, children, tmp_path_factory):
    return timed(children, automtl.path, tmp_path_factory.mktemp("specialize") / "run", RETRAINED)


# Of AdaShare, the curriculum is what AutoMTL has not: tests/search/test_engine_resume.py goes on in its middle.
WHOLE = ["automtl", pytest.param("adashare", marks=pytest.mark.slow), "specialized"]


@pytest.fixture(scope="module", params=WHOLE)
def whole(request):
    return request.getfixturevalue(request.param)


def timed(children, source, out, options):
    start = time.perf_counter()
    children.finish(source, out, options)
    return Whole(source, options, out, time.perf_counter() - start)


def test_kills_at_random_moments(children, whole, tmp_path):
    out, longest = tmp_path / "run", whole.seconds
    draw = random.Random(0)
    kills = 0
    while kills < 2:  # machines vary: a run that ends before it is killed is done again, and killed sooner
        if children.kill_after(draw.uniform(0, longest), whole.source, out, whole.options):
            kills += 1
        else:
            shutil.rmtree(out)
            longest /= 2
    children.finish(whole.source, out, whole.options)
    assert digests(out) == digests(whole.path)


def test_dying_right_after_a_result_appears(children, automtl, tmp_path):
    """Every phase, checkpoint, file and entry of the cache appears by a rename."""
    whole, out = automtl, tmp_path / "run"
    draw = random.Random(1)
    deaths = 0
    while children.kill_at_rename(draw.randint(20, 50), whole.source, out, whole.options):
        deaths += 1
    assert deaths >= 2
    assert digests(out) == digests(whole.path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["automtl", "adashare"])
def test_dying_right_after_each_phase(request, children, tmp_path, name):
    """What a kill leaves between two phases: the phases before, whole."""
    whole = request.getfixturevalue(name)
    names = sorted(folder.name for folder in (whole.path / "phases").iterdir())
    assert len(names) >= 8
    for count in (1, len(names) // 2, len(names) - 1):
        out = tmp_path / str(count)
        out.mkdir()
        shutil.copy(whole.path / "run.json", out)
        for folder in names[:count]:
            shutil.copytree(whole.path / "phases" / folder, out / "phases" / folder)
        children.finish(whole.source, out, whole.options)
        assert digests(out) == digests(whole.path)


@pytest.mark.slow
def test_twenty_kills(children, whole, tmp_path):
    out, cache = tmp_path / "run", tmp_path / "run-cache"
    times = iter(moments(2, 1000, whole.seconds))
    kills = 0
    phases = []
    while kills < 20:
        if children.kill_after(next(times), whole.source, out, whole.options):
            kills += 1
            phases.append(len(list(out.glob("phases/[0-9]*"))))
        else:  # done already: it must be right; again from the start, for the kills that are left
            assert digests(out) == digests(whole.path)
            shutil.rmtree(out)
            shutil.rmtree(cache, ignore_errors=True)
    children.finish(whole.source, out, whole.options)
    assert digests(out) == digests(whole.path)
    assert len(set(phases)) >= 3, "kills in as many different phases, or the test shows little"


@pytest.mark.slow
def test_dying_at_every_third_rename(children, whole, tmp_path):
    """Dies after the first rename; in a new run after the fourth, …; each followed by one resume."""
    number = 1
    while True:
        out = tmp_path / str(number)
        if not children.kill_at_rename(number, whole.source, out, whole.options):
            break
        children.finish(whole.source, out, whole.options)
        assert digests(out) == digests(whole.path), number
        number += 3
    assert number > 15


# The cache of baselines


def entries(cache):
    return sorted((cache / "trainings").iterdir())


@pytest.mark.slow
def test_baselines_are_trained_once(children, automtl, tmp_path):
    """Two processes at once, one killed in the middle of a baseline; then a damaged entry."""
    whole, cache = automtl, tmp_path / "cache"
    first = children.start(whole.source, tmp_path / "a", whole.options, cache=cache)
    while not list(cache.glob("trainings/*/checkpoints/step-*")):
        assert first.is_alive(), children.error()
        time.sleep(0.01)
    first.kill()
    first.join()
    both = [children.start(whole.source, tmp_path / name, whole.options, cache=cache) for name in "ab"]
    for child in both:
        child.join()
        assert child.exitcode == 0, children.error()
    assert digests(tmp_path / "a") == digests(tmp_path / "b") == digests(whole.path)
    assert len(entries(cache)) == 5, "two tasks, hard sharing, two random ones"
    before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in cache.glob("trainings/*/result/*")}
    assert not list(cache.glob("trainings/*/checkpoints")) and not list(cache.rglob("*.tmp"))

    damaged = entries(cache)[2] / "result" / "trained.onnx"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    children.start(whole.source, tmp_path / "c", whole.options, cache=cache).join()
    assert digests(tmp_path / "c") == digests(whole.path)
    after = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in cache.glob("trainings/*/result/*")}
    assert {file.parents[1] for file in before if after[file][0] != before[file][0]} == {damaged.parents[1]}
    assert {file: content for file, (_, content) in after.items()} == {f: c for f, (_, c) in before.items()}


@pytest.mark.slow
def test_without_a_place_for_the_cache(children, adashare, tmp_path):
    """A run does not need it, and a kill in the middle of a baseline is survived without."""
    whole, out = adashare, tmp_path / "run"
    (tmp_path / "file").write_text("in the way")
    cache = tmp_path / "file" / "cache"
    while (
        children.start(whole.source, out, whole.options, renames=12, cache=cache).join()
        or not (out / "model.onnx").exists()
    ):
        pass
    children.start(whole.source, out, whole.options, cache=cache).join()
    assert digests(out) == digests(whole.path)
    assert (tmp_path / "file").read_text() == "in the way"


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
        ({"recipe": "adashare"}, "recipe was 'automtl'"),
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
    child = children.start(backbone, out, {**COMMON, "steps": 10_000})
    while not (out / "phases").exists():
        assert child.is_alive()
        time.sleep(0.01)
    with pytest.raises(RunError, match=f"in use by process {child.pid}"):
        compile(backbone, TASKS, out=out, resume=True, **{**COMMON, "steps": 10_000})
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
