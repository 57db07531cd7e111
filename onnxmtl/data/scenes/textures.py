"""Procedural surface patterns: what colour a surface has at (u, v) metres.

A pattern is a function ``(u [n], v [n], materials of the points) -> linear RGB [3, n]``. Randomness comes from a fixed
table indexed by lattice cell and the material's phase, so a colour depends on nothing but the surface and the place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache

import numpy as np

from onnxmtl.data.scenes.solids import Floats, Ints, Mask, places, put, take

Colour = tuple[float, float, float]

_TABLE = np.random.Generator(np.random.PCG64(20240229)).random(4096, dtype=np.float32)


class Pattern(IntEnum):
    """Names of the patterns."""

    PLAIN = 0
    CHECKER = 1
    STRIPES = 2
    PLANKS = 3
    NOISE = 4
    BRICK = 5
    DOTS = 6
    WINDOW = 7
    LANDSCAPE = 8
    BLOCKS = 9
    RINGS = 10
    DOOR = 11
    CRATE = 12
    RUG = 13


@dataclass(frozen=True)
class Material:
    """A pattern with its three colours (linear RGB), the size of its cell in metres and its random phase.

    `extent` is the size of the whole surface for patterns that fill a rectangle (window, pictures, door, rug) and half
    of it for a crate's side. `level` lays stripes and turns planks. `gloss` is the strength of highlights;
    a material that `glows` is never darker than its own colour.
    """

    pattern: Pattern
    a: Colour
    b: Colour
    c: Colour
    scale: float = 0.5
    phase: int = 0
    extent: tuple[float, float] = (1.0, 1.0)
    level: bool = False
    gloss: float = 0.0
    glows: bool = False


class Materials:
    """Materials as columns."""

    def __init__(self, materials: Sequence[Material]) -> None:
        self.pattern = np.array([m.pattern for m in materials], np.uint8)
        self.a = np.array([m.a for m in materials], np.float32).T.copy()
        self.b = np.array([m.b for m in materials], np.float32).T.copy()
        self.c = np.array([m.c for m in materials], np.float32).T.copy()
        self.density = np.array([1 / m.scale for m in materials], np.float32)
        self.phase = np.array([m.phase for m in materials], np.int32)
        self.extent = np.array([m.extent for m in materials], np.float32).T.copy()
        self.level = np.array([m.level for m in materials], bool)
        self.gloss = np.array([m.gloss for m in materials], np.float32)
        self.glows = np.array([m.glows for m in materials], bool)


class At:
    """Materials at points: the columns of each point's material, taken when they are asked for."""

    def __init__(self, materials: Materials, index: Ints) -> None:
        self._materials, self._index = materials, index

    @property
    def a(self) -> Floats:
        """First colour ``[3, n]``."""
        return take(self._materials.a, self._index)

    @property
    def b(self) -> Floats:
        """Second colour ``[3, n]``."""
        return take(self._materials.b, self._index)

    @property
    def density(self) -> Floats:
        """Cells per metre ``[n]``."""
        return take(self._materials.density, self._index)

    @property
    def phase(self) -> Ints:
        """Random phase ``[n]``."""
        return take(self._materials.phase, self._index)

    @property
    def extent(self) -> tuple[Floats, Floats]:
        """Width and height of the surface ``[n]``."""
        return take(self._materials.extent[0], self._index), take(self._materials.extent[1], self._index)

    @property
    def level(self) -> Mask:
        """Whether the pattern lies ``[n]``."""
        return take(self._materials.level, self._index)

    def blend(self, weight: Floats | Mask) -> Floats:
        """From the first colour (0) to the second (1), ``[n] -> [3, n]``."""
        out = self.b
        first = self.a
        out -= first
        out *= weight
        out += first
        return out

    def third(self, colour: Floats, where: Mask) -> Floats:
        """Set the third colour at some points."""
        at = places(where)
        put(colour, at, take(self._materials.c, take(self._index, at)))
        return colour


def cell_random(x: Ints, y: Ints | int, phase: Ints) -> Floats:
    """A number in [0, 1) per integer lattice cell."""
    return np.take(_TABLE, (x * 73 + y * 1117 + phase) & 4095)


def value_noise(x: Floats, y: Floats, phase: Ints) -> Floats:
    """Smooth noise in [0, 1): random values on the integer lattice, smoothstep between them."""
    x0, y0 = np.floor(x), np.floor(y)
    fx, fy = x - x0, y - y0
    fx *= fx * (3 - 2 * fx)
    fy *= fy * (3 - 2 * fy)
    index = x0.astype(np.int32) * 73
    index += y0.astype(np.int32) * 1117
    index += phase
    v00, v10 = np.take(_TABLE, index & 4095), np.take(_TABLE, (index + 73) & 4095)
    v01, v11 = np.take(_TABLE, (index + 1117) & 4095), np.take(_TABLE, (index + 1190) & 4095)
    v10 -= v00
    v10 *= fx
    v00 += v10
    v11 -= v01
    v11 *= fx
    v01 += v11
    v01 -= v00
    v01 *= fy
    v00 += v01
    return v00


