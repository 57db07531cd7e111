"""Contact sheets as files: of the built-in scenes, every image with all its labels, and of any other data set."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxmtl.data.gallery import DEPTH_COLOURS, GAP, HEAT_COLOURS, INK, MARGIN, PALE, PAPER, gallery
from onnxmtl.data.pixels import GLYPH_HEIGHT, Pixels, colour_map, encode_png, text_width, write_text
from onnxmtl.data.scenes import CLASSES, ROOM_TYPES, render_samples
from onnxmtl.data.scenes.dataset import SMALLEST, TOGETHER
from onnxmtl.data.sources import Request, named_source
from onnxmtl.errors import DataError
from onnxmtl.kinds import TaskSet
from onnxmtl.runs.atomic import atomic_write

PANELS = ("image", "segmentation", "depth", "normals", "edges", "keypoints")
CLASS_COLOURS = ("c9b79c", "e9ecef", "8d99ae", "7f4f24", "7cc6fe", "ffb703", "d1495b", "3d5a98", "2a9d8f")
_NO_OPTIONS: Mapping[str, str] = MappingProxyType({})


def contact_sheet(count: int, size: int, seed: int, *, part: str = "train") -> Pixels:
    """A picture, uint8 RGB ``[H, W, 3]``, of the first `count` scenes with their labels.

    Raises:
        DataError: No scene asked for, or the size is too small.
    """
    if count < 1 or size < SMALLEST:
        msg = f"cannot preview {count} scenes of {size}x{size}: take 1 or more, of {SMALLEST}x{SMALLEST} or more"
        raise DataError(msg)
    samples = []
    for start in range(0, count, TOGETHER):
        indices = range(start, min(start + TOGETHER, count))
        samples += render_samples(seed, part, indices, (size, size))

    across = 1 if count == 1 else 2
    rows = math.ceil(count / across)
    caption = GLYPH_HEIGHT + 6
    block = len(PANELS) * (size + GAP) - GAP
    top, row_height = MARGIN + caption, size + caption + 6
    width = 2 * MARGIN + across * block + (across - 1) * 2 * MARGIN
    legend = _legend_lines(width - 2 * MARGIN)
    height = top + rows * row_height + MARGIN + len(legend) * (GLYPH_HEIGHT + 6)
    sheet = np.full((height, width, 3), PAPER, np.uint8)
    for column in range(across):
        left = MARGIN + column * (block + 2 * MARGIN)
        for i, name in enumerate(PANELS):
            if text_width(name) <= size:
                write_text(sheet, name, left + i * (size + GAP) + (size - text_width(name)) // 2, MARGIN, PALE)
    for index, (image, labels) in enumerate(samples):
        left = MARGIN + (index % across) * (block + 2 * MARGIN)
        y = top + (index // across) * row_height
        for i, panel in enumerate(_panels(image, labels)):
            x = left + i * (size + GAP)
            sheet[y : y + size, x : x + size] = panel
        write_text(sheet, describe(labels), left, y + size + 4, INK)
    for i, line in enumerate(legend):
        y = top + rows * row_height + MARGIN // 2 + i * (GLYPH_HEIGHT + 6)
        for x, name in line:
            colour = tuple(bytes.fromhex(CLASS_COLOURS[CLASSES.index(name)]))
            sheet[y : y + GLYPH_HEIGHT, MARGIN + x : MARGIN + x + GLYPH_HEIGHT] = colour
            write_text(sheet, name, MARGIN + x + GLYPH_HEIGHT + 4, y, INK)
    return sheet


def describe(labels: Mapping[str, npt.NDArray[Any]]) -> str:
    """The labels of a whole image, in words."""
    degrees = round(math.degrees(float(labels["regression"][0])))
    tilt = f"looks {-degrees}° down" if degrees < 0 else f"looks {degrees}° up" if degrees else "looks straight ahead"
    near, far = float(labels["depth"].min()), float(labels["depth"].max())
    return f"{ROOM_TYPES[int(labels['classification'])]}, camera {tilt}, depth {near:.1f} to {far:.1f} m"


def _panels(image: npt.NDArray[np.uint8], labels: Mapping[str, npt.NDArray[Any]]) -> list[Pixels]:
    picture = image.transpose(1, 2, 0)
    classes = np.array([list(bytes.fromhex(code)) for code in CLASS_COLOURS], np.uint8)
    depth = labels["depth"][0]
    near, far = np.log(depth.min()), np.log(depth.max())
    normals = (labels["normals"].transpose(1, 2, 0) * 127.5 + 127.5).astype(np.uint8)
    edges = np.where(labels["edges"][0][..., None] > 0, np.uint8(255), np.uint8(24)).repeat(3, 2)
    heat = labels["keypoints"][0]
    glow = colour_map(heat, HEAT_COLOURS)
    dim = (picture * 0.35).astype(np.uint8)
    return [
        picture,
        classes[labels["segmentation"]],
        colour_map((np.log(depth) - near) / max(far - near, 1e-6), DEPTH_COLOURS),
        normals,
        edges,
        np.maximum(dim, glow),
    ]


def _legend_lines(width: int) -> list[list[tuple[int, str]]]:
    """Class names with their places, as many to a line as fit."""
    lines: list[list[tuple[int, str]]] = [[]]
    x = 0
    for name in CLASSES:
        needed = GLYPH_HEIGHT + 4 + text_width(name)
        if x and x + needed > width:
            lines.append([])
            x = 0
        lines[-1].append((x, name))
        x += needed + 14
    return lines


@dataclasses.dataclass(frozen=True)
class Preview:
    """What :func:`write_preview` wrote: `width` and `height` are the picture's."""

    name: str
    path: Path
    count: int
    width: int
    height: int
    class_names: tuple[str, ...]
    image_classes: tuple[str, ...]


def write_preview(
    spec: str,
    path: Path | None,
    *,
    count: int,
    size: int = 0,
    seed: int = 0,
    augment: bool = False,
    options: Mapping[str, str] = _NO_OPTIONS,
) -> Preview:
    """Write a contact sheet of a data set as PNG, to ``<name>.png`` if there is no path.

    A file of that name is replaced, and only by a whole one.

    Args:
        spec: ``NAME`` or ``NAME:PATH``.
        path: The file to write.
        count: How many samples.
        size: Height of the images; 0: the data set's usual one.
        seed: Of what is drawn.
        augment: Show samples as training draws them.
        options: Of the data set.

    Raises:
        DataError: No such data set, or not so many or so small images.
        RunError: The file cannot be written.
    """
    name, _, folder = spec.partition(":")
    known = named_source(name)
    height = size or known.size[0]
    width = round(height * known.size[1] / known.size[0])
    if name == "scenes" and not folder:
        sheet = contact_sheet(count, height, seed)
        names, kinds, shown = tuple(CLASSES), tuple(ROOM_TYPES), count
    else:
        if count < 1:
            msg = f"cannot preview {count} samples: take 1 or more"
            raise DataError(msg)
        tasks = TaskSet.parse(known.show)
        file = Path(folder).expanduser() if folder else None
        source = known.open(Request(tasks, (height, width), seed, path=file, options=options))
        tasks = tasks.with_classes(source.classes, source.class_names)
        sheet = gallery(source, tasks, count, seed=seed if augment else None)
        names = next((t.class_names for t in tasks if t.kind == "segmentation"), ())
        kinds = next((t.class_names for t in tasks if t.kind == "classification"), ())
        shown = min(count, len(source.train))
    target = Path(f"{name}.png") if path is None else path
    atomic_write(target, encode_png(sheet))
    height, width, _ = sheet.shape
    return Preview(name, target, shown, width, height, names, kinds)
