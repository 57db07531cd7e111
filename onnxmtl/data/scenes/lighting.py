"""How much light reaches points: from the lamp, the sun, the sky, and how open their surroundings are."""

from __future__ import annotations

import numpy as np

from onnxmtl.data.scenes.casting import Hits, points_near, rays_near
from onnxmtl.data.scenes.scene import LAMP_RADIUS, Stage
from onnxmtl.data.scenes.solids import ROOM_FACES, Floats, distance, dot, interval, places, take
from onnxmtl.data.scenes.textures import window_frame

LAMP_POINTS = ((0.9, 0.0, 0.4), (-0.45, 0.78, -0.4), (-0.45, -0.78, 0.4), (0.2, 0.1, -0.95))
"""Places on the lamp (its radius is 1 here) that are asked whether they see a point."""
OPEN_STEP = 0.35
"""How far around a point things dim the light, in metres."""


def lamp_light(stage: Stage, hits: Hits) -> tuple[Floats, Floats]:
    """Light of the lamps on each point ``[K, n]`` (no colour), and the unit way from the lamp ``[3, K, n]``.

    Shadow rays run from the lamp to the points, so that those of a scene have one origin.
    """
    away = hits.point - stage.lamp
    square = dot(away, away)
    length = np.sqrt(square)
    light = np.maximum(-dot(away, hits.normal), 0)
    light /= length * (0.6 + square)
    solids = stage.solids
    solid, point = rays_near(stage, stage.lamp, away, grow=1.5 * LAMP_RADIUS, wanted=light > 0)
    scene = point // light.shape[1]
    points, lamps = hits.point.reshape(3, -1), stage.lamp[:, :, 0]
    shade, unseen = np.zeros((len(LAMP_POINTS), light.size), bool), np.zeros(light.size, np.float32)
    for kind, pairs in solids.by_shape(solid):
        which, at = take(solid, pairs), take(point, pairs)
        end, half = solids.local(take(points, at), which), take(solids.half, which)
        lamp = take(lamps, take(scene, pairs))
        for i, place in enumerate(LAMP_POINTS):
            start = solids.local(lamp + LAMP_RADIUS * np.array(place, np.float32)[:, None], which)
            first, last = interval(kind, half, start, end - start)
            # A point on the solid itself is met at t = 1.
            shade[i][at[(first < last) & (first < 0.998) & (last > 0)]] = True
    for hidden in shade:
        unseen += hidden
    light *= (1 - unseen * np.float32(1 / len(LAMP_POINTS))).reshape(light.shape)
    away /= length
    return light, away


def sun_light(stage: Stage, hits: Hits) -> Floats:
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


def sky_light(stage: Stage, hits: Hits) -> Floats:
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


def openness(stage: Stage, hits: Hits) -> Floats:
    """How open the surroundings of points are, in (0, 1]: the signed distance a step away from the surface."""
    probe = np.float32(OPEN_STEP) * hits.normal
    probe += hits.point
    walls = np.minimum(probe, stage.size - probe)
    gap: Floats = np.minimum(np.minimum(walls[0], walls[1]), walls[2])
    solids, points, flat = stage.solids, probe.reshape(3, -1), gap.reshape(-1)
    solid, point = points_near(stage, probe, OPEN_STEP)
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
