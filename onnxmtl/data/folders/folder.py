"""Samples of a list of files: what NYUv2, CityScapes, Taskonomy and PASCAL-Context have in common."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from onnxmtl.data.dataset import Dataset, DataSource, Subset, permutation
from onnxmtl.data.folders.files import Files, Raw
from onnxmtl.data.folders.lists import Entry, paths_of, picture_of
from onnxmtl.data.folders.pixels import NORMALISATIONS, Normalisation
from onnxmtl.data.folders.views import Augmentation, Size, View, draw_view, whole
from onnxmtl.data.sources import Request, one_of
from onnxmtl.errors import DataError, OnnxMTLError
from onnxmtl.kinds import Task, close_match

HELD_OUT = 0.1
"""Share of the training samples that validation takes where the test split is left alone."""
_NEAR = 0.05
"""By how much published halves may differ from the share that is asked for."""

Target = Raw | None


@dataclasses.dataclass(frozen=True)
class Label:
    """How one task's label is made.

    Attributes:
        read: A sample's files -> ``[h, w]`` or ``[h, w, C]``; None: this sample has no such label.
        pad: What `read` would give where there is no picture.
        finish: The label under a view -> the target as the task's kind has it; None: nothing of it can be seen.
        classes: Number of classes; 0: it has none.
        class_names: Their names, where they are known.
        class_weights: Weights of the classes in the loss, where the data set brings them.
        unit: Unit of the target; "": the kind's.
    """

    read: Callable[[Files], Target]
    pad: float
    finish: Callable[[Raw, View], Target]
    classes: int = 0
    class_names: tuple[str, ...] = ()
    class_weights: tuple[float, ...] = ()
    unit: str = ""


@dataclasses.dataclass(frozen=True)
class FolderOptions:
    """Options that all these data sets have.

    Attributes:
        val: "held-out": a tenth of the training split, the same each time, and the test split stays untouched; or the
            name of a split, as in ``val=test``: then all of `train` is trained on, as the papers do.
        normalise: How pixels are prepared: imagenet, bgr-mean (the papers' codes), signed or unit.
        scales: Smallest and largest scale that training draws.
        scale_step: Distance of the scales that are drawn; 0: any.
        mirror: Whether training mirrors half of its samples.
        fit: How evaluation makes a picture fit: resize, or pad.
    """

    val: str = "held-out"
    normalise: str = "imagenet"
    scales: tuple[float, float] = (0.5, 1.5)
    scale_step: float = 0.0
    mirror: bool = True
    fit: str = "resize"

    def __post_init__(self) -> None:
        one_of("normalise", self.normalise, tuple(NORMALISATIONS))
        one_of("fit", self.fit, ("resize", "pad"))
        low, high = self.scales
        if not (0 < low <= high < math.inf and 0 <= self.scale_step < math.inf):
            msg = f"scales={low:g}-{high:g} (step {self.scale_step:g}): write smallest-largest, both above 0"
            raise DataError(msg)

    def augmentation(self) -> Augmentation:
        """What training draws."""
        return Augmentation(self.scales, self.scale_step, self.mirror)


class Folder:
    """Samples read from files: ``(float32 [3, H, W], {task: target})`` by index.

    ``[index]`` shows the whole picture; ``draw(index, seed)`` a part of it, scaled and perhaps mirrored.

    Args:
        entries: A sample's files each, by name; the picture is called "image".
        labels: Task name -> how its label is made.
        size: Height and width of the samples.
        normalisation: How pixels are prepared.
        fit: How a whole picture is made to fit.
        augmentation: What `draw` draws; None: nothing.
        picture: Files -> RGB ``[h, w, 3]``, uint8 or float32, in 0 … 255.
        pad: Grey level of the image where there is no picture.
        halves: Indices of the two published halves, if there are any.
    """

    parallel: ClassVar[bool] = True
    """Decoding leaves the interpreter to other threads."""

    def __init__(
        self,
        entries: Sequence[Entry],
        labels: Mapping[str, Label],
        *,
        size: Size,
        normalisation: Normalisation,
        fit: str = "resize",
        augmentation: Augmentation | None = None,
        picture: Callable[[Files], Raw] | None = None,
        pad: float = 0.0,
        halves: tuple[Sequence[int], Sequence[int]] | None = None,
    ) -> None:
        self.entries, self.labels, self._size = tuple(entries), labels, size
        self._normalisation, self._fit, self._augmentation = normalisation, fit, augmentation
        self._picture, self._pad, self._halves = picture or rgb_picture, pad, halves

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int, /) -> tuple[Raw, dict[str, Target]]:
        return self._sample(index, None)

    def draw(self, index: int, seed: int) -> tuple[Raw, dict[str, Target]]:
        """A random view of the sample, a function of index and seed."""
        return self._sample(index, seed)

    def identity(self) -> str:
        """Of names, sizes and times of all files, and of how they are shown."""
        found = hashlib.sha256(repr((self._fit, self._augmentation, self._halves)).encode())
        for entry in self.entries:
            for name, file in paths_of(entry):
                try:
                    state = os.stat(file)
                    what: object = (state.st_size, state.st_mtime_ns)
                except OSError:
                    what = None
                found.update(repr((name, os.path.basename(file), what)).encode())
        return found.hexdigest()

    def own_split(self, fraction: float, seed: int) -> tuple[Dataset, Dataset] | None:
        """The published halves, if there are any and they are about as large as asked for."""
        if self._halves is None:
            return None
        first, second = self._halves
        if not first or not second or abs(len(first) / (len(first) + len(second)) - fraction) > _NEAR:
            return None
        return Subset(self, first), Subset(self, second)

    def _sample(self, index: int, seed: int | None) -> tuple[Raw, dict[str, Target]]:
        if not 0 <= index < len(self.entries):
            msg = f"index {index} is outside the {len(self.entries)} samples"
            raise IndexError(msg)
        files = Files(self.entries[index])
        pixels = self._picture(files)
        size = (int(pixels.shape[0]), int(pixels.shape[1]))
        if seed is None or self._augmentation is None:
            view = whole(size, self._size, self._fit)
        else:
            generator = np.random.Generator(np.random.PCG64(seed))
            view = draw_view(size, self._size, self._fit, self._augmentation, generator)
        image = self._normalisation.apply(view.image(pixels, self._pad))
        targets: dict[str, Target] = {}
        for name, label in self.labels.items():
            try:
                raw = label.read(files)
                if raw is not None:
                    _check_label(raw, size)
                targets[name] = None if raw is None else label.finish(view.label(raw, label.pad), view)
            except OnnxMTLError:
                raise
            except Exception as error:  # an array of another form than the format says
                reason = " ".join(str(error).split())
                msg = f"{files.last}: not a label for task {name!r}: {type(error).__name__}: {reason}"
                raise DataError(msg) from error
        return image, targets


def _check_label(raw: Raw, picture: Size) -> None:
    """Refuse what is no map of numbers, or another cut of the picture; one of another scale will do."""
    shape = list(raw.shape)
    if raw.dtype.kind not in "buif" or raw.ndim not in (2, 3) or not raw.size:
        msg = f"expected numbers [h, w], found {raw.dtype} {shape}"
        raise TypeError(msg)
    if abs(shape[0] * picture[1] - shape[1] * picture[0]) > max(picture):
        msg = f"it is {shape[:2]}, the picture is {list(picture)}"
        raise ValueError(msg)


def rgb_picture(files: Files) -> Raw:
    """The file "image" as RGB, grey ones too.

    Raises:
        DataError: It is not an 8-bit picture.
    """
    pixels = files.colours("image")
    if pixels.ndim == 2 and pixels.dtype == np.uint8:
        pixels = np.repeat(pixels[..., None], 3, 2)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        msg = f"{files.paths['image']}: expected an RGB picture of 8 bits, found {pixels.dtype} {list(pixels.shape)}"
        raise DataError(msg)
    return pixels


@dataclasses.dataclass(frozen=True)
class Layout:
    """What :func:`open_folder` must know about a data set.

    Attributes:
        name: Of the data set.
        how: How to get it and how it must look, for messages.
        splits: Names of the splits -> their entries; reads the lists of files.
        official: The split that papers report on.
        picture: Files -> RGB pixels.
        pad: Grey level of padding.
    """

    name: str
    how: str
    splits: Mapping[str, Sequence[Entry]]
    official: str = "test"
    picture: Callable[[Files], Raw] | None = None
    pad: float = 0.0


def open_folder(layout: Layout, labels: Mapping[str, Label], options: FolderOptions, request: Request) -> DataSource:
    """A data source of a folder: splits, held-out samples, views.

    Raises:
        DataError: No such split, or the model takes something else than RGB.
    """
    name, splits = layout.name, layout.splits
    if request.channels != 3:
        msg = f"data {name!r} has images of 3 channels, the model takes {request.channels}"
        raise DataError(msg)
    train = list(splits.get("train", ()))
    if len(train) < 2:
        msg = f"data {name!r}: the training split has {len(train)} samples; {layout.how}"
        raise DataError(msg)
    val: Sequence[Entry]
    if options.val == "held-out":
        held = max(1, round(HELD_OUT * len(train)))
        order = permutation(len(train), 0, name, "held-out")
        val = [train[i] for i in sorted(order[:held].tolist())]
    elif options.val in splits and options.val != "train":
        val = splits[options.val]
    else:
        known = ["held-out", *(split for split in splits if split != "train")]
        msg = f"data {name!r}: option val={options.val!r}{close_match(options.val, known)}: use {' or '.join(known)}"
        raise DataError(msg)
    seen = set(map(picture_of, val))
    train = [entry for entry in train if picture_of(entry) not in seen]
    test = [] if options.val == layout.official else splits.get(layout.official, [])
    test = [entry for entry in test if picture_of(entry) not in seen]  # test_small is a part of Taskonomy's test
    train, val = train[: request.train_size], val[: request.val_size]
    common: dict[str, Any] = {
        "size": request.size,
        "normalisation": NORMALISATIONS[options.normalise],
        "fit": options.fit,
        "picture": layout.picture,
        "pad": layout.pad,
    }
    return DataSource(
        name=name,
        train=Folder(train, labels, augmentation=options.augmentation(), halves=_halves(train, splits), **common),
        val=Folder(val, labels, **common),
        input=NORMALISATIONS[options.normalise].spec(request.size),
        classes={task: label.classes for task, label in labels.items() if label.classes},
        class_names={task: label.class_names for task, label in labels.items() if label.class_names},
        class_weights={task: label.class_weights for task, label in labels.items() if label.class_weights},
        units={task: label.unit for task, label in labels.items() if label.unit},
        test=Folder(test, labels, **common) if test else None,
    )


def _halves(train: Sequence[Entry], splits: Mapping[str, Sequence[Entry]]) -> tuple[list[int], list[int]] | None:
    """The published halves of the training split, without what is held out."""
    if not splits.get("train1") or not splits.get("train2"):
        return None
    first, second = (set(map(picture_of, splits[half])) for half in ("train1", "train2"))
    first -= second
    shown = list(map(picture_of, train))
    places = (
        [i for i, picture in enumerate(shown) if picture in first],
        [i for i, picture in enumerate(shown) if picture in second],
    )
    return places if sum(map(len, places)) == len(train) else None


def no_label(name: str, task: Task, offered: str) -> DataError:
    """The error for a task that a data set has no label for."""
    msg = f"data {name!r} has no labels for task {task.name!r} of kind {task.kind!r}; it has {offered}"
    return DataError(msg)


def class_count(name: str, task: Task, counts: Sequence[int]) -> int:
    """The number of classes of a task: its own, or the first of `counts`.

    Raises:
        DataError: The data set has no labels with so many.
    """
    count = task.channels or counts[0]
    if count not in counts:
        msg = f"data {name!r} has {' or '.join(map(str, counts))} classes for task {task.name!r}, not {task.channels}"
        raise DataError(msg)
    return count
