"""A layout drawn as a tree, from the image (top) to the heads: a box per block and group of tasks, a dot per task.

:func:`tree_panel` is for figures of several trees, :func:`layout_svg` a drawing of one as a file of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from onnxmtl.deploy.html.figure import PANEL, Figure, Panel, standalone
from onnxmtl.deploy.html.rows import bare_names
from onnxmtl.deploy.html.theme import task_class
from onnxmtl.deploy.svg import SANS_EM, box, cut, dot, group, label, line
from onnxmtl.policy.layout import Group, Layout
from onnxmtl.policy.layout_text import Branch, branches

_LEFT = 92  # of the trees; block names stand before it
_NAME_LETTERS = 12
_HIGH, _LOW = 34.0, 22.0  # of a row, of few and of many blocks
_MANY = 8
_BOX = 16.0
_DOT, _STEP, _RIM = 3.6, 9.5, 8.0  # a dot's radius, the room that it takes in a box, and the box's around all
_TURNED = 55  # degrees that the names of tasks are turned by where they have no room side by side


def layout_figure(layout: Layout, name: str = "tree") -> Figure:
    """The figure of one layout."""
    apart = len(layout.trees())
    text = (
        "From the image (top) to the heads: a box per block and group of tasks that share it, a dot per task"
        f"{f'; {apart} separate trees' if apart > 1 else ''}. Layout {layout.number} in TreeMTL's order."
    )
    return Figure(name, "Tree", text, (tree_panel(layout),))


def layout_svg(layout: Layout) -> str:
    """The drawing of a layout as the text of an SVG file."""
    return standalone(layout_figure(layout))


def tree_panel(layout: Layout, title: str = "") -> Panel:
    """One layout as a panel, under a title."""
    order = [task for tree in branches(layout.groups) for task in _leaves(tree)]
    room = (PANEL - _LEFT - 8) / len(order)
    xs = {task: _LEFT + room * (i + 0.5) for i, task in enumerate(order)}
    top = 22.0 if title else 4.0
    row = _HIGH if len(layout.groups) <= _MANY else _LOW
    ys = [top + row * (block + 0.5) for block in range(len(layout.groups))]
    bottom = top + row * len(layout.groups) + 8
    step = min(_STEP, 0.7 * room)
    rim = min(_RIM, room - step)
    parts = [label(0, 12, title, "bold")] if title else []
    shorter = bare_names(layout.blocks) if layout.blocks else [""] * len(ys)
    parts += [_block_name(layout, block, name, y) for block, (name, y) in enumerate(zip(shorter, ys, strict=True))]
    for block, groups in enumerate(layout.groups):  # ways first: boxes lie on them
        parts += _ways(layout, block, groups, xs, ys)
    for task in order:
        parts.append(line(_middle(_last(layout, task), xs), ys[-1], xs[task], bottom, "axis"))
    for block, groups in enumerate(layout.groups):
        parts += [_shared(layout, block, part, order, xs, ys[block], (step, rim)) for part in groups]
    names, height = _heads(layout, order, xs, room, bottom)
    shown = "; ".join(f"{_where(branch)} {_names(layout, branch.tasks)}" for branch in _all(branches(layout.groups)))
    return Panel(PANEL, height, "".join([*parts, *names]), f"tree: {shown}")


def _leaves(branch: Branch) -> list[int]:
    """The tasks of a branch, so ordered that no lines cross."""
    return [task for child in branch.children for task in _leaves(child)] or list(branch.tasks)


def _all(trees: Iterable[Branch]) -> list[Branch]:
    return [branch for tree in trees for branch in (tree, *_all(tree.children))]


def _where(branch: Branch) -> str:
    return f"block {branch.first}" if branch.first == branch.last else f"blocks {branch.first} to {branch.last}"


def _names(layout: Layout, tasks: Group) -> str:
    return ", ".join(layout.tasks[task] for task in tasks)


def _last(layout: Layout, task: int) -> Group:
    return next(part for part in layout.groups[-1] if task in part)


def _middle(tasks: Group, xs: dict[int, float]) -> float:
    return sum(xs[task] for task in tasks) / len(tasks)


def _block_name(layout: Layout, block: int, name: str, y: float) -> str:
    parts = [label(0, y + 3.5, str(block), "faint"), label(18, y + 3.5, cut(name, _NAME_LETTERS), "mono")]
    return group(parts, f"block {block}{f', up to {layout.blocks[block]}' if layout.blocks else ''}")


def _ways(layout: Layout, block: int, groups: Sequence[Group], xs: dict[int, float], ys: Sequence[float]) -> list[str]:
    """Lines from the block before to the groups of this one."""
    if block == 0:
        return []
    before = layout.groups[block - 1]
    found = []
    for part in groups:
        parent = next(other for other in before if part[0] in other)
        found.append(line(_middle(parent, xs), ys[block - 1], _middle(part, xs), ys[block], "axis"))
    return found


def _shared(
    layout: Layout,
    block: int,
    part: Group,
    order: Sequence[int],
    xs: dict[int, float],
    y: float,
    size: tuple[float, float],
) -> str:
    """The box of one group at one block; `size` is a dot's room, and the room around all."""
    step, rim = size
    x = _middle(part, xs)
    width = step * len(part) + rim
    shapes = [box(x - width / 2, y - _BOX / 2, width, _BOX, "hollow axis", radius=5)]
    for i, task in enumerate(sorted(part, key=order.index)):
        shapes.append(dot(x + step * (i - (len(part) - 1) / 2), y, min(_DOT, step * 0.42), task_class(task)))
    return group(shapes, f"block {block}: {_names(layout, part)}")


def _heads(
    layout: Layout, order: Sequence[int], xs: dict[int, float], room: float, top: float
) -> tuple[list[str], float]:
    """The heads with the names of their tasks, and where the drawing ends."""
    longest = max(len(layout.tasks[task]) for task in order)
    letter = 11 * SANS_EM
    turned = longest * letter > room - 4
    letters = max(3, int(70 / letter)) if turned else longest
    parts = []
    for task in order:
        name = cut(layout.tasks[task], letters)
        parts.append(dot(xs[task], top + 2, 4.5, task_class(task)))
        if turned:
            parts.append(label(xs[task] + 4, top + 12, name, anchor="end", turn=-_TURNED))
        else:
            parts.append(label(xs[task], top + 20, name, anchor="middle"))
    return parts, top + (24 + min(longest, letters) * letter * 0.85 if turned else 28)