def _line_noise(x: Floats, phase: Ints) -> Floats:
    """Value noise along a line."""
    x0 = np.floor(x)
    f = x - x0
    cell = x0.astype(np.int32)
    low, high = cell_random(cell, 0, phase), cell_random(cell + 1, 0, phase)
    return low + (high - low) * (f * f * (3 - 2 * f))


def _cell(x: Floats) -> tuple[Ints, Floats]:
    """Whole and fractional part."""
    whole = np.floor(x)
    return whole.astype(np.int32), x - whole


def _set(colour: Floats, where: Mask, value: Colour) -> Floats:
    at = places(where)
    for row, number in zip(colour, value, strict=True):
        row[at] = number
    return colour


def _border(u: Floats, v: Floats, width: Floats, height: Floats) -> Floats:
    """Distance to the border of a rectangle."""
    return np.minimum(np.minimum(u, width - u), np.minimum(v, height - v))


def _plain(u: Floats, v: Floats, m: At) -> Floats:
    colour = m.a
    colour *= 0.94 + 0.12 * value_noise(u * 3, v * 3, m.phase)
    return colour


def _checker(u: Floats, v: Floats, m: At) -> Floats:
    density = m.density
    x, y = np.floor(u * density).astype(np.int32), np.floor(v * density).astype(np.int32)
    colour = m.blend((x + y) & 1 == 1)
    colour *= 0.92 + 0.16 * cell_random(x, y, m.phase)
    return colour


def _stripes(u: Floats, v: Floats, m: At) -> Floats:
    x = np.where(m.level, v, u) * (2 * m.density)
    return m.blend(np.floor(x).astype(np.int32) & 1 == 1)


def _planks(u: Floats, v: Floats, m: At) -> Floats:
    level, density, phase = m.level, m.density, m.phase
    along, across = np.where(level, v, u), np.where(level, u, v)
    row, side = _cell(across * density)
    column, place = _cell(along * (density * 0.125) + cell_random(row, 0, phase))
    tone = 0.7 * cell_random(row, column, phase) + 0.3 * value_noise(along * 2.5, across * 40, phase)
    return m.third(m.blend(tone), (np.abs(side - 0.5) > 0.455) | (np.abs(place - 0.5) > 0.494))


def _noise(u: Floats, v: Floats, m: At) -> Floats:
    density, phase = m.density, m.phase
    x, y = u * density, v * density
    return m.blend(0.65 * value_noise(x, y, phase) + 0.35 * value_noise(x * 4.3, y * 4.3, phase))


def _brick(u: Floats, v: Floats, m: At) -> Floats:
    density = m.density
    row, y = _cell(v * density)
    brick, x = _cell(u * (density / 2.6) + (row & 1) * np.float32(0.5))
    return m.third(m.blend(cell_random(row, brick, m.phase)), (y < 0.13) | (x < 0.05))


def _dots(u: Floats, v: Floats, m: At) -> Floats:
    density = m.density
    row, y = _cell(v * density)
    _, x = _cell(u * density + (row & 1) * np.float32(0.5))
    x -= 0.5
    y -= 0.5
    return m.blend(x * x + y * y < 0.09)


def window_frame(u: Floats, v: Floats, width: Floats, height: Floats) -> Mask:
    """Whether a place of a window is frame or mullion, and not glass. The sun asks this, too."""
    bars = (np.abs(u - 0.5 * width) < 0.03) | (np.abs(v - 0.62 * height) < 0.025)
    return bars | (_border(u, v, width, height) < 0.07)


def _window(u: Floats, v: Floats, m: At) -> Floats:
    (width, height), phase = m.extent, m.phase
    up = v / height
    hills = up < 0.22 + 0.16 * _line_noise(u * 1.7, phase)
    clouds = np.clip(2.0 * value_noise(u * 1.3, v * 3.5, phase) - 1.0, 0, 0.8)
    sky = m.b
    haze = sky * 0.35 + 0.65
    sky = haze + (sky - haze) * up
    sky += (1 - sky) * clouds
    view = np.where(hills, m.a * (0.7 + 0.6 * up), sky)
    view *= 2.2
    return m.third(view, window_frame(u, v, width, height))


def _framed(u: Floats, v: Floats, art: Floats, m: At) -> Floats:
    """A picture's mount and frame."""
    border = _border(u, v, *m.extent)
    return m.third(_set(art, border < 0.085, (0.8, 0.8, 0.8)), border < 0.035)


