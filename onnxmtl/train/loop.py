"""The one training loop: steps that depend on nothing but the state and their number, and checkpoints between them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import torch

from onnxmtl.lowering import LoweredModule
from onnxmtl.lowering.agreement import agreed, from_first
from onnxmtl.runs import Checkpoints
from onnxmtl.train.checkpoint import load_extra, load_state, save_state
from onnxmtl.train.history import History

StepFunction = Callable[[int], Mapping[str, float]]
Listener = Callable[[int, int, Mapping[str, float]], None]


class Stateful(Protocol):
    """Something with tensors that later steps depend on, such as a weighting of losses."""

    def state(self) -> dict[str, torch.Tensor]:
        """All of them, by name."""

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from what :meth:`state` returned."""


def fit(
    module: LoweredModule,
    optimizers: Mapping[str, torch.optim.Optimizer],
    step: StepFunction,
    steps: int,
    *,
    checkpoints: Checkpoints | None = None,
    every: int = 50,
    listener: Listener | None = None,
    also: Stateful | None = None,
) -> History:
    """Run `step(0) … step(steps - 1)`, going on from the newest checkpoint if there is one.

    Where several processes train together the first one writes the checkpoints, and all go on from them.

    Args:
        module: Changed in place.
        optimizers: By name; their state is part of a checkpoint.
        step: Does one update and returns figures to show. Its result may depend on the module, the optimizers, `also`
            and the step's number only: then a resumed training equals an uninterrupted one, bit for bit on CPU.
        steps: How many there are in all.
        checkpoints: Where states are kept; None: nowhere.
        every: Steps between checkpoints.
        listener: Told (steps done, steps, figures) after each step.
        also: What else the steps change; part of a checkpoint.

    Returns:
        The figures of all steps, those before a resumption included.
    """
    start = 0
    history = History(steps)
    latest = from_first(lambda: _latest(checkpoints))
    if latest is not None:
        start, folder = latest[0], Path(latest[1])
        history = History.from_json(agreed(lambda: load_state(folder, module, optimizers))["history"])
        if also is not None:
            also.load(agreed(lambda: load_extra(folder)))
    for number in range(start, steps):
        figures = step(number)
        done = number + 1
        history.add(done, figures)
        if checkpoints is not None and done < steps and done % every == 0:

            def writer(folder: Path, done: int = done) -> None:
                meta = {"step": done, "history": history.state()}
                save_state(folder, module, optimizers, meta, {} if also is None else also.state())

            from_first(functools.partial(_save, checkpoints, done, writer))
        if listener is not None:
            listener(done, steps, figures)
    return history


def _latest(checkpoints: Checkpoints | None) -> tuple[int, str] | None:
    found = checkpoints.latest_checkpoint() if checkpoints is not None else None
    return None if found is None else (found[0], str(found[1]))


def _save(checkpoints: Checkpoints, done: int, writer: Callable[[Path], None]) -> None:
    checkpoints.save_checkpoint(done, writer)
