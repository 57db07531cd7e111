"""Contact sheets of any data source: what they show is what the samples hold."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import pictures

from onnxmtl.data.dataset import DataSource, InputSpec
from onnxmtl.data.folders.pixels import NORMALISATIONS
from onnxmtl.data.gallery import UNKNOWN, class_colours, describe, gallery, show_image, show_label
from onnxmtl.data.sheet import write_preview
from onnxmtl.data.sources import NAMES, named_source
from onnxmtl.errors import DataError
from onnxmtl.kinds import TaskSet

TASKS = TaskSet.parse("seg=segmentation:3,depth,normals,edges,room=classification:2,pose=regression")


class One:
    """One sample of 4×5 pixels, with gaps; `draw` shows it darker."""

    targets = {  # noqa: RUF012
        "seg": np.array([[0, 1, 2, -1, 255]] * 4),
        "depth": np.array([[[1, 2, 4, 0, np.nan]] * 4], np.float32),
        "normals": np.stack([np.zeros((4, 5)), np.zeros((4, 5)), np.array([[1, 1, 1, 1, 0]] * 4)]).astype(np.float32),
        "edges": np.array([[[0, 1, 0.5, 0, 255]] * 4], np.float32),
        "room": 1,
        "pose": np.array([0.25], np.float32),
    }

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return np.full((3, 4, 5), 0.5, np.float32), dict(self.targets)

    def draw(self, index, seed):
        return np.full((3, 4, 5), 0.25, np.float32), {**self.targets, "depth": None}


SOURCE = DataSource("one", One(), One(), InputSpec(3, 4, 5))


def test_images_look_as_before_normalisation():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 7, 3)).astype(np.uint8)
    for normalisation in NORMALISATIONS.values():
        np.testing.assert_array_equal(show_image(normalisation.apply(pixels), normalisation.spec((6, 7))), pixels)
    grey = show_image(np.full((1, 2, 2), 0.2, np.float32), InputSpec(1, 2, 2))
    assert grey.tolist() == [[[51] * 3] * 2] * 2


def test_labels_have_colours_and_unknown_ones_none():
    shown = {task.name: show_label(task, One.targets[task.name], SOURCE)[0] for task in TASKS if task.dense}
    for name, known in {"seg": 3, "depth": 3, "normals": 4, "edges": 4}.items():
        assert (shown[name] == UNKNOWN).all(1).tolist() == [False] * known + [True] * (5 - known), name
    np.testing.assert_array_equal(shown["seg"][:3], class_colours(3))
    assert shown["normals"][0].tolist() == [127, 127, 255]
    near, middle, far = shown["depth"][:3].astype(int).sum(1)
    assert near > middle > far  # near is bright
    assert (show_label(TASKS["depth"], None, SOURCE) == UNKNOWN).all()
    assert len({tuple(colour) for colour in class_colours(40).tolist()}) == 40


def test_a_sheet_that_fills_the_memory_is_refused():
    class Many(One):
        def __len__(self):
            return 400

    source = DataSource("many", Many(), Many(), InputSpec(3, 1024, 1365))
    with pytest.raises(DataError, match=r"400 samples of many make a picture of \d+x\d+: show fewer, or smaller ones"):
        gallery(source, TASKS, 400)


def test_the_sheet_holds_the_panels():
    sheet = gallery(SOURCE, TASKS, 3)
    colours = {tuple(pixel) for row in sheet.tolist() for pixel in row}
    assert (128, 128, 128) in colours and {tuple(c) for c in class_colours(3).tolist()} <= colours
    drawn = {tuple(pixel) for row in gallery(SOURCE, TASKS, 3, seed=0).tolist() for pixel in row}
    assert (64, 64, 64) in drawn and (128, 128, 128) not in drawn
    assert describe(TASKS, One.targets) == "room: 1, pose: 0.25"
    named = TASKS.with_classes({}, {"room": ("hall", "attic")})
    assert describe(named, {**One.targets, "depth": None}) == "depth: no label, room: attic, pose: 0.25"


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("nyuv2", pictures.nyuv2),
        ("cityscapes", pictures.cityscapes),
        ("taskonomy", pictures.taskonomy),
        ("pascal-context", pictures.pascal),
        ("multifashion", pictures.fashion),
    ],
)
def test_a_preview_of_each(name, make, tmp_path):
    spec = f"{name}:{make(tmp_path / name)}"
    found = write_preview(spec, tmp_path / "a.png", count=2)
    assert found.count == 2 and (tmp_path / "a.png").stat().st_size > 500
    write_preview(spec, tmp_path / "b.png", count=2, augment=True)
    if name != "multifashion":
        assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()
    with pytest.raises(DataError, match="cannot preview 0 samples"):
        write_preview(spec, tmp_path / "c.png", count=0)


def test_every_name_is_known():
    for name in NAMES:
        known = named_source(name)
        assert known.name == name and known.doc and TaskSet.parse(known.show)
    with pytest.raises(DataError, match="unknown data 'nyu'"):
        write_preview("nyu", None, count=1)
