"""Folders of files that are not as they should be, lists of hundreds of thousands of them, and splits that overlap."""

from __future__ import annotations

import json
import shutil
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers import pictures
from PIL import Image

from onnxmtl.data import batch, batch_at, load_data
from onnxmtl.data.folders.lists import listed
from onnxmtl.errors import DataError
from onnxmtl.kinds import TaskSet

TASKS = TaskSet.parse("seg=segmentation:40,depth,normals")


@pytest.fixture
def nyu(tmp_path):
    return pictures.nyuv2(tmp_path / "nyu")


def load(folder, name="nyuv2", tasks=TASKS, **options):
    return load_data(f"{name}:{folder}", tasks, size=(24, 32), seed=0, options={"val": "test", **options})


def grey(file):
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(file)


def broken(file, array):
    return lambda folder: np.save(folder / file, array)


def archive(folder):
    np.savez(folder / "depth" / "x.npz", a=np.ones(3))
    (folder / "depth" / "x.npz").rename(folder / "depth" / "0003.npy")


DEPTH = "depth/0003.npy"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: grey(f / "normal_mask" / "0003.png"), r"normal_mask/0003\.png: .*task 'normals'"),
        (archive, r"depth/0003\.npy: .*not one array"),
        (broken(DEPTH, np.ones((48, 64, 3), np.float32)), r"depth/0003\.npy: .*task 'depth'"),
        (broken(DEPTH, np.ones(48, np.float32)), r"depth/0003\.npy: .*task 'depth'.*\[48\]"),
        (broken(DEPTH, np.full((48, 64), "a")), r"depth/0003\.npy: .*task 'depth'.*<U1"),
        (broken(DEPTH, np.full((48, 64), 1j)), r"depth/0003\.npy: .*task 'depth'.*complex"),
        (broken(DEPTH, np.zeros((0, 64), np.float32)), r"depth/0003\.npy: .*task 'depth'.*\[0, 64\]"),
        # Lying on its side, a label would be stretched over the picture without a word.
        (broken(DEPTH, np.ones((64, 48), np.float32)), r"depth/0003\.npy: .*\[64, 48\].*picture.*\[48, 64\]"),
        (broken(DEPTH, np.array([{1: 2}], object)), r"depth/0003\.npy: damaged: .*allow_pickle"),
    ],
)
def test_a_label_that_is_none_names_its_file(nyu, spoil, words):
    spoil(nyu)
    data = load(nyu)
    with pytest.raises(DataError, match=words) as caught:
        batch_at(data.train, TASKS, batch_size=20, seed=0, stream="a", step=0)
    assert "\n" not in str(caught.value)


def test_headers_of_npy_files_are_parsed_one_at_a_time(nyu, monkeypatch):
    """numpy reads them with ast.literal_eval, which CPython 3.11 gets wrong in threads: "AST constructor recursion
    depth mismatch", at random, and a training of hours ended."""
    inside, most, load_, switch = [], [], np.load, threading.Event()

    def watched(*args, **kwargs):
        inside.append(1)
        most.append(len(inside))
        switch.wait(0.005)  # lets others in
        try:
            return load_(*args, **kwargs)
        finally:
            inside.pop()

    data = load(nyu)
    monkeypatch.setattr(np, "load", watched)
    monkeypatch.setattr(batch, "_threads", lambda: ThreadPoolExecutor(4))
    batch_at(data.train, TASKS, batch_size=8, seed=0, stream="a", step=0)
    assert len(most) == 8 and max(most) == 1


def test_a_label_of_half_the_size_is_taken(nyu):
    np.save(nyu / DEPTH, np.full((24, 32), 2.0, np.float32))
    np.testing.assert_array_equal(load(nyu).train[3][1]["depth"], np.full((1, 24, 32), 2.0))


def test_a_picture_with_a_palette_keeps_its_colours(nyu):
    colours = np.zeros((48, 64, 3), np.uint8)
    colours[:, :32, 0], colours[:, 32:, 2] = 250, 200
    file = nyu / "img" / "0003.png"
    Image.fromarray(colours).convert("P", palette=Image.Palette.ADAPTIVE).save(file)
    assert Image.open(file).mode == "P"
    image = load(nyu, normalise="unit").train[3][0]
    np.testing.assert_allclose(image[:, 0, 0], [250 / 255, 0, 0], atol=0.02)
    np.testing.assert_allclose(image[:, -1, -1], [0, 0, 200 / 255], atol=0.02)


@pytest.mark.parametrize(
    "path", [1, None, "", "/etc/passwd", "../img/0001.png", "img/../../0001.png", "a\0b", ["img/0001.png"]]
)
def test_a_list_may_only_name_files_of_its_folder(nyu, path):
    file = nyu / "nyu_v2_3task.json"
    content = json.loads(file.read_text())
    content["test"][1][2] = path
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"split 'test' .* is not a path below .*nyu") as caught:
        load(nyu)
    assert "\n" not in str(caught.value)


