"""Entries of the cache: whole or not there, one maker at a time, and nothing damaged is handed out."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from onnxmtl.errors import RunError
from onnxmtl.runs import cache_folder, cached

CONTENT = {"model": "abc", "steps": 3}
CHILD = """
import sys, time
from onnxmtl.runs import cached
with cached({"model": "abc", "steps": 3}, waiting=lambda text: print(text, flush=True)) as entry:
    print("inside", flush=True)
    sys.stdin.readline()
    if entry.result is None:
        with entry.writing() as folder:
            (folder / "a.txt").write_text("made by the child")
"""


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    monkeypatch.setenv("ONNXMTL_CACHE", str(tmp_path / "cache"))


def make(text="hello", content=CONTENT):
    with cached(content) as entry:
        with entry.writing() as folder:
            (folder / "a.txt").write_text(text)
            (folder / "sub").mkdir()
            (folder / "sub" / "b.bin").write_bytes(bytes(100))
        return entry.path


def found(target, content=CONTENT):
    """What the cache has, copied; None if it has nothing to give."""
    with cached(content) as entry:
        if entry.result is None:
            return entry.damaged
        target.mkdir()
        entry.copy(target)
        return {file.relative_to(target).as_posix(): file.read_bytes() for file in target.rglob("*") if file.is_file()}


def test_where_it_is(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("ONNXMTL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "onnxmtl"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "onnxmtl"


def test_what_is_written_comes_back_and_nothing_else(tmp_path):
    assert found(tmp_path / "none") == ""
    make()
    assert found(tmp_path / "out") == {"a.txt": b"hello", "sub/b.bin": bytes(100)}
    assert found(tmp_path / "other", {**CONTENT, "steps": 4}) == ""
    assert found(tmp_path / "reordered", dict(reversed(CONTENT.items()))) != ""


def changed(folder):
    (folder / "a.txt").write_text("hellO")


def shortened(folder):
    (folder / "sub" / "b.bin").write_bytes(bytes(99))


def lost(folder):
    (folder / "a.txt").unlink()


def added(folder):
    (folder / "c.txt").write_text("not mine")


def unlisted(folder):
    (folder / "files.json").unlink()


def garbled(folder):
    (folder / "files.json").write_text('{"key"')


def of_another(folder):
    text = (folder / "files.json").read_text()
    (folder / "files.json").write_text(text.replace('"key": "', '"key": "0'))


@pytest.mark.parametrize("harm", [changed, shortened, lost, added, unlisted, garbled, of_another])
def test_a_damaged_result_is_made_again(tmp_path, harm):
    path = make()
    harm(path / "result")
    why = found(tmp_path / "out")
    assert isinstance(why, str) and why and "\n" not in why
    make("again")
    assert found(tmp_path / "out") == {"a.txt": b"again", "sub/b.bin": bytes(100)}


def test_an_error_leaves_nothing_but_checkpoints(tmp_path):
    def write(folder):
        (folder / "state").write_text("half")

    def stop(entry):
        entry.checkpoints.save_checkpoint(5, write)
        with entry.writing() as folder:
            (folder / "a.txt").write_text("half")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"), cached(CONTENT) as entry:
        stop(entry)
    assert found(tmp_path / "out") == ""
    with cached(CONTENT) as entry:
        assert entry.checkpoints.latest_checkpoint()[0] == 5
    path = make()
    assert not (path / "checkpoints").exists(), "a result needs no checkpoints"


def test_the_second_process_waits_for_the_first(tmp_path):
    words = [sys.executable, "-c", CHILD]
    first = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "inside\n"
    second = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert f"in use by process {first.pid}; waiting" in second.stdout.readline()
    time.sleep(0.1)
    first.communicate("\n", timeout=30)
    out, _ = second.communicate("\n", timeout=30)
    assert out == "inside\n" and (first.returncode, second.returncode) == (0, 0)
    assert found(tmp_path / "out") == {"a.txt": b"made by the child"}


def test_a_killed_process_holds_nothing(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "inside\n"
    child.kill()
    child.wait()
    make()
    assert found(tmp_path / "out") == {"a.txt": b"hello", "sub/b.bin": bytes(100)}


def test_no_place_for_it(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ONNXMTL_CACHE", str(tmp_path / "file"))
    with pytest.raises(RunError) as refused, cached(CONTENT):
        pytest.fail("there is no cache")
    assert "\n" not in str(refused.value) and os.path.isfile(tmp_path / "file")
