"""The built-in data set: rooms, drawn when asked for and kept."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import numpy as np

from onnxmtl.data.dataset import DataSource, InputSpec
from onnxmtl.data.scenes.labels import LABELS, Label, labels_of
from onnxmtl.data.scenes.layout import build_scene
from onnxmtl.data.scenes.render import draw
from onnxmtl.data.scenes.scene import CLASSES, Stage
from onnxmtl.data.scenes.styles import ROOM_TYPES
from onnxmtl.errors import DataError
from onnxmtl.kinds import Task, TaskSet
from onnxmtl.runs.seeds import derive_seed

TRAIN_SIZE, VAL_SIZE = 2048, 256
CACHE_BYTES = 512 * 2**20
"""Drawn samples that a data set keeps; what comes later is drawn again each time."""
SMALLEST = 16
TOGETHER = 16
"""Samples drawn at once."""

CLASS_NAMES: dict[str, tuple[str, ...]] = {"segmentation": CLASSES, "classification": ROOM_TYPES}
_CHANNELS = {"segmentation": len(CLASSES), "classification": len(ROOM_TYPES), "regression": 1}
_UNITS = {"depth": "metres", "regression": "radians"}
_DTYPES = {"segmentation": np.int64, "edges": np.float32, "saliency": np.float32}


def render_samples(
    seed: int, part: str, indices: Sequence[int], size: tuple[int, int], kinds: Sequence[str] = tuple(LABELS)
) -> list[tuple[Label, dict[str, Label]]]:
    """Draw samples: image uint8 ``[3, H, W]`` RGB and labels by kind (see `labels`).

    Each is a function of (seed, part, its index, size), whatever else is drawn beside it. The parts "train" and "val"
    (or any other words) are different rooms.
    """
    generators = [np.random.Generator(np.random.PCG64(derive_seed(seed, "scenes", part, i))) for i in indices]
    stage = Stage([build_scene(rng) for rng in generators])
    images, hits = draw(stage, *size, generators)
    labels = labels_of(stage, hits, *size, kinds)
    # Copies: a sample must not keep its neighbours in memory.
    return [(images[k].copy(), {kind: label[k].copy() for kind, label in labels.items()}) for k in range(len(stage))]


class Scenes:
    """Rooms with labels for the tasks: ``(float32 [3, H, W] in [0, 1], {task: label})`` by index, all labelled.

    Two tasks of one kind get the same label.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        *,
        size: tuple[int, int],
        seed: int,
        part: str,
        length: int,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self._kind_of = {task.name: task.kind for task in tasks}
        self._kinds = tuple(dict.fromkeys(self._kind_of.values()))
        self._size, self._seed, self._part, self._length = size, seed, part, length
        self._left = cache_bytes
        self._kept: dict[int, tuple[Label, dict[str, Label]]] = {}

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int, /) -> tuple[Label, dict[str, Label]]:
        index = operator.index(index)
        if not 0 <= index < self._length:
            msg = f"index {index} is outside the {self._length} samples"
            raise IndexError(msg)
        image, labels = self._kept.get(index) or self._draw(index)
        full = {kind: label.astype(_DTYPES.get(kind, label.dtype)) for kind, label in labels.items()}
        return image.astype(np.float32) * np.float32(1 / 255), {
            name: full[kind] for name, kind in self._kind_of.items()
        }

    def _draw(self, index: int) -> tuple[Label, dict[str, Label]]:
        """Draw a sample, and its neighbours with it as long as they will be kept."""
        first = index - index % TOGETHER
        block = [i for i in range(first, min(first + TOGETHER, self._length)) if i not in self._kept]
        indices = block if self._left > 0 else [index]
        drawn = dict(
            zip(indices, render_samples(self._seed, self._part, indices, self._size, self._kinds), strict=True)
        )
        for i, (image, labels) in drawn.items():
            size = image.nbytes + sum(label.nbytes for label in labels.values())
            # What is kept stays: epochs visit all samples in turn, so making room for the newest would keep none.
            if size <= self._left:
                self._left -= size
                self._kept[i] = image, labels
            else:
                self._left = 0
        return drawn[index]


def scenes(
    tasks: TaskSet, *, size: tuple[int, int], seed: int, train_size: int | None = None, val_size: int | None = None
) -> DataSource:
    """The data source "scenes".

    Raises:
        DataError: A task's kind has no label here, or the size is too small.
    """
    height, width = size
    if min(size) < SMALLEST:
        msg = f"data 'scenes': images of {height}x{width} are too small, take {SMALLEST}x{SMALLEST} or more"
        raise DataError(msg)
    for task in tasks:
        if task.kind not in LABELS:
            msg = (
                f"data 'scenes' has no labels for task {task.name!r} of kind {task.kind!r}; "
                f"it has {', '.join(LABELS)}: bring your own data with --data module:callable"
            )
            raise DataError(msg)
    train, val = TRAIN_SIZE if train_size is None else train_size, VAL_SIZE if val_size is None else val_size
    all_tasks = tuple(tasks)
    return DataSource(
        name="scenes",
        train=Scenes(all_tasks, size=size, seed=seed, part="train", length=train),
        val=Scenes(all_tasks, size=size, seed=seed, part="val", length=val),
        input=InputSpec(height=height, width=width),
        classes={task.name: _CHANNELS[task.kind] for task in tasks if task.kind in _CHANNELS},
        class_names={task.name: CLASS_NAMES[task.kind] for task in tasks if task.kind in CLASS_NAMES},
        units={task.name: _UNITS[task.kind] for task in tasks if task.kind in _UNITS},
    )
