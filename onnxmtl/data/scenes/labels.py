"""Exact labels of scenes, one per task kind, from what the pixel centres see.

segmentation    uint8   [H, W]      id into `CLASSES`
depth           float32 [1, H, W]   metres along the camera's viewing axis (z-depth, as depth cameras give it)
normals         float32 [3, H, W]   unit vectors in the camera's frame: x right, y up, z towards the viewer
edges           uint8   [1, H, W]   1 where the pixel to the right or below shows another surface: every jump of
                                    depth, crease and border of an instance, and no edge of a texture or shadow
saliency        uint8   [1, H, W]   1 where the pixel shows a box, a ball or a cylinder
keypoints       float32 [1, H, W]   visible corners of boxes and of the room, centres of visible balls and
                                    cylinders: a Gaussian each, 1 at its place
classification  int64   []          id into `ROOM_TYPES`
regression      float32 [1]         pitch of the camera in radians, negative looks down
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxmtl.data.scenes.casting import Hits
from onnxmtl.data.scenes.scene import SOLID_CLASS, Scene, Stage
from onnxmtl.data.scenes.solids import Columns, Floats, Point, Shape, interval

Label = npt.NDArray[Any]

KEYPOINT_WIDTH = 0.025
"""Standard deviation of a key point, as a share of the image's shorter side (but at least one pixel)."""


def labels_of(stage: Stage, hits: Hits, height: int, width: int, kinds: Iterable[str]) -> dict[str, Label]:
    """The labels of the asked kinds, ``[K, …]``; `hits` are those of the pixel centres, row by row."""
    return {kind: LABELS[kind](stage, hits, height, width) for kind in kinds}


def _segmentation(stage: Stage, hits: Hits, height: int, width: int) -> Label:
    return stage.surface_class[hits.surface].astype(np.uint8).reshape(-1, height, width)


def _depth(stage: Stage, hits: Hits, height: int, width: int) -> Label:
    return hits.depth.reshape(-1, 1, height, width)


def _normals(stage: Stage, hits: Hits, height: int, width: int) -> Label:
    x, y, z = hits.normal
    camera = stage.axes  # [world, camera, K, 1]
    rows = [camera[0, i] * x + camera[1, i] * y + camera[2, i] * z for i in range(3)]
    length = np.sqrt(rows[0] * rows[0] + rows[1] * rows[1] + rows[2] * rows[2])
    return np.stack([rows[0] / length, rows[1] / length, -rows[2] / length], 1).reshape(-1, 3, height, width)


def _edges(stage: Stage, hits: Hits, height: int, width: int) -> Label:
    surface = stage.surface_edge[hits.surface].reshape(-1, height, width)
    edges = np.zeros((len(stage), 1, height, width), np.uint8)
    edges[:, 0, :, :-1] |= surface[:, :, :-1] != surface[:, :, 1:]
    edges[:, 0, :-1] |= surface[:, :-1] != surface[:, 1:]
    return edges


def _saliency(stage: Stage, hits: Hits, height: int, width: int) -> Label:
    solid = np.isin(stage.surface_class[hits.surface], list(SOLID_CLASS.values()))
    return solid.astype(np.uint8).reshape(-1, 1, height, width)


def _keypoints(stage: Stage, hits: Hits, height: int, width: int) -> Label:
    sigma = max(1.0, KEYPOINT_WIDTH * min(height, width))
    margin = 2 * sigma
    heat = np.zeros((len(stage), 1, height, width), np.float32)
    columns, rows = np.arange(width, dtype=np.float32) + 0.5, np.arange(height, dtype=np.float32) + 0.5
    for k, scene in enumerate(stage.scenes):
        x, y, depth = scene.camera.project(visible_points(scene), height, width)
        near = (depth > 0.05) & (x > -margin) & (x < width + margin) & (y > -margin) & (y < height + margin)
        across = np.exp((columns - x[near, None]) ** 2 * np.float32(-0.5 / sigma**2))
        down = np.exp((rows - y[near, None]) ** 2 * np.float32(-0.5 / sigma**2))
        for along_x, along_y in zip(across, down, strict=True):
            np.maximum(heat[k, 0], along_y[:, None] * along_x, out=heat[k, 0])
    return heat


def visible_points(scene: Scene) -> Floats:
    """The key points ``[3, n]`` in the world that nothing hides from the camera (in view or not)."""
    width, depth, height = scene.size
    found: list[Point] = [(x, y, z) for x in (0.0, width) for y in (0.0, depth) for z in (0.0, height)]
    owners = [-1] * len(found)
    for index, thing in enumerate(scene.solids):
        own = thing.corners if thing.shape is Shape.BOX else [thing.centre]
        found += own
        owners += [index] * len(own)
    points, owner = np.array(found, np.float32).T, np.array(owners)
    # The room is convex: its shell hides nothing inside it. So look at every pair of a solid and a point.
    solids = Columns.of(scene.solids)
    solid, point = (a.ravel() for a in np.indices((len(scene.solids), len(owner))))
    free = np.ones(len(owner), bool)
    eye = scene.camera.position[:, None]
    for kind, pairs in solids.by_shape(solid):
        which, at = solid[pairs], point[pairs]
        start = solids.local(np.broadcast_to(eye, (3, at.size)), which)
        first, last = interval(kind, solids.half[:, which], start, solids.local(points[:, at], which) - start)
        # A corner lies on its own box, at t = 1; a centre lies inside its own solid, which does not hide it.
        hidden = (first < last) & (first > 0) & (first < 0.999) & ((kind is Shape.BOX) | (owner[at] != which))
        free[at[hidden]] = False
    return points[:, free]


def _classification(stage: Stage, hits: Hits, height: int, width: int) -> Label:
    return np.array([scene.room_type for scene in stage.scenes], np.int64)


def _regression(stage: Stage, hits: Hits, height: int, width: int) -> Label:
    return np.array([[scene.camera.pitch] for scene in stage.scenes], np.float32)


LABELS: dict[str, Callable[[Stage, Hits, int, int], Label]] = {
    "segmentation": _segmentation,
    "depth": _depth,
    "normals": _normals,
    "edges": _edges,
    "saliency": _saliency,
    "keypoints": _keypoints,
    "classification": _classification,
    "regression": _regression,
}
"""The kinds that scenes have labels for."""
