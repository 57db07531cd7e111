"""The statistics of ``make evidence-sharing``, on numbers that can be checked by hand."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import sys
from pathlib import Path

import pytest

from onnxmtl import runtime
from onnxmtl.search.recipe import recipe_named

_SPEC = importlib.util.spec_from_file_location("sharing", Path(__file__).with_name("sharing.py"))
sharing = importlib.util.module_from_spec(_SPEC)
sys.modules["sharing"] = sharing
_SPEC.loader.exec_module(sharing)


def result(data="scenes", method="AdaShare", seed=0, found=5.0, random=(1.0, 3.0), shared=-2.0):
    return sharing.Result(data, method, seed, found, shared, random, 0.5, 0.4, 0.34, 0.35, (0.5, 0.5), 1.0)


def test_an_interval_of_student():
    """t(0.975, 4) = 2.776; the standard deviation of 1 … 5 is the root of 2.5."""
    mean, half = sharing.interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert mean == 3.0
    assert half == pytest.approx(2.776 * math.sqrt(2.5) / math.sqrt(5), abs=1e-3)


def test_one_value_has_no_interval():
    mean, half = sharing.interval([2.0])
    assert mean == 2.0 and math.isnan(half)


def test_differences_are_paired_by_seed():
    """Seeds differ by 100, and the gain over chance is 3 in each: its interval is 0 wide."""
    rows = [result(seed=seed, found=100.0 * seed + 5, random=(100.0 * seed + 1, 100.0 * seed + 3)) for seed in range(3)]
    line = next(line for line in sharing.summary(rows).splitlines() if line.startswith("| scenes | AdaShare"))
    assert "| +3.00 ± 0.00 |" in line


def test_the_hard_sharing_row_counts_each_seed_once():
    rows = [result(method=method, seed=seed) for seed in range(2) for method in ("AdaShare", "AutoMTL, ours")]
    line = next(line for line in sharing.summary(rows).splitlines() if "all shared |" in line and "scenes" in line)
    assert line.startswith("| scenes | all shared | 2 | -2.00 ± 0.00 |")


def test_a_method_without_random_architectures_leaves_their_cells_empty():
    line = sharing.summary([result(random=())]).splitlines()[2]
    assert line.startswith("| scenes | AdaShare | 1 | +5.00 ± nan |  |  | +7.00 ± nan |")


@pytest.mark.parametrize("method", sharing.METHODS, ids=lambda method: method.name)
def test_every_found_model_has_the_same_number_of_updates(method):
    recipe = recipe_named(method.recipe, method.variant)
    total, retrain = sharing.extent(method, 600)
    if retrain:
        stages = tuple(dataclasses.replace(s, fresh=s.relaxation == "selected") for s in recipe.stages)
        recipe = dataclasses.replace(recipe, stages=stages)
    assert recipe.weight_steps(total) == 600
    assert (retrain == "scratch") == (bool(recipe.search_stages) and recipe.final_stage is not None)
    assert method.given == (not recipe.search_stages)


def test_latencies_are_shares_of_the_separate_models(tmp_path, monkeypatch):
    """Three separate models of 2 ms, one trunk of 3, found ones of 6 and 9; four in five runs of each are disturbed."""
    seconds = {"single-task-1": 2, "single-task-2": 2, "single-task-3": 2, "hard-sharing": 3, "a": 6, "b": 9}
    clock, ran = [0.0], dict.fromkeys(seconds, 0)
    for i, name in enumerate(seconds):
        (tmp_path / "a" / "phases" / f"{i:02d}-{name}").mkdir(parents=True)
        (tmp_path / "a" / "phases" / f"{i:02d}-{name}" / "trained.onnx").touch()

    def run(session, _):
        ran[session] += 1
        clock[0] += seconds[session] * (1 if ran[session] % 5 == 0 else 10)

    monkeypatch.setattr(sharing, "emitted", lambda file: file.parent.name[3:])
    monkeypatch.setattr(runtime, "session", lambda model, threads: str(getattr(model, "parent", Path(str(model))).name))
    monkeypatch.setattr(runtime, "run", run)
    monkeypatch.setattr(sharing.time, "perf_counter", lambda: clock[0])
    rows = sharing.timed([result(), result(method="MTAN")], [tmp_path / "a", tmp_path / "b"], 8, rounds=20)
    assert [row.latency for row in rows] == pytest.approx([1.0, 1.5])
    assert [row.shared_latency for row in rows] == pytest.approx([0.5, 0.5])
