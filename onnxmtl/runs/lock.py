"""One process per run: an advisory lock that the system releases when its holder dies, however it dies."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from onnxmtl.errors import RunError
from onnxmtl.runs.atomic import disk_errors

LOCK_FILE = "lock"


class Lock:
    """Holds ``folder/lock`` from construction to :meth:`release`.

    Args:
        folder: An existing directory.
        waiting: If given, a lock that another process holds is waited for, after `waiting` was told about it.

    Raises:
        RunError: Another process holds it (without `waiting`), or the file system refuses.
    """

    def __init__(self, folder: Path, waiting: Callable[[str], None] | None = None) -> None:
        import fcntl  # POSIX only: imported here so that everything else works elsewhere

        path = folder / LOCK_FILE
        with disk_errors(path):
            self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if waiting is None:
                    raise
                waiting(f"{folder} is in use by {self._owner()}; waiting for it")
                fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError as error:
            msg = f"{folder} is in use by {self._owner()}; wait for it or end it first"
            self.release()
            raise RunError(msg) from error
        except OSError as error:
            self.release()
            msg = f"cannot lock {path}: {error.strerror or error}; choose a directory on another file system"
            raise RunError(msg) from error
        except BaseException:  # interrupted while it waited
            self.release()
            raise

    def _owner(self) -> str:
        owner = (
            os.pread(self._descriptor, 32, 0).decode(errors="replace").strip() if self._descriptor is not None else ""
        )
        return f"process {owner}" if owner else "another process"

    def release(self) -> None:
        """Give the lock back. The file stays: removing it would race with the next process."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
