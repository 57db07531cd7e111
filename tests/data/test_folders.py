"""NYUv2, CityScapes, Taskonomy, PASCAL-Context: tiny data sets in the papers' layouts, read and compared with what was
written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import pictures
from PIL import Image

from onnxmtl.data import batch_at, fingerprint, iterate, load_data, split
from onnxmtl.data.folders import pascal_context
from onnxmtl.data.folders.nyuv2 import CLASSES_13, CLASSES_40, FROM_40_TO_13
from onnxmtl.errors import DataError, MissingDependencyError
from onnxmtl.kinds import TaskSet, load_tasks

SAMPLES = Path(__file__).parents[2] / "samples" / "tasks"
NYU = "seg=segmentation,depth,normals"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    for make in (pictures.nyuv2, pictures.cityscapes, pictures.taskonomy, pictures.pascal):
        make(folder / make.__name__)
    return folder


def load(spec, tasks, size, **options):
    rest = {key: options.pop(key) for key in ("train_size", "val_size", "channels") if key in options}
    return load_data(spec, TaskSet.parse(tasks), size=size, seed=0, options=options, **rest)


def whole(root, size=(48, 64), tasks=NYU, **options):
    return load(f"nyuv2:{root / 'nyuv2'}", tasks, size, **{"val": "test", "normalise": "unit", **options})


# NYUv2


def test_nyuv2_is_read_as_it_was_written(root):
    data = whole(root)
    assert (len(data.train), len(data.val)) == (20, 4)
    assert data.classes == {"seg": 40} and data.class_names["seg"] == CLASSES_40
    for index in (0, 3):
        image, seg, normal, depth = pictures.nyu_sample(20 + index)
        found, targets = data.val[index]
        np.testing.assert_allclose(found, image.transpose(2, 0, 1) / 255, atol=1e-6)
        np.testing.assert_array_equal(targets["seg"], np.where(seg == 255, -1, seg.astype(int)))
        np.testing.assert_array_equal(targets["depth"][0], depth)
        unknown = seg == 255
        vectors = normal.astype(np.float64) * 2 / 255 - 1
        vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
        np.testing.assert_allclose(targets["normals"], np.where(unknown, 0, vectors.transpose(2, 0, 1)), atol=1e-5)


def test_nyuv2_batches_fit_their_tasks(root):
    data = whole(root, (24, 24), normalise="imagenet")
    tasks = TaskSet.parse(NYU).with_classes(data.classes, data.class_names)
    batch = batch_at(data.train, tasks, batch_size=4, seed=0, stream="s", step=0)
    assert list(batch.images.shape) == [4, 3, 24, 24] and list(batch.targets["normals"].shape) == [4, 3, 24, 24]
    assert [len(b) for b in iterate(data.val, tasks, 3)] == [3, 1]
    again = batch_at(data.train, tasks, batch_size=4, seed=0, stream="s", step=0)
    assert all(batch.targets[name].equal(again.targets[name]) for name in tasks.names)
    assert batch.images.equal(again.images)
    later = batch_at(data.train, tasks, batch_size=20, seed=0, stream="s", step=1)
    first = batch_at(data.train, tasks, batch_size=20, seed=0, stream="s", step=0)
    places = [first.indices.index(i) for i in later.indices]
    assert not later.images.equal(first.images[places])  # the same pictures, other views


def test_thirteen_classes_are_unions_of_the_forty(root):
    data = whole(root, tasks="seg=segmentation:13")
    assert data.class_names["seg"] == CLASSES_13 and data.classes == {"seg": 13}
    seg = pictures.nyu_sample(20)[1]
    expected = np.where(seg == 255, -1, FROM_40_TO_13[np.where(seg == 255, 0, seg)])
    np.testing.assert_array_equal(data.val[0][1]["seg"], expected)
    assert len(FROM_40_TO_13) == 40 and set(FROM_40_TO_13.tolist()) == set(range(13))
    pairs = {"wall": "wall", "mirror": "objects", "floor mat": "floor", "desk": "table", "whiteboard": "objects",
             "blinds": "window", "night stand": "furniture", "books": "books", "pillow": "objects"}  # fmt: skip
    for fine, coarse in pairs.items():
        assert CLASSES_13[FROM_40_TO_13[CLASSES_40.index(fine)]] == coarse
    with pytest.raises(DataError, match="has 40 or 13 classes for task 'seg', not 20"):
        whole(root, tasks="seg=segmentation:20")


def test_views_keep_image_and_labels_together(root):
    """Red is the row and green the column: every label of a view must be that of the place its image shows."""
    data = whole(root, (40, 40))
    seg = pictures.nyu_sample(2)[1]
    mirrored = 0
    for seed in range(30):
        found, targets = data.train.draw(2, seed)
        known = targets["seg"] >= 0
        rows, columns = (np.clip(found[c] * 255 / 2, 0, [47, 63][c]) for c in (0, 1))
        y, x = np.rint(rows).astype(int), np.rint(columns).astype(int)
        inner = known & (abs(rows - 23.5) < 22) & (abs(columns - 31.5) < 30)
        close = [np.roll(seg, (dy, dx), (0, 1))[y, x] == targets["seg"] for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        assert (np.any(close, 0) | ~inner).all()
        side = np.sign(np.corrcoef(np.nonzero(known)[1], columns[known])[0, 1])
        mirrored += side < 0
        vectors = targets["normals"][:, inner]
        assert (np.sign(vectors[0]) == side).all()  # x is positive in the files
        # Depth was 1 + 0.05 · column; what is shown larger is nearer, by one factor for the whole view.
        ratios = (1 + 0.05 * columns + 0.02)[inner] / targets["depth"][0][inner]
        if ratios.size > 20:
            assert ratios.std() / ratios.mean() < 0.02
    assert 5 < mirrored < 25


def test_depth_under_scale_and_the_codes_way(root):
    fixed = {"scales": "2-2", "mirror": "no"}
    right = whole(root, **fixed).train.draw(0, 0)[1]["depth"]
    kept = whole(root, **fixed, depth_scaling="keep").train.draw(0, 0)[1]["depth"]
    known = kept > 0
    np.testing.assert_allclose(right[known] * 2, kept[known], rtol=1e-6)
    assert (right[~known] == 0).all()


def test_legacy_normals_by_name(root):
    legacy = whole(root, normals="legacy_uncentred").val[0][1]["normals"]
    _, seg, normal, _ = pictures.nyu_sample(20)
    np.testing.assert_allclose(legacy, np.where(seg == 255, 0, normal.transpose(2, 0, 1) / 255), atol=1e-6)


def test_the_codes_pixels_by_name(root):
    data = whole(root, normalise="bgr-mean")
    image = pictures.nyu_sample(20)[0]
    expected = image[..., ::-1] - np.array([104.00698793, 116.66876762, 122.67891434])
    np.testing.assert_allclose(data.val[0][0], expected.transpose(2, 0, 1), atol=1e-4)
    assert (data.input.colour, data.input.range, data.input.scale) == ("BGR", (0.0, 255.0), (1.0, 1.0, 1.0))


def test_padding_is_unknown_in_every_label(root):
    data = whole(root, scales="0.5-0.5", mirror="no")
    image, targets = data.train.draw(0, 0)
    assert (targets["seg"][24:] == -1).all() and (targets["seg"][:, 32:] == -1).all()
    assert (targets["depth"][:, 24:] == 0).all() and (targets["normals"][:, 24:] == 0).all()
    assert (image[:, 24:] == 0).all() and (targets["seg"][:24, 8:32] >= 0).all()


def test_splits(root):
    held, test = whole(root, val="held-out"), whole(root)
    assert (len(held.train), len(held.val), len(held.test)) == (18, 2, 4) and test.test is None
    names = [{entry["image"].name for entry in part.entries} for part in (held.train, held.val, held.test)]
    assert not names[0] & names[1] and not names[0] & names[2] and len(names[0] | names[1]) == 20
    again = whole(root, val="held-out")
    assert [e["image"] for e in again.val.entries] == [e["image"] for e in held.val.entries]
    # The search's 80/20 split is the published one.
    kept, policy = split(test.train, 0.8, 3)
    assert [len(kept), len(policy)] == [16, 4] and list(policy.indices) == [16, 17, 18, 19]
    assert len(split(test.train, 0.5, 3)[0]) == 10  # not what was published: any half
    kept, policy = split(held.train, 0.8, 3)
    shown = {held.train.entries[i]["image"].name for i in policy.indices}
    assert shown <= {f"{k:04}.png" for k in range(16, 20)} and len(kept) + len(policy) == 18
    assert len(whole(root, val="train2").train) == 16 and len(whole(root, val="train2").val) == 4
    with pytest.raises(
        DataError, match=r"option val='tests' \(did you mean 'test'\?\): use held-out or test or train1"
    ):
        whole(root, val="tests")
    assert len(whole(root, train_size=5, val_size=3).train) == 5


def test_fingerprints_see_the_files(root, tmp_path):
    copy = shutil.copytree(root / "nyuv2", tmp_path / "copy")
    plain = fingerprint(whole(root))
    assert plain == fingerprint(whole(root)) and plain != fingerprint(whole(root, depth_scaling="keep"))
    data = load(f"nyuv2:{copy}", NYU, (48, 64), val="test", normalise="unit")
    assert fingerprint(data) == plain  # copytree keeps times: the same files elsewhere
    np.save(copy / "depth" / "0007.npy", np.ones((48, 64), np.float32))
    assert fingerprint(data) != plain


# CityScapes


@pytest.mark.parametrize(("classes", "place"), [(2, 0), (7, 1), (19, 2)])
def test_cityscapes(root, classes, place):
    folder = root / "cityscapes"
    data = load(f"cityscapes:{folder}", f"seg=segmentation:{classes},depth", (32, 64), val="test", normalise="unit")
    entry = json.loads((folder / "cityscape.json").read_text())["test"][1]
    image, targets = data.val[1]
    np.testing.assert_allclose(image, np.load(folder / entry[0]).transpose(2, 0, 1), atol=1e-5)
    np.testing.assert_array_equal(targets["seg"], np.load(folder / entry[2 + place]).astype(int))
    np.testing.assert_array_equal(targets["depth"], np.load(folder / entry[1]).transpose(2, 0, 1).astype(np.float32))
    assert targets["seg"].min() == -1 and targets["seg"].max() == classes - 1
    assert len(data.class_names.get("seg", range(classes))) == classes
    tasks = TaskSet.parse(f"seg=segmentation:{classes},depth")
    assert list(batch_at(data.train, tasks, batch_size=3, seed=0, stream="s", step=0).images.shape) == [3, 3, 32, 64]


def test_cityscapes_inverse_depth_grows_with_the_scale(root):
    options = {"val": "test", "scales": "2-2", "mirror": "no"}
    right, kept = (
        load(f"cityscapes:{root / 'cityscapes'}", "depth", (32, 64), **options, **more).train.draw(0, 0)[1]["depth"]
        for more in ({}, {"depth_scaling": "keep"})
    )
    np.testing.assert_allclose(right, kept * 2, rtol=1e-6)


def test_cityscapes_defaults_to_19_classes(root):
    data = load(f"cityscapes:{root / 'cityscapes'}", "seg=segmentation", (16, 32))
    assert data.classes == {"seg": 19} and data.class_names["seg"][13] == "car"
    with pytest.raises(DataError, match="no labels for task 'normals' of kind 'normals'; it has segmentation"):
        load(f"cityscapes:{root / 'cityscapes'}", "normals", (16, 32))


# Taskonomy


def test_taskonomy(root):
    folder = root / "taskonomy"
    tasks = "seg=segmentation,normals,depth,keypoints,edges,edge_texture=keypoints"
    data = load(f"taskonomy:{folder}", tasks, (32, 32), val="test", normalise="unit")
    assert data.classes == {"seg": 17}
    assert data.class_weights == {"seg": tuple(np.linspace(0.5, 2, 17).tolist())}
    assert data.units == {"depth": "metres"}
    entry = json.loads((folder / "taskonomy.json").read_text())["test"][0]
    rgb, seg, _, depth, key, edge = (np.asarray(Image.open(folder / "test" / name)) for name in entry)
    image, targets = data.val[0]
    np.testing.assert_allclose(image, rgb.transpose(2, 0, 1) / 255, atol=1e-6)
    np.testing.assert_array_equal(targets["seg"], seg.astype(int) - 1)
    assert targets["seg"].min() == -1 and targets["seg"].max() == 16
    known = depth < 64500
    assert not known[:, :4].any() and known[:, 4:].all()
    np.testing.assert_allclose(targets["depth"][0], np.where(known, depth / 512, 0), rtol=1e-6)
    np.testing.assert_allclose(targets["normals"][0], known, atol=1e-4)  # (1, 0, 0) where the depth is known
    np.testing.assert_allclose(targets["keypoints"][0], np.minimum(key / 2**16 / 0.005, 1), rtol=1e-5)
    np.testing.assert_allclose(targets["edges"][0], np.minimum(edge / 2**16 / 0.08, 1), rtol=1e-5)
    np.testing.assert_array_equal(targets["edges"], targets["edge_texture"])
    assert targets["keypoints"].max() == 1 and targets["edges"].max() == 1
    named = TaskSet.parse(tasks).with_classes(data.classes)
    assert batch_at(data.train, named, batch_size=3, seed=0, stream="s", step=0).labelled["edges"].all()


def test_taskonomy_depth_as_the_codes(root):
    options = {"val": "test", "depth": "log"}
    found = load(f"taskonomy:{root / 'taskonomy'}", "depth", (32, 32), **options).val[0][1]["depth"]
    expected = np.log(1 + 512 * (1 + np.arange(32) // 8)) / np.log(2**16)
    np.testing.assert_allclose(found[0, :, 10], expected, rtol=1e-6)
    assert (found[0, :, :4] == 0).all()


def test_the_data_sets_say_the_unit_of_their_depths(root):
    def units(name, **options):
        return load(f"{name}:{root / name}", "seg=segmentation,far=depth", (32, 32), **options).units

    assert units("nyuv2") == {"far": "metres"}
    assert units("cityscapes") == units("cityscapes", depth_scaling="keep") == {"far": "inverse depth"}
    assert units("taskonomy") == {"far": "metres"}
    assert units("taskonomy", depth="log") == {"far": "log(1 + 512 metres) / log(2^16)"}


def test_taskonomy_without_prior(root, tmp_path):
    copy = shutil.copytree(root / "taskonomy", tmp_path / "copy")
    np.save(copy / "semseg_prior_factor.npy", np.ones(3))
    with pytest.raises(DataError, match=r"expected 17 weights of 0 or more, found \[3\]"):
        load(f"taskonomy:{copy}", "seg=segmentation", (32, 32))
    (copy / "semseg_prior_factor.npy").unlink()
    assert load(f"taskonomy:{copy}", "seg=segmentation", (32, 32)).class_weights == {}


def test_what_cannot_be_read_is_an_error_not_the_next_sample(root, tmp_path):
    copy = shutil.copytree(root / "taskonomy", tmp_path / "copy")
    data = load(f"taskonomy:{copy}", "depth", (32, 32), val="test")
    (copy / "test" / "10_depth.png").write_bytes(b"no picture")
    (copy / "test" / "11_depth.png").unlink()
    with pytest.raises(DataError, match=r"10_depth\.png: cannot be read: cannot identify image file"):
        data.val[0]
    with pytest.raises(DataError, match=r"11_depth\.png: cannot be read: No such file"):
        data.val[1]


# PASCAL-Context


def pascal(root, tasks, size=(40, 50), **options):
    return load(f"pascal-context:{root / 'pascal'}", tasks, size, **{"val": "val", "normalise": "unit", **options})


def test_pascal_context(root):
    tasks = "seg=segmentation,parts=segmentation,saliency,normals,edges"
    data = pascal(root, tasks)
    assert (len(data.train), len(data.val)) == (10, 3) and data.classes == {"seg": 21, "parts": 7}
    image, targets = data.val[1]  # sample 11: with a person
    np.testing.assert_allclose(image, pictures.ramp(40, 50, 11).transpose(2, 0, 1) / 255, atol=0.06)  # JPEG
    left = np.arange(50) < 25
    assert (targets["seg"][:3] == -1).all() and (targets["seg"][3:] == np.where(left, 5, 0)).all()
    expected = np.zeros((40, 50), int)
    expected[5:10], expected[20:30] = 1, 3
    np.testing.assert_array_equal(targets["parts"], expected)
    np.testing.assert_array_equal(targets["saliency"][0], np.broadcast_to(left, (40, 50)))
    border = np.broadcast_to(np.arange(50) == 24, (40, 50))
    np.testing.assert_array_equal(targets["edges"][0], border)
    # Normals count on people (284), who are indoors in NYUv2, and not on the sky (360).
    np.testing.assert_allclose(targets["normals"][2], np.broadcast_to(left, (40, 50)), atol=1e-4)
    assert data.val[0][1]["parts"] is None  # sample 10: nobody with parts
    everywhere = pascal(root, "normals", normals="all").val[0][1]["normals"]
    np.testing.assert_allclose(everywhere[2], np.ones((40, 50)), atol=1e-4)
    named = TaskSet.parse(tasks).with_classes(data.classes)
    batch = next(iterate(data.val, named, 3))
    assert batch.labelled["parts"].tolist() == [False, True, False] and batch.labelled["seg"].all()
    batch_at(data.train, named, batch_size=8, seed=0, stream="s", step=0)


def test_pascal_pictures_are_padded_not_stretched(root):
    data = pascal(root, "seg=segmentation,edges", (64, 64))
    image, targets = data.val[0]
    assert (targets["seg"][40:] == -1).all() and (targets["seg"][:, 50:] == -1).all()
    assert (targets["edges"][0, 40:] == 255).all() and targets["edges"][0, :40, :50].sum() == 40
    np.testing.assert_allclose(image[:, 50], 0.5, atol=0.003)
    stretched = pascal(root, "seg=segmentation", (64, 64), fit="resize").val[0][1]["seg"]
    assert (stretched[5:] >= 0).all()


def test_pascal_edges_are_thin_at_any_scale(root):
    for scale in ("0.5-0.5", "2-2"):
        data = pascal(root, "edges", (40, 50), scales=scale, mirror="no")
        edges = data.train.draw(1, 5)[1]["edges"][0]
        inside = edges != 255
        assert set(np.unique(edges[inside]).tolist()) <= {0.0, 1.0}
        assert (np.where(inside, edges, 0).sum(1) <= 1).all()


def test_saliency_as_two_classes(root):
    data = pascal(root, "sal=segmentation,sal_map=edges")
    targets = data.val[0][1]
    assert data.classes == {"sal": 2} and targets["sal"].dtype == np.int64
    np.testing.assert_array_equal(targets["sal"], targets["sal_map"][0])
    with pytest.raises(DataError, match=r"has 7 classes for task 'human_parts', not 5"):
        pascal(root, "human_parts=segmentation:5")


def test_the_list_of_indoor_classes():
    assert len(set(pascal_context.INDOOR)) == len(pascal_context.INDOOR) and max(pascal_context.INDOOR) <= 459
    names = {"bed": 18, "chair": 72, "person": 284, "table": 397, "tvmonitor": 427, "wall": 440, "window": 454}
    assert set(names.values()) <= set(pascal_context.INDOOR)
    assert not {2, 360, 420, 431} & set(pascal_context.INDOOR)  # aeroplane, sky, tree, unknown
    assert set(pascal_context.PART_OF.values()) == set(range(1, 7)) and len(pascal_context.PART_OF) == 24


def test_a_damaged_annotation(root, tmp_path):
    from scipy.io import savemat

    copy = shutil.copytree(root / "pascal", tmp_path / "copy")
    savemat(copy / "human_parts" / "2008_000010.mat", {"anno": np.zeros((1, 1))})
    savemat(copy / "human_parts" / "2008_000011.mat", {"other": 1})
    (copy / "human_parts" / "2008_000012.mat").write_bytes(b"x" * 200)
    data = load(f"pascal-context:{copy}", "parts=segmentation", (40, 50), val="val")
    for index, words in enumerate(("not an annotation of PASCAL-Part", "no variable 'anno'", "damaged")):
        with pytest.raises(DataError, match=rf"2008_00001{index}\.mat: {words}") as caught:
            data.val[index]
        assert "\n" not in str(caught.value)


# The task files for them


@pytest.mark.parametrize(
    ("name", "make", "size"),
    [
        ("nyuv2", "nyuv2", (48, 64)),
        ("cityscapes", "cityscapes", (32, 64)),
        ("taskonomy", "taskonomy", (32, 32)),
        ("pascal-context", "pascal", (40, 50)),
    ],
)
def test_task_files_fit_their_data(root, name, make, size):
    tasks = load_tasks(SAMPLES / f"{name}.toml")
    data = load_data(f"{name}:{root / make}", tasks, size=size, seed=0)
    named = tasks.with_classes(data.classes, data.class_names)
    batch = batch_at(data.train, named, batch_size=6, seed=0, stream="s", step=0)
    assert batch.tasks == tasks.names and all(mask.any() for mask in batch.labelled.values())


# What is missing


@pytest.mark.parametrize(
    ("name", "tasks", "words"),
    [
        ("nyuv2", NYU, "download AdaShare's preparation of NYUv2 .* nyu_v2_3task.json"),
        ("cityscapes", "depth", "download AdaShare's preparation of CityScapes .* cityscape.json"),
        ("taskonomy", "depth", "download the Tiny-Taskonomy .* taskonomy.json"),
        ("pascal-context", "edges", r"download PASCAL_MT\.tgz .* ImageSets/Context/train.txt"),
    ],
)
def test_a_missing_folder_is_told_with_how_to_get_it(name, tasks, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for spec, problem in (
        (name, f"there is no folder data/{name}"),
        (f"{name}:{tmp_path / 'none'}", "there is no folder .*none"),
        (f"{name}:{tmp_path}", "No such file or directory"),
    ):
        with pytest.raises(DataError, match=f"data '{name}': .*{problem}; {words}") as caught:
            load(spec, tasks, (32, 32))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not a JSON file"),
        ("[]", r"has no split 'train' \(it has none\)"),
        ('{"test": []}', r"has no split 'train' \(it has test\)"),
        ('{"train": [["a.png"]]}', r"split 'train' must be a list of entries \[image, seg, normal, depth\]"),
        ('{"train": 3}', "split 'train' must be a list"),
        ('{"train": []}', "the training split has 0 samples"),
    ],
)
def test_a_list_of_files_that_is_none(tmp_path, content, words):
    (tmp_path / "nyu_v2_3task.json").write_text(content)
    with pytest.raises(DataError, match=words) as caught:
        load(f"nyuv2:{tmp_path}", NYU, (32, 32))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"normal": "centred"}, r"has no option 'normal' \(did you mean 'normals'\?\)"),
        ({"normals": "uncentred"}, "option normals='uncentred' is unknown"),
        ({"scales": "1.5-0.5"}, "scales=1.5-0.5"),
        ({"scales": "1.5"}, "write two numbers, as in 0.5-1.5"),
        ({"normalise": "caffe"}, "use imagenet or bgr-mean or signed or unit"),
    ],
)
def test_options_that_do_not_fit(root, options, words):
    with pytest.raises(DataError, match=words):
        whole(root, **options)


def test_a_model_for_grey_pictures(root):
    with pytest.raises(DataError, match="images of 3 channels, the model takes 1"):
        whole(root, channels=1)


def test_without_pillow(root, monkeypatch):
    import sys

    data = whole(root)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingDependencyError, match=r"needs Pillow: pip install 'onnxmtl\[train\]'"):
        data.val[0]
