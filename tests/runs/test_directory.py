from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from onnxmtl.errors import RunError
from onnxmtl.runs import RunDirectory, free_path, read_json, versions
from onnxmtl.runs.atomic import temporary_name

CONFIG = {"seed": 7, "tasks": "depth", "search": {"steps": 100, "rate": 0.1}}


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()} if folder.exists() else set()


def write(path: Path, text: str) -> None:
    path.write_text(text)


def test_create_records_what_was_asked(tmp_path):
    with RunDirectory.create(tmp_path / "runs" / "a", CONFIG, ["onnxmtl", "compile", "x.onnx"]) as run:
        record = read_json(run.path / "run.json")
    assert record["seed"] == run.seed == 7
    assert record["config"] == run.config == CONFIG
    assert record["command"] == ["onnxmtl", "compile", "x.onnx"]
    assert record["versions"] == versions()
    assert {"python", "onnxmtl", "onnx", "onnx-ir", "numpy"} <= set(record["versions"])
    assert run.changed_versions() == {}


def test_phases_are_numbered_done_and_kept(tmp_path):
    with RunDirectory.create(tmp_path / "a", CONFIG) as run:
        first = run.phase("import", {"model": "abc"})
        second = run.phase("pre-train", {"after": [first], "steps": 3})
        assert not first.done and not second.done
        with first.writing() as folder:
            write(folder / "x", "1")
            assert not first.done
        assert first.done and first.path == tmp_path / "a" / "phases" / "01-import"
        with second.writing():
            pass
        assert second.path.name == "02-pre-train"
    with RunDirectory.resume(tmp_path / "a", CONFIG) as run:
        again = run.phase("import", {"model": "abc"})
        assert again.done and again.key == first.key and (again.path / "x").read_text() == "1"
        assert run.phase("pre-train", {"steps": 3, "after": [again]}).done
        assert run.phase("import", {"model": "abc"}) is again
        with pytest.raises(RunError, match="done already"), again.writing():
            pytest.fail("must not get here")


def test_result_of_other_inputs_is_not_done_and_gets_replaced(tmp_path):
    with RunDirectory.create(tmp_path / "a", CONFIG) as run:
        first = run.phase("import", {"model": "abc"})
        second = run.phase("train", {"after": first})
        for phase in (first, second):
            with phase.writing() as folder:
                write(folder / "old", "")
    with RunDirectory.resume(tmp_path / "a") as run:
        first = run.phase("import", {"model": "other"})
        second = run.phase("train", {"after": first})  # the change of the first reaches the second
        assert not first.done and not second.done
        with first.writing() as folder:
            write(folder / "new", "")
        assert names(first.path) == {"new", "done.json"} and first.path.name == "01-import"
    assert names(tmp_path / "a" / "phases") == {"01-import", "02-train"}


def test_failed_phase_leaves_nothing(tmp_path):
    def fail(phase) -> None:
        with phase.writing() as folder:
            write(folder / "half", "")
            raise RuntimeError

    with RunDirectory.create(tmp_path / "a", CONFIG) as run:
        phase = run.phase("import")
        with pytest.raises(RuntimeError):
            fail(phase)
        assert not phase.done and names(tmp_path / "a" / "phases") == set()


def test_bad_phase_name(tmp_path):
    with RunDirectory.create(tmp_path / "a", CONFIG) as run, pytest.raises(ValueError, match="lower case"):
        run.phase("../evil")


def test_checkpoints(tmp_path):
    with RunDirectory.create(tmp_path / "a", CONFIG) as run:
        phase = run.phase("train", {"steps": 3})
        assert phase.checkpoints.latest_checkpoint() is None
        for step in (0, 9, 10):
            path = phase.checkpoints.save_checkpoint(step, lambda folder, s=step: write(folder / "state", str(s)))
            assert phase.checkpoints.latest_checkpoint() == (step, path)
        assert names(phase.checkpoints.folder) == {"step-000010"}
        with pytest.raises(ValueError, match="go forward"):
            phase.checkpoints.save_checkpoint(10, lambda folder: None)

        def fail(folder: Path) -> None:
            write(folder / "half", "")
            raise RuntimeError

        with pytest.raises(RuntimeError):
            phase.checkpoints.save_checkpoint(11, fail)
        assert names(phase.checkpoints.folder) == {"step-000010"}
        other = run.phase("train", {"steps": 4})
        assert other.checkpoints.latest_checkpoint() is None  # never of another key
        with other.writing():
            pass
        assert other.done and names(tmp_path / "a" / "checkpoints") == set()


