"""Draws what is in a scene: a room, its camera, lights, windows, doors, pictures and solids."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from onnxmtl.data.scenes.scene import (
    CEILING_CLASS,
    DOOR,
    FLOOR_CLASS,
    PICTURE,
    SOLID_CLASS,
    WALL,
    WINDOW,
    Camera,
    Decal,
    Lamp,
    Scene,
    Sun,
)
from onnxmtl.data.scenes.solids import FACES, FLOOR, Point, Shape, Solid
from onnxmtl.data.scenes.styles import STYLES
from onnxmtl.data.scenes.textures import BEACH_BALL, Colour, Material, Pattern, linear, scaled

T = TypeVar("T")

_WOODS = ("#7b4f2e", "#a0703f", "#e4ded2", "#4c6b62", "#8d3a31", "#5a4636")
_CRATES = ("#b98a4e", "#a3784a", "#8b7a5e")
_WINDOW_FRAMES = ("#f4f1ea", "#5b4432", "#39414a")
_PICTURE_FRAMES = ("#22201e", "#c9a24b", "#6b4429", "#f2f0ea")
_ART = ("#e07a3f", "#5d8cc0", "#d9b54a", "#44724f", "#b23a48", "#2d3e63", "#7bb5a8", "#e8c3a0")
_WHITE: Colour = (1.0, 1.0, 1.0)


class Dice:
    """Random choices from a generator, drawn in blocks: a scene takes a few hundred, one call each would be slow."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._left: list[float] = []

    def roll(self) -> float:
        """A number in [0, 1)."""
        if not self._left:
            self._left = self._rng.random(256).tolist()
        return self._left.pop()

    def uniform(self, low: float, high: float) -> float:
        """A number in [low, high)."""
        return low + (high - low) * self.roll()

    def whole(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return low + int(self.roll() * (high - low + 1))

    def one_of(self, items: Sequence[T]) -> T:
        """An item, all equally likely."""
        return items[int(self.roll() * len(items))]

    def weighted(self, weights: Sequence[float]) -> int:
        """An index, as likely as its weight says."""
        left = self.roll() * sum(weights)
        for index, weight in enumerate(weights):
            left -= weight
            if left < 0:
                return index
        return len(weights) - 1


def build_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene."""
    return _Builder(Dice(rng)).scene()


class _Builder:
    """Draws the parts in a fixed order, collecting surfaces as it goes."""

    def __init__(self, dice: Dice) -> None:
        self.dice = dice
        self.room_type = dice.whole(0, len(STYLES) - 1)
        self.style = STYLES[self.room_type]
        self.size: Point = (dice.uniform(3.6, 6.2), dice.uniform(3.6, 6.2), dice.uniform(2.4, 3.3))
        self.materials: list[Material] = []
        self.decals: list[Decal] = []
        self.solids: list[Solid] = []
        self.surfaces: list[tuple[int, int, int]] = []  # material, class, edge

    def scene(self) -> Scene:
        self.shell()
        camera = self.camera()
        self.rug()
        windows = self.wall_decals(camera)
        self.place_solids(camera)
        material, label, edge = np.array(self.surfaces, np.int32).T
        sun, skylight = self.daylight(windows)
        return Scene(
            size=self.size,
            room_type=self.room_type,
            camera=camera,
            solids=tuple(self.solids),
            decals=tuple(self.decals),
            lamp=self.lamp(bool(windows)),
            sun=sun,
            skylight=skylight,
            ambient=self.ambient(),
            exposure=self.dice.uniform(0.85, 1.2),
            materials=tuple(self.materials),
            surface_material=material.copy(),
            surface_class=label.copy(),
            surface_edge=edge.copy(),
        )

    def add_surfaces(self, material: Material, label: int, *, faces: int = 1, edge: int | None = None) -> None:
        """Register surfaces of one material. `edge`: the surface they lie flush with, if any."""
        self.materials.append(material)
        for _ in range(faces):
            self.surfaces.append((len(self.materials) - 1, label, len(self.surfaces) if edge is None else edge))

    def colour(self) -> Colour:
        """One of the style's colours, a little brighter or darker."""
        return scaled(linear(self.dice.one_of(self.style.colours)), self.dice.uniform(0.8, 1.2))

    def phase(self) -> int:
        return self.dice.whole(0, 4095)

    # The room

    def shell(self) -> None:
        dice = self.dice
        pattern, a, b, c = dice.one_of(self.style.walls)
        scale = {Pattern.STRIPES: 0.3, Pattern.BRICK: 0.13, Pattern.DOTS: 0.28}.get(pattern, 0.8)
        scale *= dice.uniform(0.85, 1.3)
        wall = Material(pattern, linear(a), linear(b), linear(c), scale, self.phase())
        self.add_surfaces(wall, WALL, faces=4)
        pattern, a, b, c = dice.one_of(self.style.floors)
        scale = {Pattern.PLANKS: 0.16, Pattern.CHECKER: 0.5}.get(pattern, 0.7) * dice.uniform(0.85, 1.25)
        level = dice.roll() < 0.5
        floor = Material(pattern, linear(a), linear(b), linear(c), scale, self.phase(), level=level, gloss=0.15)
        self.add_surfaces(floor, FLOOR_CLASS)
        white = dice.uniform(0.62, 0.9)
        ceiling = (white, 0.99 * white, white * dice.uniform(0.92, 0.99))
        self.add_surfaces(Material(Pattern.PLAIN, ceiling, ceiling, ceiling, phase=self.phase()), CEILING_CLASS)

    def camera(self) -> Camera:
        """In a corner or at the middle of a wall, looking across the room and down a little."""
        dice, (width, depth, height) = self.dice, self.size
        # Shares of the room, mirrored and swapped at random.
        x, y = dice.uniform(0.08, 0.22), dice.uniform(0.08, 0.5)
        to_x, to_y = dice.uniform(0.55, 0.9), dice.uniform(0.3, 0.95)
        if dice.roll() < 0.5:
            x, y, to_x, to_y = y, x, to_y, to_x
        if dice.roll() < 0.5:
            x, to_x = 1 - x, 1 - to_x
        if dice.roll() < 0.5:
            y, to_y = 1 - y, 1 - to_y
        z = min(dice.uniform(0.9, 2.1), height - 0.4)
        yaw = math.atan2((to_y - y) * depth, (to_x - x) * width)
        pitch = dice.uniform(-0.46, -0.02) - 0.12 * (z - 1.4)
        roll = dice.uniform(-0.05, 0.05)
        sin_yaw, cos_yaw, sin_pitch, cos_pitch = math.sin(yaw), math.cos(yaw), math.sin(pitch), math.cos(pitch)
        axes = np.array(
            [
                [sin_yaw, -cos_yaw * sin_pitch, cos_yaw * cos_pitch],
                [-cos_yaw, -sin_yaw * sin_pitch, sin_yaw * cos_pitch],
                [0, cos_pitch, sin_pitch],
            ]
        )
        turn = np.array([[math.cos(roll), -math.sin(roll), 0], [math.sin(roll), math.cos(roll), 0], [0, 0, 1]])
        field = math.tan(0.5 * math.radians(dice.uniform(60, 80)))
        position = np.array([x * width, y * depth, z], np.float32)
        return Camera(position, (axes @ turn).astype(np.float32), field, pitch)

    def rug(self) -> None:
        dice = self.dice
        if dice.roll() >= self.style.rug:
            return
        w, h = dice.uniform(0.4, 0.65) * self.size[0], dice.uniform(0.4, 0.65) * self.size[1]
        u, v = dice.uniform(0.3, 0.7) * (self.size[0] - w), dice.uniform(0.3, 0.7) * (self.size[1] - h)
        a, b, c, scale = self.colour(), self.colour(), self.colour(), dice.uniform(0.3, 0.8)
        self.decals.append(Decal(FLOOR, u, v, w, h))
        self.add_surfaces(Material(Pattern.RUG, a, b, c, scale, self.phase(), (w, h)), FLOOR_CLASS, edge=FLOOR)

    def wall_decals(self, camera: Camera) -> list[Decal]:
        """One door, up to two windows, some pictures; most of them where the camera looks. Returns the windows."""
        x, y, _ = camera.axes[:, 2].tolist()
        weights = [max(facing, 0.06) for facing in (-x, x, -y, y)]
        pictures = self.dice.whole(*self.style.pictures)
        windows: list[Decal] = []
        for label in [DOOR, *[WINDOW] * self.dice.whole(0, 2), *[PICTURE] * pictures]:
            decal = self.free_place(label, weights)
            if decal is None:
                continue
            self.decals.append(decal)
            self.add_surfaces(self.decal_material(label, (decal.width, decal.height)), label)
            if label == WINDOW:
                windows.append(decal)
        return windows

    def free_place(self, label: int, weights: list[float]) -> Decal | None:
        dice = self.dice
        for _ in range(8):
            face = dice.weighted(weights)
            length = self.size[1] if face < 2 else self.size[0]
            if label == DOOR:
                w, h, v = dice.uniform(0.8, 1.0), 2.02, 0.0
            elif label == WINDOW:
                w, h = dice.uniform(1.0, 2.0), dice.uniform(1.0, 1.35)
                v = dice.uniform(0.75, self.size[2] - h - 0.2)
            else:
                w, h = dice.uniform(0.5, 1.3), dice.uniform(0.5, 0.95)
                v = dice.uniform(1.3, 1.6) - h / 2
            u = dice.uniform(0.25, length - w - 0.25)
            if all(d.face != face or u > d.u + d.width + 0.15 or u + w < d.u - 0.15 for d in self.decals):
                return Decal(face, u, v, w, h)
        return None

    def decal_material(self, label: int, extent: tuple[float, float]) -> Material:
        dice, phase = self.dice, self.phase()
        if label == DOOR:
            return Material(Pattern.DOOR, linear(dice.one_of(_WOODS)), _WHITE, (0.75, 0.72, 0.66), 1.0, phase, extent)
        if label == WINDOW:
            frame = linear(dice.one_of(_WINDOW_FRAMES))
            garden, sky = linear("#6f9a5b"), linear("#6ea8de")
            return Material(Pattern.WINDOW, garden, sky, frame, 1.0, phase, extent, gloss=0.3, glows=True)
        first = dice.whole(0, len(_ART) - 1)
        second = (first + dice.whole(1, len(_ART) - 1)) % len(_ART)
        frame = linear(dice.one_of(_PICTURE_FRAMES))
        art = dice.one_of((Pattern.LANDSCAPE, Pattern.BLOCKS, Pattern.RINGS))
        place = dice.uniform(0.01, 1.0)
        return Material(art, linear(_ART[first]), linear(_ART[second]), frame, place, phase, extent)

    # What stands in it

    def place_solids(self, camera: Camera) -> None:
        for _ in range(self.dice.whole(2, 6)):
            solid = self.standing(camera)
            if solid is None:
                continue
            self.add_solid(solid)
            if solid.shape is not Shape.SPHERE and solid.top < 1.0 and self.dice.roll() < 0.4:
                self.add_solid(self.on_top(solid))

    def standing(self, camera: Camera) -> Solid | None:
        """A solid on the floor, in view, clear of others, walls and camera; None if no place was found."""
        dice = self.dice
        shape = Shape(dice.weighted(self.style.solids))
        half = self.extents(shape, 1.0)
        yaw = dice.uniform(0, math.pi / 2) if shape is Shape.BOX else 0.0
        eye_x, eye_y, _ = camera.position.tolist()
        right_x, right_y, _ = camera.axes[:, 0].tolist()
        ahead_x, ahead_y, _ = camera.axes[:, 2].tolist()
        reach = Solid(shape, (0.0, 0.0, 0.0), half).footprint + 0.03
        for _ in range(12):
            x, y = dice.uniform(reach, self.size[0] - reach), dice.uniform(reach, self.size[1] - reach)
            depth = (x - eye_x) * ahead_x + (y - eye_y) * ahead_y
            side = abs((x - eye_x) * right_x + (y - eye_y) * right_y)
            in_view = depth > 1.0 and side < 0.95 * camera.field * depth
            clear = math.hypot(x - eye_x, y - eye_y) > reach + 1.0 and all(
                math.hypot(x - s.centre[0], y - s.centre[1]) > reach + s.footprint + 0.05 for s in self.solids
            )
            if in_view and clear:
                return Solid(shape, (x, y, half[2]), half, yaw)
        return None

    def on_top(self, below: Solid) -> Solid:
        """A smaller solid standing on `below`."""
        shape = Shape(self.dice.weighted(self.style.solids))
        half = self.extents(shape, 0.5)
        fit = min(1.0, 0.95 * min(below.half[:2]) / math.hypot(half[0], half[1]))
        half = (half[0] * fit, half[1] * fit, half[2] * fit)
        yaw = self.dice.uniform(0, math.pi / 2) if shape is Shape.BOX else 0.0
        return Solid(shape, (below.centre[0], below.centre[1], below.top + half[2]), half, yaw)

    def extents(self, shape: Shape, grow: float) -> Point:
        dice = self.dice
        if shape is Shape.SPHERE:
            radius = grow * dice.uniform(0.22, 0.48)
            return radius, radius, radius
        if shape is Shape.CYLINDER:
            radius = grow * dice.uniform(0.17, 0.38)
            return radius, radius, grow * dice.uniform(0.2, 0.65)
        return grow * dice.uniform(0.2, 0.5), grow * dice.uniform(0.2, 0.5), grow * dice.uniform(0.18, 0.6)

    def add_solid(self, solid: Solid) -> None:
        self.solids.append(solid)
        self.add_surfaces(self.solid_material(solid), SOLID_CLASS[solid.shape], faces=FACES[solid.shape])

    def solid_material(self, solid: Solid) -> Material:
        dice, ball = self.dice, solid.shape is Shape.SPHERE
        pattern = dice.one_of(self.style.solid_patterns)
        if solid.shape is not Shape.BOX and pattern in (Pattern.CRATE, Pattern.PLANKS):
            pattern = Pattern.STRIPES
        scale = {Pattern.PLANKS: 0.1, Pattern.CRATE: 0.13, Pattern.NOISE: 0.25}.get(pattern, 0.24)
        scale *= dice.uniform(0.85, 1.3)
        gloss = dice.uniform(0.3, 0.9) if ball else dice.uniform(0.0, 0.4)
        a, level = self.colour(), dice.roll() < 0.5
        extent = (min(solid.half[:2]), solid.half[2])
        material = Material(pattern, a, self.colour(), scaled(a, 0.15), scale, self.phase(), extent, level, gloss)
        if pattern is Pattern.CRATE:
            wood = linear(dice.one_of(_CRATES))
            return dataclasses.replace(material, a=wood, b=scaled(wood, 0.6))
        if pattern is Pattern.PLANKS:
            return dataclasses.replace(material, b=scaled(a, 0.7))
        if pattern is Pattern.STRIPES and ball:
            return dataclasses.replace(material, scale=BEACH_BALL * solid.half[0], level=False)
        return material

    # Light

    def lamp(self, windows: bool) -> Lamp:
        dice, (width, depth, height) = self.dice, self.size
        warmth = dice.uniform(*self.style.warmth)
        power = dice.uniform(2.4, 4.4) * (0.6 if windows else 1.0)
        place = (dice.uniform(0.3, 0.7) * width, dice.uniform(0.3, 0.7) * depth, height - dice.uniform(0.3, 0.6))
        return Lamp(place, (power, power * (0.93 - 0.17 * warmth), power * (0.86 - 0.42 * warmth)))

    def ambient(self) -> Colour:
        warmth, base = self.dice.uniform(*self.style.warmth), self.dice.uniform(0.14, 0.22)
        return base * (0.85 + 0.25 * warmth), base, base * (1.15 - 0.3 * warmth)

    def daylight(self, windows: list[Decal]) -> tuple[Sun | None, Colour]:
        dice = self.dice
        if not windows:
            return None, (0.0, 0.0, 0.0)
        sky = scaled((0.75, 0.9, 1.1), dice.uniform(0.8, 1.6))
        if dice.roll() < 0.3:  # an overcast day
            return None, sky
        window = dice.one_of(windows)
        turn, rise = dice.uniform(-0.7, 0.7), dice.uniform(0.45, 0.85)
        outward, along = math.cos(turn) * math.cos(rise), math.sin(turn) * math.cos(rise)
        if window.face % 2 == 0:
            outward = -outward
        towards = (outward, along, math.sin(rise)) if window.face < 2 else (along, outward, math.sin(rise))
        return Sun(towards, scaled((1.0, 0.88, 0.68), dice.uniform(1.6, 2.8)), window), sky
