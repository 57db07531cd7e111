"""What a directory of entry points says about itself: ``manifest.json``, plain data, checked before it is used.

The file (format 1) is one JSON object:

- ``format``: the number of this layout of the file;
- ``input``: ``name``, ``shape`` (numbers, names or null for free dimensions) and ``dtype`` of the image;
- ``outputs``: names of the tasks, in the order of the model;
- ``metadata``: the model's metadata, key -> text;
- ``weights``: name of the file with the weights of all segments;
- ``segments``: in an order in which they can run, each with ``name``, ``file``, ``tasks`` (that need it), ``inputs``
  and ``outputs`` (names of tensors), ``nodes`` and ``multiply_adds`` (of one image; null if unknown);
- ``tensors``: those handed over: ``name``, ``dtype``, ``shape``, ``from`` (a segment) and ``to`` (segments);
- ``differences``: per task from the single file's output, the runtime's optimizations on: ``ulps`` (null for class
  numbers) and ``relative``; with them off there are none.

The runner reads no more than it needs: the input, the outputs, the metadata, and names, files, tasks, inputs and
outputs of the segments.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from onnxmtl.errors import ModelError

MANIFEST_FILE = "manifest.json"
FORMAT = 1

_DTYPES = ("float16", "float32", "float64")
_AGAIN = "write the directory again with `onnxmtl specialize --entry-points`"


@dataclasses.dataclass(frozen=True)
class Segment:
    """One model file of several.

    Attributes:
        name: Its name, such as ``seg+depth``.
        file: Its model file.
        tasks: The tasks that need it.
        inputs: Tensors that it reads: the image, or outputs of segments before it.
        outputs: Tensors that it computes.
    """

    name: str
    file: Path
    tasks: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The segments of a model, and what the model takes and gives.

    Attributes:
        folder: Where the files are.
        input: Name of the image input.
        shape: Its shape: numbers, and names (or None) for free dimensions.
        dtype: Its element type.
        outputs: Names of the outputs (the tasks), in the model's order.
        metadata: The model's metadata, key -> text.
        segments: In an order in which they can run.
    """

    folder: Path
    input: str
    shape: tuple[int | str | None, ...]
    dtype: np.dtype[Any]
    outputs: tuple[str, ...]
    metadata: dict[str, str]
    segments: tuple[Segment, ...]

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Manifest:
        """Read ``folder/manifest.json``.

        Raises:
            ModelError: It is missing or no manifest, a file in it is missing or lies outside the folder, or its
                segments cannot run in their order.
        """
        home = Path(folder)
        file = home / MANIFEST_FILE
        if not file.is_file():
            msg = f"{home}: no {MANIFEST_FILE} in it; give a model file, or a directory with entry points"
            raise ModelError(msg)
        try:
            content = json.loads(file.read_bytes())
        except OSError as error:
            msg = f"{file}: cannot be read ({error.strerror})"
            raise ModelError(msg) from error
        except (ValueError, RecursionError) as error:
            msg = f"{file}: is not valid JSON; {_AGAIN}"
            raise ModelError(msg) from error
        reader = _Reader(file)
        top = reader.mapping(content, "the file")
        if top.get("format") != FORMAT:
            msg = f"{file}: format {top.get('format')!r} is not one this onnxmtl reads ({FORMAT}); {_AGAIN}"
            raise ModelError(msg)
        image = reader.mapping(top.get("input"), "input")
        manifest = cls(
            folder=home,
            input=reader.text(image.get("name"), "input.name"),
            shape=reader.shape(image.get("shape")),
            dtype=reader.dtype(image.get("dtype")),
            outputs=reader.names(top.get("outputs"), "outputs"),
            metadata={
                key: reader.text(text, f"metadata.{key}")
                for key, text in reader.mapping(top.get("metadata"), "metadata").items()
            },
            segments=tuple(
                reader.segment(entry, f"segments[{i}]", home)
                for i, entry in enumerate(reader.list(top.get("segments"), "segments"))
            ),
        )
        _check_order(manifest, reader)
        return manifest


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Reads JSON values of a known kind; anybody can write anything into a file."""

    file: Path

    def fail(self, what: str) -> NoReturn:
        msg = f"{self.file}: {what}; {_AGAIN}"
        raise ModelError(msg)

    def mapping(self, value: Any, where: str) -> dict[str, Any]:
        return value if isinstance(value, dict) else self.fail(f"{where} is no JSON object")

    def list(self, value: Any, where: str) -> list[Any]:
        return value if isinstance(value, list) else self.fail(f"{where} is no list")

    def text(self, value: Any, where: str) -> str:
        return value if isinstance(value, str) else self.fail(f"{where} is no text")

    def names(self, value: Any, where: str) -> tuple[str, ...]:
        found = tuple(self.text(name, f"{where}[{i}]") for i, name in enumerate(self.list(value, where)))
        if len(set(found)) != len(found):
            self.fail(f"{where} names something twice")
        return found

    def shape(self, value: Any) -> tuple[int | str | None, ...]:
        for size in self.list(value, "input.shape"):
            if isinstance(size, bool) or not isinstance(size, int | str | None):
                self.fail("input.shape holds something other than numbers, names and null")
        return tuple(value)

    def dtype(self, value: Any) -> np.dtype[Any]:
        if value not in _DTYPES:
            self.fail(f"input.dtype is not one of {', '.join(_DTYPES)}")
        dtype: np.dtype[Any] = np.dtype(value)
        return dtype

    def segment(self, value: Any, where: str, folder: Path) -> Segment:
        entry = self.mapping(value, where)
        return Segment(
            name=self.text(entry.get("name"), f"{where}.name"),
            file=self.inside(self.text(entry.get("file"), f"{where}.file"), where, folder),
            tasks=self.names(entry.get("tasks"), f"{where}.tasks"),
            inputs=self.names(entry.get("inputs"), f"{where}.inputs"),
            outputs=self.names(entry.get("outputs"), f"{where}.outputs"),
        )

    def inside(self, name: str, where: str, folder: Path) -> Path:
        """A file directly in the folder, links followed: a manifest from elsewhere must not open other files."""
        plain = name not in ("", ".", "..") and not set(name) & set("/\\:\0")
        path = folder / name if plain else folder
        if not plain or path.resolve().parent != folder.resolve():
            self.fail(f"{where}.file, {name!r}, is not a file in this folder")
        if not path.is_file():
            self.fail(f"{where}.file, {name!r}, is missing")
        return path


def _check_order(manifest: Manifest, reader: _Reader) -> None:
    """Every tensor is computed once, and before it is read."""
    known = {manifest.input}
    for segment in manifest.segments:
        if missing := [name for name in segment.inputs if name not in known]:
            reader.fail(f"the segment {segment.name!r} reads {missing[0]!r}, which nothing before it computes")
        if again := _first(known.intersection(segment.outputs)):
            reader.fail(f"the tensor {again!r} is computed twice")
        known.update(segment.outputs)
    if missing_task := _first(set(manifest.outputs) - (known - {manifest.input})):
        reader.fail(f"no segment computes the output {missing_task!r}")


def _first(names: Iterable[str]) -> str | None:
    return min(names, default=None)
