"""CityScapes in AdaShare's preparation (after MTAN's), which AutoMTL uses, too.

    ROOT/cityscape.json   {"train": […], "train1": […], "train2": […], "test": […]}, entries [image, depth, label_2,
                          label_7, label_19]: paths of npy files below ROOT
    image                 float [256, 512, 3], RGB in [0, 1]
    depth                 float [256, 512, 1]: inverse depth (largest about 0.5), 0 = unknown
    labels                [256, 512], −1 = unknown, with 2, 7 and 19 classes

The number of classes of a task chooses the label (19 if it is left open). Being an inverse depth, the depth of a
picture shown twice as large is doubled (``depth_scaling=keep``: left alone, as in the codes, which also take BGR:
``normalise=bgr-mean``).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from onnxmtl.data.dataset import DataSource
from onnxmtl.data.folders.files import Files, Raw
from onnxmtl.data.folders.folder import (
    FolderOptions,
    Label,
    Layout,
    class_count,
    no_label,
    open_folder,
)
from onnxmtl.data.folders.labels import classes_of, depth_of
from onnxmtl.data.folders.lists import read_splits, root_folder
from onnxmtl.data.sources import NamedSource, Request, one_of, read_options, register_source
from onnxmtl.errors import DataError
from onnxmtl.kinds import Task

NAME = "cityscapes"
JSON = "cityscape.json"
HOW = (
    f"download AdaShare's preparation of CityScapes (its repository links it) and write {NAME}:FOLDER; the folder "
    f"holds {JSON} (splits train, train1, train2, test with entries [image, depth, label_2, label_7, label_19]) and "
    "those npy files"
)
CLASS_NAMES = {
    7: ("flat", "construction", "object", "nature", "sky", "human", "vehicle"),
    19: (
        "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation",
        "terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class CityScapesOptions(FolderOptions):
    """Options of cityscapes, besides those of :class:`FolderOptions`.

    Attributes:
        depth_scaling: "metric" (inverse depths fit the scale at which they are seen), or "keep".
    """

    depth_scaling: str = "metric"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("depth_scaling", self.depth_scaling, ("metric", "keep"))


_SLACK = 0.05
"""What interpolation may have added to colours."""


def _picture(files: Files) -> Raw:
    pixels = files.array("image")
    floats = pixels.ndim == 3 and pixels.shape[2] == 3 and np.issubdtype(pixels.dtype, np.floating) and pixels.size
    if not floats or not -_SLACK <= pixels.min() <= pixels.max() <= 1 + _SLACK:  # nan is not, either
        reach = f" from {pixels.min():g} to {pixels.max():g}" if floats else ""
        found = f"{pixels.dtype} {list(pixels.shape)}{reach}"
        msg = f"{files.paths['image']}: expected floats [H, W, 3] in [0, 1], found {found}"
        raise DataError(msg)
    return pixels.astype(np.float32) * np.float32(255)


def _label(task: Task, options: CityScapesOptions) -> Label:
    if task.kind == "segmentation":
        count = class_count(NAME, task, (19, 7, 2))
        return Label(
            lambda files: files.array(f"label_{count}"), -1, classes_of(ignored=()), count, CLASS_NAMES.get(count, ())
        )
    if task.kind == "depth":
        exponent = 1 if options.depth_scaling == "metric" else 0
        return Label(lambda files: files.array("depth"), 0, depth_of(exponent), unit="inverse depth")
    raise no_label(NAME, task, "segmentation (2, 7 or 19 classes) and depth")


def open_cityscapes(request: Request) -> DataSource:
    """The data source "cityscapes".

    Raises:
        DataError: The files are not there or not as they should be, an unknown option, or a task without labels.
    """
    options = read_options(CityScapesOptions, request.options, NAME)
    labels = {task.name: _label(task, options) for task in request.tasks}
    root = root_folder(request, NAME, HOW)
    columns = ("image", "depth", "label_2", "label_7", "label_19")
    splits = read_splits(root / JSON, lambda split: root, columns, NAME, HOW)
    return open_folder(Layout(NAME, HOW, splits, picture=_picture), labels, options, request)


register_source(
    NamedSource(
        NAME, open_cityscapes, "segmentation,depth", (128, 256), CityScapesOptions, "street pictures (AdaShare's files)"
    )
)
