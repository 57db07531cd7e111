"""Convex solids and the room around them: where rays enter, which face they meet, how far a point is away.

The world is in metres with z up; a ray is ``origin + t·direction`` with a direction of any length. Much is computed at
once: `Columns` holds the solids of many scenes, one column each, and the functions take *pairs* (a solid and a point or
ray), as two arrays of equal length. Vectors are arrays ``[3, …]``, and reductions over the three rows are written out:
at this size that is several times faster than numpy's.

Each solid is an interval intersection (Kay & Kajiya's slabs, extended to quadrics): a ray is inside a convex solid
between `first` and `last`, and inside a capped cylinder where it is inside both the tube and the slab.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.floating[Any]]  # float32, all of them; numpy's stubs lose that in arithmetic
Ints: TypeAlias = npt.NDArray[np.integer[Any]]
Mask: TypeAlias = npt.NDArray[np.bool_]
Array = TypeVar("Array", bound=npt.NDArray[Any])
Point = tuple[float, float, float]

_TINY = np.float32(1e-7)
"""Direction components are kept away from zero by this much, so that slabs never compute 0·∞."""

ROOM_FACES = 6
"""x=0, x=width, y=0, y=depth, floor, ceiling: faces 0 … 5."""
FLOOR, CEILING = 4, 5


class Shape(IntEnum):
    """What a solid is. Faces: a box has 6 (as the room), a sphere 1, a cylinder 3 (side, bottom, top)."""

    BOX = 0
    SPHERE = 1
    CYLINDER = 2


FACES = {Shape.BOX: 6, Shape.SPHERE: 1, Shape.CYLINDER: 3}


@dataclass(frozen=True)
class Solid:
    """An upright solid, turned by `yaw` about the vertical through its `centre`.

    `half` are half extents: of the box; radius three times; radius twice and half the height.
    """

    shape: Shape
    centre: Point
    half: Point
    yaw: float = 0.0

    @cached_property
    def radius(self) -> float:
        """Radius of the bounding sphere."""
        a, b, c = self.half
        if self.shape is Shape.SPHERE:
            return a
        return math.hypot(a, c) if self.shape is Shape.CYLINDER else math.sqrt(a * a + b * b + c * c)

    @property
    def footprint(self) -> float:
        """Radius of the upright cylinder around it."""
        return math.hypot(self.half[0], self.half[1]) if self.shape is Shape.BOX else self.half[0]

    @property
    def top(self) -> float:
        """Height of its highest point."""
        return self.centre[2] + self.half[2]

    @cached_property
    def corners(self) -> list[Point]:
        """The eight corners of a box, in the world."""
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        (cx, cy, cz), (a, b, c) = self.centre, self.half
        flat = [(a, b), (a, -b), (-a, b), (-a, -b)]
        return [(cx + cos * x - sin * y, cy + sin * x + cos * y, cz + z) for x, y in flat for z in (-c, c)]


@dataclass(frozen=True)
class Columns:
    """Solids, one column each: shape, centre ``[3, S]``, half extents ``[3, S]``, cosine and sine of yaw, radius."""

    shape: Ints
    centre: Floats
    half: Floats
    cos: Floats
    sin: Floats
    radius: Floats

    @staticmethod
    def of(solids: Sequence[Solid]) -> Columns:
        """Columns of a list of solids."""
        return Columns(
            shape=np.array([s.shape for s in solids], np.int32),
            centre=np.array([s.centre for s in solids], np.float32).reshape(-1, 3).T.copy(),
            half=np.array([s.half for s in solids], np.float32).reshape(-1, 3).T.copy(),
            cos=np.array([math.cos(s.yaw) for s in solids], np.float32),
            sin=np.array([math.sin(s.yaw) for s in solids], np.float32),
            radius=np.array([s.radius for s in solids], np.float32),
        )

    def by_shape(self, solid: Ints) -> Iterator[tuple[Shape, Ints]]:
        """Which of the pairs have a solid of a shape, for each shape there is."""
        shapes = np.take(self.shape, solid)
        for shape in Shape:
            pairs = (shapes == shape).nonzero()[0]
            if pairs.size:
                yield shape, pairs

    def local(self, points: Floats, solid: Ints) -> Floats:
        """World points ``[3, p]`` in the frames of their solids ``[p]``: axes along the solid's, centre at 0."""
        return self.turn_in(points - take(self.centre, solid), solid)

    def turn_in(self, v: Floats, solid: Ints) -> Floats:
        """World directions ``[3, p]`` in the frames of their solids."""
        cos, sin = take(self.cos, solid), take(self.sin, solid)
        out = np.empty_like(v)
        out[0] = cos * v[0] + sin * v[1]
        out[1] = cos * v[1] - sin * v[0]
        out[2] = v[2]
        return out

    def turn_out(self, v: Floats, solid: Ints) -> Floats:
        """Directions ``[3, p]`` in the frames of their solids -> world directions."""
        cos, sin = take(self.cos, solid), take(self.sin, solid)
        return np.stack([cos * v[0] - sin * v[1], sin * v[0] + cos * v[1], v[2]])


def take(columns: Array, index: Ints) -> Array:
    """``columns[..., index]``, which numpy does several times slower."""
    taken: Any = np.take(columns, index, -1)
    return taken  # type: ignore[no-any-return]


def put(columns: Floats, index: Ints, values: Floats) -> None:
    """``columns[:, index] = values``, which numpy does several times slower."""
    for row, value in zip(columns, values, strict=True):
        row[index] = value


def places(mask: Mask) -> Ints:
    """Flat indices of what is true; in more than one dimension numpy's `nonzero` is several times slower."""
    return mask.reshape(-1).nonzero()[0]


