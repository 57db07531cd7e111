"""Two real items in one image, one partly behind the other, with exact labels.

The published MultiMNIST and MultiFashion add two 28×28 items on 36×36, at the top left and the bottom right. Here the
items are opaque and of 2/3 of the image's side, at the left and at the right: one hides part of the other, so that
segments and borders are exact and both items can be told. Labels:

classification  the item on the left, or on the right: 10 classes each
segmentation    background and the 10 classes of items (11), or background, left, right (3)
edges           1 on an item where a neighbouring pixel (above, below, beside) shows what lies behind it: the other
                item or the background
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from onnxmtl.data.dataset import DataSource, InputSpec
from onnxmtl.data.multi.items import CLASSES, SIDE, Items, find_items
from onnxmtl.data.sources import NamedSource, Request, one_of, read_options, register_source
from onnxmtl.errors import DataError
from onnxmtl.kinds import Task, TaskSet
from onnxmtl.runs.seeds import derive_seed

DARKEST = 16
"""Brightness from which a pixel belongs to the item: JPEG-like noise around items stays below."""
TRAIN_SIZE, VAL_SIZE = 20_000, 2_000
SMALLEST = 12
_BACK, _FRONT = 1, 2

NAMES = {
    "multifashion": (
        "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
    ),
    "multimnist": ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
}  # fmt: skip
_LEFT, _RIGHT = ("left", "first"), ("right", "second")

Floats = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class PairOptions:
    """Options of multifashion and multimnist.

    Attributes:
        val: "held-out": a tenth of the training items, which training does not see; "test": the official test items.
        item: Side of an item in pixels; 0: 2/3 of the image's. 28 takes the items as they are.
        fresh: Whether training meets every item with a new partner and place in every epoch.
    """

    val: str = "held-out"
    item: int = 0
    fresh: bool = False

    def __post_init__(self) -> None:
        one_of("val", self.val, ("held-out", "test"))


@dataclasses.dataclass(frozen=True)
class _Wanted:
    """What the tasks want: task name -> label, one of "left", "right", "classes", "sides", "edges"."""

    labels: Mapping[str, str]

    @property
    def dense(self) -> frozenset[str]:
        return frozenset(self.labels.values()) - {"left", "right"}


class Pairs:
    """Images of two items by index: ``(float32 [C, H, W] in [0, 1], {task: label})``, all labelled.

    Args:
        items: Whose pairs.
        labels: Task name -> "left", "right", "classes", "sides" or "edges".
        size: Height and width.
        channels: 1, or 3 equal ones.
        side: Of an item, in pixels.
        seed: Image i is a function of it, of `part` and of i, whatever `length` is.
        part: A word: sets of other words are other pairs.
        length: How many pairs.
    """

    def __init__(
        self,
        items: Items,
        labels: Mapping[str, str],
        *,
        size: tuple[int, int],
        channels: int,
        side: int,
        seed: int,
        part: str,
        length: int,
    ) -> None:
        self.items, self._wanted, self._size, self._channels = items, _Wanted(labels), size, channels
        self._resample = _area_weights(side)
        generator = np.random.Generator(np.random.PCG64(derive_seed(seed, "multi", part)))
        self._order = generator.permutation(len(items))
        self._draws = generator.random((length, _DRAWS))  # row by row: a longer set begins with a shorter one

    def __len__(self) -> int:
        return len(self._draws)

    def __getitem__(self, index: int, /) -> tuple[Floats, dict[str, npt.NDArray[np.generic]]]:
        self._check(index)
        return self._make(index, self._draws[index])

    def _check(self, index: int) -> None:
        if not 0 <= index < len(self):
            msg = f"index {index} is outside the {len(self)} samples"
            raise IndexError(msg)

    def _make(self, index: int, draws: npt.NDArray[np.float64]) -> tuple[Floats, dict[str, npt.NDArray[np.generic]]]:
        """The image of the index-th item and what is drawn: partner, side, which is in front, places."""
        n, (height, width) = len(self.items), self._size
        one, other = int(self._order[index % n]), int(draws[0] * n)
        if draws[1] < 0.5:
            one, other = other, one
        side = self._resample.shape[0]
        down, across = height - side, width - side
        sway = across // 6
        columns = (int(draws[2] * (sway + 1)), across - int(draws[3] * (sway + 1)))
        rows = (int(draws[4] * (down + 1)), int(draws[5] * (down + 1)))
        classes = (int(self.items.labels[one]), int(self.items.labels[other]))

        shades = np.zeros((height, width), np.float32)
        layer = np.zeros((height, width), np.uint8)  # 0 background, 1 the item behind, 2 the one in front
        behind = int(draws[6] * 2)
        for depth, which in ((_BACK, behind), (_FRONT, 1 - behind)):
            item = self._resample @ self.items.images[(one, other)[which]].astype(np.float32) @ self._resample.T
            place = slice(rows[which], rows[which] + side), slice(columns[which], columns[which] + side)
            shown = item >= DARKEST
            np.copyto(shades[place], item, where=shown)
            np.copyto(layer[place], np.uint8(depth), where=shown)
        shades *= np.float32(1 / 255)
        image = np.broadcast_to(shades, (self._channels, height, width)).copy()
        found: dict[str, npt.NDArray[np.generic]] = {
            "left": np.asarray(classes[0], np.int64),
            "right": np.asarray(classes[1], np.int64),
        }
        for label in self._wanted.dense:
            if label == "edges":
                found[label] = _edges(layer)
            else:  # by layer: background, behind, front
                ids = (0, behind + 1, 2 - behind) if label == "sides" else (
                    0, classes[behind] + 1, classes[1 - behind] + 1)  # fmt: skip
                found[label] = np.array(ids, np.int64)[layer]
        return image, {name: found[label] for name, label in self._wanted.labels.items()}


class FreshPairs(Pairs):
    """Pairs that training draws anew each epoch: the item of the index with another partner, at another place."""

    def draw(self, index: int, seed: int) -> tuple[Floats, dict[str, npt.NDArray[np.generic]]]:
        """The index-th item with what `seed` draws."""
        self._check(index)
        return self._make(index, np.random.Generator(np.random.PCG64(seed)).random(_DRAWS))


_DRAWS = 7


@functools.lru_cache(maxsize=8)
def _area_weights(side: int) -> Floats:
    """Matrix [side, 28] that averages 28 pixels over the areas of `side` pixels; the identity for 28."""
    edges = np.linspace(0, SIDE, side + 1)
    lows, highs = edges[:-1, None], edges[1:, None]
    places = np.arange(SIDE)
    overlap = np.clip(np.minimum(highs, places + 1) - np.maximum(lows, places), 0, None)
    weights: Floats = (overlap / overlap.sum(1, keepdims=True)).astype(np.float32)
    return weights


def _edges(layer: npt.NDArray[np.uint8]) -> Floats:
    """1 where a pixel lies in front of one of its four neighbours."""
    edges = np.zeros((1, *layer.shape), np.float32)
    inner = edges[0]
    inner[1:][layer[1:] > layer[:-1]] = 1
    inner[:-1][layer[:-1] > layer[1:]] = 1
    inner[:, 1:][layer[:, 1:] > layer[:, :-1]] = 1
    inner[:, :-1][layer[:, :-1] > layer[:, 1:]] = 1
    return edges


def labels_for(tasks: TaskSet, name: str) -> dict[str, str]:
    """Task name -> which label it gets.

    A classification task named left (first) or right (second) gets that item, others the item that is still free, in
    order. Segmentation with 3 classes tells left from right.

    Raises:
        DataError: A kind without labels here, or a third classification task.
    """
    found: dict[str, str] = {}
    open_tasks: list[Task] = []
    for task in tasks:
        words = task.name.lower().split("_")
        if task.kind == "segmentation":
            found[task.name] = "sides" if task.channels == 3 else "classes"
        elif task.kind == "edges":
            found[task.name] = "edges"
        elif task.kind != "classification":
            msg = (
                f"data {name!r} has no labels for task {task.name!r} of kind {task.kind!r}; it has classification "
                "(of two items), segmentation and edges"
            )
            raise DataError(msg)
        elif side := next((s for s, all_ in (("left", _LEFT), ("right", _RIGHT)) if set(words) & set(all_)), ""):
            found[task.name] = side
        else:
            open_tasks.append(task)
    free = [side for side in ("left", "right") if side not in found.values()]
    for task in open_tasks:
        if not free:
            msg = f"data {name!r}: task {task.name!r} has nothing to classify: an image has two items, left and right"
            raise DataError(msg)
        found[task.name] = free.pop(0)
    return found


def open_pairs(name: str, request: Request) -> DataSource:
    """The data source "multifashion" or "multimnist".

    Raises:
        DataError: No items there, an unknown option, a size that does not fit, or a task without labels.
    """
    options = read_options(PairOptions, request.options, name)
    height, width = request.size
    side = options.item or round(min(request.size) * 2 / 3)
    if min(request.size) < SMALLEST or not SMALLEST // 2 <= side <= min(request.size):
        msg = (
            f"data {name!r}: items of {side}x{side} on images of {height}x{width}: take images of "
            f"{SMALLEST}x{SMALLEST} or more and items between {SMALLEST // 2} pixels and the image's side"
        )
        raise DataError(msg)
    if request.channels not in (1, 3):
        msg = f"data {name!r} has images of 1 or 3 channels, the model takes {request.channels}"
        raise DataError(msg)
    labels = labels_for(request.tasks, name)
    sets = find_items(request.path, name)
    val_size = VAL_SIZE if request.val_size is None else request.val_size
    train_size = max(TRAIN_SIZE, len(sets.train)) if request.train_size is None else request.train_size

    def pairs(items: Items, part: str, length: int, kind: type[Pairs] = Pairs) -> Pairs:
        return kind(
            items,
            labels,
            size=request.size,
            channels=request.channels,
            side=side,
            seed=request.seed,
            part=part,
            length=length,
        )

    test, held_out = pairs(sets.test, "test", val_size), pairs(sets.held_out, "val", val_size)
    kinds = {"left": CLASSES, "right": CLASSES, "classes": CLASSES + 1, "sides": 3}
    words = NAMES[name]
    names = {"left": words, "right": words, "classes": ("background", *words), "sides": ("background", "left", "right")}
    return DataSource(
        name=name,
        train=pairs(sets.train, "train", train_size, FreshPairs if options.fresh else Pairs),
        val=test if options.val == "test" else held_out,
        input=InputSpec(request.channels, height, width, colour="RGB" if request.channels == 3 else "grey"),
        classes={task: kinds[label] for task, label in labels.items() if label in kinds},
        class_names={task: names[label] for task, label in labels.items() if label in names},
        test=None if options.val == "test" else test,
    )


for _name, _doc in (
    ("multifashion", "two real items of clothing per image (Fashion-MNIST)"),
    ("multimnist", "two real handwritten digits per image (MNIST)"),
):
    register_source(
        NamedSource(
            _name,
            functools.partial(open_pairs, _name),
            show="left=classification,right=classification,seg=segmentation,edges",
            size=(36, 36),
            options=PairOptions,
            doc=_doc,
        )
    )
