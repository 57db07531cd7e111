"""One process per run: an advisory lock that the system releases when its holder dies, however it dies."""

from __future__ import annotations

import os
from pathlib import Path

from onnxmtl.errors import RunError
from onnxmtl.runs.atomic import disk_errors

LOCK_FILE = "lock"


class Lock:
    """Holds ``folder/lock`` from construction to :meth:`release`.

    Raises:
        RunError: Another process holds it, or the file system refuses.
    """

    def __init__(self, folder: Path) -> None:
        import fcntl  # POSIX only: imported here so that everything else works elsewhere

        path = folder / LOCK_FILE
        with disk_errors(path):
            self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError as error:
            owner = os.pread(self._descriptor, 32, 0).decode(errors="replace").strip()
            self.release()
            who = f"process {owner}" if owner else "another process"
            msg = f"{folder} is in use by {who}; wait for it or end it first"
            raise RunError(msg) from error
        except OSError as error:
            self.release()
            msg = f"cannot lock {path}: {error.strerror or error}; choose a directory on another file system"
            raise RunError(msg) from error

    def release(self) -> None:
        """Give the lock back. The file stays: removing it would race with the next process."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