def test_resume_sweeps_leftovers_of_a_kill(tmp_path):
    with RunDirectory.create(tmp_path / "a", CONFIG) as run:
        phase = run.phase("train")
        phase.checkpoints.save_checkpoint(1, lambda folder: write(folder / "state", "1"))
        for place in (run.path / "run.json", phase.path, phase.checkpoints.folder / "step-000002"):
            temporary_name(place).mkdir(parents=True)
        (phase.checkpoints.folder / "step-000000").mkdir()  # killed between the new one and removing this
    with RunDirectory.resume(tmp_path / "a") as run:
        phase = run.phase("train")
        assert phase.checkpoints.latest_checkpoint() == (1, phase.checkpoints.folder / "step-000001")
        left = [path for path in (tmp_path / "a").rglob("*") if path.name.endswith(".tmp")]
        assert left == [] and names(phase.checkpoints.folder) == {"step-000001"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tasks": "normals"}, "tasks was 'depth' in the run and is 'normals' now"),
        ({"search": {"steps": 200, "rate": 0.1}}, "search.steps was 100 in the run and is 200 now"),
        ({"extra": 1}, "extra is 1 now and was not set in the run"),
        ({"seed": True}, "seed was 7"),
    ],
)
def test_resume_names_the_entry_that_differs(tmp_path, change, words):
    RunDirectory.create(tmp_path / "a", CONFIG).close()
    with pytest.raises(RunError) as caught:
        RunDirectory.resume(tmp_path / "a", {**CONFIG, **change})
    assert words in str(caught.value) and "\n" not in str(caught.value)
    RunDirectory.resume(tmp_path / "a", {**CONFIG}).close()  # the refusal gave the lock back


def test_resume_takes_tuples_for_lists(tmp_path):
    RunDirectory.create(tmp_path / "a", {"size": (64, 64)}).close()
    RunDirectory.resume(tmp_path / "a", {"size": (64, 64)}).close()


def test_resume_refuses_what_is_no_run(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for name, words in [("none", "does not exist"), ("file", "is no directory"), ("folder", r"has no run\.json")]:
        with pytest.raises(RunError, match=words):
            RunDirectory.resume(tmp_path / name)
    assert names(tmp_path / "folder") == set()
    (tmp_path / "folder" / "run.json").write_text('{"format": 99}')
    with pytest.raises(RunError, match="not of this version"):
        RunDirectory.resume(tmp_path / "folder")


def test_create_refuses_occupied_places(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("")
    (tmp_path / "file").write_text("")
    RunDirectory.create(tmp_path / "run", CONFIG).close()
    for name, words in [("full", "it has 'mine'"), ("file", "no directory"), ("run", "holds a run already")]:
        with pytest.raises(RunError, match=words):
            RunDirectory.create(tmp_path / name, CONFIG)
    assert names(tmp_path / "full") == {"mine"}


def test_create_after_a_kill_at_the_very_start(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "lock").write_text("1\n")
    temporary_name(folder / "run.json").write_text("{")
    with RunDirectory.create(folder, CONFIG):
        assert names(folder) == {"lock", "run.json"}


def test_one_process_per_run(tmp_path):
    run = RunDirectory.create(tmp_path / "a", CONFIG)
    with pytest.raises(RunError, match=f"in use by process {os.getpid()}"):
        RunDirectory.resume(tmp_path / "a")
    code = f"from onnxmtl.runs import RunDirectory; RunDirectory.resume({str(tmp_path / 'a')!r})"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert child.returncode == 1 and "in use by process" in child.stderr
    run.close()
    RunDirectory.resume(tmp_path / "a").close()


def test_free_path(tmp_path):
    assert free_path(tmp_path, "demo") == tmp_path / "demo-1"
    (tmp_path / "demo-1").mkdir()
    (tmp_path / "demo-3").mkdir()
    assert free_path(tmp_path, "demo") == tmp_path / "demo-2"
