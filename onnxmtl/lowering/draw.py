"""What the Choices of a supermodel do in one forward pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch

SiteTask = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Draw:
    """One decision per (site, task): a weight for every option, or one option.

    Attributes:
        weights: Soft: (site, task) -> tensor [options] of non-negative weights that sum to 1; may require grad.
        options: Hard: (site, task) -> index of the only option that runs.

    Every (site, task) of the asked tasks must have an entry in one of the two: some sites may be decided already while
    others are mixed, and tasks that hold the same value after the decided ones compute it once.
    """

    weights: Mapping[SiteTask, torch.Tensor] | None = None
    options: Mapping[SiteTask, int] | None = None

    def __post_init__(self) -> None:
        if self.weights is None and self.options is None:
            msg = "a Draw has weights (soft), options (hard), or both"
            raise ValueError(msg)
        twice = sorted((self.weights or {}).keys() & (self.options or {}).keys())
        if twice:
            msg = f"a Draw is either soft or hard at a place; {twice[0]} has both"
            raise ValueError(msg)

    @property
    def hard(self) -> bool:
        """Whether each (site, task) runs one option only."""
        return self.options is not None and not self.weights
