"""Where the phases of a run lie. No torch."""

from __future__ import annotations

from pathlib import Path

from onnxmtl.errors import RunError


def phase_folder(run: Path, phase: str, file: str) -> Path:
    """The folder of a phase, which has `file`.

    Raises:
        RunError: There is none.
    """
    for folder in sorted((run / "phases").glob(f"[0-9]*-{phase}")):
        if folder.name.partition("-")[2] == phase and (folder / file).is_file():
            return folder
    msg = f"{run} has no {file} of its phase {phase!r}: an earlier version of onnxmtl made it; compile again"
    raise RunError(msg)
