"""Live curves in TensorBoard: an observer that writes event files (extra ``report``).

    compile(..., observer=together(progress, TensorBoard("runs/tensorboard")))

One scalar per figure and stage, over the steps of the stage: ``pre-train/loss/seg``, ``policy-train/temperature``.
Event files hold the time of the clock; nothing else of a run depends on them.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from onnxmtl.errors import MissingDependencyError
from onnxmtl.runs.atomic import disk_errors

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from onnxmtl.workflows.session import Observer

_INSTALL = "--tensorboard needs TensorBoard: pip install 'onnxmtl[report]'"


class TensorBoard:
    """An observer that writes what it is told as TensorBoard event files.

    A stage that goes on after a kill replaces the steps that it does again. Use it in a ``with``, or close it.

    Args:
        folder: Where event files go, one sub-folder per stage; made if it is not there.

    Raises:
        MissingDependencyError: TensorBoard is not installed.
        RunError: The folder cannot be made.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError as error:
            raise MissingDependencyError(_INSTALL) from error
        self.folder = Path(folder)
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        self._kind: type[SummaryWriter] = SummaryWriter
        self._writer: SummaryWriter | None = None
        self._name = ""

    def stage(self, name: str, total: int, start: int = 0) -> None:
        """A stage begins; what an earlier process wrote of it behind `start` is dropped."""
        self.close()
        self._name = name
        with disk_errors(self.folder):
            self._writer = self._kind(str(self.folder / _file_name(name)), purge_step=start + 1 if start else None)

    def update(self, step: int, losses: Mapping[str, float], cost: float | None = None) -> None:
        """Nothing: :meth:`figures` is told all of it, by the names of a run's history."""

    def figures(self, step: int, figures: Mapping[str, float]) -> None:
        """Write all figures of a step."""
        if self._writer is None:
            return
        with disk_errors(self.folder):
            for name, value in figures.items():
                if math.isfinite(value):
                    self._writer.add_scalar(f"{self._name}/{name}", value, step)

    def close(self) -> None:
        """Write out what is held back."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with disk_errors(self.folder):
                writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _file_name(stage: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in stage) or "stage"


class _Together:
    """Several observers as one."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers

    def stage(self, name: str, total: int, start: int = 0) -> None:
        for observer in self._observers:
            observer.stage(name, total, start)

    def update(self, step: int, losses: Mapping[str, float], cost: float | None = None) -> None:
        for observer in self._observers:
            observer.update(step, losses, cost)

    def plan(self, names: Sequence[str]) -> None:
        self._tell("plan", names)

    def note(self, text: str) -> None:
        self._tell("note", text)

    def figures(self, step: int, figures: Mapping[str, float]) -> None:
        self._tell("figures", step, figures)

    def _tell(self, method: str, *arguments: Any) -> None:
        """Call what not every observer has."""
        for observer in self._observers:
            told = getattr(observer, method, None)
            if told is not None:
                told(*arguments)


def together(*observers: Observer) -> Observer:
    """One observer that tells all of `observers`, in their order."""
    return _Together(observers)


@contextlib.contextmanager
def tensorboard(observer: Observer, folder: str | os.PathLike[str] | None) -> Iterator[Observer]:
    """`observer`, and event files in `folder` besides; without a folder, just `observer`.

    Raises:
        MissingDependencyError: TensorBoard is not installed.
        RunError: The folder cannot be made, or the disk refuses.
    """
    if folder is None:
        yield observer
        return
    with TensorBoard(folder) as board:
        yield together(observer, board)
