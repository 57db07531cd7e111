from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from onnxmtl.errors import RunError
from onnxmtl.runs import atomic_directory, atomic_write
from onnxmtl.runs.atomic import is_temporary, remove, sweep, temporary_name


def entries(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def test_directory_appears_whole(tmp_path):
    target = tmp_path / "new" / "result"
    with atomic_directory(target) as folder:
        assert folder.parent == target.parent  # same file system, so the rename is atomic
        (folder / "sub").mkdir()
        (folder / "sub" / "a.bin").write_bytes(b"abc")
        assert not target.exists()
    assert (target / "sub" / "a.bin").read_bytes() == b"abc"
    assert entries(target.parent) == {"result"}


def test_result_has_the_usual_permissions(tmp_path):
    usual = tmp_path / "usual"
    usual.mkdir()
    with atomic_directory(tmp_path / "result"):
        pass
    assert (tmp_path / "result").stat().st_mode == usual.stat().st_mode


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_failure_leaves_nothing(tmp_path, error):
    def fill() -> None:
        with atomic_directory(tmp_path / "result") as folder:
            (folder / "half").write_text("half")
            raise error

    with pytest.raises(error):
        fill()
    assert entries(tmp_path) == set()


def test_occupied_target_is_refused_and_untouched(tmp_path):
    (tmp_path / "result").mkdir()
    (tmp_path / "result" / "mine").write_text("mine")
    with pytest.raises(RunError, match="not empty") as caught, atomic_directory(tmp_path / "result"):
        pytest.fail("must not get here")
    assert "\n" not in str(caught.value)
    assert entries(tmp_path) == {"result"} and entries(tmp_path / "result") == {"mine"}


def test_target_filled_meanwhile_is_refused(tmp_path):
    def fill() -> None:
        with atomic_directory(tmp_path / "result"):
            (tmp_path / "result").mkdir()
            (tmp_path / "result" / "other").write_text("of someone else")

    with pytest.raises(RunError, match="not empty"):
        fill()
    assert entries(tmp_path / "result") == {"other"}
    assert entries(tmp_path) == {"result"}


def test_empty_target_and_symlink_to_one_are_used(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with atomic_directory(tmp_path / "link") as folder:
        (folder / "a").write_text("a")
    assert (tmp_path / "link").is_symlink()
    assert entries(tmp_path / "real") == {"a"}


def test_file_as_target_is_refused(tmp_path):
    (tmp_path / "result").write_text("a file")
    with pytest.raises(RunError, match="is no directory"), atomic_directory(tmp_path / "result"):
        pytest.fail("must not get here")


def test_replace(tmp_path):
    (tmp_path / "result").mkdir()
    (tmp_path / "result" / "old").write_text("old")
    with atomic_directory(tmp_path / "result", replace=True) as folder:
        (folder / "new").write_text("new")
        assert entries(tmp_path / "result") == {"old"}
    assert entries(tmp_path / "result") == {"new"}
    assert entries(tmp_path) == {"result"}


def test_full_disk_in_the_block_is_one_line(tmp_path):
    def fill() -> None:
        with atomic_directory(tmp_path / "result"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(RunError, match=r"^cannot write .*result: No space left on device; free some space"):
        fill()
    assert entries(tmp_path) == set()


def test_full_disk_at_the_flush_is_one_line(tmp_path, monkeypatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left"), atomic_directory(tmp_path / "result") as folder:
        (folder / "a").write_text("a")
    with pytest.raises(RunError, match="No space left"):
        atomic_write(tmp_path / "file", b"a")
    assert entries(tmp_path) == set()


@pytest.fixture
def events(monkeypatch):
    """What was flushed (files and folders by name, the temporary one as \"beside\") and renamed, in this order."""
    found: list[str] = []

    def flush(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        found.append(f"flush {'beside' if is_temporary(path) else path.name}")

    def renaming(original):
        def rename(self: Path, target: Path) -> Path:
            found.append(f"rename to {Path(target).name}")
            return original(self, target)

        return rename

    monkeypatch.setattr(os, "fsync", flush)
    for name in ("rename", "replace"):
        monkeypatch.setattr(Path, name, renaming(getattr(Path, name)))
    return found


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="names of open files are not there")
def test_everything_is_on_the_disk_before_it_has_its_name(tmp_path, events):
    """A result is there after a power cut, or is not: never its name with half of its content."""
    with atomic_directory(tmp_path / "result") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_text("a")
        (folder / "b").write_text("b")
        assert not events
    assert events == [
        "flush a", "flush sub", "flush b", "flush beside", "rename to result", f"flush {tmp_path.name}"
    ]  # fmt: skip
    events.clear()
    atomic_write(tmp_path / "file", b"a")
    assert events == ["flush beside", "rename to file", f"flush {tmp_path.name}"]


def test_error_of_another_file_stays_what_it_is(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_directory(tmp_path / "result"):
        (tmp_path / "data set that is not there").read_bytes()
    assert entries(tmp_path) == set()


def test_parent_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"), atomic_directory(tmp_path / "file" / "result"):
        pytest.fail("must not get here")
    with pytest.raises(RunError, match="cannot write"):
        atomic_write(tmp_path / "file" / "a.json", b"")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission_is_one_line(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    with pytest.raises(RunError, match="Permission denied; choose a directory"), atomic_directory(closed / "result"):
        pytest.fail("must not get here")


def test_write_replaces_and_keeps_the_old_on_failure(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    atomic_write(path, b"old")
    atomic_write(path, b"new")
    assert path.read_bytes() == b"new"

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(RunError, match="Input/output error"):
        atomic_write(path, b"newer")
    assert path.read_bytes() == b"new" and entries(tmp_path) == {"a.json"}


def test_sweep_takes_only_temporary_entries(tmp_path):
    keep = tmp_path / "keep"
    keep.mkdir()
    (tmp_path / ".hidden").write_text("keep")
    half = temporary_name(keep)
    half.mkdir()
    (half / "x").write_text("x")
    temporary_name(tmp_path / "f").write_text("half")
    sweep(tmp_path)
    assert entries(tmp_path) == {"keep", ".hidden"}
    sweep(tmp_path / "does not exist")


def test_remove(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "f").write_text("")
    for name in ("a", "f", "not there"):
        remove(tmp_path / name)
    assert entries(tmp_path) == set()
