"""The one training loop: steps that depend on nothing but the state and their number, and checkpoints between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from onnxmtl.lowering import LoweredModule
from onnxmtl.runs import Checkpoints
from onnxmtl.train.checkpoint import load_state, save_state

StepFunction = Callable[[int], Mapping[str, float]]
Listener = Callable[[int, int, Mapping[str, float]], None]


def fit(
    module: LoweredModule,
    optimizers: Mapping[str, torch.optim.Optimizer],
    step: StepFunction,
    steps: int,
    *,
    checkpoints: Checkpoints | None = None,
    every: int = 50,
    listener: Listener | None = None,
) -> None:
    """Run `step(0) … step(steps - 1)`, going on from the newest checkpoint if there is one.

    Args:
        module: Changed in place.
        optimizers: By name; their state is part of a checkpoint.
        step: Does one update and returns figures to show. Its result may depend on the module, the optimizers and
            the step's number only: then a resumed training equals an uninterrupted one, bit for bit on CPU.
        steps: How many there are in all.
        checkpoints: Where states are kept; None: nowhere.
        every: Steps between checkpoints.
        listener: Told (steps done, steps, figures) after each step.
    """
    start = 0
    latest = checkpoints.latest_checkpoint() if checkpoints is not None else None
    if latest is not None:
        start = latest[0]
        load_state(latest[1], module, optimizers)
    for number in range(start, steps):
        figures = step(number)
        done = number + 1
        if checkpoints is not None and done < steps and done % every == 0:

            def writer(folder: Path, done: int = done) -> None:
                save_state(folder, module, optimizers, {"step": done})

            checkpoints.save_checkpoint(done, writer)
        if listener is not None:
            listener(done, steps, figures)
