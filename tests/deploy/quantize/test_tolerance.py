"""What each task may lose, as the user writes it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmtl.deploy.quantize.tolerance import check_metrics, parse_tolerances
from onnxmtl.errors import TaskError
from onnxmtl.kinds import TaskSet

TASKS = TaskSet.parse("seg=segmentation:5,depth,normals")


def amounts(text):
    return {(t.task, t.metric): (t.amount, t.relative) for t in parse_tolerances(text, TASKS)}


def test_every_form():
    assert amounts("") == amounts("1%")
    assert amounts("seg=0.5, depth=1%") == {
        ("seg", "miou"): (0.005, False),  # points of a ratio
        ("depth", "abs"): (0.01, True),
        ("normals", "mean_angle"): (0.01, True),  # not named
    }
    assert amounts("depth=0.05,normals=2,seg=1e-1%") == {
        ("seg", "miou"): (0.001, True),
        ("depth", "abs"): (0.05, False),  # metres
        ("normals", "mean_angle"): (2, False),  # degrees
    }
    assert amounts("3%,seg=1,seg.pixel_accuracy=2,depth.rel=1") == {
        ("seg", "miou"): (0.01, False),
        ("seg", "pixel_accuracy"): (0.02, False),
        ("depth", "rel"): (0.01, False),  # a ratio too
        ("normals", "mean_angle"): (0.03, True),
    }


def test_units_in_words():
    texts = [t.text for t in parse_tolerances("seg=0.5,depth=0.05,normals=1%", TASKS)]
    assert texts == ["0.5 points", "0.05 metres", "1 %"]


def test_a_tasks_own_unit():
    tasks = TaskSet.parse("depth").with_classes({}, {}, {}, {"depth": "inverse depth"})
    assert parse_tolerances("depth=0.1", tasks)[0].text == "0.1 inverse depth"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seg", "cannot read 'seg'"),
        ("seg=", "cannot read 'seg='"),
        ("seg=-1", "cannot read 'seg=-1'"),
        ("seg=1..2", "cannot read 'seg=1..2'"),
        ("seg=1e999", "cannot read"),
        ("seg=nan%", "cannot read"),
        ("seg=1%%", "cannot read"),
        ("sge=1%", "did you mean 'seg'"),
        ("edges=1%", "the tasks are seg, depth, normals"),
        ("seg.abs=1%", "it has miou, pixel_accuracy"),
        ("seg=1%,seg=2%", "names seg.miou twice"),
        ("seg=1%,seg.miou=2%", "names seg.miou twice"),
        ("1%,2%", "says twice"),
    ],
)
def test_bad_ones(text, said):
    with pytest.raises(TaskError) as error:
        parse_tolerances(text, TASKS)
    assert said in str(error.value) and "\n" not in str(error.value)


@settings(max_examples=50)
@given(st.floats(0.001, 100), st.floats(-0.5, 0.5), st.floats(0, 20), st.booleans())
def test_direction(reference, change, amount, relative):
    """seg falls, depth rises; a gain is always allowed."""
    text = f"{amount:.6f}" + "%" * relative
    for tolerance in parse_tolerances(f"seg={text},depth={text}", TASKS)[:2]:
        sign = 1 if tolerance.higher_is_better else -1
        better = reference * (1 + sign * abs(change))
        assert tolerance.holds(reference, better)
        worse = reference * (1 - sign * abs(change))
        loss, allowed = abs(worse - reference), tolerance.allowed(reference)
        if abs(loss - allowed) > 1e-6 * (1 + reference):
            assert tolerance.holds(reference, worse) == (loss < allowed)


def test_no_number_is_no_success():
    (tolerance, *_) = parse_tolerances("seg=100", TASKS)
    assert not tolerance.holds(0.5, math.nan)
    metrics = {"seg": {"miou": 0.4}, "depth": {"abs": math.nan}, "normals": {"mean_angle": 3.0}}
    with pytest.raises(TaskError, match=r"task 'depth': the float model has no abs on the validation data"):
        check_metrics(parse_tolerances("", TASKS), metrics)
