"""What rays see: the nearest surface along them. And which solids are worth a closer look.

Everything is done for several scenes at once (see `render`). Bounding spheres pick out *pairs* of a solid and a ray or
point; only these are computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from onnxmtl.data.scenes.scene import Stage
from onnxmtl.data.scenes.solids import (
    FLOOR,
    OUTWARD,
    ROOM_FACES,
    Floats,
    Ints,
    Mask,
    dot,
    interval,
    leave_room,
    places,
    put,
    surface,
    take,
)

_CAUTION = 1e-3
"""Bounding spheres are grown by this share: leaving out pairs must never change a result."""


@dataclass(frozen=True)
class Hits:
    """What n rays of each of K scenes see.

    Attributes:
        depth: Along the camera's axis, in metres ``[K, n]``.
        surface: Surface id in the stage ``[K, n]``.
        point: In the world ``[3, K, n]``.
        normal: Unit vectors in the world ``[3, K, n]``.
        uv: Place on the surface, in metres ``[2, K, n]``.
    """

    depth: Floats
    surface: Ints
    point: Floats
    normal: Floats
    uv: Floats

    def and_also(self, others: Hits) -> Hits:
        """These hits, then the others, along n."""
        pairs = zip(vars(self).values(), vars(others).values(), strict=True)
        return Hits(*(np.concatenate(pair, -1) for pair in pairs))


# Pairs of a solid and a point (or ray) worth a closer look: (solid, flat index of the point in [K, n]).
Pairs = tuple[Ints, Ints]


def _join(pairs: Iterator[Pairs]) -> Pairs:
    found = list(pairs)
    if not found:
        return np.empty(0, np.intp), np.empty(0, np.intp)
    return np.concatenate([f[0] for f in found]), np.concatenate([f[1] for f in found])


def rays_near(stage: Stage, origin: Floats, directions: Floats, grow: float = 0.0, wanted: Mask | None = None) -> Pairs:
    """Rays from one place per scene ``[3, K, 1]`` that meet the bounding sphere of a solid, ahead of the place."""
    square = dot(directions, directions)
    n = directions.shape[2]

    def pairs() -> Iterator[Pairs]:
        for k, (start, end) in enumerate(stage.solids_of):
            to = stage.solids.centre[:, start:end] - origin[:, k]
            gap = dot(to, to) - (stage.solids.radius[start:end] * (1 + _CAUTION) + grow) ** 2
            along = to.T @ directions[:, k]
            # The closest approach is inside the sphere: along² / |d|² ≥ |to|² − radius².
            near = np.maximum(along, 0) ** 2 >= gap[:, None] * square[k]
            if wanted is not None:
                near &= wanted[k]
            found = places(near)
            solid = found // n
            yield solid + start, found + (k - solid) * n

    return _join(pairs())


def points_near(stage: Stage, points: Floats, reach: float) -> Pairs:
    """Points ``[3, K, n]`` within `reach` of the bounding sphere of a solid."""
    n = points.shape[2]
    square = dot(points, points)

    def pairs() -> Iterator[Pairs]:
        for k, (start, end) in enumerate(stage.solids_of):
            centre = stage.solids.centre[:, start:end]
            limit = (stage.solids.radius[start:end] * (1 + _CAUTION) + reach + _CAUTION) ** 2 - dot(centre, centre)
            near = square[k] - 2 * (centre.T @ points[:, k]) < limit[:, None]
            found = places(near)
            solid = found // n
            yield solid + start, found + (k - solid) * n

    return _join(pairs())


def first_hits(stage: Stage, directions: Floats) -> Hits:
    """The nearest surface along rays ``[3, K, n]`` from the cameras."""
    shape = directions.shape[1:]
    depth, face = leave_room(stage.size, stage.origin, directions)
    solids, origin = stage.solids, np.broadcast_to(stage.origin, directions.shape).reshape(3, -1)
    flat_depth, ways = depth.reshape(-1), directions.reshape(3, -1)
    solid, ray = rays_near(stage, stage.origin, directions)
    enter = np.full(solid.shape, np.inf, np.float32)
    for kind, pairs in solids.by_shape(solid):
        which, at = take(solid, pairs), take(ray, pairs)
        local = solids.local(take(origin, at), which), solids.turn_in(take(ways, at), which)
        first, last = interval(kind, take(solids.half, which), *local)
        hit = ((first < last) & (first > 1e-4)).nonzero()[0]
        enter[pairs[hit]] = first[hit]
    np.minimum.at(flat_depth, ray, enter)
    hit = (enter == flat_depth[ray]).nonzero()[0]
    solid, ray = solid[hit], ray[hit]

    point = depth * directions
    point += stage.origin
    normal = take(-OUTWARD, face)
    uv = np.empty((2, *shape), np.float32)
    uv[0] = np.where(face < 2, point[1], point[0])
    uv[1] = np.where(face < FLOOR, point[2], point[1])
    ids = stage.first_surface + face
    flat_point, flat_normal, flat_uv, flat_ids = (
        point.reshape(3, -1),
        normal.reshape(3, -1),
        uv.reshape(2, -1),
        ids.reshape(-1),
    )
    for kind, pairs in solids.by_shape(solid):
        which, at = take(solid, pairs), take(ray, pairs)
        found, outward, place = surface(kind, take(solids.half, which), solids.local(take(flat_point, at), which))
        put(flat_normal, at, solids.turn_out(outward, which))
        put(flat_uv, at, place)
        flat_ids[at] = stage.first_face[which] + found
    face.reshape(-1)[ray] = -1  # what is left of the room, for the decals
    for index, decal in enumerate(stage.decals):
        u, v = uv[0] - decal.u, uv[1] - decal.v
        on = (face == decal.face) & (u >= 0) & (v >= 0) & (u < decal.width) & (v < decal.height)
        at = places(on)
        flat_ids[at] = take(stage.first_surface[:, 0], at // shape[1]) + (ROOM_FACES + index)
        flat_uv[0][at], flat_uv[1][at] = take(u.reshape(-1), at), take(v.reshape(-1), at)
        face.reshape(-1)[at] = -1
    return Hits(depth, ids, point, normal, uv)
