"""Tiny-Taskonomy in AdaShare's preparation, which AutoMTL uses, too.

    ROOT/taskonomy.json              {"train": […], "train1": […], "train2": […], "test": […], "test_small": […]},
                                     entries [rgb, segmentsemantic, normal, depth_zbuffer, keypoints2d, edge_texture]:
                                     PNG files below ROOT/train (train, train1, train2) or ROOT/test (test, test_small)
    ROOT/semseg_prior_factor.npy     a weight for each of the 17 classes (may be left out)
    rgb                              256×256
    segmentsemantic                  0 = unlabelled, 1 … 17
    normal                           (n + 1) / 2 · 255, valid where the depth is
    depth_zbuffer                    16 bits, 1/512 metres; 64500 and more = unknown
    keypoints2d, edge_texture        16 bits; of 2^16: keypoints up to 0.005, edges up to 0.08, what is above is cut off

Keypoints and edges are scaled to [0, 1]; the codes scale to [−1, 1], so that their errors are twice ours. Depths are in
metres; ``depth=log`` takes the codes' log(1 + d) / log(2^16) of the file's numbers. The codes read files that cannot be
read as the next one; here they are an error.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

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
from onnxmtl.data.folders.labels import classes_of, depth_of, map_of, normals
from onnxmtl.data.folders.lists import read_splits, root_folder
from onnxmtl.data.sources import NamedSource, Request, one_of, read_options, register_source
from onnxmtl.errors import DataError
from onnxmtl.kinds import Task

NAME = "taskonomy"
JSON = "taskonomy.json"
PRIOR = "semseg_prior_factor.npy"
HOW = (
    f"download the Tiny-Taskonomy of AdaShare's preparation (its repository says how) and write {NAME}:FOLDER; the "
    f"folder holds {JSON} (splits train, train1, train2, test, test_small with entries [rgb, segmentsemantic, normal, "
    f"depth_zbuffer, keypoints2d, edge_texture]), {PRIOR}, and the PNG files below train and test"
)
CLASSES = 17
UNKNOWN_DEPTH = 64500
METRES = 1 / 512
DEEPEST = 2.0**16
LOGARITHM = "log(1 + 512 metres) / log(2^16)"
"""Unit of the depths with ``depth=log``: the files count 512 per metre."""
KEYPOINTS, EDGES = 0.005, 0.08
"""Where the values of keypoints2d and edge_texture, as shares of 2^16, are cut off."""


@dataclasses.dataclass(frozen=True)
class TaskonomyOptions(FolderOptions):
    """Options of taskonomy, besides those of :class:`FolderOptions`.

    Attributes:
        depth: "metres", or "log": log(1 + d) / log(2^16) of the file's numbers, as the codes.
        depth_scaling: "metric" (depths fit the scale at which they are seen), or "keep".
    """

    depth: str = "metres"
    depth_scaling: str = "metric"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("depth", self.depth, ("metres", "log"))
        one_of("depth_scaling", self.depth_scaling, ("metric", "keep"))


def _segmentation(files: Files) -> Raw:
    """Classes 0 … 16, −1 where unlabelled."""
    return files.image("seg").astype(np.int16) - 1


def _normals(files: Files) -> Raw:
    """Unknown (255, 255, 255) where there is no depth."""
    values, depth = files.image("normal"), files.image("depth")
    if values.shape[:2] != depth.shape[:2]:
        msg = f"{files.paths['normal']} and {files.paths['depth']} differ in size: {values.shape} and {depth.shape}"
        raise DataError(msg)
    return np.where((depth < UNKNOWN_DEPTH)[..., None], values, np.uint8(255))


def _logarithm(depth: Raw) -> Raw:
    return np.log1p(depth) / np.float32(np.log(DEEPEST))


def _metres(depth: Raw) -> Raw:
    return depth * np.float32(METRES)


def _label(task: Task, options: TaskonomyOptions, prior: tuple[float, ...]) -> Label:
    if task.kind == "segmentation":
        count = class_count(NAME, task, (CLASSES,))
        return Label(_segmentation, -1, classes_of(ignored=()), count, class_weights=prior)
    if task.kind == "normals":
        return Label(_normals, 255, normals)
    if task.kind == "depth":
        exponent = -1 if options.depth_scaling == "metric" else 0
        then, unit = (_metres, "metres") if options.depth == "metres" else (_logarithm, LOGARITHM)
        return Label(lambda files: files.image("depth"), 0, depth_of(exponent, then, UNKNOWN_DEPTH), unit=unit)
    if task.kind in ("keypoints", "edges"):
        # Both are maps to regress; a name tells them apart where the kind does not (edge_texture as keypoints: L1).
        edge = "edge" in task.name.lower() or (task.kind == "edges" and "key" not in task.name.lower())
        column, top = ("edge", EDGES) if edge else ("keypoint", KEYPOINTS)
        return Label(lambda files: files.image(column).astype(np.int32), -1, map_of(top * DEEPEST, task.ignore))
    raise no_label(NAME, task, "segmentation (17 classes), normals, depth, keypoints and edges")


def _prior(file: Path) -> tuple[float, ...]:
    if not file.is_file():
        return ()
    weights = Files({"prior": file}).array("prior")
    if weights.size != CLASSES or not bool((np.isfinite(weights) & (weights >= 0)).all()):
        msg = f"data {NAME!r}: {file}: expected {CLASSES} weights of 0 or more, found {list(weights.shape)}"
        raise DataError(msg)
    return tuple(float(weight) for weight in weights.ravel())


def open_taskonomy(request: Request) -> DataSource:
    """The data source "taskonomy".

    Raises:
        DataError: The files are not there or not as they should be, an unknown option, or a task without labels.
    """
    options = read_options(TaskonomyOptions, request.options, NAME)
    root = root_folder(request, NAME, HOW)
    prior = _prior(root / PRIOR)
    labels = {task.name: _label(task, options, prior) for task in request.tasks}
    columns = ("image", "seg", "normal", "depth", "keypoint", "edge")
    folder = {True: root / "test", False: root / "train"}
    splits = read_splits(root / JSON, lambda split: folder[split.startswith("test")], columns, NAME, HOW)
    return open_folder(Layout(NAME, HOW, splits), labels, options, request)


register_source(
    NamedSource(
        NAME,
        open_taskonomy,
        "segmentation,normals,depth,keypoints,edges",
        (128, 128),
        TaskonomyOptions,
        "indoor pictures with five kinds of labels (AdaShare's files)",
    )
)
