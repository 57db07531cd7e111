"""What a scene is made of: camera, solids, rectangles on the walls, lights, and the table of surfaces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from onnxmtl.data.scenes.solids import FACES, FLOOR, ROOM_FACES, Columns, Floats, Ints, Point, Shape, Solid
from onnxmtl.data.scenes.textures import Colour, Material, Materials

CLASSES = ("floor", "ceiling", "wall", "door", "window", "picture", "box", "sphere", "cylinder")
"""Segmentation classes, by id."""
FLOOR_CLASS, CEILING_CLASS, WALL, DOOR, WINDOW, PICTURE = range(6)
LAMP_RADIUS = 0.16
SOLID_CLASS = {Shape.BOX: 6, Shape.SPHERE: 7, Shape.CYLINDER: 8}


@dataclass(frozen=True)
class Camera:
    """A pinhole at `position`; the columns of `axes` are right, up and forward in the world.

    `field` is tan of half the angle of view along the image's shorter side. `pitch` is in radians, negative looks
    down.
    """

    position: Floats
    axes: Floats
    field: float
    pitch: float

    def project(self, points: Floats, height: int, width: int) -> tuple[Floats, Floats, Floats]:
        """World points ``[3, n]`` -> image x, y in pixels and depth in metres (not positive: behind the camera)."""
        right, up, depth = self.axes.T @ (points - self.position[:, None])
        scale = min(height, width) / (2 * self.field * np.maximum(depth, 1e-6))
        return 0.5 * width + right * scale, 0.5 * height - up * scale, depth


@dataclass(frozen=True)
class Decal:
    """A rectangle lying on a face of the room, with its lower corner at (u, v) metres."""

    face: int
    u: float
    v: float
    width: float
    height: float


@dataclass(frozen=True)
class Lamp:
    """A glowing ball of radius `LAMP_RADIUS`: casts soft shadows. `colour` is its power."""

    position: Point
    colour: Colour


@dataclass(frozen=True)
class Sun:
    """Parallel light that enters through one window. `towards` is the unit direction from the room to the sun."""

    towards: Point
    colour: Colour
    window: Decal


@dataclass(frozen=True)
class Scene:
    """Everything there is to draw. Surface ids: six faces of the room, then decals, then the faces of the solids.

    `surface_edge`: between surfaces with equal numbers there is no edge (a rug is part of its floor).
    `skylight` and `ambient` are light without a direction, from the windows and from everywhere.
    """

    size: Point
    room_type: int
    camera: Camera
    solids: tuple[Solid, ...]
    decals: tuple[Decal, ...]
    lamp: Lamp
    sun: Sun | None
    skylight: Colour
    ambient: Colour
    exposure: float
    materials: tuple[Material, ...]
    surface_material: Ints
    surface_class: Ints
    surface_edge: Ints


class Stage:
    """Several scenes side by side, as columns that broadcast over ``[…, K, n]``: n points of each of K scenes.

    Surfaces, materials and solids are numbered through all scenes.
    """

    def __init__(self, scenes: Sequence[Scene]) -> None:
        self.scenes = tuple(scenes)
        self.origin = _columns([s.camera.position for s in scenes])
        self.axes = np.stack([s.camera.axes for s in scenes], -1)[..., None]
        self.field = _column([s.camera.field for s in scenes])
        self.size = _columns([s.size for s in scenes])

        counts = [len(s.surface_class) for s in scenes]
        self.first_surface = np.cumsum([0, *counts[:-1]], dtype=np.int32)[:, None]
        self.surface_class = np.concatenate([s.surface_class for s in scenes])
        self.surface_edge = np.concatenate([s.surface_edge for s in scenes])
        ahead = np.cumsum([0, *(len(s.materials) for s in scenes[:-1])])
        self.materials = Materials([m for s in scenes for m in s.materials])
        self.surface_material = np.concatenate([s.surface_material + a for s, a in zip(scenes, ahead, strict=True)])
        self.gloss = self.materials.gloss[self.surface_material]
        self.glows = self.materials.glows[self.surface_material]

        self.solids = Columns.of([solid for s in scenes for solid in s.solids])
        ends = np.cumsum([0, *(len(s.solids) for s in scenes)]).tolist()
        self.solids_of = list(pairwise(ends))
        faces = [self._first_faces(s, int(f)) for s, f in zip(scenes, self.first_surface[:, 0], strict=True)]
        self.first_face = np.array([face for of_scene in faces for face in of_scene], np.int32)

        most = max(len(s.decals) for s in scenes)
        nothing = Decal(-1, 0.0, 0.0, 0.0, 0.0)
        self.decals = [
            DecalColumn([s.decals[i] if i < len(s.decals) else nothing for s in scenes]) for i in range(most)
        ]
        self.lamp = _columns([s.lamp.position for s in scenes])
        self.lamp_colour = _columns([s.lamp.colour for s in scenes])
        self.suns = [s.sun or Sun((0.6, 0.0, 0.8), (0.0, 0.0, 0.0), nothing) for s in scenes]
        self.sun_towards = _columns([sun.towards for sun in self.suns])
        self.sun_colour = _columns([sun.colour for sun in self.suns])
        self.sun_window = DecalColumn([sun.window for sun in self.suns])
        self.skylight = _columns([s.skylight for s in scenes])
        self.ambient = _columns([s.ambient for s in scenes])
        # What the floor sends back.
        self.bounce = _columns([s.materials[s.surface_material[FLOOR]].a for s in scenes])

    @staticmethod
    def _first_faces(scene: Scene, start: int) -> Iterator[int]:
        """Surface id of face 0 of each solid."""
        start += ROOM_FACES + len(scene.decals)
        for solid in scene.solids:
            yield start
            start += FACES[solid.shape]

    def __len__(self) -> int:
        return len(self.scenes)

    def rays(self, x: Floats, y: Floats, height: int, width: int) -> Floats:
        """Directions ``[3, K, n]`` through places (x, y) of the images, in pixels from the top-left corner.

        Their forward component is 1, so the parameter t along such a ray *is* the depth.
        """
        scale = self.field * (2 / min(height, width))
        right, up = (x - 0.5 * width) * scale, (0.5 * height - y) * scale
        out: Floats = self.axes[:, 0] * right
        out += self.axes[:, 1] * up
        out += self.axes[:, 2]
        return out


class DecalColumn:
    """One decal of each scene: every field is ``[K, 1]``. Face −1: there is none."""

    def __init__(self, decals: Sequence[Decal]) -> None:
        self.face = np.array([[d.face] for d in decals], np.int32)
        self.u = _column([d.u for d in decals])
        self.v = _column([d.v for d in decals])
        self.width = _column([d.width for d in decals])
        self.height = _column([d.height for d in decals])


def _column(values: Sequence[float]) -> Floats:
    return np.array(values, np.float32)[:, None]


def _columns(values: Sequence[Point | Floats]) -> Floats:
    return np.array(values, np.float32).T[..., None].copy()