def test_lists_that_cannot_be_read(nyu, tmp_path):
    (nyu / "nyu_v2_3task.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match="not a JSON file"):
        load(nyu)
    pascal = pictures.pascal(tmp_path / "pascal")
    tasks = TaskSet.parse("segmentation:21")
    names = pascal / "ImageSets" / "Context" / "val.txt"
    for content, words in ((b"\xff\xfe", "utf-8"), (b"../../0001", r"'\.\./\.\./0001' is no name")):
        names.write_bytes(content)
        with pytest.raises(DataError, match=words) as caught:
            load(pascal, "pascal-context", tasks, val="val")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pixels", [np.full((32, 64, 3), 200.0), np.full((32, 64, 3), np.nan)])
def test_cityscapes_pictures_are_shares_of_one(tmp_path, pixels):
    folder = pictures.cityscapes(tmp_path / "city")
    np.save(folder / "train_image_1.npy", pixels)
    tasks = TaskSet.parse("segmentation:19")
    with pytest.raises(DataError, match=r"train_image_1\.npy: expected floats .* in \[0, 1\]"):
        load(folder, "cityscapes", tasks).train[1]


@pytest.mark.parametrize(("scales", "step"), [("inf-inf", "0"), ("0.5-nan", "0"), ("0.5-1.5", "nan")])
def test_scales_that_are_none(nyu, scales, step):
    with pytest.raises(DataError, match="option scales="):
        load(nyu, scales=scales, scale_step=step)


# Splits


def pictures_of(dataset):
    return {str(entry["image"]) for entry in dataset.entries}


def test_what_validation_shows_is_not_in_the_test(tmp_path):
    """Taskonomy's test_small is a part of its test."""
    folder = pictures.taskonomy(tmp_path / "t")
    file = folder / "taskonomy.json"
    content = json.loads(file.read_text())
    content["test_small"] = content["test"][:1]
    file.write_text(json.dumps(content))
    data = load(folder, "taskonomy", TaskSet.parse("depth"), val="test_small")
    assert len(data.val) == 1 and len(data.test) == 2
    assert not pictures_of(data.val) & pictures_of(data.test)


def test_an_image_that_is_listed_twice_is_on_one_side(nyu):
    file = nyu / "nyu_v2_3task.json"
    content = json.loads(file.read_text())
    content["train"] *= 3
    file.write_text(json.dumps(content))
    data = load(nyu, val="held-out")
    assert not pictures_of(data.train) & pictures_of(data.val)
    assert len(pictures_of(data.train) | pictures_of(data.val)) == pictures.NYU_SPLITS["train"]


# Long lists


def test_a_long_list_is_opened_at_once(tmp_path):
    """A list as long as 3 % of Tiny-Taskonomy: no second, not many minutes, and no path object is kept."""
    count = 10_000
    columns = ("rgb", "segmentsemantic", "normal", "depth_zbuffer", "keypoints2d", "edge_texture")
    rows = [[f"building{i % 50}/{c}/point_{i}_view_{i % 7}_domain_{c}.png" for c in columns] for i in range(count)]
    content = {"train": rows, "train1": rows[: count * 4 // 5], "train2": rows[count * 4 // 5 :], "test": rows[:3]}
    (tmp_path / "train").mkdir()
    (tmp_path / "taskonomy.json").write_text(json.dumps(content))
    tracemalloc.start()
    start = time.process_time()
    data = load(tmp_path, "taskonomy", TaskSet.parse("depth"), val="held-out")
    seconds = time.process_time() - start
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(data.train) == 9_000 and data.train.own_split(0.8, 0) is not None
    assert seconds < 10  # under tracemalloc; it was many minutes
    assert kept < 17e6  # 60 000 names of 60 letters


def test_an_entry_is_a_mapping(tmp_path):
    (entry,) = listed(tmp_path, ("image", "depth"), [["a/1.png", "b/1.npy", "more"]])
    assert dict(entry) == {"image": tmp_path / "a" / "1.png", "depth": tmp_path / "b" / "1.npy"}
    assert len(entry) == 2 and "depth" in entry and "more" not in entry
    with pytest.raises(KeyError):
        entry["more"]


def test_the_helper_is_what_it_says(nyu, tmp_path):
    """The tests above spoil a good folder."""
    copy = shutil.copytree(nyu, tmp_path / "copy")
    batch = batch_at(load(copy).train, TASKS, batch_size=20, seed=0, stream="a", step=0)
    assert batch.images.shape == (20, 3, 24, 32)
