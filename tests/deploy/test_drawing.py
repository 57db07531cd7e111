"""The drawing: everything inside, nothing on top of anything else, written at once or not at all."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from helpers.networks import Network, small_network

from onnxmtl.deploy.drawing import draw, save_drawing
from onnxmtl.deploy.inspect import Cuts, inspect_model
from onnxmtl.errors import ModelError, RunError
from onnxmtl.ir import save

NS = "{http://www.w3.org/2000/svg}"
LETTER = 6.63  # DejaVu Sans Mono at 11 px: 0.602 em


def chain(count: int, name: str = "layer"):
    net = Network()
    x = net.image
    for i in range(count):
        x = net.conv(x, 3, 3, name=f"{name}{i}")
    return net.model(net.classifier(x, 3))


def u_net(levels: int):
    """Every level's map stays alive until the way up reaches it."""
    net = Network((1, 3, 64, 64))
    x, kept = net.image, []
    for i in range(levels):
        x = net.conv(x, 4 if i else 3, 4, name=f"down{i}")
        kept.append(x)
    for i, skip in enumerate(reversed(kept[:-1])):
        x = net.conv(net.add("Concat", [x, skip], axis=1), 8, 4, name=f"up{i}")
    return net.model(x)


def inspected(model, tmp_path, **cuts):
    save(model, tmp_path / "net.onnx")
    return inspect_model(tmp_path / "net.onnx", cuts=Cuts(**cuts))


def number(element, key):
    return float(element.get(key, 0))


def box(element):
    """(left, top, right, bottom) of a rectangle or a text."""
    if element.tag == f"{NS}rect":
        x, y = number(element, "x"), number(element, "y")
        return x, y, x + number(element, "width"), y + number(element, "height")
    size = float(element.get("font-size", 11))
    x, y = number(element, "x"), number(element, "y")
    return x, y - size, x + len(element.text or "") * LETTER * size / 11, y + 0.25 * size


def overlap(a, b):
    return min(a[2], b[2]) - max(a[0], b[0]) > 0.5 and min(a[3], b[3]) - max(a[1], b[1]) > 0.5


CASES = {
    "one block": (lambda: chain(1), {}),
    "six blocks": (lambda: chain(6), {}),
    "200 blocks": (lambda: chain(200), {}),
    "long names": (lambda: chain(5, "encoder.stages.3.blocks.17.attention.projection." * 3), {}),
    "a frontier of four": (lambda: u_net(4), {"frontier": 4}),
    "a frontier of thirty": (lambda: u_net(30), {"frontier": 30}),
    "markup and control characters": (lambda: chain(5, "<a href='x'>&amp;\"]]>\x01\ud7ff"), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_geometry(case, tmp_path):
    build, cuts = CASES[case]
    found = inspected(build(), tmp_path, **cuts)
    root = ET.fromstring(draw(found))
    _, _, width, height = (float(part) for part in root.get("viewBox").split())
    paper, *shapes = [element for element in root.iter() if element.tag in (f"{NS}rect", f"{NS}text")]
    assert box(paper) == (0, 0, width, height)
    for element in shapes:
        left, top, right, bottom = box(element)
        assert left >= 0 and top >= 0 and right <= width and bottom <= height, element.text
    texts = [box(element) for element in shapes if element.tag == f"{NS}text"]
    rows = sorted(texts, key=lambda corners: corners[1])
    for i, a in enumerate(rows):  # only neighbours can overlap
        for b in rows[i + 1 : i + 12]:
            assert not overlap(a, b)
    boxes = [box(element) for element in root.iter(f"{NS}rect") if element.get("class") == "box"]
    assert len(boxes) == len(found.blocks)
    for above, below in itertools.pairwise(boxes):
        assert above[3] < below[1]
    bars = [box(element) for element in root.iter(f"{NS}rect") if element.get("class") == "bar"]
    for bar in bars:
        assert bar[2] > bar[0] - 0.01 and not any(overlap(bar, text) for text in texts)


def test_two_texts_that_overlap_are_noticed():
    assert overlap((0, 0, 10, 10), (5, 5, 15, 15)) and not overlap((0, 0, 10, 10), (10, 0, 20, 10))


def test_what_is_drawn(tmp_path):
    found = inspected(u_net(3), tmp_path, frontier=3)
    root = ET.fromstring(draw(found))
    text = [element.text for element in root.iter(f"{NS}text")]
    wide = [row for row in found.boundaries if len(row.tensors) > 1]
    assert wide and all(
        f"{len(row.tensors)} tensors: " + ", ".join(t.name for t in row.tensors) in text for row in wide
    )
    groups = [g for g in root.iter(f"{NS}g") if g.get("class") == "boundary"]
    assert [len(g.findall(f"{NS}path")) for g in groups] == [len(row.tensors) for row in found.boundaries]
    assert f"► feature {found.features[0].name}" in text
    assert any(str(t).startswith("net.onnx: ") for t in text)
    total = sum(row.multiply_adds for row in found.blocks)
    bars = [e for e in root.iter(f"{NS}rect") if e.get("class") == "bar"][::2]
    most = max(row.multiply_adds for row in found.blocks)
    for row, bar in zip(found.blocks, bars, strict=True):
        assert number(bar, "width") == pytest.approx(104 * row.multiply_adds / most, abs=0.06)
        assert any(str(t).endswith(f"{row.multiply_adds / total:.1%}") for t in text)


def test_the_same_model_is_drawn_the_same(tmp_path):
    found = inspected(small_network(), tmp_path)
    assert draw(found) == draw(found)
    save_drawing(found, tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_text() == draw(found)


def test_the_model_is_never_overwritten(tmp_path):
    found = inspected(small_network(), tmp_path)
    before = (tmp_path / "net.onnx").read_bytes()
    for name in ("net.onnx", "net.onnx.data", "net"):
        with pytest.raises(ModelError, match=r"ends in \.svg"):
            save_drawing(found, tmp_path / name)
    link = tmp_path / "link.svg"
    link.symlink_to(tmp_path / "net.onnx")
    with pytest.raises(ModelError, match="is the model itself"):
        save_drawing(found, link)
    assert (tmp_path / "net.onnx").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.svg", "net.onnx"]


def test_a_folder_that_is_not_there(tmp_path):
    found = inspected(small_network(), tmp_path)
    with pytest.raises(RunError, match="cannot write"):
        save_drawing(found, Path(tmp_path, "none", "a.svg"))
