"""Rooms with boxes, balls and cylinders: drawn by casting rays with numpy, with exact labels for every task kind.

solids     where rays meet boxes, spheres, cylinders and the room
textures   what colour a surface has at a place
scene      camera, lights, surfaces; styles: room types; layout: draws a scene from a random generator
render     scene -> image;  labels: scene -> labels
dataset    samples by (seed, part, index), kept in memory
"""

from onnxmtl.data.scenes.dataset import CLASS_NAMES, Scenes, render_samples, scenes
from onnxmtl.data.scenes.labels import LABELS
from onnxmtl.data.scenes.scene import CLASSES
from onnxmtl.data.scenes.styles import ROOM_TYPES

__all__ = ["CLASSES", "CLASS_NAMES", "LABELS", "ROOM_TYPES", "Scenes", "render_samples", "scenes"]
