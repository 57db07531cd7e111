"""A few hundred points of means, whatever the length; what is half done survives a checkpoint."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmtl.train.history import POINTS, History


def figures(step: int) -> dict[str, float]:
    """One figure in every step, another in every third."""
    return {"loss/seg": 1.0 / (step + 1), **({"policy/seg": float(step)} if step % 3 == 0 else {})}


def filled(steps: int) -> History:
    history = History(steps)
    for step in range(steps):
        history.add(step + 1, figures(step))
    return history


@settings(deadline=None)
@given(st.integers(1, 2500))
def test_points_are_means_of_windows(steps):
    history = filled(steps)
    assert len(history.points) <= POINTS and history.points[-1].step == steps
    start = 0
    for point in history.points:
        window = range(start, point.step)
        assert 1 <= len(window) <= history.window
        assert point.figures["loss/seg"] == pytest.approx(sum(1 / (i + 1) for i in window) / len(window), rel=1e-12)
        third = [i for i in window if i % 3 == 0]
        if third:
            assert point.figures["policy/seg"] == pytest.approx(sum(third) / len(third), rel=1e-12)
        else:
            assert "policy/seg" not in point.figures
        start = point.step
    assert history.curve("policy/seg") == [
        (p.step, p.figures["policy/seg"]) for p in history.points if "policy/seg" in p.figures
    ]


@given(st.integers(1, 1300), st.data())
def test_it_goes_on_from_a_state_as_if_nothing_had_happened(steps, data):
    """Through JSON, in the middle of a window too."""
    stop = data.draw(st.integers(0, steps))
    history = History(steps)
    for step in range(stop):
        history.add(step + 1, figures(step))
    again = History.from_json(json.loads(json.dumps(history.state())))
    for step in range(stop, steps):
        again.add(step + 1, figures(step))
    assert again.to_json() == filled(steps).to_json()


def test_steps_without_figures_leave_no_point():
    history = History(5)
    for step in range(5):
        history.add(step + 1, {"loss/a": 2.0} if step == 3 else {})
    assert history.to_json() == {"steps": 5, "window": 1, "points": [{"step": 4, "figures": {"loss/a": 2.0}}]}
    assert History.from_json(history.to_json()).to_json() == history.to_json()
