"""A run on disk: what was asked for, and the result of each phase, each written whole or not at all.

    run.json                              seed, configuration; and, only here, command line, time and versions
    lock                                  held by the process that works on the run
    phases/01-import/…, done.json         the result of a phase; done.json has the key of all it depends on
    checkpoints/02-pre-train-<key>/…      states inside a phase that is not done yet

After a kill at any moment the directory can be resumed: done phases are read, the phase that was running goes on
from its newest checkpoint, half-written temporary entries are swept.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import os
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from onnxmtl.errors import RunError
from onnxmtl.runs.atomic import atomic_directory, disk_errors, is_temporary, remove, sweep
from onnxmtl.runs.checkpoints import Checkpoints
from onnxmtl.runs.jsonfile import canonical, content_key, read_json, write_json
from onnxmtl.runs.lock import LOCK_FILE, Lock

RUN_FILE = "run.json"
DONE_FILE = "done.json"
FORMAT = 1
_PACKAGES = ("onnxmtl", "onnx", "onnx-ir", "torch", "onnxruntime", "onnxruntime-gpu", "numpy")
_PHASE_NAME = re.compile(r"[a-z][a-z0-9-]*")


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that a result may depend on (nothing is imported)."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def free_path(parent: str | os.PathLike[str], stem: str) -> Path:
    """The first of ``parent/stem-1``, ``parent/stem-2``, … that does not exist."""
    number = 1
    while os.path.lexists(path := Path(parent, f"{stem}-{number}")):
        number += 1
    return path


class Phase:
    """One step of a run whose result is a directory (made by :meth:`RunDirectory.phase`).

    Attributes:
        name: E.g. ``"pre-train"``.
        key: Hash of all the phase depends on.
        path: Where the result is, or will be.
        checkpoints: States saved while the phase is running; gone once it is done.
    """

    def __init__(self, name: str, key: str, path: Path, checkpoints: Checkpoints) -> None:
        self.name = name
        self.key = key
        self.path = path
        self.checkpoints = checkpoints

    @property
    def done(self) -> bool:
        """Whether a result with this very key is there."""
        if not (self.path / DONE_FILE).is_file():
            return False
        return bool(read_json(self.path / DONE_FILE).get("key") == self.key)

    @contextlib.contextmanager
    def writing(self) -> Iterator[Path]:
        """Write the result: yields a folder that becomes :attr:`path`, with ``done.json``, when the block ends.

        A result with another key is replaced. If the block raises, or the process dies, nothing is changed.

        Raises:
            RunError: The phase is done already, or the disk refuses.
        """
        if self.done:
            msg = f"phase {self.name} is done already in {self.path}"
            raise RunError(msg)
        with atomic_directory(self.path, replace=True) as folder:
            yield folder
            write_json(folder / DONE_FILE, {"phase": self.name, "key": self.key})
        self.clear_checkpoints()

    def clear_checkpoints(self) -> None:
        """Remove the phase's checkpoints, those of other keys too."""
        parent = self.checkpoints.folder.parent
        with disk_errors(parent):
            for entry in parent.glob(f"{self.path.name}-*"):
                remove(entry)


