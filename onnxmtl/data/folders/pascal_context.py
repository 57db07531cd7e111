"""PASCAL-Context with five kinds of labels, as ASTMT and BMTAS distribute it (PASCAL_MT).

    ROOT/JPEGImages/ID.jpg                    RGB
    ROOT/ImageSets/Context/{train,val}.txt    IDs, one a line
    ROOT/semseg/VOC12/ID.png                  ids 0 … 20, 255 = unknown; where it is missing:
    ROOT/semseg/pascal-context/ID.png         the same from PASCAL-Context's annotation
    ROOT/pascal-context/trainval/ID.mat       LabelMap: 459 classes, for edges and the places of valid normals
    ROOT/human_parts/ID.mat                   anno: PASCAL-Part's objects
    ROOT/normals_distill/ID.png               (n + 1) / 2 · 255 of a network's prediction, all zero = unknown
    ROOT/sal_distill/ID.png                   saliency of a network, 128 and more = salient

A segmentation task named parts or human… is the six parts of people (and background): 7 classes; one named sal… is
saliency with 2 classes; others have the 21 classes of PASCAL VOC. Edges are
where classes of LabelMap meet, drawn at the scale of the view, a pixel wide (the codes draw the edges of the picture as
it is, thin them and scale them). Normals count on objects that NYUv2 has, too, as in the codes (``normals=all``: all).
Pictures are not stretched: shrunk if too large, and padded (``fit=resize``: stretched to the network's size).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxmtl.data.dataset import DataSource
from onnxmtl.data.folders.files import Files, Raw
from onnxmtl.data.folders.folder import (
    FolderOptions,
    Label,
    Layout,
    Target,
    class_count,
    no_label,
    open_folder,
)
from onnxmtl.data.folders.labels import borders_of, classes_of, map_of, normals
from onnxmtl.data.folders.lists import Entry, root_folder
from onnxmtl.data.folders.views import View
from onnxmtl.data.sources import NamedSource, Request, one_of, read_options, register_source
from onnxmtl.errors import DataError
from onnxmtl.kinds import Task

NAME = "pascal-context"
HOW = (
    f"download PASCAL_MT.tgz (ASTMT's and BMTAS's repositories link it), unpack it and write {NAME}:FOLDER; the folder "
    "holds JPEGImages, ImageSets/Context/train.txt and val.txt, semseg, pascal-context/trainval, human_parts, "
    "normals_distill and sal_distill"
)
CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "dining table", "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv monitor",
)  # fmt: skip
PARTS = ("background", "head", "torso", "upper arm", "lower arm", "upper leg", "lower leg")
PERSON = 15
"""Class of people in PASCAL VOC."""
# PASCAL-Part's names of people's parts -> PARTS (ASTMT's six).
PART_OF = {
    **dict.fromkeys(("hair", "head", "lear", "lebrow", "leye", "mouth", "nose", "rear", "rebrow", "reye"), 1),
    **dict.fromkeys(("neck", "torso"), 2),
    **dict.fromkeys(("luarm", "ruarm"), 3),
    **dict.fromkeys(("lhand", "llarm", "rhand", "rlarm"), 4),
    **dict.fromkeys(("luleg", "ruleg"), 5),
    **dict.fromkeys(("lfoot", "llleg", "rfoot", "rlleg"), 6),
}
# Of the 459 classes those with a name that NYUv2 has, too (air conditioner, antenna, ashtray, bag …), and tvmonitor.
INDOOR = (
    3, 4, 6, 9, 10, 11, 13, 15, 17, 18, 22, 23, 29, 30, 33, 34, 36, 37, 38, 39, 41, 43, 46, 49, 50, 51, 53, 55, 56, 59,
    61, 62, 65, 66, 68, 69, 72, 73, 78, 83, 84, 85, 87, 88, 95, 96, 101, 104, 105, 107, 111, 113, 115, 122, 124, 135,
    141, 142, 143, 146, 150, 154, 157, 158, 159, 165, 172, 174, 181, 183, 184, 191, 193, 195, 197, 199, 202, 213, 215,
    216, 219, 220, 223, 225, 228, 230, 232, 233, 238, 239, 242, 243, 246, 250, 251, 252, 255, 260, 261, 263, 269, 272,
    273, 275, 281, 283, 284, 285, 286, 287, 288, 290, 291, 292, 293, 295, 304, 307, 309, 310, 314, 315, 319, 323, 329,
    330, 331, 336, 342, 345, 349, 350, 351, 352, 355, 357, 368, 370, 371, 374, 378, 379, 382, 383, 397, 401, 403, 405,
    407, 408, 411, 412, 413, 414, 417, 419, 421, 423, 427, 429, 430, 432, 440, 441, 442, 443, 444, 446, 454, 457,
)  # fmt: skip
_SPLITS = ("train", "val")


@dataclasses.dataclass(frozen=True)
class PascalOptions(FolderOptions):
    """Options of pascal-context, besides those of :class:`FolderOptions`.

    Attributes:
        normals: "indoor" (on objects that NYUv2 has, too), or "all".
    """

    scales: tuple[float, float] = (0.5, 2.0)
    scale_step: float = 0.25
    fit: str = "pad"
    normals: str = "indoor"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("normals", self.normals, ("indoor", "all"))


def _entry(root: Path, name: str) -> Entry:
    return {
        "image": root / "JPEGImages" / f"{name}.jpg",
        "voc": root / "semseg" / "VOC12" / f"{name}.png",
        "context": root / "semseg" / "pascal-context" / f"{name}.png",
        "labels": root / "pascal-context" / "trainval" / f"{name}.mat",
        "parts": root / "human_parts" / f"{name}.mat",
        "normals": root / "normals_distill" / f"{name}.png",
        "saliency": root / "sal_distill" / f"{name}.png",
    }


def _segmentation(files: Files) -> Raw:
    return files.image("voc" if files.has("voc") else "context")


def _label_map(files: Files) -> Raw:
    found: Raw = np.asarray(files.mat("labels", "LabelMap"))
    return found.astype(np.int32)


def human_parts(anno: Any) -> Raw | None:
    """Ids of :data:`PARTS` ``[h, w]`` from PASCAL-Part's annotation; None if it shows no parts of people.

    `anno` is a struct (name of the picture, objects); an object (name of its class, number of its class, mask, parts);
    a part (name, mask). Fields are taken by their place, as their names differ between releases.
    """
    found: Raw | None = None
    for thing in anno[0, 0][1].ravel():
        if int(np.asarray(thing[1]).ravel()[0]) != PERSON or not np.size(thing[3]):
            continue
        if found is None:
            found = np.zeros(np.asarray(thing[2]).shape, np.int16)
        for part in thing[3].ravel():
            found[np.asarray(part[1]).astype(bool)] = PART_OF[str(np.asarray(part[0]).ravel()[0])]
    return found


def _parts(files: Files) -> Target:
    if not files.has("parts"):
        return None
    try:
        return human_parts(files.mat("parts", "anno"))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        msg = f"{files.paths['parts']}: not an annotation of PASCAL-Part: {type(error).__name__}: {error}"
        raise DataError(msg) from error


def _finish_parts(values: Raw, view: View) -> Target:
    """Not labelled where no part can be seen: the people in the picture were not all annotated."""
    return classes_of(ignored=())(values, view) if bool((values > 0).any()) else None


def _label(task: Task, options: PascalOptions) -> Label:
    name = task.name.lower()
    if task.kind == "saliency" or (name.startswith("sal") and task.kind in ("edges", "segmentation")):
        if task.kind != "segmentation":
            return Label(_salient, -1, map_of(1, task.ignore))
        count = class_count(NAME, task, (2,))
        return Label(_salient, -1, classes_of(ignored=()), count, ("background", "salient"))
    if task.kind == "segmentation" and ("part" in name or name.startswith("human")):
        return Label(_parts, -1, _finish_parts, class_count(NAME, task, (len(PARTS),)), PARTS)
    if task.kind == "segmentation":
        return Label(_segmentation, 255, classes_of(), class_count(NAME, task, (len(CLASSES),)), CLASSES)
    if task.kind == "normals":
        return Label(_indoor_normals if options.normals == "indoor" else _normals, 0, normals)
    if task.kind == "edges":
        return Label(_label_map, -1, borders_of(task.ignore))
    raise no_label(NAME, task, "segmentation (also named parts or saliency), normals, edges and saliency")


def _salient(files: Files) -> Raw:
    return (files.image("saliency") > 127).astype(np.int16)


def _normals(files: Files) -> Raw:
    return files.image("normals")


def _indoor_normals(files: Files) -> Raw:
    values, ids = files.image("normals"), _label_map(files)
    if values.shape[:2] != ids.shape:
        msg = f"{files.paths['normals']} and {files.paths['labels']} differ in size: {values.shape} and {ids.shape}"
        raise DataError(msg)
    return np.where(np.isin(ids, INDOOR)[..., None], values, np.uint8(0))


def _read_splits(root: Path) -> dict[str, Sequence[Entry]]:
    splits: dict[str, Sequence[Entry]] = {}
    for split in _SPLITS:
        file = root / "ImageSets" / "Context" / f"{split}.txt"
        try:
            names = file.read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            msg = f"data {NAME!r}: {file}: {getattr(error, 'strerror', None) or error}; {HOW}"
            raise DataError(msg) from error
        for name in names:
            if "/" in name or "\0" in name:
                msg = f"data {NAME!r}: {file}: {name!r} is no name of a picture; {HOW}"
                raise DataError(msg)
        splits[split] = [_entry(root, name) for name in names]
    return splits


def open_pascal_context(request: Request) -> DataSource:
    """The data source "pascal-context".

    Raises:
        DataError: The files are not there or not as they should be, an unknown option, or a task without labels.
    """
    options = read_options(PascalOptions, request.options, NAME)
    labels = {task.name: _label(task, options) for task in request.tasks}
    root = root_folder(request, NAME, HOW)
    layout = Layout(NAME, HOW, _read_splits(root), official="val", pad=127.5)
    return open_folder(layout, labels, options, request)


register_source(
    NamedSource(
        NAME,
        open_pascal_context,
        "segmentation,parts=segmentation,saliency,normals,edges",
        (192, 192),
        PascalOptions,
        "pictures of PASCAL VOC with five kinds of labels (ASTMT's files)",
    )
)
