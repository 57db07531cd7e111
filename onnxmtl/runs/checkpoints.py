"""Intermediate states of a phase that is still running: the newest complete one survives any kill."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from onnxmtl.runs.atomic import atomic_directory, remove, sweep

_STEP = re.compile(r"step-([0-9]{6,})")


class Checkpoints:
    """Directories ``step-000123`` in one folder; only the newest is kept.

    A step's directory appears complete or not at all, and an older one goes only after a newer one is on the disk,
    so after the first save there is always one to go on from.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _steps(self) -> list[tuple[int, Path]]:
        if not self.folder.is_dir():
            return []
        found = [(match, entry) for entry in self.folder.iterdir() if (match := _STEP.fullmatch(entry.name))]
        return sorted((int(match.group(1)), entry) for match, entry in found)

    def latest_checkpoint(self) -> tuple[int, Path] | None:
        """The newest (step, directory), or None if nothing was saved yet."""
        steps = self._steps()
        return steps[-1] if steps else None

    def save_checkpoint(self, step: int, writer: Callable[[Path], None]) -> Path:
        """Save the state at `step`: `writer` fills the directory it is given. Returns where it ended up.

        Raises:
            RunError: The disk refuses; the newest older checkpoint is untouched.
            ValueError: `step` is not beyond the newest saved one.
        """
        older = self._steps()
        if step < 0 or (older and step <= older[-1][0]):
            newest = older[-1][0] if older else "none"
            msg = f"checkpoints go forward: step {step} after {newest}"
            raise ValueError(msg)
        target = self.folder / f"step-{step:06d}"
        with atomic_directory(target) as folder:
            writer(folder)
        for _, path in older:
            remove(path)
        return target

    def sweep(self) -> None:
        """Remove what a killed process left half-written, and all but the newest checkpoint."""
        sweep(self.folder)
        for _, path in self._steps()[:-1]:
            remove(path)
