"""``recommend`` with tasks, tables and options that cannot be: one line each, and nothing is written."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.recommending import TABLE

from onnxmtl.errors import OnnxMTLError, RunError
from onnxmtl.recommend.table import TwoTaskTable
from onnxmtl.workflows import recommend

NORMAL = "seg=segmentation:3,depth,normals"


@pytest.fixture
def table(tmp_path):
    (tmp_path / "table.csv").write_text(TABLE)
    return tmp_path / "table.csv"


MANY = ",".join(f"t{i}=regression:2" for i in range(15))
MANY_TABLE = TwoTaskTable(tuple(f"t{i}" for i in range(15)), 3, np.zeros((15, 15, 4)))


def np_table(blocks, first=0.0, gap=False):
    values = np.ones((3, 3, blocks + 1))
    values[:, :, 0] = first
    if gap:
        values[1, 2, 1:] = np.nan
    return TwoTaskTable(("seg", "depth", "normals"), blocks, values)


BAD = {
    "one task": ({"tasks": "seg=segmentation:3"}, "there is one task, 'seg'"),
    "no budget": ({"budget": "madds<=1k"}, "no layout keeps it; sharing everything has"),
    "words": ({"budget": "speed<=2"}, "limits 'speed'"),
    "blocks": ({"blocks": 4}, "so 3 blocks; the backbone is cut into 4"),
    "too many blocks": ({"blocks": 40, "two_task": None, "data": "scenes"}, "40"),
    "tasks of the table": ({"tasks": "seg=segmentation:3,depth"}, "names the task '2'"),
    "sweep of many": (
        {"tasks": MANY, "two_task": MANY_TABLE, "decoder": "greedy", "sweep": True},
        "--sweep takes up to 14 tasks, not 15: leave it out",
    ),
    "many": ({"tasks": MANY, "two_task": MANY_TABLE}, "--decoder exact takes up to 14 tasks, not 15: take --decoder"),
    "groups of many": (
        {"tasks": MANY, "two_task": MANY_TABLE, "decoder": "greedy", "estimator": "grouping"},
        "--estimator grouping takes up to 14 tasks",
    ),
    "weights of few blocks": (
        {"two_task": np_table(2), "blocks": 2, "task_weights": "svd-entropy"},
        "--task-weights svd-entropy needs 3 blocks or more, there are 2: take equal",
    ),
    "absolute": ({"two_task": np_table(3, first=71.0)}, "has 71 for 'seg' with 'depth' at branching point 0"),
    "a pair": (
        {"two_task": np_table(3, gap=True)},
        "no value for 'depth' trained with 'normals': every pair",
    ),
    "other tasks": (
        {"two_task": np_table(3), "tasks": "a=segmentation:3,depth,normals"},
        "the two-task table has no task 'a'; it has seg, depth, normals",
    ),
    "models": ({"budget": "models=2"}, "the budget's part 'models=2' has to look like models<=2"),
    "no table": ({"two_task": "missing.csv"}, "cannot read the two-task table missing.csv"),
    "rsa": ({"estimator": "rsa"}, "compares trained single-task networks and --two-task trains none"),
    "trainings": ({"trainings": 4}, "and --two-task gives them"),
    "trainings of another": ({"trainings": 9, "estimator": "rsa"}, "which --estimator rsa does not: leave it out"),
    "seeds": ({"seeds": 2}, "with --two-task none is"),
    "decoder": ({"decoder": "magic"}, "--decoder takes exact, greedy"),
    "top": ({"top": 0}, "--top must be 1 or more"),
    "workers": ({"workers": 0}, "--workers must be 1 or more"),
    "traffic": ({"traffic": "seg=2"}, "probability 2.0, not 0 to 1"),
    "no heads": ({"tasks": "seg=segmentation,depth,normals", "budget": "madds<=0.9x"}, "write name=kind:N in --tasks"),
    "estimator": ({"estimator": "magic"}, "--estimator takes two-task, grouping, rsa, rsa-max, not 'magic'"),
    "layout": (
        {"train_given": ("missing.json",), "tasks": "seg=segmentation,depth,normals"},
        "cannot read the layout missing.json",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_is_one_line_and_nothing_is_written(name, backbone, table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changes, words = BAD[name]
    options = {"tasks": NORMAL, "two_task": table, "out": tmp_path / "run", **changes}
    with pytest.raises(OnnxMTLError) as told:
        recommend(backbone, options.pop("tasks"), **options)
    assert words in str(told.value) and "\n" not in str(told.value)
    assert not (tmp_path / "run").exists()


def test_a_directory_that_is_another_run_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text('{"config": {}}')
    with pytest.raises(RunError, match="is a run, but not one of recommend"):
        recommend(tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text('{"config": {"blocks": {}}}')
    with pytest.raises(RunError, match=r"has no performance\.json: give the directory of a finished run"):
        recommend(tmp_path / "run")
    (tmp_path / "run" / "performance.json").write_text('{"format": 7}')
    with pytest.raises(RunError, match="not of this version"):
        recommend(tmp_path / "run")
