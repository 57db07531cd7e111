"""A measurement as tables of text."""

from __future__ import annotations

from onnxmtl.deploy.bench.results import Bench, Spread
from onnxmtl.deploy.report import amount


def latency_rows(found: Bench) -> list[list[str]]:
    """A header, then a row per setting and candidate. Behind ± is half the distance of the quartiles, × is the share
    of the baseline's."""
    rows = [["threads", "batch", "model", "ms", "images/s", "memory", "peak"]]
    compared = bool(found.baseline)
    if compared:
        rows[0] += ["latency", "processor", "multiply-adds"]
    for one in found.measurements:
        cells = [str(one.threads), str(one.batch), one.candidate]
        cells += [f"{digits(one.latency.median)} {_spread(one.latency)}", f"{one.throughput:.4g}"]
        memory = one.memory
        cells += ["–", "–"] if memory is None else [amount(memory.resident, "B"), amount(memory.peak, "B")]
        if compared:
            cells += [_ratio(one.ratio), _ratio(one.work_ratio)]
            cells.append("–" if one.ideal is None else f"{one.ideal:.3f}×")
        rows.append(cells)
    return rows


def _ratio(ratio: Spread | None) -> str:
    return "–" if ratio is None else f"{ratio.median:.3f}× {_spread(ratio)}"


def _spread(value: Spread) -> str:
    return f"±{value.relative:.0%}"


def profile_rows(found: Bench) -> list[list[str]]:
    """A header, then where the time goes in every setting; the header alone without profiles."""
    rows = [["threads", "batch", "model", "convolutions, products", "other operators"]]
    for one in found.measurements:
        if one.profile is not None:
            others = ", ".join(f"{name} {share:.1%}" for name, share in one.profile.others(4))
            rows.append([str(one.threads), str(one.batch), one.candidate, f"{one.profile.share:.1%}", others or "–"])
    return rows


def subject_rows(found: Bench) -> list[list[str]]:
    """A header, then what was measured."""
    rows = [["model", "multiply-adds", "file size", "files"]]
    for one in found.subjects:
        rows.append([one.name, amount(one.multiply_adds), amount(one.file_bytes, "B"), ", ".join(one.files)])
    return rows


def digits(value: float) -> str:
    """Milliseconds with as many digits as say something."""
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"
