"""A policy: for every (site, task) a distribution over the site's options, given by logits."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmtl.analysis.table import SiteTable
from onnxmtl.errors import ModelError
from onnxmtl.ir import choices
from onnxmtl.policy.architecture import Architecture

Float64 = np.ndarray[Any, np.dtype[np.float64]]


@dataclasses.dataclass(frozen=True, eq=False)
class Policy:
    """Logits per site, and what follows from them.

    Attributes:
        table: The sites.
        logits: Per site an array [tasks, options], float64. Rows of tasks that do not pass through the site are zero.
    """

    table: SiteTable
    logits: tuple[Float64, ...]

    def __post_init__(self) -> None:
        logits = tuple(np.array(array, dtype=np.float64) for array in self.logits)
        expected = [(len(self.table.tasks), len(site.options)) for site in self.table.sites]
        if [array.shape for array in logits] != expected:
            msg = f"logits have shapes {[array.shape for array in logits]}, the table of sites {expected}"
            raise ValueError(msg)
        for site, array in zip(self.table.sites, logits, strict=True):
            if not np.isfinite(array).all():
                msg = f"the logits of site {site.id!r} are not finite: the search diverged; lower its learning rate"
                raise ModelError(msg)
        object.__setattr__(self, "logits", logits)

    @classmethod
    def uniform(cls, table: SiteTable) -> Policy:
        """All options equally likely."""
        return cls(table, tuple(np.zeros((len(table.tasks), len(site.options))) for site in table.sites))

    @classmethod
    def of_probabilities(cls, table: SiteTable, probabilities: Sequence[Float64]) -> Policy:
        """The policy with these probabilities, per site [tasks, options], each positive."""
        return cls(table, tuple(np.log(np.asarray(array, dtype=np.float64)) for array in probabilities))

    @classmethod
    def of_mapping(cls, table: SiteTable, logits: Mapping[tuple[str, str], Any]) -> Policy:
        """The policy with logits given by (site id, task name), as a lowered supermodel holds them.

        Raises:
            ModelError: A pair is missing, or has another number of options than the site.
        """
        arrays = []
        for site in table.sites:
            array = np.zeros((len(table.tasks), len(site.options)))
            for task in table.tasks_at(site):
                row = logits.get((site.id, task))
                if row is None or np.shape(row) != (len(site.options),):
                    found = "none" if row is None else f"shape {list(np.shape(row))}"
                    msg = f"site {site.id!r}, task {task!r} needs {len(site.options)} logits, found {found}"
                    raise ModelError(msg)
                array[table.tasks.index(task)] = np.asarray(row, dtype=np.float64)
            arrays.append(array)
        return cls(table, tuple(arrays))

    @classmethod
    def of_model(cls, model: ir.Model, table: SiteTable) -> Policy:
        """Read the logits of a supermodel, by its Choices' (site, task).

        Raises:
            ModelError: The model has no or other logits than the table needs.
        """
        found = {}
        for choice in choices(model.graph):
            if choice.logits.const_value is not None:
                found[choice.site, choice.task] = choice.logits.const_value.numpy()
        return cls.of_mapping(table, found)

    def probabilities(self, temperature: float = 1.0) -> list[Float64]:
        """softmax(logits / temperature): per site an array [tasks, options]."""
        result = []
        for array in self.logits:
            shifted = (array - array.max(axis=1, keepdims=True)) / temperature
            weights = np.exp(shifted)
            result.append(weights / weights.sum(axis=1, keepdims=True))
        return result

    def log_probability(self, architecture: Architecture) -> float:
        """Natural logarithm of the probability of drawing this architecture.

        Raises:
            ModelError: The architecture does not fit the table.
        """
        found = []
        for (site, task), option in architecture.indices(self.table).items():
            row = self.logits[site][task] - self.logits[site][task].max()
            found.append(float(row[option] - np.log(np.exp(row).sum())))
        return math.fsum(found)

    def entropy(self) -> float:
        """Mean entropy of the (site, task) distributions as a share of the largest possible: 1 uniform, 0 decided.

        Sites with a single option are left out; 0 if there are no others.
        """
        values: list[float] = []
        for site, p in zip(self.table.sites, self.probabilities(), strict=True):
            rows = [self.table.tasks.index(task) for task in self.table.tasks_at(site)]
            if len(site.options) > 1:
                information = -(p * np.log(np.maximum(p, np.finfo(np.float64).tiny))).sum(axis=1)
                values.extend((information[rows] / np.log(len(site.options))).tolist())
        return float(np.mean(values)) if values else 0.0
