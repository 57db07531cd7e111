"""The few shapes that our drawings are made of, as SVG text. Coordinates are in pixels, y goes down.

Numbers are rounded to two decimals and text is escaped, so that equal drawings are equal bytes and whatever the user
named a layer stays text. Colours are the business of the style sheet (``kind`` becomes the class).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from xml.sax.saxutils import escape

MONO_EM = 0.61  # width of a letter of a fixed-width font, in units of its size
SANS_EM = 0.56  # mean width of a letter of a proportional one, rather more than less


def clean(text: str) -> str:
    """`text` escaped, and without the characters that XML cannot hold."""
    held = "".join(c if c in "\t\n" or _allowed(ord(c)) else "�" for c in text)
    return escape(held, {'"': "&quot;"})


def _allowed(code: int) -> bool:
    return 0x20 <= code <= 0xD7FF or 0xE000 <= code <= 0xFFFD or code >= 0x10000


def cut(text: str, letters: int, *, begin: int = 3) -> str:
    """`text` in at most so many letters (three or more), one in `begin` of them from its beginning, the rest from its
    end, which tells more than the middle."""
    if len(text) <= letters:
        return text
    keep = max(2, letters - 1)
    return f"{text[: keep // begin]}…{text[len(text) - (keep - keep // begin) :]}"


def pixel(value: float) -> str:
    """A coordinate: at most two decimals, none that say nothing."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _attributes(kind: str, given: dict[str, str | float | None]) -> str:
    parts = [f' class="{clean(kind)}"'] if kind else []
    for name, value in given.items():
        if value is not None:
            shown = pixel(value) if isinstance(value, int | float) else clean(value)
            parts.append(f' {name.replace("_", "-")}="{shown}"')
    return "".join(parts)


def label(
    x: float,
    y: float,
    text: str,
    kind: str = "",
    *,
    anchor: str | None = None,
    size: float | None = None,
    turn: float | None = None,
) -> str:
    """Text whose baseline begins (or, with `anchor`, has its middle or end) at (x, y), turned by `turn` degrees."""
    given: dict[str, str | float | None] = {
        "x": x,
        "y": y,
        "text_anchor": anchor,
        "font_size": size,
        "transform": None if turn is None else f"rotate({pixel(turn)} {pixel(x)} {pixel(y)})",
    }
    return f"<text{_attributes(kind, given)}>{clean(text)}</text>"


def box(
    x: float, y: float, width: float, height: float, kind: str = "", *, radius: float = 0, opacity: float | None = None
) -> str:
    """A rectangle; `opacity` is that of its filling."""
    given: dict[str, str | float | None] = {
        "x": x,
        "y": y,
        "width": width,
        "height": height,
        "rx": radius or None,
        "fill_opacity": opacity,
    }
    return f"<rect{_attributes(kind, given)}/>"


def dot(x: float, y: float, radius: float, kind: str = "") -> str:
    """A circle."""
    return f"<circle{_attributes(kind, {'cx': x, 'cy': y, 'r': radius})}/>"


def line(x1: float, y1: float, x2: float, y2: float, kind: str = "") -> str:
    """A straight line."""
    return f"<line{_attributes(kind, {'x1': x1, 'y1': y1, 'x2': x2, 'y2': y2})}/>"


def polyline(points: Iterable[tuple[float, float]], kind: str = "") -> str:
    """A line through all points."""
    through = " ".join(f"{pixel(x)},{pixel(y)}" for x, y in points)
    return f'<polyline{_attributes(kind, {})} points="{through}"/>'


def polygon(points: Iterable[tuple[float, float]], kind: str = "") -> str:
    """A filled shape."""
    through = " ".join(f"{pixel(x)},{pixel(y)}" for x, y in points)
    return f'<polygon{_attributes(kind, {})} points="{through}"/>'


def group(parts: Sequence[str], title: str = "", kind: str = "", at: tuple[float, float] | None = None) -> str:
    """Several shapes as one, with a tooltip, moved to `at`."""
    moved = None if at is None else f"translate({pixel(at[0])} {pixel(at[1])})"
    tip = f"<title>{clean(title)}</title>" if title else ""
    return f"<g{_attributes(kind, {'transform': moved})}>{tip}{''.join(parts)}</g>"
