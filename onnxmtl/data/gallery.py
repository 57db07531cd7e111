"""A contact sheet of any data source: images as people see them, with all their labels."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxmtl.data.dataset import Dataset, DataSource, InputSpec, drawn
from onnxmtl.data.pixels import GLYPH_HEIGHT, Pixels, colour_map, text_width, write_text
from onnxmtl.errors import DataError
from onnxmtl.kinds import Task, TaskSet
from onnxmtl.runs.seeds import derive_seed

PAPER, INK, PALE, UNKNOWN = (250, 249, 246), (38, 40, 46), (128, 130, 136), (222, 221, 216)
DEPTH_COLOURS = ("fdf4c9", "fbb55f", "ee6a5b", "b33f77", "6a2c83", "2b1d54", "10112b")
HEAT_COLOURS = ("000000", "5c1a66", "d1495b", "ffb703", "fffbe6")
LARGEST_SHEET = 100_000_000
"""Pixels; a picture of as many takes 300 MB."""
GAP, MARGIN, SMALLEST_PANEL = 4, 16, 72


def gallery(source: DataSource, tasks: TaskSet, count: int, *, seed: int | None = None) -> Pixels:
    """A picture, uint8 RGB ``[H, W, 3]``, of the first samples of the training set, a row each.

    Args:
        source: The data.
        tasks: Its tasks, with their classes.
        count: How many samples at most.
        seed: Show what training draws with it; None: the plain samples.

    Raises:
        DataError: The picture would be too large.
    """
    count = min(count, len(source.train))
    enlarge = max(1, math.ceil(SMALLEST_PANEL / source.input.height))
    height, width = source.input.height * enlarge, source.input.width * enlarge
    dense = [task for task in tasks if task.dense]
    caption = GLYPH_HEIGHT + 6
    block = (1 + len(dense)) * (width + GAP) - GAP
    across = 2 if count > 1 and 2 * block < 1800 else 1
    rows = math.ceil(count / across)
    top, row_height = MARGIN + caption, height + caption + 6
    shape = (top + rows * row_height + MARGIN, 2 * MARGIN + across * block + (across - 1) * 2 * MARGIN)
    if shape[0] * shape[1] > LARGEST_SHEET:
        msg = f"{count} samples of {source.name} make a picture of {shape[1]}x{shape[0]}: show fewer, or smaller ones"
        raise DataError(msg)
    sheet = np.full((*shape, 3), PAPER, np.uint8)
    for column in range(across):
        for i, name in enumerate(("image", *(task.name for task in dense))):
            x = MARGIN + column * (block + 2 * MARGIN) + i * (width + GAP)
            if text_width(name) <= width:
                write_text(sheet, name, x + (width - text_width(name)) // 2, MARGIN, PALE)
    for index in range(count):
        image, targets = _sample(source.train, index, seed)
        x = MARGIN + (index % across) * (block + 2 * MARGIN)
        y = top + (index // across) * row_height
        panels = [
            show_image(image, source.input),
            *(show_label(task, targets.get(task.name), source) for task in dense),
        ]
        for i, panel in enumerate(panels):
            large = panel.repeat(enlarge, 0).repeat(enlarge, 1)
            left = x + i * (width + GAP)
            sheet[y : y + height, left : left + width] = large
        write_text(sheet, describe(tasks, targets), x, y + height + 4, INK)
    return sheet


def _sample(dataset: Dataset, index: int, seed: int | None) -> tuple[npt.NDArray[Any], Mapping[str, Any]]:
    image, targets = dataset[index] if seed is None else drawn(dataset, index, derive_seed(seed, "gallery", index))
    return np.asarray(image), {name: None if t is None else np.asarray(t) for name, t in targets.items()}


def show_image(image: npt.NDArray[Any], spec: InputSpec) -> Pixels:
    """What a network's input ``[C, H, W]`` shows, uint8 RGB ``[H, W, 3]``: normalisation and channel order undone."""
    scale, mean = np.asarray(spec.scale)[:, None, None], np.asarray(spec.mean)[:, None, None]
    low, high = spec.range
    values = (image / scale + mean - low) / (high - low)
    pixels: Pixels = (np.clip(values, 0, 1) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0)
    if spec.colour == "BGR":
        pixels = pixels[..., ::-1]
    return pixels[..., :3] if pixels.shape[2] >= 3 else pixels[..., :1].repeat(3, 2)


def show_label(task: Task, target: npt.NDArray[Any] | None, source: DataSource) -> Pixels:
    """The label of a dense task as uint8 RGB ``[H, W, 3]``; pale where nothing is known."""
    blank = np.full((source.input.height, source.input.width, 3), UNKNOWN, np.uint8)
    if target is None:
        return blank
    if task.kind == "segmentation":
        known = (target >= 0) & (target != task.ignore)
        return np.where(known[..., None], class_colours(task.channels)[np.where(known, target, 0)], blank)
    if task.kind == "normals":
        known = (target != 0).any(0)
        shades = np.clip(target.transpose(1, 2, 0) * 127.5 + 127.5, 0, 255).astype(np.uint8)
        return np.where(known[..., None], shades, blank)
    values = target[0]
    if task.kind == "depth":
        known = np.isfinite(values) & (values > 0)
        logs = np.log(np.where(known, values, 1))
        near, far = (float(logs[known].min()), float(logs[known].max())) if known.any() else (0.0, 1.0)
        return np.where(known[..., None], colour_map((logs - near) / max(far - near, 1e-6), DEPTH_COLOURS), blank)
    known = np.isfinite(values) & (values != task.fill)
    return np.where(known[..., None], colour_map(np.where(known, values, 0), HEAT_COLOURS), blank)


def class_colours(count: int) -> Pixels:
    """Colours that can be told apart, uint8 ``[count, 3]``; the first is dark, as it mostly stands for background."""
    turn = (math.sqrt(5) - 1) / 2
    colours = [(0.16, 0.17, 0.20)]
    for k in range(1, count):
        colours.append(colorsys.hsv_to_rgb(k * turn % 1, (0.5, 0.7, 0.85)[k % 3], (0.95, 0.8, 0.65)[k // 3 % 3]))
    return (np.array(colours) * 255).astype(np.uint8)


def describe(tasks: TaskSet, targets: Mapping[str, Any]) -> str:
    """The labels of a whole image, in words."""
    words = []
    for task in tasks:
        target = targets.get(task.name)
        if task.dense:
            if target is None:
                words.append(f"{task.name}: no label")
        elif target is None:
            words.append(f"{task.name}: none")
        elif task.spec.categorical:
            name = task.class_names[int(target)] if 0 <= int(target) < len(task.class_names) else str(int(target))
            words.append(f"{task.name}: {name}")
        else:
            words.append(f"{task.name}: {', '.join(f'{float(v):.2f}' for v in np.atleast_1d(target))}")
    return ", ".join(words)
