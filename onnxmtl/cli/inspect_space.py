"""``onnxmtl inspect --space fusion``: the layers of the networks, and the candidate edges between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxmtl.cli.console import show

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnxmtl.deploy.fusion import FusionCandidates, LayerEdges


def show_candidates(found: FusionCandidates) -> None:
    """The layers as a table, of one network where all are alike, and the numbers of edges."""
    from rich.table import Table
    from rich.text import Text

    rows = [row for row in found.layers if not found.alike or row.task == found.tasks[0]]
    table = Table(box=None, padding=(0, 2, 0, 0))
    columns = (["network"] if not found.alike else []) + ["#", "layer", "stride", "channels", "share", "edges into it"]
    for title in columns:
        table.add_column(Text(title), overflow="fold")
    for row in rows:
        cells = (*([row.task] if not found.alike else []), *_cells(row, found))
        table.add_row(*(Text(cell) for cell in cells))
    show(table, "", *_numbers(found))


def _cells(row: LayerEdges, found: FusionCandidates) -> Iterator[str]:
    layer = row.layer
    yield str(layer.index)
    yield layer.name
    yield str(layer.stride)
    yield str(layer.channels)
    yield f"{layer.share:.1%}"
    if row.stem:
        yield "none: the stem"
    elif found.alike:  # the other networks' layers are called alike
        names = dict.fromkeys(edge.split("/", 1)[1] for edge in row.edges)
        yield f"{len(names)} per network: {', '.join(names)}" if names else "none"
    else:
        yield f"{len(row.edges)}: {', '.join(row.edges)}" if row.edges else "none"


def _numbers(found: FusionCandidates) -> Iterator[str]:
    for direction, number in found.directions.items():
        more = found.with_stem.get(direction, number)
        yield f"{direction}: {number} candidate edges{f' ({more} with the stem)' if more != number else ''}"
    total, more = found.total, sum(found.with_stem.values())
    yield f"in all: {total} candidate edges{f' ({more} with the stem)' if more != total else ''}"
