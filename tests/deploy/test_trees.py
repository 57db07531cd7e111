"""The drawing of a tree: a box per block and group, a dot per task in it, everything inside."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ET

from helpers.layouts import layouts
from hypothesis import given, settings

from onnxmtl.deploy.html.trees import layout_figure, layout_svg, tree_panel
from onnxmtl.policy import Layout

NS = "{http://www.w3.org/2000/svg}"
TREE = Layout(
    ("seg", "depth", "<b>"),
    (((0, 1, 2),), ((0, 2), (1,)), ((0, 2), (1,))),
    ("net.layer1.0.out", "net.layer2.1.out", "net.end.out"),
)


def groups(text: str) -> list[ET.Element]:
    return [g for g in ET.fromstring(text).iter(f"{NS}g") if g.find(f"{NS}title") is not None]


def boxes(text: str) -> dict[str, tuple[float, float, int]]:
    """Title -> (left, right, dots) of every box."""
    found = {}
    for g in groups(text):
        rect = g.find(f"{NS}rect")
        if rect is not None:
            left, width = float(rect.get("x")), float(rect.get("width"))
            found[g.find(f"{NS}title").text] = (left, left + width, len(g.findall(f"{NS}circle")))
    return found


def test_a_tree():
    text = layout_svg(TREE)
    assert set(boxes(text)) == {
        "block 0: seg, depth, <b>",
        *(f"block {b}: {tasks}" for b in (1, 2) for tasks in ("seg, <b>", "depth")),
    }
    titles = [g.find(f"{NS}title").text for g in groups(text)]
    assert "block 1, up to net.layer2.1.out" in titles
    shown = [element.text for element in ET.fromstring(text).iter(f"{NS}text")]
    assert {"layer1.0", "layer2.1", "end", "seg", "depth", "<b>"} <= set(shown)  # the scopes of all are left out
    assert (
        tree_panel(TREE, "first").label == "tree: block 0 seg, depth, <b>; blocks 1 to 2 seg, <b>; blocks 1 to 2 depth"
    )
    assert f"Layout {TREE.number} in TreeMTL's order" in layout_figure(TREE).text
    assert "2 separate trees" in layout_figure(Layout(("a", "b"), (((0,), (1,)),))).text


@settings(max_examples=40)
@given(layouts(10, 20))
def test_any_tree(layout):
    """Every box is inside the panel and has a dot per task; boxes of one block do not overlap."""
    panel = tree_panel(layout)
    found = boxes(layout_svg(layout))
    names = {
        f"block {b}: {', '.join(layout.tasks[t] for t in part)}": (b, part)
        for b, parts in enumerate(layout.groups)
        for part in parts
    }
    assert set(found) == set(names)
    for block in range(len(layout.groups)):
        row = sorted(found[title] for title, (b, _) in names.items() if b == block)
        assert row[0][0] >= 92 and row[-1][1] <= panel.width
        assert all(before[1] <= behind[0] + 0.02 for before, behind in itertools.pairwise(row))
    for title, (_, part) in names.items():
        assert found[title][2] == len(part)
    ET.fromstring(f"<svg>{panel.body}</svg>")


def test_equal_layouts_are_equal_bytes():
    assert layout_svg(TREE) == layout_svg(Layout(TREE.tasks, tuple(b[::-1] for b in TREE.groups), TREE.blocks))