def dot(a: Floats, b: Floats) -> Floats:
    """Inner product along the rows, ``[3, …] · [3, …] -> […]``."""
    out: Floats = a[0] * b[0]
    out += a[1] * b[1]
    out += a[2] * b[2]
    return out


def interval(shape: Shape, half: Floats, o: Floats, d: Floats) -> tuple[Floats, Floats]:
    """Between which t rays (local `o`, `d` ``[3, p]``) are inside solids of one shape; first ≥ last: they miss."""
    if shape is Shape.SPHERE:
        return _round(dot(d, d), dot(o, d), dot(o, o), half[0])
    if shape is Shape.CYLINDER:
        square, along = d[0] * d[0] + d[1] * d[1], o[0] * d[0] + o[1] * d[1]
        first, last = _round(np.maximum(square, _TINY), along, o[0] * o[0] + o[1] * o[1], half[0])
        low, high = _slab(o[2], d[2], half[2])
        return np.maximum(first, low), np.minimum(last, high)
    first, last = _slab(o[0], d[0], half[0])
    for axis in (1, 2):
        low, high = _slab(o[axis], d[axis], half[axis])
        np.maximum(first, low, out=first)
        np.minimum(last, high, out=last)
    return first, last


def _slab(o: Floats, d: Floats, half: Floats) -> tuple[Floats, Floats]:
    inverse = 1 / (d + np.copysign(_TINY, d))
    reach = np.abs(inverse) * half
    middle = o * inverse
    return -reach - middle, reach - middle


def _round(dd: Floats, od: Floats, oo: Floats, radius: Floats) -> tuple[Floats, Floats]:
    """Roots of |o + t·d|² = radius², from the inner products; an empty interval where there are none."""
    root = od * od - dd * (oo - radius * radius)
    half = np.sqrt(np.maximum(root, 0))
    inverse = 1 / dd
    # No root: half is 0, and first = last is an empty interval.
    return (-od - half) * inverse, (half - od) * inverse


def surface(shape: Shape, half: Floats, p: Floats) -> tuple[Ints, Floats, Floats]:
    """Of local points ``[3, p]`` on solids of one shape: face, outward local unit normal, (u, v) in metres."""
    if shape is Shape.SPHERE:
        n = p / np.sqrt(dot(p, p))
        uv = half[0] * np.stack([np.arctan2(p[1], p[0]), np.arcsin(n[2])])
        return np.zeros(p.shape[1], np.int32), n, uv
    if shape is Shape.CYLINDER:
        # How far out the point is, towards the side and towards the caps: the larger excess is the face it is on.
        across = np.sqrt(p[0] * p[0] + p[1] * p[1])
        cap = np.abs(p[2]) - half[2] > across - half[0]
        side, up = ~cap, p[2] > 0
        face = cap * (1 + up.astype(np.int32))
        n = np.zeros_like(p)
        n[:2] = p[:2] / np.maximum(across, _TINY) * side
        n[2] = cap * np.sign(p[2])
        uv = p[:2].copy()
        uv[0, side] = half[0, side] * np.arctan2(p[1, side], p[0, side])
        uv[1, side] = p[2, side]
        return face, n, uv
    # The face is the one of which the point is least inside.
    out = np.abs(p) - half
    x = (out[0] >= out[1]) & (out[0] >= out[2])
    z = (out[2] > out[1]) & ~x
    axis = np.where(x, 0, np.where(z, 2, 1))
    face = 2 * axis + (np.where(x, p[0], np.where(z, p[2], p[1])) > 0)
    return face, take(OUTWARD, face), np.stack([np.where(x, p[1], p[0]), np.where(z, p[1], p[2])])


def distance(shape: Shape, half: Floats, p: Floats) -> Floats:
    """Signed distance in metres of local points ``[3, p]`` from solids of one shape, negative inside."""
    if shape is Shape.SPHERE:
        gap: Floats = np.sqrt(dot(p, p))
        gap -= half[0]
        return gap
    if shape is Shape.CYLINDER:
        side, cap = np.sqrt(p[0] * p[0] + p[1] * p[1]) - half[0], np.abs(p[2]) - half[2]
        inside = np.minimum(np.maximum(side, cap), 0)
        side, cap = np.maximum(side, 0), np.maximum(cap, 0)
        gap = np.sqrt(side * side + cap * cap)
    else:
        q = np.abs(p) - half
        inside = np.minimum(np.maximum(np.maximum(q[0], q[1]), q[2]), 0)
        q = np.maximum(q, 0)
        gap = np.sqrt(dot(q, q))
    gap += inside
    return gap


OUTWARD = np.array([[-1, 1, 0, 0, 0, 0], [0, 0, -1, 1, 0, 0], [0, 0, 0, 0, -1, 1]], np.float32)
"""Normals of the six faces of a box, seen from outside; the room's, seen from inside, are the opposite."""


def leave_room(size: Floats, origin: Floats, direction: Floats) -> tuple[Floats, Ints]:
    """Where rays that start inside the room ``[0, size]`` meet its shell: t and face (0 … 5). All ``[3, …]``."""
    d = direction + np.copysign(_TINY, direction)
    ahead = d > 0
    t = (size * ahead - origin) / d
    nearest = np.minimum(np.minimum(t[0], t[1]), t[2])
    on_x, on_z = t[0] == nearest, t[2] == nearest
    face = np.where(on_x, ahead[0], np.where(on_z, 4 + ahead[2].astype(np.int32), 2 + ahead[1].astype(np.int32)))
    return nearest, face
