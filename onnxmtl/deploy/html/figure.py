"""A figure: panels narrow enough for a phone. In the page they flow side by side; as a file they form a grid."""

from __future__ import annotations

import dataclasses
import math

from onnxmtl.deploy.html.theme import figure_css
from onnxmtl.deploy.svg import SANS_EM, box, clean, group, label, pixel

PANEL = 320  # width of a panel in pixels: what a phone of 360 leaves
_GAP = 28


@dataclasses.dataclass(frozen=True)
class Panel:
    """A drawing of its own.

    Attributes:
        width, height: In pixels.
        body: Its shapes.
        label: What it shows, for those who cannot see it.
    """

    width: float
    height: float
    body: str
    label: str


@dataclasses.dataclass(frozen=True)
class Figure:
    """One or several panels that are read together.

    Attributes:
        name: Short, for anchors and file names.
        title: What it shows.
        text: How to read it, in a sentence or two.
        panels: In reading order.
        legend: What the marks mean, one small drawing each.
        across: Panels side by side when it is a file of its own.
    """

    name: str
    title: str
    text: str
    panels: tuple[Panel, ...]
    legend: tuple[Panel, ...] = ()
    across: int = 3


def inline(figure: Figure) -> str:
    """The figure as a part of a page that has the style sheet."""
    text = f" {clean(figure.text)}" if figure.text else ""
    return (
        f'<figure id="figure-{clean(figure.name)}"><figcaption><b>{clean(figure.title)}.</b>{text}</figcaption>'
        f'{legend_html(figure)}<div class="panels">{"".join(map(_svg, figure.panels))}</div></figure>'
    )


def legend_html(figure: Figure) -> str:
    """The figure's legend; "" without one."""
    return f'<div class="legend">{"".join(map(_svg, figure.legend))}</div>' if figure.legend else ""


def _svg(panel: Panel) -> str:
    width, height = pixel(panel.width), pixel(panel.height)
    return (
        f'<svg class="fig" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{clean(panel.label)}">{panel.body}</svg>'
    )


def standalone(figure: Figure) -> str:
    """The figure as an SVG file of its own, with its style sheet and title."""
    across = min(figure.across, len(figure.panels))
    rows = [figure.panels[i : i + across] for i in range(0, len(figure.panels), across)]
    widths = [max(row[i].width for row in rows if i < len(row)) for i in range(across)]
    width = math.ceil(sum(widths) + _GAP * (across + 1))
    parts, top = [label(_GAP, 34, figure.title, "bold", size=15)], 52.0
    left = float(_GAP)
    for item in figure.legend:
        if left > _GAP and left + item.width > width:
            left, top = float(_GAP), top + item.height + 4
        parts.append(group([item.body], at=(left, top)))
        left += item.width + _GAP
    top += figure.legend[-1].height + 16 if figure.legend else 0
    for row in rows:
        left = float(_GAP)
        for panel, room in zip(row, widths, strict=False):
            parts.append(group([panel.body], at=(left, top)))
            left += room + _GAP
        top += max(panel.height for panel in row) + _GAP
    height = math.ceil(top)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="fig" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}">\n<title>{clean(figure.title)}</title>\n<style>{figure_css()}</style>\n'
        + box(0, 0, width, height, "paper")
        + "\n"
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def legend_item(shapes: list[str], width: float, text: str) -> Panel:
    """A mark and its meaning; the shapes lie around the height 0, from 0 to `width`."""
    words = label(width + 8, 4, text)
    size = width + 8 + 11 * SANS_EM * len(text)
    return Panel(size, 20, group([*shapes, words], at=(0, 10)), f"legend: {text}")
