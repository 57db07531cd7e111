"""The tables of ``make evidence-deploy``, as Markdown, and what of the claims came out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from deploy_rows import Int8, Predicted, Ratio, Row

_TITLES = {
    "separate": "Multi-task models against separate ones",
    "entry points": "Entry points against the single file",
    "by segment": "Entry points with a session per segment, against the single file",
    "merge": "Merged against separate models, the trunk frozen",
}
_CLAIMS = {
    "separate": "latency is within 10 % of the ratio of multiply-adds, where that is asked",
    "entry points": "latency is at most 1.1 × the share of the multiply-adds",
    "by segment": "latency is at most 1.1 × the share of the multiply-adds",
    "merge": "latency is at most 1.1 × the ratio of multiply-adds",
}


def summary(rows: Sequence[Row]) -> str:
    """A table per part that was measured, each with its verdict."""
    found = []
    for part, title in _TITLES.items():
        if those := [row for row in rows if isinstance(row, Ratio) and row.part == part]:
            found.append("\n".join([f"### {title}", "", *ratio_table(those), "", *ratio_verdict(those)]))
    if predicted := [row for row in rows if isinstance(row, Predicted)]:
        found.append("\n".join(["### Latency predicted from tables", "", *predicted_table(predicted)]))
    if int8 := [row for row in rows if isinstance(row, Int8)]:
        found.append("\n".join(["### int8", "", *int8_table(int8), "", *int8_verdict(int8)]))
    return "\n\n".join(found)


def ratio_table(rows: Sequence[Ratio]) -> list[str]:
    """One line per network, number of threads and model."""
    exact = any(row.exact is not None for row in rows)
    share = any(row.share is not None for row in rows)
    header = ["network", "threads", "model", "× of", "latency", "processor", "multiply-adds", "held", "by processor"]
    header += ["convolutions"] * share + ["bits, optimizations off", "ulp, on", "relative"] * exact
    lines = _head(header)
    for row in rows:
        cells = [
            row.network,
            str(row.threads),
            row.what,
            f"{row.base:.1f} ms",
            f"{row.latency:.3f}× ±{row.spread:.0%}",
            f"{row.processor:.3f}×",
            f"{row.ideal:.3f}×",
            *(_verdict(row, ratio) for ratio in (row.latency, row.processor)),
        ]
        if share:
            cells.append("" if row.share is None else f"{row.share:.0%}")
        if exact:
            cells += ["" if row.exact is None else "equal" if row.exact else "differ", _number(row.ulps)]
            cells.append("" if row.error is None else f"{row.error:.0e}" if row.error else "0")
        lines.append(_line(cells))
    return lines


def _verdict(row: Ratio, ratio: float) -> str:
    return ("yes" if row.held(ratio) else "no") if row.asked else f"({'yes' if row.held(ratio) else 'no'})"


def ratio_verdict(rows: Sequence[Ratio]) -> list[str]:
    """In how many the claim holds, and why not where the profile says it."""
    asked = [row for row in rows if row.asked]
    lines = [f"- {_CLAIMS[rows[0].part]}: {_count(row.held(row.latency) for row in asked)}"]
    lines.append(f"- by processor time, one thread: {_count(r.held(r.processor) for r in asked if r.threads == 1)}")
    if any(row.exact is not None for row in rows):
        lines.append(f"- outputs bit-identical with optimizations off: {_count(bool(row.exact) for row in rows)}")
    lines += [
        f"- {row.network}, {row.what}, {row.threads} thread{'s' * (row.threads > 1)}: {row.why}"
        for row in rows
        if row.why and not row.held(row.latency)
    ]
    return lines


def predicted_table(rows: Sequence[Predicted]) -> list[str]:
    """One line per network and table."""
    lines = _head(["network", "predicted", "time", "models", "within ±10 %", "median error", "largest"])
    for row in rows:
        errors = [f"{row.within:.0%}", f"{row.middle:.1%}", f"{row.largest:.1%}"]
        lines.append(_line([row.network, row.table, row.clock, str(row.layouts), *errors]))
    return lines


def int8_table(rows: Sequence[Int8]) -> list[str]:
    """One line per task."""
    lines = _head(["network", "may lose", "task", "metric", "float", "int8", "held", "blocks in int8", "size", "time"])
    for row in rows:
        cells = [f"{row.network} ({row.parameters / 1e6:.1f} M)", row.allowed, row.task, row.metric]
        cells += [f"{row.before:.4g}", f"{row.after:.4g}", "yes" if row.held else "no", f"{row.int8} of {row.blocks}"]
        cells += [f"{row.size:.3f}×", "" if row.latency is None else f"{row.latency:.2f}×"]
        lines.append(_line(cells))
    return lines


def int8_verdict(rows: Sequence[Int8]) -> list[str]:
    """The two claims."""
    whole = [row for row in rows if row.int8 == row.blocks]
    sizes = dict.fromkeys((row.network, row.allowed, row.size) for row in whole)
    lines = [f"- no block rolled back: at most 0.3× of the size: {_count(size <= 0.3 for *_, size in sizes)}"]
    judged = [row for row in rows if row.allowed == "1%"]
    return [*lines, f"- tasks within their tolerance, else refused by name: {_count(row.held for row in judged)}"]


def _count(held: Iterable[bool]) -> str:
    found = list(held)
    return f"{sum(found)} of {len(found)}"


def _number(value: int | None) -> str:
    return "" if value is None else str(value)


def _head(names: Sequence[str]) -> list[str]:
    return [_line(names), "|" + "---|" * len(names)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
