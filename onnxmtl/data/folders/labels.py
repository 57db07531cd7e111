"""Labels under a view, as the task kinds have them: class ids, depth, normals, maps in [0, 1], borders."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxmtl.data.folders.files import Raw
from onnxmtl.data.folders.views import View

NOWHERE = -1
"""Class id of pixels that do not count, whatever the task's ignore value is."""


def classes_of(table: Raw | None = None, ignored: tuple[int, ...] = (255,)) -> Callable[[Raw, View], Raw]:
    """Ids ``[H, W]`` -> int64 class ids; `ignored` ones, and those below 0, become :data:`NOWHERE`.

    `table` maps ids to classes; ids beyond it stay what they are, so that they are found to be wrong.
    """

    def finish(values: Raw, _: View) -> Raw:
        ids = values.astype(np.int64)
        known = ids
        if table is not None:
            known = np.where((ids >= 0) & (ids < len(table)), table[np.clip(ids, 0, len(table) - 1)], ids)
        return np.where((ids < 0) | np.isin(ids, ignored), NOWHERE, known)

    return finish


def depth_of(
    exponent: int, then: Callable[[Raw], Raw] | None = None, largest: float = np.inf
) -> Callable[[Raw, View], Raw]:
    """Depth ``[H, W]`` or ``[H, W, 1]`` -> float32 ``[1, H, W]``; what is not in (0, largest) becomes 0.

    Args:
        exponent: What happens when the picture is zoomed by z: values times z^exponent. −1 for distances (what looks
            twice as large is half as far away), 1 for their inverse, 0 to leave them.
        then: What is done to the values after that.
        largest: From here on a value stands for "unknown".
    """

    def finish(values: Raw, view: View) -> Raw:
        depth = values.reshape(values.shape[:2]).astype(np.float32)
        known = np.isfinite(depth) & (depth > 0) & (depth < largest)
        depth = np.where(known, depth, np.float32(1)) * np.float32(view.zoom**exponent)
        depth = depth if then is None else then(depth)
        return np.where(known, depth, np.float32(0))[None]

    return finish


def normals(values: Raw, view: View) -> Raw:
    """Bytes ``[H, W, 3]`` that stand for 2 v / 255 − 1 -> unit vectors float32 ``[3, H, W]``.

    (255, 255, 255) and (0, 0, 0) are unknown and become zero. In a mirror image x points the other way.
    """
    known = ~((values == 255).all(2) | (values == 0).all(2))
    vectors = values.astype(np.float32) * np.float32(2 / 255) - 1
    if view.mirrored:
        vectors[..., 0] *= -1
    length = np.sqrt((vectors * vectors).sum(2))
    vectors *= (known / np.maximum(length, 1e-6))[..., None].astype(np.float32)
    return np.ascontiguousarray(vectors.transpose(2, 0, 1))


def legacy_uncentred_normals(values: Raw, _: View) -> Raw:
    """As the codes of AdaShare, AutoMTL and TreeMTL: v / 255, not centred, x not turned in a mirror image.

    Pixels with any byte of 255 are dropped. Angles between such vectors are much smaller than between the normals.
    """
    known = values.max(2) < 255
    return np.ascontiguousarray((values * (known[..., None] * np.float32(1 / 255))).transpose(2, 0, 1), np.float32)


def map_of(top: float, ignore: float) -> Callable[[Raw, View], Raw]:
    """Values ``[H, W]``, below 0 unknown -> float32 ``[1, H, W]``: min(v / top, 1), `ignore` where unknown."""

    def finish(values: Raw, _: View) -> Raw:
        scaled = np.minimum(values.astype(np.float32) / np.float32(top), np.float32(1))
        return np.where(values < 0, np.float32(ignore), scaled)[None]

    return finish


def borders_of(ignore: float) -> Callable[[Raw, View], Raw]:
    """Ids ``[H, W]``, below 0 outside the picture -> float32 ``[1, H, W]``: 1 where the pixel to the right or below is
    of another id, `ignore` outside."""

    def finish(values: Raw, _: View) -> Raw:
        inside = values >= 0
        edges = np.zeros((1, *values.shape), np.float32)
        here = edges[0]
        here[:, :-1][(values[:, :-1] != values[:, 1:]) & inside[:, 1:]] = 1
        here[:-1][(values[:-1] != values[1:]) & inside[1:]] = 1
        here[~inside] = ignore
        return edges

    return finish
