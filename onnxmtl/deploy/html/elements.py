"""Pieces of a page: tables, lists of facts, sections. All text given to them is escaped here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from onnxmtl.deploy.html.theme import figure_css, page_css
from onnxmtl.deploy.report import percent
from onnxmtl.deploy.svg import clean


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a table: its text and classes."""

    text: str
    kind: str = ""


Row = Sequence[Cell | str]


def table(header: Sequence[Cell | str], rows: Iterable[tuple[str, Row]]) -> str:
    """A table that scrolls by itself where it is wider than the page; rows are (class, cells)."""
    head = "".join(_cell(title, "th") for title in header)
    body = "".join(f"<tr{_kind(kind)}>{''.join(map(_cell, row))}</tr>" for kind, row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """A table of plain text, the first row its header; "" without rows below it."""
    return table(rows[0], [("", row) for row in rows[1:]]) if len(rows) > 1 else ""


def _cell(cell: Cell | str, tag: str = "td") -> str:
    text, kind = (cell, "") if isinstance(cell, str) else (cell.text, cell.kind)
    return f"<{tag}{_kind(kind)}>{clean(text)}</{tag}>"


def signed(value: float | None) -> str:
    """A change in percent with a real minus."""
    return percent(value).replace("-", "−")


def _kind(kind: str) -> str:
    return f' class="{clean(kind)}"' if kind else ""


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Terms and what they are; empty ones are left out."""
    rows = "".join(f"<dt>{clean(term)}</dt><dd>{clean(text)}</dd>" for term, text in pairs if text)
    return f"<dl>{rows}</dl>"


def beside(*parts: str) -> str:
    """Parts side by side where there is room, below each other elsewhere."""
    return f'<div class="pair">{"".join(parts)}</div>'


def stacked(*parts: str, narrow: bool = False) -> str:
    """Several parts as one, for :func:`beside`; `narrow`: as wide as one panel of a figure."""
    return f"<div{_kind('side' if narrow else '')}>{''.join(parts)}</div>"


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph."""
    return f"<p{_kind(kind)}>{clean(text)}</p>"


def bullets(lines: Sequence[str]) -> str:
    """A list."""
    return f"<ul>{''.join(f'<li>{clean(line)}</li>' for line in lines)}</ul>"


def code(text: str) -> str:
    """A command, as typed."""
    return f"<pre>{clean(text)}</pre>"


def folded(summary: str, content: str) -> str:
    """Content that opens on demand."""
    return f"<details><summary>{clean(summary)}</summary>{content}</details>"


def tile(value: str, words: str, kind: str = "") -> str:
    """One headline number."""
    return f'<div class="tile"><b{_kind(kind)}>{clean(value)}</b><span class="faint">{clean(words)}</span></div>'


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page; without content it is left out."""

    name: str
    title: str
    content: str

    def html(self) -> str:
        """The part."""
        return f'<section id="{clean(self.name)}"><h2>{clean(self.title)}</h2>{self.content}</section>\n'


def page(title: str, lead: str, tiles: Sequence[str], sections: Sequence[Section], footer: str) -> str:
    """A whole document that needs nothing else: no script, no font, no picture from elsewhere.

    Args:
        title: Its heading.
        lead: A line under it.
        tiles: Headline numbers, made by :func:`tile`.
        sections: In order; empty ones are left out.
        footer: Its last line.
    """
    shown = [section for section in sections if section.content]
    links = "".join(f'<a href="#{clean(s.name)}">{clean(s.title)}</a>' for s in shown)
    top = f'<div class="tiles">{"".join(tiles)}</div>' if tiles else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        # Nothing may be fetched, not even the icon that browsers ask for on their own.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none';style-src 'unsafe-inline';"
        'img-src data:">\n<link rel="icon" href="data:,">\n'
        f"<title>{clean(title)}</title>\n<style>{page_css()}{figure_css()}</style>\n</head>\n<body>\n"
        f'<header><h1>{clean(title)}</h1><p class="faint">{clean(lead)}</p><nav>{links}</nav></header>\n'
        f"<main>{top}\n{''.join(section.html() for section in shown)}</main>\n"
        f"<footer><p>{clean(footer)}</p></footer>\n</body>\n</html>\n"
    )
