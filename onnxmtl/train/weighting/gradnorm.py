"""GradNorm: loss weights trained so that all tasks learn at similar rates (Chen et al. 2018)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch

from onnxmtl.errors import TaskError
from onnxmtl.kinds import TaskSet
from onnxmtl.lowering.together import sum_present
from onnxmtl.train.weighting.base import Backward, Setting, Weighting, add_up, figures, reached, register_weighting

_BETAS, _EPSILON = (0.9, 0.999), 1e-8
_LEAST = 1e-3  # Adam's step could carry a weight below 0


@register_weighting("gradnorm")
class GradNorm(Weighting):
    """Σ v_t ℓ_t, with v trained by Adam to lower (Eq. 2)

        Σ_t | G_t − Ḡ · r_t^alpha |    G_t = ‖∇_W v_t ℓ_t‖, Ḡ their mean,
                                       r_t = (ℓ_t / ℓ_t at the start) / mean of the same over the tasks

    where Ḡ · r_t^alpha is held constant; then Σ v_t is brought back to the number of tasks (Algorithm 1).

    Settings: `alpha`; `lr` of v; `layer` W: "last", the last weight of two dimensions or more that all losses of the
    step reach (the paper's choice), or "all" shared parameters. Where no weight is reached by all, it is "all".
    Tasks without a label or without a gradient in a step take no part in it.
    """

    defaults: ClassVar[Mapping[str, Setting]] = {"alpha": 1.5, "lr": 0.025, "layer": "last"}

    def __init__(self, tasks: TaskSet, settings: Mapping[str, Setting]) -> None:
        super().__init__(tasks, settings)
        if self.settings["layer"] not in ("last", "all"):
            msg = f"layer is {self.settings['layer']!r}, it must be last or all"
            raise TaskError(msg)
        if self.number("lr") < 0:
            msg = f"lr must not be negative, it is {self.number('lr'):g}"
            raise TaskError(msg)
        count = len(tasks)
        self._weights = torch.ones(count, dtype=torch.float64)
        self._first = torch.full((count,), torch.nan, dtype=torch.float64)
        self._moments = torch.zeros(2, count, dtype=torch.float64)
        self._updates = torch.zeros(count, dtype=torch.float64)

    def weights(self) -> dict[str, float]:
        """v of this step."""
        return dict(zip(self.tasks.names, self._weights.tolist(), strict=True))

    def total(self, losses: Mapping[str, torch.Tensor]) -> torch.Tensor:
        weights = self.weights()
        return add_up({name: weights[name] * loss for name, loss in self.scaled(losses).items()})

    def backward(
        self,
        losses: Mapping[str, torch.Tensor],
        *,
        shared: Sequence[torch.Tensor],
        backward: Backward,
        step: int,
        steps: int,
    ) -> dict[str, float]:
        shown = figures(self.weights())
        labelled = {name: loss for name, loss in self.scaled(losses).items() if float(loss.detach()) != 0}
        norms = self._norms(labelled, shared)
        backward(self.total(losses))
        self._update({name: float(loss.detach()) for name, loss in labelled.items()}, norms)
        return shown

    def _norms(self, losses: Mapping[str, torch.Tensor], shared: Sequence[torch.Tensor]) -> dict[str, float]:
        """‖∇_W ℓ_t‖ per task."""
        chosen = [parameter for parameter in shared if parameter.requires_grad]
        if self.settings["layer"] == "last":
            leaves = [reached(loss) for loss in losses.values()]
            common = [p for p in chosen if p.ndim >= 2 and all(p in found for found in leaves)]
            chosen = common[-1:] or chosen
        norms = {}
        for name, loss in losses.items():
            found = torch.autograd.grad(loss, chosen, retain_graph=True, allow_unused=True) if chosen else ()
            whole = sum_present(found, chosen)  # each process has the gradient of its part of the batch
            squares = [gradient.double().square().sum() for gradient in whole if gradient is not None]
            norms[name] = float(torch.stack(squares).sum().sqrt()) if squares else 0.0
        return norms

    def _update(self, losses: Mapping[str, float], norms: Mapping[str, float]) -> None:
        for position, name in enumerate(self.tasks.names):
            if name in losses and self._first[position].isnan():
                self._first[position] = losses[name]
        index = torch.tensor(
            [i for i, name in enumerate(self.tasks.names) if norms.get(name, 0.0) > 0], dtype=torch.long
        )
        if len(index) < 2:
            return
        names = [self.tasks.names[i] for i in index.tolist()]
        gradient = torch.tensor([norms[name] for name in names], dtype=torch.float64)
        sizes = self._weights[index] * gradient
        progress = torch.tensor([losses[name] for name in names], dtype=torch.float64) / self._first[index]
        target = sizes.mean() * (progress / progress.mean()).pow(self.number("alpha"))
        slope = torch.sign(sizes - target) * gradient  # of Eq. 2 with respect to v
        if not bool(torch.isfinite(slope).all()):
            return  # a loss that has changed its sign has no rate
        self._updates[index] += 1
        for moment, beta, value in zip(self._moments, _BETAS, (slope, slope.square()), strict=True):
            moment[index] = beta * moment[index] + (1 - beta) * value
        first, second = (
            moment[index] / (1 - beta ** self._updates[index])
            for moment, beta in zip(self._moments, _BETAS, strict=True)
        )
        self._weights[index] -= self.number("lr") * first / (second.sqrt() + _EPSILON)
        self._weights.clamp_(min=_LEAST)
        self._weights *= len(self.tasks) / self._weights.sum()

    def state(self) -> dict[str, torch.Tensor]:
        return {
            "weights": self._weights.clone(),
            "first": self._first.clone(),
            "moments": self._moments.clone(),
            "updates": self._updates.clone(),
        }

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        self._weights, self._first = state["weights"].clone(), state["first"].clone()
        self._moments, self._updates = state["moments"].clone(), state["updates"].clone()
