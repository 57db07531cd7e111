"""The built-in rooms as a data source by name."""

from __future__ import annotations

from onnxmtl.data.dataset import DataSource
from onnxmtl.data.scenes.dataset import scenes
from onnxmtl.data.sources import NamedSource, Request, register_source
from onnxmtl.errors import DataError


def open_scenes(request: Request) -> DataSource:
    """The data source "scenes".

    Raises:
        DataError: A path or an option is given (it has none), or the images cannot be drawn as asked.
    """
    if request.path is not None or request.options:
        given = request.path if request.path is not None else next(iter(request.options))
        msg = f"data 'scenes' is drawn, not read: it has no files and no options, leave {str(given)!r} out"
        raise DataError(msg)
    if request.channels != 3:
        msg = f"data 'scenes' has images of 3 channels, the model takes {request.channels}"
        raise DataError(msg)
    return scenes(
        request.tasks,
        size=request.size,
        seed=request.seed,
        train_size=request.train_size,
        val_size=request.val_size,
    )


register_source(
    NamedSource(
        "scenes",
        open_scenes,
        show="segmentation,depth,normals,edges,keypoints,room=classification,pitch=regression",
        size=(96, 96),
        doc="rooms with solids, drawn with exact labels for every kind of task",
    )
)