class RunDirectory:
    """A run's directory, locked for this process. Use :meth:`create` or :meth:`resume`, and close it (``with``)."""

    def __init__(self, path: Path, record: Mapping[str, Any], lock: Lock) -> None:
        self.path = path
        self.record = record
        self._lock = lock
        self._phases: dict[str, Phase] = {}

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        config: Mapping[str, Any],
        command: Sequence[str] = (),
        source: Mapping[str, Any] | None = None,
    ) -> RunDirectory:
        """Start a run in a new or empty directory.

        Args:
            path: The directory; parents are made.
            config: All that the result depends on, as JSON values; ``config["seed"]`` is the run's seed.
            command: The command line, for people; it goes into run.json and nowhere else.
            source: Where the model came from, for people too.

        Raises:
            RunError: The directory is not empty, in use, or the disk refuses.
        """
        folder = Path(path)
        record = {
            "format": FORMAT,
            "seed": config.get("seed"),
            "config": canonical(dict(config)),
            "command": list(command),
            "source": dict(source or {}),
            "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "versions": versions(),
        }
        with disk_errors(folder):
            _refuse_occupied(folder)
            folder.mkdir(parents=True, exist_ok=True)
            lock = Lock(folder)
            try:
                _refuse_occupied(folder)  # again: now nobody else can start a run here
                sweep(folder)
                write_json(folder / RUN_FILE, record)
            except BaseException:
                lock.release()
                raise
        return cls(folder, record, lock)

    @staticmethod
    def check_free(path: str | os.PathLike[str]) -> None:
        """Refuse a directory in which no run can be created; changes nothing. :meth:`create` checks again.

        Raises:
            RunError: There is something in it, or it is no directory.
        """
        _refuse_occupied(Path(path))

    @classmethod
    def resume(cls, path: str | os.PathLike[str], config: Mapping[str, Any] | None = None) -> RunDirectory:
        """Go on with a run.

        Args:
            path: The run's directory.
            config: The configuration asked for now; it must equal the run's. None takes the run's.

        Raises:
            RunError: No run there, in use by another process, or of another configuration (the first entry that
                differs is named).
        """
        folder = Path(path)
        if not (folder / RUN_FILE).is_file():
            reason = (
                "has no run.json" if folder.is_dir() else "is no directory" if folder.exists() else "does not exist"
            )
            msg = f"cannot resume {folder}: it {reason}; give the directory of an earlier run"
            raise RunError(msg)
        lock = Lock(folder)
        try:
            record = _read_record(folder)
            if config is not None and (different := _difference(record["config"], canonical(dict(config)))):
                msg = f"cannot resume {folder}: {different}; use the same settings or start a new run"
                raise RunError(msg)
            sweep(folder)
            sweep(folder / "phases")
            sweep(folder / "checkpoints")
        except BaseException:
            lock.release()
            raise
        return cls(folder, record, lock)

    @property
    def config(self) -> dict[str, Any]:
        """The configuration the run was started with."""
        return dict(self.record["config"])

    @property
    def seed(self) -> int | None:
        """The run's seed."""
        seed: int | None = self.record["seed"]
        return seed

    def changed_versions(self) -> dict[str, tuple[str, str]]:
        """Packages whose version differs from the run's start: (then, now). Bits may then differ too."""
        then, now = self.record["versions"], versions()
        pairs = {name: (then.get(name, "none"), now.get(name, "none")) for name in sorted({*then, *now})}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}

    def phase(self, name: str, depends: Mapping[str, Any] | None = None) -> Phase:
        """The phase called `name`. Phases are numbered in the order in which they are first asked for.

        Args:
            name: Lower case letters, digits and dashes.
            depends: All that the result depends on, as JSON values; a :class:`Phase` (also inside lists and
                mappings) stands for its key.
        """
        if not _PHASE_NAME.fullmatch(name):
            msg = f"a phase is named with lower case letters, digits and dashes, not {name!r}"
            raise ValueError(msg)
        key = content_key({"phase": name, "depends": _with_keys(dict(depends or {}))})
        known = self._phases.get(name)
        if known is not None and known.key == key:
            return known
        path = known.path if known is not None else self._phase_path(name)
        checkpoints = Checkpoints(self.path / "checkpoints" / f"{path.name}-{key[:16]}")
        checkpoints.sweep()
        phase = Phase(name, key, path, checkpoints)
        if phase.done:
            phase.clear_checkpoints()  # the process may have died between the last rename and this
        self._phases[name] = phase
        return phase

    def _phase_path(self, name: str) -> Path:
        folder = self.path / "phases"
        for entry in sorted(folder.iterdir()) if folder.is_dir() else []:
            if re.fullmatch(rf"[0-9]+-{name}", entry.name):
                return entry
        return folder / f"{len(self._phases) + 1:02d}-{name}"

    def close(self) -> None:
        """Release the lock."""
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _refuse_occupied(folder: Path) -> None:
    """Refuse a directory that holds more than what a run killed at its very start leaves."""
    if not folder.is_dir():
        if os.path.lexists(folder):
            msg = f"{folder} exists and is no directory; choose another name"
            raise RunError(msg)
        return
    names = [entry.name for entry in folder.iterdir() if entry.name != LOCK_FILE and not is_temporary(entry)]
    if RUN_FILE in names:
        msg = f"{folder} holds a run already; resume it or choose another directory"
        raise RunError(msg)
    if names:
        msg = f"{folder} is not empty (it has {min(names)!r}); choose another directory or remove it"
        raise RunError(msg)


def _read_record(folder: Path) -> dict[str, Any]:
    record = read_json(folder / RUN_FILE)
    if not isinstance(record, dict) or record.get("format") != FORMAT or not isinstance(record.get("config"), dict):
        msg = f"cannot resume {folder}: its run.json is not of this version of onnxmtl; start a new run"
        raise RunError(msg)
    return record


def _with_keys(value: Any) -> Any:
    if isinstance(value, Phase):
        return value.key
    if isinstance(value, Mapping):
        return {str(key): _with_keys(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_keys(item) for item in value]
    return value


def _difference(then: Any, now: Any, name: str = "") -> str:
    """The first entry (in the order of names) in which two configurations differ, in words; "" if there is none."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key in sorted({*then, *now}):
            entry = f"{name}.{key}" if name else key
            if key not in then:
                return f"{entry} is {_short(now[key])} now and was not set in the run"
            if key not in now:
                return f"{entry} was {_short(then[key])} in the run and is not set now"
            if found := _difference(then[key], now[key], entry):
                return found
        return ""
    if type(then) is type(now) and then == now:
        return ""
    return f"{name} was {_short(then)} in the run and is {_short(now)} now"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
