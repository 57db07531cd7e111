"""Event files hold what the observer was told; a stage that goes on replaces what it does again."""

from __future__ import annotations

import math
import sys

import pytest

from onnxmtl.errors import MissingDependencyError, RunError
from onnxmtl.workflows.session import Silent
from onnxmtl.workflows.tensorboard import TensorBoard, tensorboard, together

needed = pytest.mark.skipif(
    __import__("importlib.util").util.find_spec("tensorboard") is None, reason="TensorBoard is not installed"
)


def scalars(folder):
    """Tag -> [(step, value)] of all event files below."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for part in sorted(folder.iterdir()):
        events = EventAccumulator(str(part))
        events.Reload()
        for tag in events.Tags()["scalars"]:
            found[tag] = [(event.step, pytest.approx(event.value)) for event in events.Scalars(tag)]
    return found


@needed
def test_scalars(tmp_path):
    with TensorBoard(tmp_path / "deep" / "events") as board:
        board.stage("single-task seg", 2)
        for step in (1, 2):
            board.update(step, {"seg": 1 / step})
            board.figures(step, {"loss/seg": 1 / step, "cost": math.nan})
        board.stage("policy-train", 1)
        board.figures(1, {"policy/seg": 0.25, "temperature": 5.0})
    assert scalars(tmp_path / "deep" / "events") == {
        "single-task seg/loss/seg": [(1, 1.0), (2, 0.5)],
        "policy-train/policy/seg": [(1, 0.25)],
        "policy-train/temperature": [(1, 5.0)],
    }


@needed
def test_a_stage_that_goes_on(tmp_path):
    with TensorBoard(tmp_path) as board:
        board.stage("pre-train", 9)
        for step in (1, 2, 3, 4):
            board.figures(step, {"loss/seg": 9.0})
    with TensorBoard(tmp_path) as board:  # the checkpoint was at step 2
        board.stage("pre-train", 9, start=2)
        for step in (3, 4, 5):
            board.figures(step, {"loss/seg": 1.0})
    assert scalars(tmp_path) == {"pre-train/loss/seg": [(1, 9.0), (2, 9.0), (3, 1.0), (4, 1.0), (5, 1.0)]}


@needed
def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "x").write_text("mine")
    with pytest.raises(RunError, match="cannot write"):
        TensorBoard(tmp_path / "x")


def test_without_tensorboard(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'onnxmtl\[report\]'"):
        TensorBoard(tmp_path / "events")
    assert list(tmp_path.iterdir()) == []


class Recorder(Silent):
    def __init__(self):
        self.told = []

    def stage(self, name, total, start=0):
        self.told.append(("stage", name, total, start))

    def update(self, step, losses, cost=None):
        self.told.append(("update", step, losses, cost))

    def note(self, text):
        self.told.append(("note", text))


def test_several_observers_are_told_what_they_want_to_hear():
    first, second = Recorder(), Silent()
    both = together(first, second)
    both.plan(["a"])
    both.stage("a", 3, 1)
    both.update(2, {"seg": 0.5}, 0.25)
    both.figures(2, {"loss/seg": 0.5})
    both.note("slow")
    assert first.told == [("stage", "a", 3, 1), ("update", 2, {"seg": 0.5}, 0.25), ("note", "slow")]


def test_no_folder_no_event_files(tmp_path):
    observer = Silent()
    with tensorboard(observer, None) as found:
        assert found is observer
