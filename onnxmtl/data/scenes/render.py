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
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnxmtl.data.scenes.casting import Hits, first_hits
from onnxmtl.data.scenes.lighting import lamp_light, openness, sky_light, sun_light
from onnxmtl.data.scenes.scene import Stage
from onnxmtl.data.scenes.solids import FLOOR, Floats, Ints, dot, places, put, take
from onnxmtl.data.scenes.textures import paint

AGAIN = 0.12
"""Share of the pixels that get four more rays."""
SUBPIXELS = ((-0.125, -0.375), (0.375, -0.125), (-0.375, 0.125), (0.125, 0.375))
"""The rotated grid: four places in a pixel, no two in one row or column."""


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


def _shade(stage: Stage, directions: Floats, hits: Hits, albedo: Floats, sun: Floats) -> Floats:
    """Linear RGB ``[3, K, n]`` that rays bring back."""
    lamp, from_lamp = lamp_light(stage, hits)
    open_ = openness(stage, hits)
    sky = sky_light(stage, hits)
    sky *= open_
    upness = 0.5 + 0.5 * hits.normal[2]
    light = np.empty_like(albedo)
    for i in range(3):
        # What the floor sends back colours everything that looks down.
        bounce = 0.5 + 0.5 * stage.bounce[i]
        row = light[i]
        np.multiply(upness, 1.15 - bounce, out=row)
        row += bounce
        row *= stage.ambient[i]
        row *= open_
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
    albedo, sun = _albedo(stage, centre), sun_light(stage, centre)
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
        np.concatenate([sun, sun_light(stage, fine)], -1),
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
