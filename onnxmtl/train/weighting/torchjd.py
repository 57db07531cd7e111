"""The one place that knows torchjd: gradients of shared parameters put together by one of its aggregators."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from onnxmtl.errors import MissingDependencyError, TaskError
from onnxmtl.kinds import TaskSet, close_match
from onnxmtl.lowering.together import once, sum_present
from onnxmtl.train.weighting.base import Backward, Setting, Weighting, add_up, reached

_INSTALL = 'gradient methods need torchjd: pip install "onnxmtl[torchjd]"'


class JacobianDescent(Weighting):
    """Shared parameters get A(J), J's rows the tasks' gradients ∇ℓ_t; parameters of one task get ∇ℓ_t as usual.

    Parameters that several tasks use but `shared` does not list get Σ ∇ℓ_t. A task whose gradient is zero on all of
    the shared parameters (no label in the batch, nothing shared with others) has no row. Each step takes one backward
    pass per task. Random aggregators (PCGrad, GradDrop) draw from torch's generator, which the engine seeds per step.

    Args:
        tasks: All tasks.
        aggregator: Name of an aggregator of :mod:`torchjd.aggregation`.
        settings: Numbers for its constructor, e.g. ``c`` of CAGrad.

    Raises:
        MissingDependencyError: torchjd is not installed, or not what this aggregator needs.
        TaskError: No such aggregator, wrong settings, or it keeps a state that a checkpoint cannot hold.
    """

    def __init__(self, tasks: TaskSet, aggregator: str, settings: Mapping[str, Setting]) -> None:
        super().__init__(tasks, {})
        self.aggregate = load_aggregator(aggregator, settings)

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
        scaled = self.scaled(losses)
        leaves = {name: reached(loss) for name, loss in scaled.items()}
        # What no loss reaches keeps no gradient at all: optimizers leave it alone.
        together = [parameter for parameter in shared if any(parameter in found for found in leaves.values())]
        listed = set(together)
        others: dict[torch.Tensor, torch.Tensor] = {}  # parameter -> gradient
        rows: dict[str, torch.Tensor] = {}
        for name, loss in scaled.items():
            if not loss.requires_grad:
                continue
            own = [leaf for leaf in leaves[name] if leaf not in listed]
            # The other losses' graphs overlap with this one's.
            found = torch.autograd.grad(loss, [*together, *own], retain_graph=True, allow_unused=True)
            # Rows of the whole batch: of each process's part of it the aggregate would be another one.
            common = sum_present(found[: len(together)], together)
            parts = [_filled(g, p).reshape(-1) for g, p in zip(common, together, strict=True)]
            if parts and bool((row := torch.cat(parts)).any()):
                rows[name] = row
            for leaf, gradient in zip(own, found[len(together) :], strict=True):
                if gradient is not None:
                    others[leaf] = others[leaf] + gradient if leaf in others else gradient
        # A scalar with exactly these gradients: whatever `backward` does besides (loss scaling), it does to them.
        terms = [once((p * g).sum()) for p, g in self._aggregated(rows, together).items()]
        terms = [*((p * g).sum() for p, g in others.items()), *terms]
        backward(add_up({str(i): term for i, term in enumerate(terms)} or scaled))
        return {}

    def _aggregated(
        self, rows: Mapping[str, torch.Tensor], together: Sequence[torch.Tensor]
    ) -> dict[torch.Tensor, torch.Tensor]:
        if not rows:
            return {}
        jacobian = torch.stack(list(rows.values()))
        flat = self.aggregate(jacobian) if len(rows) > 1 else jacobian[0]
        parts = torch.split(flat, [parameter.numel() for parameter in together])
        return {p: part.reshape(p.shape).to(p.dtype) for p, part in zip(together, parts, strict=True)}


def _filled(gradient: torch.Tensor | None, parameter: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(parameter) if gradient is None else gradient


def load_aggregator(name: str, settings: Mapping[str, Setting]) -> Callable[[torch.Tensor], torch.Tensor]:
    """An aggregator of torchjd: [tasks, parameters] -> [parameters].

    Raises:
        MissingDependencyError: torchjd is not installed, or not what this aggregator needs.
        TaskError: No such aggregator, wrong settings, or it keeps a state that a checkpoint cannot hold.
    """
    try:
        from torchjd import Stateful, aggregation  # noqa: TID251  (this is the place)
    except ImportError as error:
        raise MissingDependencyError(_INSTALL) from error
    bases = (aggregation.Aggregator, aggregation.WeightedAggregator, aggregation.GramianWeightedAggregator)
    found: dict[str, Any] = {
        key: value
        for key in aggregation.__all__
        if inspect.isclass(value := getattr(aggregation, key))
        and issubclass(value, aggregation.Aggregator)
        and not issubclass(value, Stateful)
        and value not in bases
    }
    if name not in found:
        stateful = isinstance(kept := getattr(aggregation, name or "?", None), type) and issubclass(kept, Stateful)
        why = "keeps a state that checkpoints cannot hold" if stateful else "is no aggregator of torchjd"
        msg = f"{name!r} {why}{close_match(name, found)}; use one of {', '.join(sorted(found))}"
        raise TaskError(msg)
    numbers = {key: int(v) if isinstance(v, float) and v.is_integer() else v for key, v in settings.items()}
    extra = {"projector": _projector()} if "projector" in inspect.signature(found[name]).parameters else {}
    try:
        made: Callable[[torch.Tensor], torch.Tensor] = found[name](**extra, **numbers)
    except ImportError as error:
        msg = f"weighting 'torchjd:{name}': {' '.join(str(error).split())}"
        raise MissingDependencyError(msg) from error
    except (TypeError, ValueError) as error:
        msg = f"{' '.join(str(error).split())}; its constructor is {name}{inspect.signature(found[name])}"
        raise TaskError(msg) from error
    return made


def _projector() -> Any:
    """The projection that UPGrad and DualProj need, by scipy's exact active-set solver.

    min over v ≥ u of vᵀ G v, with G = AᵀA and v = u + d, is min over d ≥ 0 of ‖A d + A u‖. (torchjd's own needs
    quadprog and regularizes G.)
    """
    from torchjd.linalg import DualConeProjector  # noqa: TID251

    try:
        from scipy.optimize import nnls
    except ImportError as error:
        msg = 'this aggregator needs scipy: pip install "onnxmtl[train]"'
        raise MissingDependencyError(msg) from error

    def project(self: Any, weights: torch.Tensor, gramian: torch.Tensor) -> torch.Tensor:
        values, vectors = np.linalg.eigh(gramian.detach().double().cpu().numpy())
        root = np.sqrt(values.clip(min=0) / max(values.max(), np.finfo(float).tiny))[:, None] * vectors.T
        rows = weights.detach().double().cpu().reshape(-1, weights.shape[-1]).numpy()
        moved = np.stack([row + nnls(root, -root @ row)[0] for row in rows])
        return torch.as_tensor(moved, dtype=weights.dtype, device=weights.device).reshape(weights.shape)

    return type("NonnegativeProjector", (DualConeProjector,), {"__call__": project})()
