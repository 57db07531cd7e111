"""The judgements and tables of ``make evidence-deploy``, on numbers that can be checked by hand; slow: a tiny run."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path

import pytest

_SPEC = importlib.util.spec_from_file_location("evidence_deploy", Path(__file__).with_name("deploy.py"))
deploy = importlib.util.module_from_spec(_SPEC)
sys.modules["evidence_deploy"] = deploy
_SPEC.loader.exec_module(deploy)


def ratio(part="separate", latency=0.5, ideal=0.5, base=40.0, share=0.95, **more):
    fields = {"network": "Net", "what": "all shared", "threads": 1, "spread": 0.02, "processor": latency}
    return deploy.Ratio(part=part, latency=latency, ideal=ideal, base=base, share=share, **{**fields, **more})


def int8(task="seg", *, held=True, blocks=9, quantized=9, size=0.27, allowed="1%"):
    return deploy.Int8("Net", allowed, task, "miou", 0.4, 0.39, held, blocks, quantized, size, 0.6, 11_000_000)


@pytest.mark.parametrize(
    ("row", "asked", "held"),
    [
        (ratio(latency=0.549), True, True),
        (ratio(latency=0.451), True, True),
        (ratio(latency=0.56), True, False),  # within 10 % on both sides
        (ratio(latency=0.44), True, False),
        (ratio(share=0.89), False, True),
        (ratio(base=9.9), False, True),
        (ratio(share=None), False, True),
        (ratio("merge", latency=0.54), True, True),
        (ratio("merge", latency=0.56), True, False),
        (ratio("merge", latency=0.2), True, True),  # faster than its share is no fault
        (ratio("entry points", latency=0.56), True, False),
        (ratio("entry points", latency=1.11, ideal=1.0), True, False),
        (ratio("entry points", latency=0.9, ideal=0.5, base=1.0), False, True),  # below a millisecond
        (ratio("entry points", latency=0.7, ideal=0.5, base=1.3), False, True),
        (ratio("entry points", latency=0.8, ideal=0.5, base=1.3), True, False),
        (ratio("entry points", latency=0.9, ideal=0.5, base=1.9), True, False),
    ],
)
def test_what_is_held_and_where_it_is_asked(row, asked, held):
    assert (row.asked, row.held(row.latency)) == (asked, held)


def test_the_verdict_counts_what_is_asked():
    rows = [ratio(), ratio(latency=0.6, processor=0.5, why="it spins"), ratio(latency=0.6, share=0.5), ratio(threads=2)]
    first, second, *reasons = deploy.tables.ratio_verdict(rows)
    assert first.endswith(": 2 of 3") and second.endswith(": 2 of 2")
    assert reasons == ["- Net, all shared, 1 thread: it spins"]


def test_verdicts_of_int8():
    rows = [int8(), int8("depth", held=False), int8(allowed="1000%", size=0.31), int8(quantized=8, size=0.5)]
    size, tasks = deploy.tables.int8_verdict(rows)
    assert size.endswith(": 1 of 2") and tasks.endswith(": 2 of 3")


def test_tables_are_rectangular():
    rows = [
        ratio(), ratio("entry points", share=None, exact=True, ulps=3, error=2e-7),
        ratio("merge", exact=False, base=0.5),
        deploy.Predicted("Net", "trees, table", "processor time", 20, 0.95, 0.03, 0.12), int8(),
    ]  # fmt: skip
    text = deploy.tables.summary(rows)
    assert text.count("### ") == 5
    for table in text.split("###")[1:]:
        lines = [line for line in table.splitlines() if line.startswith("|")]
        assert len(lines) == 3 and len({line.count("|") for line in lines}) == 1, lines
    for words in (
        "0.500× ±2%",
        "| 95% |",
        "| equal | 3 | 2e-07 |",
        "| differ |  |  |",
        "| 95% | 3.0% | 12.0% |",
        "Net (11.0 M)",
    ):
        assert words in text, words
    assert "| yes | yes |" in text and "| (yes) |" not in text
    assert "| (no) | (yes) |" in deploy.tables.summary([ratio(share=0.5, latency=0.9, processor=0.5)])


def test_what_is_done_is_not_measured_again(tmp_path, monkeypatch):
    asked = []
    for part, rows in {"separate": [ratio()], "int8": [int8()]}.items():
        monkeypatch.setattr(deploy.parts, part, lambda *given, rows=rows: asked.append(given[0]) or rows)
        first, again = (deploy.run(part, "Net", None, deploy.Extent(), tmp_path) for _ in range(2))
        assert first == again and again.rows == tuple(rows)
    assert asked == ["Net", "Net"]
    for part in ("separate", "int8"):  # a training does not depend on how long something is timed
        deploy.run(part, "Net", None, deploy.Extent(seconds=1), tmp_path)
    assert len(asked) == 3


def test_an_extent_reads_back_from_its_file():
    extent = deploy.Extent(threads=(1,))
    content = json.loads(json.dumps(dataclasses.asdict(extent)))
    assert content["threads"] == [1] and content != dataclasses.asdict(deploy.Extent())


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_tiny_run(tmp_path, capsys):
    """Every part on a network of two blocks; again, it reads what is there."""
    assert deploy.main(["--quick", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.count("### ") == 6 and out.count("rows in") == 5
    assert (
        "bit-identical with optimizations off: 14 of 14" in out
        and "bit-identical with optimizations off: 4 of 4" in out
    )
    assert "| ResNet-6 (" in out and "9 of 9" not in out
    before = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*.json")}
    assert len(before) == 5 and deploy.main(["--quick", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.split("###", 1)[1] == out.split("###", 1)[1]
    assert {file: file.stat().st_mtime_ns for file in tmp_path.glob("*.json")} == before
