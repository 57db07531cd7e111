"""What a weighting is, and the methods by name."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import nn

from onnxmtl.errors import TaskError
from onnxmtl.kinds import TaskSet, close_match, same_code

Backward = Callable[[torch.Tensor], None]
Setting = float | str


@dataclasses.dataclass(frozen=True)
class WeightingSpec:
    """A method and its settings; what is left out takes the paper's value.

    Attributes:
        name: A registered name; ``torchjd:UPGrad`` and the like.
        settings: The method's numbers, and its words where it has some.
    """

    name: str = "static"
    settings: Mapping[str, Setting] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        return ",".join([self.name, *(f"{key}={value}" for key, value in self.settings.items())])


class Weighting(abc.ABC):
    """Turns task losses into gradients. One object per stage; its state is part of the stage's checkpoint.

    Args:
        tasks: All tasks; a step may have losses of some of them only.
        settings: Overrides of :attr:`defaults`.

    Raises:
        TaskError: Unknown setting, or one of another type.
    """

    defaults: ClassVar[Mapping[str, Setting]] = {}

    def __init__(self, tasks: TaskSet, settings: Mapping[str, Setting]) -> None:
        self.tasks = tasks
        self.settings = {**self.defaults, **settings}
        for key, value in settings.items():
            if key not in self.defaults:
                known = ", ".join(self.defaults) or "none"
                msg = f"unknown setting {key!r}{close_match(key, self.defaults)}; its settings: {known}"
                raise TaskError(msg)
            if isinstance(self.defaults[key], str) != isinstance(value, str):
                msg = f"{key} is {value!r}, it must be like {self.defaults[key]!r}"
                raise TaskError(msg)

    def number(self, key: str) -> float:
        """A setting as a number."""
        return float(self.settings[key])

    def scaled(self, losses: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """ℓ_t = w_t L_t, in the order given."""
        return {name: loss * self.tasks[name].weight for name, loss in losses.items()}

    # What a training loop calls

    def parameters(self) -> dict[str, nn.Parameter]:
        """What the weights' optimizer trains besides the weights (best without weight decay), by name."""
        return {}

    @abc.abstractmethod
    def total(self, losses: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The losses as one scalar under the current weights. Changes nothing, trains none of :meth:`parameters`.

        Policy steps use it.
        """

    @abc.abstractmethod
    def backward(
        self,
        losses: Mapping[str, torch.Tensor],
        *,
        shared: Sequence[torch.Tensor],
        backward: Backward,
        step: int,
        steps: int,
    ) -> dict[str, float]:
        """The backward pass of a weight step: adds to ``grad`` of all that the losses reach, and updates the state.

        Args:
            losses: Task -> scalar L_t, unweighted, of the tasks that the batch labels.
            shared: Parameters used by several tasks, in the order of the model.
            backward: Called once with a scalar, e.g. ``fabric.backward``; every gradient goes through it.
            step: Number of the step in its stage.
            steps: Steps of the stage.

        Returns:
            Figures to show, e.g. ``{"weight/seg": 1.2}``.
        """

    def state(self) -> dict[str, torch.Tensor]:
        """All that later steps depend on, on the CPU; :meth:`parameters` included."""
        return {}

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from what :meth:`state` returned."""
        assert not state, f"{type(self).__name__} has a state to load, but does not say how"


WEIGHTINGS: dict[str, Callable[[TaskSet, Mapping[str, Setting]], Weighting]] = {}


def register_weighting(
    name: str,
) -> Callable[[type[Weighting]], type[Weighting]]:
    """Make a method known by name.

    Raises:
        TaskError: The name is taken.
    """

    def register(method: type[Weighting]) -> type[Weighting]:
        if name in WEIGHTINGS and not same_code(WEIGHTINGS[name], method):
            msg = f"weighting {name!r} is registered already: choose another name"
            raise TaskError(msg)
        WEIGHTINGS[name] = method
        return method

    return register


def add_up(losses: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Σ of scalars, in their order."""
    return torch.stack(list(losses.values())).sum()


def figures(weights: Mapping[str, float]) -> dict[str, float]:
    """Weights as figures to show."""
    return {f"weight/{name}": float(value) for name, value in weights.items()}


def reached(loss: torch.Tensor) -> set[torch.Tensor]:
    """The leaves that take a gradient from a scalar, from its graph; nothing is computed."""
    found: set[torch.Tensor] = set()
    waiting, seen = [loss.grad_fn], {loss.grad_fn}
    while waiting:
        node = waiting.pop()
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            found.add(leaf)
        for child, _ in getattr(node, "next_functions", ()):
            if child is not None and child not in seen:
                seen.add(child)
                waiting.append(child)
    return found
