"""Weightings that need no gradients of single tasks: static, uncertainty, dynamic weight average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import nn

from onnxmtl.errors import TaskError
from onnxmtl.kinds import TaskSet
from onnxmtl.train.weighting.base import Backward, Setting, Weighting, add_up, figures, register_weighting


@register_weighting("static")
class Static(Weighting):
    """Σ w_t L_t with the weights of the task file."""

    def total(self, losses: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return add_up(self.scaled(losses))

    def backward(
        self,
        losses: Mapping[str, torch.Tensor],
        *,
        shared: Sequence[torch.Tensor],
        backward: Backward,
        step: int,
        steps: int,
    ) -> dict[str, float]:
        backward(self.total(losses))
        return {}


# The losses that are −log of a softmax or Bernoulli likelihood; the others are taken for a Gaussian's.
_LIKELIHOODS = ("cross_entropy", "balanced_bce", "hed_bce", "weighted_bce")


@register_weighting("uncertainty")
class Uncertainty(Weighting):
    """Homoscedastic uncertainty (Kendall, Gal, Cipolla 2018, Eq. 10), s_t = log σ_t² for stability as in the paper.

    Regression 1 / (2σ²) ℓ + log σ, classification 1 / σ² ℓ + log σ: c_t exp(−s_t) ℓ_t + s_t / 2 with c_t = ½ or 1.
    s starts at 0 and is trained with the weights.
    """

    def __init__(self, tasks: TaskSet, settings: Mapping[str, Setting]) -> None:
        super().__init__(tasks, settings)
        self.log_variances = {task.name: nn.Parameter(torch.zeros(())) for task in tasks}
        self.factors = {t.name: 1.0 if t.spec.categorical or t.loss in _LIKELIHOODS else 0.5 for t in tasks}

    def parameters(self) -> dict[str, nn.Parameter]:
        return {f"log_variance/{name}": parameter for name, parameter in self.log_variances.items()}

    def total(self, losses: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return self._objective(losses, {name: s.detach() for name, s in self.log_variances.items()})

    def backward(
        self,
        losses: Mapping[str, torch.Tensor],
        *,
        shared: Sequence[torch.Tensor],
        backward: Backward,
        step: int,
        steps: int,
    ) -> dict[str, float]:
        shown = {name: self.factors[name] * float(self.log_variances[name].detach().neg().exp()) for name in losses}
        backward(self._objective(losses, self.log_variances))
        return figures(shown)

    def _objective(self, losses: Mapping[str, torch.Tensor], log_variances: Mapping[str, torch.Tensor]) -> torch.Tensor:
        terms = {}
        for name, loss in self.scaled(losses).items():
            s = log_variances[name].to(loss.device)
            # Without a label, s / 2 alone would drive s to −∞.
            terms[name] = self.factors[name] * torch.exp(-s) * loss + 0.5 * s * (loss.detach() != 0)
        return add_up(terms)

    def state(self) -> dict[str, torch.Tensor]:
        return {name: s.detach().cpu().clone() for name, s in self.parameters().items()}

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, s in self.parameters().items():
                s.copy_(state[name])


@register_weighting("dwa")
class DynamicWeightAverage(Weighting):
    """λ_t = T exp(r_t / τ) / Σ_i exp(r_i / τ), r_t = L_t(e − 1) / L_t(e − 2)  (Liu et al. 2019, Eq. 7).

    T is the number of tasks, τ the `temperature`.

    L_t(e) is the mean loss over period e of `period` weight steps (0: a twentieth of the stage), which stands for the
    paper's epoch; in the first two periods r = 1, so λ = 1.
    """

    defaults: ClassVar[Mapping[str, Setting]] = {"temperature": 2.0, "period": 0.0}

    def __init__(self, tasks: TaskSet, settings: Mapping[str, Setting]) -> None:
        super().__init__(tasks, settings)
        if self.number("temperature") <= 0 or self.number("period") < 0:
            msg = "temperature must be above 0 and period not below"
            raise TaskError(msg)
        count = len(tasks)
        self._done = 0
        self._sums, self._counts = torch.zeros(count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
        self._means = torch.full((2, count), torch.nan, dtype=torch.float64)  # of the last period, and the one before

    def weights(self) -> dict[str, float]:
        """λ of this period."""
        ratio = self._means[0] / self._means[1]
        ratio = torch.where(torch.isfinite(ratio), ratio, 1.0)
        shares = torch.softmax(ratio / self.number("temperature"), 0) * len(self.tasks)
        return dict(zip(self.tasks.names, shares.tolist(), strict=True))

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
        backward(self.total(losses))
        for index, name in enumerate(self.tasks.names):
            value = float(losses[name].detach()) if name in losses else 0.0
            self._sums[index] += value
            self._counts[index] += value != 0
        self._done += 1
        if self._done >= (int(self.number("period")) or max(1, steps // 20)):
            mean = self._sums / self._counts  # nan where the period had no label
            self._means = torch.stack([torch.where(torch.isnan(mean), self._means[0], mean), self._means[0]])
            self._done = 0
            self._sums, self._counts = torch.zeros_like(self._sums), torch.zeros_like(self._counts)
        return shown

    def state(self) -> dict[str, torch.Tensor]:
        return {
            "done": torch.tensor(self._done),
            "sums": self._sums.clone(),
            "counts": self._counts.clone(),
            "means": self._means.clone(),
        }

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        self._done = int(state["done"])
        self._sums, self._counts, self._means = (state[key].clone() for key in ("sums", "counts", "means"))
