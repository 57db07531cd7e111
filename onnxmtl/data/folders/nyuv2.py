"""NYUv2 in AdaShare's preparation, which AutoMTL and TreeMTL use, too.

    ROOT/nyu_v2_3task.json     {"train": […], "train1": […], "train2": […], "test": […]}, entries [image, segmentation,
                               normals, depth]: paths below ROOT. train1 and train2 are 80 and 20 % of train.
    ROOT/img/0061.png          RGB
    ROOT/seg/0061.png          ids 0 … 39, 255 = unknown
    ROOT/normal_mask/0061.png  (n + 1) / 2 · 255, (255, 255, 255) = unknown
    ROOT/depth/0061.npy        float32 metres, 0 = unknown

The codes differ from this in: BGR for images and normals (``normalise=bgr-mean`` for the images); normals that are not
centred (``normals=legacy_uncentred``) and keep their x in mirror images; depths that stay when the picture is scaled
(``depth_scaling=keep``). Scale 0.5 … 1.5, crop, mirror: as theirs. Evaluation shows the whole picture at the network's
size: AutoMTL's and TreeMTL's way, and AdaShare's where the model takes 480×640. Depths count for that view: a picture
shown twice as large as there has its depths halved.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from onnxmtl.data.dataset import DataSource
from onnxmtl.data.folders.folder import (
    FolderOptions,
    Label,
    Layout,
    class_count,
    no_label,
    open_folder,
)
from onnxmtl.data.folders.labels import classes_of, depth_of, legacy_uncentred_normals, normals
from onnxmtl.data.folders.lists import read_splits, root_folder
from onnxmtl.data.sources import NamedSource, Request, one_of, read_options, register_source
from onnxmtl.kinds import Task

NAME = "nyuv2"
JSON = "nyu_v2_3task.json"
HOW = (
    f"download AdaShare's preparation of NYUv2 (its repository links it) and write {NAME}:FOLDER; the folder holds "
    f"{JSON} (splits train, train1, train2, test with entries [img/0061.png, seg/0061.png, normal_mask/0061.png, "
    "depth/0061.npy]) and those files"
)
CLASSES_40 = (
    "wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture", "counter",
    "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror", "floor mat", "clothes", "ceiling", "books",
    "refrigerator", "television", "paper", "towel", "shower curtain", "box", "whiteboard", "person", "night stand",
    "toilet", "sink", "lamp", "bathtub", "bag", "other structure", "other furniture", "other prop",
)  # fmt: skip
CLASSES_13 = (
    "bed", "books", "ceiling", "chair", "floor", "furniture", "objects", "picture", "sofa", "table", "television",
    "wall", "window",
)  # fmt: skip
# Couprie et al. 2013; of each of the 40 its class among the 13, counted from 1 (class13Mapping.mat of McCormac et al.).
_OF_40 = (
    12, 5, 6, 1, 4, 9, 10, 12, 13, 6, 8, 6, 13, 10, 6, 13, 6, 7, 7, 5,
    7, 3, 2, 6, 11, 7, 7, 7, 7, 7, 7, 6, 7, 7, 7, 7, 7, 7, 6, 7,
)  # fmt: skip
FROM_40_TO_13 = np.array(_OF_40, np.int64) - 1


@dataclasses.dataclass(frozen=True)
class NYUv2Options(FolderOptions):
    """Options of nyuv2, besides those of :class:`FolderOptions`.

    Attributes:
        normals: "centred" (unit vectors), or "legacy_uncentred".
        depth_scaling: "metric" (depths fit the scale at which they are seen), or "keep".
    """

    normals: str = "centred"
    depth_scaling: str = "metric"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("normals", self.normals, ("centred", "legacy_uncentred"))
        one_of("depth_scaling", self.depth_scaling, ("metric", "keep"))


def _label(task: Task, options: NYUv2Options) -> Label:
    if task.kind == "segmentation":
        count = class_count(NAME, task, (40, 13))
        table, names = (None, CLASSES_40) if count == 40 else (FROM_40_TO_13, CLASSES_13)
        return Label(lambda files: files.image("seg"), 255, classes_of(table), count, names)
    if task.kind == "depth":
        exponent = -1 if options.depth_scaling == "metric" else 0
        return Label(lambda files: files.array("depth"), 0, depth_of(exponent), unit="metres")
    if task.kind == "normals":
        finish = normals if options.normals == "centred" else legacy_uncentred_normals
        return Label(lambda files: files.image("normal"), 255, finish)
    raise no_label(NAME, task, "segmentation (40 or 13 classes), depth and normals")


def open_nyuv2(request: Request) -> DataSource:
    """The data source "nyuv2".

    Raises:
        DataError: The files are not there or not as they should be, an unknown option, or a task without labels.
    """
    options = read_options(NYUv2Options, request.options, NAME)
    labels = {task.name: _label(task, options) for task in request.tasks}
    root = root_folder(request, NAME, HOW)
    splits = read_splits(root / JSON, lambda split: root, ("image", "seg", "normal", "depth"), NAME, HOW)
    return open_folder(Layout(NAME, HOW, splits), labels, options, request)


register_source(
    NamedSource(
        NAME, open_nyuv2, "segmentation,depth,normals", (120, 160), NYUv2Options, "indoor pictures (AdaShare's files)"
    )
)
