"""Writing so that a reader, or a run after a kill, sees either all of a result or nothing of it.

Everything is written under a temporary name beside its target, flushed to the disk, and renamed. Temporary names
begin with a dot and end in ``.tmp``; what a killed process left behind is removed by :func:`sweep`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from onnxmtl.errors import RunError

_SUFFIX = ".tmp"
# Errors that a full disk raises, often without telling which file it was.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_HINTS = {
    errno.ENOSPC: "free some space or choose another directory",
    errno.EDQUOT: "free some space or choose another directory",
    errno.EACCES: "choose a directory you may write to",
    errno.EPERM: "choose a directory you may write to",
    errno.EROFS: "choose a directory you may write to",
    errno.EXDEV: "choose a directory inside this one: it is a file system of its own",
    errno.EBUSY: "choose a directory inside this one: it is a file system of its own",
    errno.ENOTDIR: "choose another directory",
}


def temporary_name(target: Path) -> Path:
    """A new temporary path beside `target`."""
    return target.with_name(f".{target.name}.{secrets.token_hex(6)}{_SUFFIX}")


def is_temporary(path: Path) -> bool:
    """Whether `path` has a name given by :func:`temporary_name`."""
    return path.name.startswith(".") and path.name.endswith(_SUFFIX)


def remove(path: Path) -> None:
    """Remove a file or a tree so that no reader ever sees half of it under its own name."""
    if not os.path.lexists(path):
        return
    if not is_temporary(path):
        doomed = temporary_name(path)
        path.rename(doomed)
        path = doomed
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove the temporary entries directly in `folder` that a killed process left. The caller holds the lock."""
    if folder.is_dir():
        for entry in folder.iterdir():
            if is_temporary(entry):
                remove(entry)


def disk_error(error: OSError, target: Path) -> RunError:
    """The one line that tells of `error` while `target` was written."""
    hint = _HINTS.get(error.errno or 0)
    return RunError(f"cannot write {target}: {error.strerror or error}" + (f"; {hint}" if hint else ""))


@contextlib.contextmanager
def disk_errors(target: Path, below: Path | None = None) -> Iterator[None]:
    """Turn an OSError met while writing `target` into a RunError of one line.

    With `below`, only errors of a full disk or about files below it are turned: the block is the caller's, and it
    may well read a data set that is missing.
    """
    try:
        yield
    except OSError as error:
        names = [name for name in (error.filename, error.filename2) if isinstance(name, str | os.PathLike)]
        if (
            below is None
            or error.errno in _FULL
            or any(Path(os.path.abspath(name)).is_relative_to(below) for name in names)
        ):
            raise disk_error(error, target) from error
        raise


def sync(path: Path) -> None:
    """Flush a file's data or a directory's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Flush all files and directories of a tree, the deepest first."""
    for parent, _, files in os.walk(folder, topdown=False):
        for name in files:
            path = Path(parent, name)
            if path.is_file() and not path.is_symlink():
                sync(path)
        sync(Path(parent))


def _refuse_occupied(target: Path) -> None:
    if target.is_dir():
        if next(target.iterdir(), None) is not None:
            msg = f"{target} is not empty; nothing was written: choose another directory or remove it"
            raise RunError(msg)
    elif os.path.lexists(target):
        msg = f"{target} exists and is no directory; nothing was written: choose another name"
        raise RunError(msg)


@contextlib.contextmanager
def atomic_directory(target: str | os.PathLike[str], *, replace: bool = False) -> Iterator[Path]:
    """Fill a new directory and give it its name only once it is complete and on the disk.

    Yields the temporary directory to write into. If the block raises, nothing is left behind and `target` is as it
    was. An empty directory at `target` is replaced; anything else only with `replace`.

    Raises:
        RunError: `target` is not empty or no directory, or the disk refuses (full, read-only, no permission).
    """
    named = Path(target)
    final = Path(os.path.realpath(named))
    beside = temporary_name(final)
    try:
        with disk_errors(named):
            if not replace:
                _refuse_occupied(named)
            final.parent.mkdir(parents=True, exist_ok=True)
            beside.mkdir()
        with disk_errors(named, below=beside):
            yield beside
        with disk_errors(named):
            sync_tree(beside)
            if replace:
                remove(final)
            else:
                _refuse_occupied(named)
            beside.rename(final)
            sync(final.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def atomic_write(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to `path`, replacing an older file in one step.

    Raises:
        RunError: The disk refuses.
    """
    target = Path(path)
    beside = temporary_name(target)
    with disk_errors(target):
        try:
            with beside.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(target)
            sync(target.parent)
        finally:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
