"""A model file, or a directory of entry points, ready to be called with images."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxmtl.errors import ModelError
from onnxmtl.runtime.entry_points import EntryPoints
from onnxmtl.runtime.images import fitting
from onnxmtl.runtime.manifest import MANIFEST_FILE, Manifest
from onnxmtl.runtime.sessions import CPU, Array, Session, run, session

# What ONNX Runtime calls the element types an image can have.
_DTYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}


@dataclasses.dataclass(frozen=True)
class Model:
    """A loaded model, called with images. Made by :func:`load`.

    Attributes:
        session: The ONNX Runtime session.
        input: Name of the image input.
        shape: Its shape as in the model: numbers, and names (or None) for free dimensions.
        dtype: Its element type.
        outputs: Names of the outputs (the tasks), in order.
        metadata: The model's metadata, key -> text.
    """

    session: Session
    input: str
    shape: tuple[int | str | None, ...]
    dtype: np.dtype[Any]
    outputs: tuple[str, ...]
    metadata: dict[str, str]

    def __call__(self, image: Array, tasks: Sequence[str] | None = None) -> dict[str, Array]:
        """Predict for floating-point images [N, C, H, W]; returns {task: array}, for all tasks if None.

        ONNX Runtime computes the whole graph whatever is asked for; :class:`~onnxmtl.runtime.EntryPoints` does not.

        Raises:
            ModelError: The array is not floating point or has another shape than the model takes.
        """
        return run(self.session, {self.input: fitting(image, self.shape, self.dtype)}, tasks)


def load(
    path: str | os.PathLike[str],
    *,
    providers: Sequence[str] = (CPU,),
    threads: int | None = None,
    optimize: bool = True,
    by_segment: bool = False,
) -> Model | EntryPoints:
    """Load a model with one image input, ready to be called.

    Args:
        path: A model file; or a directory of entry points, of which a call loads and runs what its tasks need.
        providers: As for :func:`session`.
        threads: As for :func:`session`.
        optimize: As for :func:`session`.
        by_segment: Of a directory: one session per segment, for every weight to be in memory once, instead of one
            session per combination of tasks, which is faster. A model file is one session in any case.

    Raises:
        MissingDependencyError: As :func:`session`.
        ModelError: As :func:`session`, or the model has not exactly one floating-point input, or the directory's
            manifest is missing or damaged.
    """
    place = Path(path)
    if place.is_dir() or place.name == MANIFEST_FILE:
        folder = place if place.is_dir() else place.parent
        return EntryPoints(
            Manifest.read(folder), providers=providers, threads=threads, optimize=optimize, by_segment=by_segment
        )
    opened = session(path, providers=providers, threads=threads, optimize=optimize)
    inputs = opened.get_inputs()
    if len(inputs) != 1 or inputs[0].type not in _DTYPES:
        found = ", ".join(f"{value.name}: {value.type}" for value in inputs) or "none"
        msg = f"{path}: a model with one floating-point image input is needed, its inputs are: {found}"
        raise ModelError(msg)
    return Model(
        session=opened,
        input=inputs[0].name,
        shape=tuple(inputs[0].shape),
        dtype=np.dtype(_DTYPES[inputs[0].type]),
        outputs=tuple(value.name for value in opened.get_outputs()),
        metadata=dict(opened.get_modelmeta().custom_metadata_map),
    )
