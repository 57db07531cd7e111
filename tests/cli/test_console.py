from __future__ import annotations

import dataclasses
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from onnxmtl.cli.console import TrainingProgress, console, emit_json, results, show


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch):
    """Puts terminals in the place of stdout and stderr (when called: pytest's own capture comes after fixtures)."""

    def install():
        out, err = Terminal(), Terminal()
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setenv("COLUMNS", "120")
        for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
            monkeypatch.delenv(name, raising=False)
        return out, err

    return install


@dataclasses.dataclass(frozen=True)
class Thing:
    path: Path
    values: tuple[float, ...]


def test_emit_json(capsys):
    emit_json(
        {
            "b": np.float32(0.5),
            "a": [1, float("nan"), float("inf")],
            "thing": Thing(Path("x/y"), (1.0,)),
            "array": np.arange(3),
            "set": {"z", "y"},
            "truth": True,
            "none": None,
            "ü": "ö",
        }
    )
    out, err = capsys.readouterr()
    assert err == "" and out.endswith("}\n") and "ö" in out
    assert json.loads(out) == {
        "a": [1, None, None],
        "array": [0, 1, 2],
        "b": 0.5,
        "none": None,
        "set": ["y", "z"],
        "thing": {"path": "x/y", "values": [1.0]},
        "truth": True,
        "ü": "ö",
    }


def test_talk_is_quiet_off_a_terminal_and_results_are_not(capsys):
    console().print("talk")
    results().print("result")
    show("[bold]as it is[/bold] " + "long " * 60)
    out, err = capsys.readouterr()
    assert err == "" and "\x1b" not in out
    assert out.splitlines() == ["result", "[bold]as it is[/bold] " + "long " * 60]


def test_talk_on_a_terminal(terminal):
    out, err = terminal()
    console().print("talk")
    console(quiet=True).print("never")
    assert out.getvalue() == "" and "talk" in err.getvalue() and "never" not in err.getvalue()


def train(**options):
    with TrainingProgress(**options) as progress:
        progress.stage("pre-train", total=8)
        for step in range(1, 9):
            progress.update(step, {"seg": 1 / step, "depth": 0.25}, cost=0.5)
        progress.stage("post-train", total=4, start=2)
        for step in (3, 4):
            progress.update(step, {"seg": 0.125})


def test_progress_is_quiet_off_a_terminal(capsys):
    train()
    train(quiet=True, plain=True)
    assert capsys.readouterr() == ("", "")


def test_plain_progress_is_a_few_lines(capsys):
    train(plain=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "pre-train: 8 steps",
        "pre-train: 2/8  seg 0.5  depth 0.25  cost 50.0%",
        "pre-train: 4/8  seg 0.25  depth 0.25  cost 50.0%",
        "pre-train: 6/8  seg 0.1667  depth 0.25  cost 50.0%",
        "pre-train: 8/8  seg 0.125  depth 0.25  cost 50.0%",
        "post-train: 4 steps, from 2",
        "post-train: 3/4  seg 0.125",
        "post-train: 4/4  seg 0.125",
    ]


def test_live_progress_on_a_terminal(terminal):
    out, err = terminal()
    train(plain=True)
    shown = err.getvalue()
    assert out.getvalue() == ""
    for words in ("pre-train", "post-train", "8/8", "seg 0.125", "cost 50.0%"):
        assert words in shown
    assert "pre-train: " not in shown  # no plain lines besides


def planned(**options):
    with TrainingProgress(**options) as progress:
        progress.plan(["pre-train", "policy-train"])
        progress.note("no cache")
        progress.stage("policy-train", total=4)
        for step in range(1, 5):
            progress.update(step, {"seg": 0.5})
            progress.figures(step, {"temperature": 4.5, "loss/seg": 0.5})
        progress.stage("unplanned", total=1)


def test_stages_of_a_plan_are_counted(terminal):
    _, err = terminal()
    planned()
    shown = err.getvalue()
    for words in ("2/2", "policy-train", "temperature 4.5", "seg 0.5", "note: no cache", "unplanned"):
        assert words in shown


def test_a_plan_in_plain_lines(capsys):
    planned(plain=True)
    planned()
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["note: no cache", "2/2 policy-train: 4 steps"] and lines[-1] == "unplanned: 1 steps"
