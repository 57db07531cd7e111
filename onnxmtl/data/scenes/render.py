"""From scenes to images, and to what the centres of their pixels see.

Rays through pixel centres give exact labels. The pixels of highest contrast (edges of things, of textures and of sun
light) get four more rays for the image. Light comes from a ball lamp with soft shadows, from the sun through a window
with hard ones, from the sky in all windows, and from all around, dimmed by signed distances to what is near.

Several scenes are drawn at once, because numpy spends as much time on a call as on a thousand numbers. An image does
not depend on its company: all that reaches a pixel is element-wise.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxmtl.data.scenes.scene import Stage
from onnxmtl.data.scenes.solids import (
    FLOOR,
    OUTWARD,
    ROOM_FACES,
    Floats,
    Ints,
    Mask,
    distance,
    dot,
    interval,
    leave_room,
    places,
    put,
    surface,
    take,
)
from onnxmtl.data.scenes.textures import paint, window_frame

AGAIN = 0.12
"""Share of the pixels that get four more rays."""
SUBPIXELS = ((-0.125, -0.375), (0.375, -0.125), (-0.375, 0.125), (0.125, 0.375))
"""The rotated grid: four places in a pixel, no two in one row or column."""
LAMP_POINTS = ((0.9, 0.0, 0.4), (-0.45, 0.78, -0.4), (-0.45, -0.78, 0.4), (0.2, 0.1, -0.95))
"""Places on the lamp (its radius is 1 here) that are asked whether they see a point."""
OPEN_STEP = 0.35
"""How far around a point things dim the light, in metres."""
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


def _rays_near(
    stage: Stage, origin: Floats, directions: Floats, grow: float = 0.0, wanted: Mask | None = None
) -> Pairs:
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


def _points_near(stage: Stage, points: Floats, reach: float) -> Pairs:
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
    solid, ray = _rays_near(stage, stage.origin, directions)
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


def _albedo(stage: Stage, hits: Hits) -> Floats:
    """Colour of the surfaces ``[3, K, n]``."""
    ids = hits.surface.reshape(-1)
    material = np.take(stage.surface_material, ids)
    colour = paint(stage.materials, material, hits.uv[0].reshape(-1), hits.uv[1].reshape(-1))
    # Skirting boards: the wall's third colour.
    walls = hits.surface - stage.first_surface < FLOOR
    low = places(walls & (hits.uv[1] < 0.09))
    shadow_gap = hits.uv[1].reshape(-1)[low] > 0.075
    put(colour, low, take(stage.materials.c, material[low]) * np.where(shadow_gap, np.float32(0.5), np.float32(0.85)))
    return colour.reshape(3, *hits.depth.shape)


def _lamp_light(stage: Stage, hits: Hits) -> tuple[Floats, Floats]:
    """Light of the lamps on each point ``[K, n]`` (no colour), and the unit way from the lamp ``[3, K, n]``.

    Shadow rays run from the lamp to the points, so that those of a scene have one origin.
    """
    away = hits.point - stage.lamp
    square = dot(away, away)
    length = np.sqrt(square)
    light = np.maximum(-dot(away, hits.normal), 0)
    light /= length * (0.6 + square)
    radius = float(stage.lamp_radius.max())
    solids = stage.solids
    solid, point = _rays_near(stage, stage.lamp, away, grow=1.5 * radius, wanted=light > 0)
    scene = point // light.shape[1]
    points, lamps = hits.point.reshape(3, -1), stage.lamp[:, :, 0]
    shade, unseen = np.zeros((len(LAMP_POINTS), light.size), bool), np.zeros(light.size, np.float32)
    for kind, pairs in solids.by_shape(solid):
        which, at = take(solid, pairs), take(point, pairs)
        end, half, lamp = (
            solids.local(take(points, at), which),
            take(solids.half, which),
            take(lamps, take(scene, pairs)),
        )
        for i, place in enumerate(LAMP_POINTS):
            start = solids.local(lamp + radius * np.array(place, np.float32)[:, None], which)
            first, last = interval(kind, half, start, end - start)
            # A point on the solid itself is met at t = 1.
            shade[i][at[(first < last) & (first < 0.998) & (last > 0)]] = True
    for hidden in shade:
        unseen += hidden
    light *= (1 - unseen * np.float32(1 / len(LAMP_POINTS))).reshape(light.shape)
    away /= length
    return light, away


def _sun_light(stage: Stage, hits: Hits) -> Floats:
    """Light of the sun on each point ``[K, n]``: through the glass of its window, past the solids."""
    light = np.zeros(hits.depth.shape, np.float32)
    window, towards = stage.sun_window, stage.sun_towards
    on_x = window.face < 2
    plane = np.where(window.face & 1, np.where(on_x, stage.size[0], stage.size[1]), np.float32(0))
    through, beside = np.where(on_x, towards[0], towards[1]), np.where(on_x, towards[1], towards[0])
    x, y, z = hits.point
    t = (plane - np.where(on_x, x, y)) * (1 / through)
    u = np.where(on_x, y, x) - window.u + t * beside
    v = z - window.v + t * towards[2]
    inside = (u > 0) & (u < window.width) & (v > 0) & (v < window.height)
    lit = places(inside & ~window_frame(u, v, window.width, window.height))
    scene = lit // hits.depth.shape[1]
    way, normal = take(towards[:, :, 0], scene), take(hits.normal.reshape(3, -1), lit)
    facing = dot(normal, way)
    start = take(hits.point.reshape(3, -1), lit) + np.float32(2e-3) * normal

    # Every lit point with every solid of its scene.
    solids = stage.solids
    first_solid, end = (np.array(bounds)[scene] for bounds in zip(*stage.solids_of, strict=True))
    counts = end - first_solid
    pair = np.repeat(np.arange(lit.size), counts)
    solid = np.arange(pair.size) - np.repeat(np.cumsum(counts) - counts - first_solid, counts)
    for kind, pairs in solids.by_shape(solid):
        which, at = take(solid, pairs), take(pair, pairs)
        local = solids.local(take(start, at), which), solids.turn_in(take(way, at), which)
        first, last = interval(kind, take(solids.half, which), *local)
        facing[at[(first < last) & (first > 0)]] = 0
    light.reshape(-1)[lit] = np.maximum(facing, 0)
    return light


def _sky_light(stage: Stage, hits: Hits) -> Floats:
    """Light of the sky ``[K, n]``: each window as a small glowing sheet, unshadowed."""
    light = np.zeros(hits.depth.shape, np.float32)
    for index, decal in enumerate(stage.decals):
        glows = stage.glows[np.minimum(stage.first_surface + ROOM_FACES + index, stage.glows.size - 1)]
        area = decal.width * decal.height * glows * (decal.face >= 0)
        for k in area[:, 0].nonzero()[0].tolist():
            x, y, z = hits.point[:, k]
            along, across = (y, x) if decal.face[k, 0] < 2 else (x, y)
            plane = float(stage.size[decal.face[k, 0] >> 1, k, 0]) if decal.face[k, 0] & 1 else 0.0
            gap = plane - across
            beside = float(decal.u[k, 0] + decal.width[k, 0] / 2) - along
            above = float(decal.v[k, 0] + decal.height[k, 0] / 2) - z
            normal = hits.normal[:, k]
            normal_along, normal_across = (normal[1], normal[0]) if decal.face[k, 0] < 2 else (normal[0], normal[1])
            square = gap * gap + beside * beside + above * above
            # Lambert on both ends; the sheet's area over distance squared, softened near the sheet.
            arriving = gap * normal_across + beside * normal_along + above * normal[2] + 0.25 * np.sqrt(square)
            light[k] += float(area[k, 0]) * np.abs(gap) * np.maximum(arriving, 0) / (square * (square + 0.8))
    return light


def _openness(stage: Stage, hits: Hits) -> Floats:
    """How open the surroundings of points are, in (0, 1]: the signed distance a step away from the surface."""
    probe = np.float32(OPEN_STEP) * hits.normal
    probe += hits.point
    walls = np.minimum(probe, stage.size - probe)
    gap: Floats = np.minimum(np.minimum(walls[0], walls[1]), walls[2])
    solids, points, flat = stage.solids, probe.reshape(3, -1), gap.reshape(-1)
    solid, point = _points_near(stage, probe, OPEN_STEP)
    for kind, pairs in solids.by_shape(solid):
        which, at = take(solid, pairs), take(point, pairs)
        np.minimum.at(flat, at, distance(kind, take(solids.half, which), solids.local(take(points, at), which)))
    # 1 where something is as near as can be, 0 where nothing is nearer than the surface.
    gap *= np.float32(-1 / OPEN_STEP)
    gap += 1
    np.clip(gap, 0, 1, out=gap)
    gap *= -0.3 - 0.35 * gap
    gap += 1
    return gap


def _shade(stage: Stage, directions: Floats, hits: Hits, albedo: Floats, sun: Floats) -> Floats:
    """Linear RGB ``[3, K, n]`` that rays bring back."""
    lamp, from_lamp = _lamp_light(stage, hits)
    openness = _openness(stage, hits)
    sky = _sky_light(stage, hits)
    sky *= openness
    upness = 0.5 + 0.5 * hits.normal[2]
    light = np.empty_like(albedo)
    for i in range(3):
        # What the floor sends back colours everything that looks down.
        bounce = 0.5 + 0.5 * stage.bounce[i]
        row = light[i]
        np.multiply(upness, 1.15 - bounce, out=row)
        row += bounce
        row *= stage.ambient[i]
        row *= openness
        row += stage.lamp_colour[i] * lamp
        row += stage.sun_colour[i] * sun
        row += stage.skylight[i] * sky
    flat = light.reshape(3, -1)
    ids = hits.surface.reshape(-1)
    glowing = places(take(stage.glows, ids))
    put(flat, glowing, np.maximum(take(flat, glowing), 1))
    light *= albedo

    # Blinn and Phong's highlight
    gloss = take(stage.gloss, ids)
    gloss *= lamp.reshape(-1)
    at = places(gloss > 0)
    d, normal = take(directions.reshape(3, -1), at), take(hits.normal.reshape(3, -1), at)
    middle = d / -np.sqrt(dot(d, d))
    middle -= take(from_lamp.reshape(3, -1), at)
    spread = np.maximum(dot(middle, normal), 0) / np.sqrt(np.maximum(dot(middle, middle), np.float32(1e-12)))
    for _ in range(5):  # to the 32nd power
        spread *= spread
    spread *= 1.6 * take(gloss, at)
    put(flat, at, take(flat, at) + spread * take(stage.lamp_colour[:, :, 0], at // light.shape[2]))
    return light


def _busiest(brightness: Floats, ids: Ints, height: int, width: int) -> Ints:
    """Flat indices ``[K, count]`` of the pixels of ``[K, H·W]`` that differ most from a neighbour."""
    brightness, ids = brightness.reshape(-1, height, width), ids.reshape(-1, height, width)
    contrast = np.zeros_like(brightness)
    for axis in (1, 2):
        high = (slice(None),) * axis + (slice(1, None),)
        low = (slice(None),) * axis + (slice(None, -1),)
        step = np.abs(brightness[high] - brightness[low])
        step += np.float32(0.08) * (ids[high] != ids[low])
        np.maximum(contrast[high], step, out=contrast[high])
        np.maximum(contrast[low], step, out=contrast[low])
    count = math.ceil(AGAIN * height * width)
    flat = -contrast.reshape(len(contrast), -1)
    return np.stack([np.sort(np.argpartition(row, count - 1)[:count]) for row in flat])


def draw(
    stage: Stage, height: int, width: int, noise: Sequence[np.random.Generator]
) -> tuple[npt.NDArray[np.uint8], Hits]:
    """The images, uint8 ``[K, 3, H, W]`` RGB, and what the pixel centres see, row by row (labels come from these).

    `noise` are generators for the sensors' noise, one per scene.
    """
    _settle_allocator()
    count, pixels, n = len(stage), height * width, len(SUBPIXELS)
    row, column = np.divmod(np.arange(pixels, dtype=np.int32), np.int32(width))
    x, y = column.astype(np.float32) + np.float32(0.5), row.astype(np.float32) + np.float32(0.5)
    rays = stage.rays(x, y, height, width)
    centre = first_hits(stage, rays)
    albedo, sun = _albedo(stage, centre), _sun_light(stage, centre)
    brightness = np.sqrt((albedo[0] + albedo[1] + albedo[2]) * (0.3 + 0.4 * sun))
    again = _busiest(brightness, centre.surface, height, width)

    dx, dy = (np.repeat(np.array(offsets, np.float32), again.shape[1]) for offsets in zip(*SUBPIXELS, strict=True))
    more = stage.rays(np.tile(x[again], n) + dx, np.tile(y[again], n) + dy, height, width)
    fine = first_hits(stage, more)
    light = _shade(
        stage,
        np.concatenate([rays, more], -1),
        centre.and_also(fine),
        np.concatenate([albedo, _albedo(stage, fine)], -1),
        np.concatenate([sun, _sun_light(stage, fine)], -1),
    )
    images = np.empty((count, 3, height, width), np.uint8)
    for k, scene in enumerate(stage.scenes):
        seen = _develop(light[:, k], pixels, scene.exposure)
        seen[:, again[k]] = seen[:, pixels:].reshape(3, n, -1).mean(1)
        image = seen[:, :pixels]
        image += np.float32(0.012) * noise[k].standard_normal(pixels, dtype=np.float32)
        image *= 255
        image += 0.5
        images[k] = np.clip(image, 0, 255, out=image).astype(np.uint8).reshape(3, height, width)
    return images, centre


@functools.cache
def _settle_allocator() -> None:
    """Free one large block, once.

    Until it has seen that, the C library hands memory of the size of our arrays back to the system whenever it is
    freed, and a quarter of the time goes into page faults (mallopt(3), "dynamic mmap threshold").
    """
    np.empty(16 * 2**20, np.uint8)


def _develop(light: Floats, pixels: int, exposure: float) -> Floats:
    """Linear light ``[3, n]`` -> display values in [0, 1): exposed to the mean of the pixels, a soft shoulder, gamma 2.

    Auto-exposure, as cameras do it; `exposure` is how far it is off.
    """
    mean = sum(float(np.minimum(channel[:pixels], 3).sum()) for channel in light) / (3 * pixels)
    exposed: Floats = light * np.float32(exposure * 0.75 / (mean + 0.05))
    exposed *= (1 + np.float32(0.12) * exposed) / (1 + exposed)
    np.sqrt(exposed, out=exposed)
    return exposed
