"""The sample of a user's own data set runs, and loads as the command line loads it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from onnxmtl.data import iterate, load_data
from onnxmtl.kinds import TaskSet

SAMPLE = Path(__file__).parents[2] / "samples" / "own_data.py"


def test_it_runs(tmp_path):
    done = subprocess.run([sys.executable, str(SAMPLE)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "[16, 3, 64, 64]" in done.stdout
    assert not list(tmp_path.iterdir())


def test_it_loads_by_name(monkeypatch):
    monkeypatch.chdir(SAMPLE.parent)
    monkeypatch.setattr(sys, "path", list(sys.path))
    tasks = TaskSet.parse("seg=segmentation,depth")
    data = load_data("own_data:make", tasks, size=(64, 64), seed=0)
    tasks = tasks.with_classes(data.classes, data.class_names)
    assert tasks["seg"].channels == 3
    labelled = [batch.labelled["depth"] for batch in iterate(data.train, tasks, 8)]
    assert sum(int(mask.sum()) for mask in labelled) == 24
    sys.modules.pop("own_data", None)


def test_it_is_short():
    assert len(SAMPLE.read_text().splitlines()) < 60