def _landscape(u: Floats, v: Floats, m: At) -> Floats:
    width, height = m.extent
    y = v / height
    sky = m.a
    sky *= 1.3 - 0.6 * y
    x, dy = u - (0.25 + 0.5 / m.density) * width, v - 0.72 * height
    _set(sky, x * x + dy * dy < 0.018 * height * height, (1.0, 0.85, 0.5))
    hill = y < 0.3 + 0.25 * _line_noise(3 * u / width, m.phase)
    return _framed(u, v, np.where(hill, m.b * (0.35 + 1.1 * y), sky), m)


def _blocks(u: Floats, v: Floats, m: At) -> Floats:
    (width, height), cut = m.extent, 0.3 / m.density
    right, above = u / width - 0.35 - cut, v / height - 0.65 + cut
    art = np.where((right > 0) & (above < 0), m.a, np.float32(0.8))
    art = np.where((right < 0) & (above > 0), m.b, art)
    return _framed(u, v, _set(art, (np.abs(right) < 0.025) | (np.abs(above) < 0.025), (0.03, 0.03, 0.03)), m)


def _rings(u: Floats, v: Floats, m: At) -> Floats:
    width, height = m.extent
    x, y = u - 0.5 * width, v - 0.5 * height
    return _framed(u, v, m.blend(np.floor(13 * np.sqrt(x * x + y * y)).astype(np.int32) & 1 == 1), m)


def _door(u: Floats, v: Floats, m: At) -> Floats:
    width, height = m.extent
    x, y = np.abs(u / width - 0.5) - 0.3, v / height
    panel = np.maximum(x, np.minimum(np.abs(y - 0.26) - 0.17, np.abs(y - 0.72) - 0.2))
    tone = 0.9 + 0.2 * value_noise(u * 25, v * 1.5, m.phase)
    tone[panel < 0] *= 0.85
    tone[np.abs(panel) < 0.018] *= 0.5
    wood = m.a
    wood *= tone
    _set(wood, (u - 0.88 * width) ** 2 + (v - 1.0) ** 2 < 0.0018, (0.8, 0.6, 0.2))
    return m.third(wood, np.minimum(np.minimum(u, width - u), height - v) < 0.06)


def _crate(u: Floats, v: Floats, m: At) -> Floats:
    # Places on a box run from −half to half.
    width, height = m.extent
    x, y = np.abs(u), np.abs(v)
    row, gap = _cell(v * m.density)
    tone = 0.7 + 0.5 * cell_random(row, 0, m.phase)
    tone[gap < 0.12] *= 0.35
    wood = m.a
    wood *= tone
    beams = (np.minimum(width - x, height - y) < 0.07) | (np.abs(x / width - y / height) < 0.16)
    return np.where(beams, m.b, wood)


def _rug(u: Floats, v: Floats, m: At) -> Floats:
    width, height = m.extent
    border = _border(u, v, width, height)
    _, wave = _cell((np.abs(u - 0.5 * width) + np.abs(v - 0.5 * height)) * m.density)
    colour = m.third(m.blend((wave > 0.6) & (border > 0.17)), (border > 0.1) & (border < 0.17))
    colour *= 0.85 + 0.3 * value_noise(u * 30, v * 30, m.phase)
    return colour


PATTERNS: dict[Pattern, Callable[[Floats, Floats, At], Floats]] = {
    Pattern.PLAIN: _plain,
    Pattern.CHECKER: _checker,
    Pattern.STRIPES: _stripes,
    Pattern.PLANKS: _planks,
    Pattern.NOISE: _noise,
    Pattern.BRICK: _brick,
    Pattern.DOTS: _dots,
    Pattern.WINDOW: _window,
    Pattern.LANDSCAPE: _landscape,
    Pattern.BLOCKS: _blocks,
    Pattern.RINGS: _rings,
    Pattern.DOOR: _door,
    Pattern.CRATE: _crate,
    Pattern.RUG: _rug,
}


def paint(materials: Materials, index: Ints, u: Floats, v: Floats) -> Floats:
    """Colour of points ``[3, n]`` from the index of their material ``[n]`` and their place on the surface."""
    colour = np.empty((3, index.size), np.float32)
    pattern = np.take(materials.pattern, index)
    order = pattern.argsort(kind="stable")
    start = 0
    for kind, count in enumerate(np.bincount(pattern, minlength=len(Pattern)).tolist()):
        if count:
            at = order[start : start + count]
            put(colour, at, PATTERNS[Pattern(kind)](take(u, at), take(v, at), At(materials, take(index, at))))
            start += count
    return colour


@cache
def linear(code: str) -> Colour:
    """``#rrggbb`` -> linear RGB (gamma 2, which is what developing the image undoes)."""
    r, g, b = (int(code[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return r * r, g * g, b * b


def scaled(colour: Colour, factor: float) -> Colour:
    """A colour made brighter or darker."""
    return colour[0] * factor, colour[1] * factor, colour[2] * factor


BEACH_BALL = math.pi / 3
"""Stripes of this many radii: six from pole to pole around a ball."""
