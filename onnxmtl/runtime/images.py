"""Images as a model takes them."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxmtl.errors import ModelError
from onnxmtl.runtime.sessions import Array


def fitting(image: Array, shape: tuple[int | str | None, ...], dtype: np.dtype[Any]) -> Array:
    """`image`, a floating-point array, in the element type `dtype`.

    Args:
        image: The array.
        shape: What the model takes: numbers, and names (or None) for free dimensions.
        dtype: The model's element type.

    Raises:
        ModelError: The array is not floating point or has another shape.
    """
    image = np.asarray(image)
    fits = image.ndim == len(shape) and all(
        not isinstance(want, int) or want == have for want, have in zip(shape, image.shape, strict=True)
    )
    if not fits or image.dtype.kind != "f":
        want = ", ".join("?" if size is None else str(size) for size in shape)
        have = ", ".join(map(str, image.shape))
        msg = f"the model takes {dtype} images [{want}], not {image.dtype} [{have}]"
        raise ModelError(msg)
    return image.astype(dtype, copy=False)
