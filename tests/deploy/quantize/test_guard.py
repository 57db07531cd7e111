"""Which blocks go back to floating point, on networks that are tables of numbers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmtl.deploy.quantize.guard import guard
from onnxmtl.deploy.quantize.tolerance import parse_tolerances
from onnxmtl.errors import TaskError
from onnxmtl.kinds import TaskSet

NAMES = ("seg", "depth", "normals")
TASKS = TaskSet.parse("seg=segmentation:5,depth,normals")
REFERENCE = {"seg": {"miou": 0.5}, "depth": {"abs": 0.2}, "normals": {"mean_angle": 20.0}}
METRIC = {"seg": "miou", "depth": "abs", "normals": "mean_angle"}


def network(damage):
    """Metrics of a mixture: each int8 block makes each task worse by a part of its value, of a gain by less."""
    asked = []

    def evaluate(kept):
        assert tuple(kept) not in asked, "never the same twice"
        asked.append(tuple(kept))
        found = {}
        for task in NAMES:
            lost = sum(changes[task] for block, changes in damage.items() if block not in kept)
            value = REFERENCE[task][METRIC[task]]
            found[task] = {METRIC[task]: value * (1 - lost if task == "seg" else 1 + lost)}
        return found

    return evaluate, asked


@st.composite
def damages(draw):
    """Block -> task -> loss. Some blocks do not concern some tasks; some even help."""
    count = draw(st.integers(1, 9))
    loss = st.one_of(st.just(0.0), st.floats(-0.01, 0.05))
    return {f"b{i}": {task: draw(loss) for task in NAMES} for i in range(count)}


@settings(deadline=None, max_examples=50)
@given(damages(), st.floats(0, 8), st.randoms(use_true_random=False))
def test_bound_and_result(damage, percent, random):
    """Sensitivities need not be right: the bound and what is said of the result hold for any."""
    tolerances = parse_tolerances(f"{percent:.4f}%", TASKS)
    sensitivity = {block: {task: random.random() for task in NAMES} for block in damage}
    evaluate, asked = network(damage)
    found = guard(list(damage), sensitivity, tolerances, REFERENCE, evaluate)
    assert found.evaluations == 1 + len(asked) <= len(damage) + len(NAMES)
    assert asked[0] == () and asked[-1] == found.result.kept
    last = found.result
    again = {t.task for t in tolerances if not t.holds(REFERENCE[t.task][t.metric], last.metrics[t.task][t.metric])}
    assert again == {t.task for t in last.failing}
    assert found.held == (not again)
    if not found.held:
        assert len(last.kept) == len(damage) - 1, "given up only when one int8 block is left"
    assert len(set(last.kept)) == len(last.kept) < len(damage)
    for before, after in zip(found.steps, found.steps[1:], strict=False):
        assert before.failing and after.kept[:-1] == before.kept


def test_the_most_sensitive_of_the_failing_task_first():
    damage = {
        "trunk": {"seg": 0.004, "depth": 0.004, "normals": 0.0},
        "seg": {"seg": 0.02, "depth": 0.0, "normals": 0.0},
        "depth": {"seg": 0.0, "depth": 0.004, "normals": 0.0},
        "normals": {"seg": 0.0, "depth": 0.0, "normals": 0.9},
    }
    evaluate, asked = network(damage)
    found = guard(list(damage), damage, parse_tolerances("seg=1%,depth=1%,normals=100%", TASKS), REFERENCE, evaluate)
    assert found.held and asked == [(), ("seg",)], "normals is within its own tolerance, however sensitive"
    evaluate, asked = network(damage)
    found = guard(list(damage), damage, parse_tolerances("0.5%", TASKS), REFERENCE, evaluate)
    assert (found.held and set(found.result.kept) == {"normals", "seg", "trunk"}) or "depth" in found.result.kept
    assert asked[1] == ("normals",)


def test_units_do_not_decide():
    """A task whose output changes by thousands does not hide another one's."""
    damage = {
        "a": {"seg": 0.02, "depth": 0.011, "normals": 0.0},
        "b": {"seg": 0.001, "depth": 0.011, "normals": 0.0},
    }
    sensitivity = {
        "a": {"seg": 0.2, "depth": 5000.0, "normals": 0.0},
        "b": {"seg": 0.01, "depth": 5100.0, "normals": 0.0},
    }
    evaluate, _ = network(damage)
    found = guard(["b", "a"], sensitivity, parse_tolerances("2%", TASKS), REFERENCE, evaluate)
    assert found.held and found.result.kept == ("a",)


def test_one_block_that_cannot_be():
    evaluate, asked = network({"all": dict.fromkeys(NAMES, 0.5)})
    found = guard(["all"], {"all": dict.fromkeys(NAMES, 1.0)}, parse_tolerances("", TASKS), REFERENCE, evaluate)
    assert not found.held and asked == [()] and {t.task for t in found.result.failing} == set(NAMES)


def test_a_float_model_without_a_value():
    reference = {**REFERENCE, "depth": {"abs": float("nan")}}
    with pytest.raises(TaskError, match="depth"):
        guard(["a"], {"a": {}}, parse_tolerances("", TASKS), reference, lambda kept: reference)
