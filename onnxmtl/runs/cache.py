"""Results that outlive a run, under the hash of all that they depend on: nothing is trained twice.

    <cache>/trainings/<key>/lock            held by the process that reads or makes the entry
                           /content.json    what the result depends on, for people
                           /result/…        the files, and files.json with their hashes
                           /checkpoints/…   states of a training that is not done yet

The cache is a memo: nothing in it is needed, and any of it may be removed while no run uses it. An entry appears whole
or not at all, two processes that want the same one wait for each other, and what is read is compared with its hashes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from onnxmtl.errors import RunError
from onnxmtl.runs.atomic import atomic_directory, disk_errors, remove, sweep
from onnxmtl.runs.checkpoints import Checkpoints
from onnxmtl.runs.jsonfile import canonical, content_key, file_sha256, read_json, write_json
from onnxmtl.runs.lock import Lock

VARIABLE = "ONNXMTL_CACHE"
_FILES = "files.json"


def cache_folder() -> Path:
    """``$ONNXMTL_CACHE``, else ``$XDG_CACHE_HOME/onnxmtl``, else ``~/.cache/onnxmtl``."""
    if own := os.environ.get(VARIABLE):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "onnxmtl"


class Entry:
    """One result in the cache, locked for this process. Made by :func:`cached`.

    Attributes:
        path: Its directory.
        checkpoints: States of the work on it; gone once it is done.
        damaged: What was wrong with a result that was there, or "".
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path, self._key = path, key
        self.checkpoints = Checkpoints(path / "checkpoints")
        self.damaged = ""

    @property
    def result(self) -> Path | None:
        """The folder with the result, every file of it as it was written; None if there is none or it is damaged."""
        folder = self.path / "result"
        if not folder.is_dir():
            return None
        self.damaged = self._fault(folder)
        return None if self.damaged else folder

    def _fault(self, folder: Path) -> str:
        try:
            listed = read_json(folder / _FILES)
            if not isinstance(listed, dict) or listed.get("key") != self._key:
                return f"{_FILES} is of another entry"
            expected = dict(listed["files"])
            found = _hashes(folder)
        except (RunError, KeyError, TypeError, ValueError) as error:
            return " ".join(str(error).split())
        wrong = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
        return f"{wrong[0]} is not what was written" if wrong else ""

    @contextlib.contextmanager
    def writing(self) -> Iterator[Path]:
        """Yields an empty folder that becomes the result when the block ends; a damaged one is replaced.

        Raises:
            RunError: The disk refuses.
        """
        with atomic_directory(self.path / "result", replace=True) as folder:
            yield folder
            write_json(folder / _FILES, {"key": self._key, "files": _hashes(folder)})
        with disk_errors(self.path):
            remove(self.checkpoints.folder)

    def copy(self, target: Path) -> None:
        """Copy the files of the result into an existing folder.

        Raises:
            RunError: The disk refuses.
        """
        folder = self.path / "result"
        with disk_errors(target):
            for file in sorted(folder.rglob("*")):
                if file.is_file() and file.name != _FILES:
                    place = target / file.relative_to(folder)
                    place.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(file, place)


def _hashes(folder: Path) -> dict[str, str]:
    return {
        file.relative_to(folder).as_posix(): file_sha256(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != _FILES
    }


@contextlib.contextmanager
def cached(content: Mapping[str, Any], *, waiting: Callable[[str], None] | None = None) -> Iterator[Entry]:
    """The cache's entry for `content`; other processes that want it wait until the block has ended.

    Args:
        content: All that the result depends on, as JSON values.
        waiting: Told once, in words, if another process has the entry and has to be waited for.

    Raises:
        RunError: The cache cannot be written.
    """
    plain = canonical(dict(content))
    key = content_key(plain)
    path = cache_folder() / "trainings" / key
    with disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    lock = Lock(path, waiting=waiting or (lambda _: None))
    try:
        sweep(path)
        entry = Entry(path, key)
        entry.checkpoints.sweep()
        if not (path / "content.json").is_file():
            write_json(path / "content.json", plain)
        yield entry
    finally:
        lock.release()
