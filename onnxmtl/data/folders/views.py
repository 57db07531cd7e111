"""Views: which part of a picture is seen, how large, mirrored or not; and pictures and labels under a view.

A view is the picture scaled, then cut (or padded at the right and below) to the network's size, then perhaps mirrored.
Images are interpolated (bilinear, with the area averaged where they shrink), labels never: a pixel of a label is that
of the picture's pixel that its centre falls into.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt

from onnxmtl.data.folders.files import Raw, pillow

Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class View:
    """A part of a picture.

    Attributes:
        scaled: Height and width of the whole picture at the view's scale.
        top: First row of the scaled picture that is seen.
        left: First column.
        size: Height and width of the view.
        mirrored: Whether left and right are exchanged.
        zoom: Scale relative to the view that evaluation takes: 2 shows things twice as large.
    """

    scaled: Size
    size: Size
    top: int = 0
    left: int = 0
    mirrored: bool = False
    zoom: float = 1.0

    @property
    def seen(self) -> Size:
        """Rows and columns that show the picture; the rest of the view is padding."""
        return min(self.size[0], self.scaled[0] - self.top), min(self.size[1], self.scaled[1] - self.left)

    def image(self, pixels: Raw, pad: float) -> Raw:
        """A picture ``[h, w, 3]`` (uint8, or float32 in 0 … 255) -> the view, float32 or uint8 ``[H, W, 3]``."""
        height, width = pixels.shape[:2]
        rows, columns = self.seen
        up, across = height / self.scaled[0], width / self.scaled[1]
        box = (
            self.left * across,
            self.top * up,
            min((self.left + columns) * across, width),
            min((self.top + rows) * up, height),
        )
        shown = _resized(pixels, (rows, columns), box)
        if (rows, columns) != self.size:
            full = np.full((*self.size, shown.shape[2]), pad, shown.dtype)
            full[:rows, :columns] = shown
            shown = full
        return shown[:, ::-1] if self.mirrored else shown

    def label(self, values: Raw, pad: float) -> Raw:
        """A label ``[h, w]`` or ``[h, w, C]`` -> the view; nearest, padded with `pad`."""
        rows, columns = self.seen
        picked = values[_nearest(rows, self.top, self.scaled[0], values.shape[0])]
        picked = picked[:, _nearest(columns, self.left, self.scaled[1], values.shape[1])]
        if (rows, columns) != self.size:
            full = np.full((*self.size, *values.shape[2:]), pad, values.dtype)
            full[:rows, :columns] = picked
            picked = full
        return picked[:, ::-1] if self.mirrored else picked


def _nearest(count: int, first: int, scaled: int, have: int) -> npt.NDArray[np.int64]:
    centres = np.arange(first, first + count, dtype=np.int64)
    # Whole numbers: (i + 1/2) · have / scaled, rounded down, without the errors of floats.
    places: npt.NDArray[np.int64] = np.minimum((2 * centres + 1) * have // (2 * scaled), have - 1)
    return places


def _resized(pixels: Raw, size: Size, box: tuple[float, float, float, float]) -> Raw:
    height, width = size
    if [*box, *pixels.shape[:2]] == [0, 0, width, height, height, width]:
        return pixels
    library = pillow()
    if pixels.dtype == np.uint8:
        shown: Raw = np.asarray(library.fromarray(pixels).resize((width, height), library.Resampling.BILINEAR, box))
        return shown
    layers = [library.fromarray(np.ascontiguousarray(pixels[..., c], np.float32)) for c in range(pixels.shape[2])]
    return np.stack([np.asarray(x.resize((width, height), library.Resampling.BILINEAR, box)) for x in layers], 2)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What training draws for each sample.

    Attributes:
        scales: Smallest and largest scale of the picture, before the cut.
        step: Only scales smallest + k · step are drawn; 0: all between.
        mirror: Whether half of the samples are mirrored.
    """

    scales: tuple[float, float] = (0.5, 1.5)
    step: float = 0.0
    mirror: bool = True


def whole(picture: Size, size: Size, fit: str) -> View:
    """The view that evaluation takes: all of the picture.

    `fit` is "resize" (to the network's size, whatever the aspect: AutoMTL, TreeMTL) or "pad" (aspect kept, shrunk only
    if it is too large, padded at the right and below: BMTAS).
    """
    if fit == "resize":
        return View(size, size)
    scale = _fitting(picture, size)
    return View((max(1, round(picture[0] * scale)), max(1, round(picture[1] * scale))), size)


def draw_view(picture: Size, size: Size, fit: str, augmentation: Augmentation, generator: np.random.Generator) -> View:
    """A random view: scale, place, mirror image. Draws five numbers, whatever they are used for."""
    by_scale, by_row, by_column, by_side, _ = generator.random(5)
    low, high = augmentation.scales
    steps = math.floor((high - low) / augmentation.step + 1e-9) + 1 if augmentation.step else 0
    scale = low + augmentation.step * int(by_scale * steps) if steps else low + (high - low) * by_scale
    scaled = (max(1, round(picture[0] * scale)), max(1, round(picture[1] * scale)))
    usual = math.sqrt(size[0] / picture[0] * size[1] / picture[1]) if fit == "resize" else _fitting(picture, size)
    return View(
        scaled,
        size,
        top=int(by_row * (max(scaled[0] - size[0], 0) + 1)),
        left=int(by_column * (max(scaled[1] - size[1], 0) + 1)),
        mirrored=augmentation.mirror and by_side < 0.5,
        zoom=scale / usual,
    )


def _fitting(picture: Size, size: Size) -> float:
    return min(1.0, size[0] / picture[0], size[1] / picture[1])
