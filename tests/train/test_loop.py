from __future__ import annotations

import pytest
import torch
from helpers.graphs import small_resnet

from onnxmtl.lowering import to_torch
from onnxmtl.runs import Checkpoints
from onnxmtl.train.loop import fit
from onnxmtl.train.optimizers import OptimizerSpec, build_optimizer


class Training:
    """A step that depends on state and number, and remembers which numbers it was given."""

    def __init__(self) -> None:
        self.module = to_torch(small_resnet())
        self.optimizer = build_optimizer(OptimizerSpec(lr=1e-2), self.module.parameters_with())
        self.numbers: list[int] = []
        self.stop = -1

    def step(self, number: int) -> dict[str, float]:
        if number == self.stop:
            raise KeyboardInterrupt
        self.numbers.append(number)
        images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(number))
        loss = sum((out**2).mean() for out in self.module(images).values())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": float(loss.detach())}

    def fit(self, steps: int, **options) -> None:
        self.module.train()
        fit(self.module, {"weights": self.optimizer}, self.step, steps, **options)


def test_every_step_once_and_told(tmp_path):
    training, told = Training(), []
    training.fit(5, listener=lambda done, steps, figures: told.append((done, steps, sorted(figures))))
    assert training.numbers == [0, 1, 2, 3, 4]
    assert told == [(i, 5, ["loss"]) for i in range(1, 6)]


@pytest.mark.parametrize(("stop", "start"), [(1, 0), (3, 3), (5, 3), (6, 6), (8, 6)])
def test_it_goes_on_from_the_newest_checkpoint(tmp_path, stop, start):
    whole = Training()
    whole.fit(9)
    first, second = Training(), Training()
    first.stop = stop
    with pytest.raises(KeyboardInterrupt):
        first.fit(9, checkpoints=Checkpoints(tmp_path), every=3)
    second.fit(9, checkpoints=Checkpoints(tmp_path), every=3)
    assert second.numbers == list(range(start, 9))
    assert all(torch.equal(t, second.module.tensors()[n]) for n, t in whole.module.tensors().items())


def test_no_checkpoint_after_the_last_step(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    Training().fit(6, checkpoints=checkpoints, every=3)
    assert checkpoints.latest_checkpoint()[0] == 3, "what comes after step 6 is the phase's result"
    assert len(list(tmp_path.iterdir())) == 1


def test_nothing_is_written_without_checkpoints(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Training().fit(3, every=1)
    assert list(tmp_path.iterdir()) == []


def test_no_steps():
    training = Training()
    training.fit(0)
    assert training.numbers == []


class Counter:
    """Something beside the module that steps change."""

    def __init__(self) -> None:
        self.count = 0

    def state(self):
        return {"count": torch.tensor(self.count)}

    def load(self, state):
        self.count = int(state["count"])


def test_history_and_what_else_changes_are_resumed(tmp_path):
    whole = Training()
    whole.module.train()
    history = fit(whole.module, {"weights": whole.optimizer}, whole.step, 9)
    resumed, counter = None, None
    for stop in (5, -1):
        training, counter = Training(), Counter()
        training.stop = stop
        training.module.train()

        def step(number, training=training, counter=counter):
            figures = training.step(number)
            counter.count += 1
            return figures

        try:
            resumed = fit(training.module, {"weights": training.optimizer}, step, 9, checkpoints=Checkpoints(tmp_path),
                          every=2, also=counter)  # fmt: skip
        except KeyboardInterrupt:
            assert stop == 5
    assert resumed.to_json() == history.to_json() and len(history.curve("loss")) == 9
    assert counter.count == 9
