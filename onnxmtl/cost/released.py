"""The resource loss as BMTAS's released code computes it: too much for three tasks and more, kept to compare with.

For every layer l and partition k of the tasks but the finest one, it takes

    P_l(k) = P(the candidates sampled at layer l make exactly k) · Σ_{a: k refines a} P_{l−1}(a),     P_0 without the Σ

and gives what is left of 1 to the finest partition; the cost is Σ_l c_l Σ_k P_l(k)·|k|. But the groups at layer l are
the *meet* of those before it and of what is sampled. Where the sample is coarser than these, or cannot be compared,
the released code charges full separation: five tasks of which one leaves at the first of 18 layers, and samples as the
others do from then on, are charged 2 + 17·5 = 87 blocks instead of 36. With two tasks both are equal. The exact cost is
:class:`onnxmtl.cost.expected.ExpectedCost`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from onnxmtl.analysis.table import SiteTable
from onnxmtl.cost.arrays import Array, constant, to_float64
from onnxmtl.errors import ModelError

MAX_TASKS = 5  # 52 partitions, 3125 samples per layer

_Partition = frozenset[frozenset[int]]


class ReleasedCost:
    """The released estimate of the blocks' multiply-adds, without what is outside them. For the arrays see
    :class:`~onnxmtl.cost.expected.ExpectedCost`.

    Raises:
        ModelError: More than :data:`MAX_TASKS` tasks, or not every task takes one of T candidates at every site.
    """

    def __init__(self, table: SiteTable) -> None:
        tasks = len(table.tasks)
        if tasks > MAX_TASKS:
            msg = (
                f"the released resource loss sums over all partitions of the tasks and takes up to {MAX_TASKS} tasks, "
                f"the model has {tasks}; the exact one (multiply_adds) takes more"
            )
            raise ModelError(msg)
        if not table.sites or not all(s.grouped and not s.tasks and len(s.options) == tasks for s in table.sites):
            msg = (
                "the released resource loss is about the space 'branch', with all tasks in all blocks; take the exact "
                "one (multiply_adds)"
            )
            raise ModelError(msg)
        samples = list(itertools.product(range(tasks), repeat=tasks))
        partitions = sorted({_partition(sample) for sample in samples}, key=lambda k: (len(k), sorted(map(sorted, k))))
        self._samples = np.array(samples).T  # [tasks, samples]
        index = {partition: i for i, partition in enumerate(partitions)}
        self._makes = np.zeros((len(samples), len(partitions)))
        self._makes[np.arange(len(samples)), [index[_partition(sample)] for sample in samples]] = 1.0
        self._refined = np.array([[float(_refines(k, a)) for k in partitions] for a in partitions])
        self._extra = np.array([float(len(k) - tasks) for k in partitions])  # blocks, less than the finest has
        self._costs = [float(site.options[0].multiply_adds) for site in table.sites]
        self._finest = tasks

    def multiply_adds(self, probabilities: Sequence[Array]) -> Array:
        """The estimate, of probabilities [tasks, candidates] per site."""
        total = to_float64(probabilities[0]).sum() * 0.0
        before = None
        for cost, p in zip(self._costs, probabilities, strict=True):
            sampled = to_float64(p)[0][constant(self._samples[0], p)]
            for task, drawn in enumerate(self._samples[1:], 1):
                sampled = sampled * to_float64(p)[task][constant(drawn, p)]
            here = sampled @ constant(self._makes, p)
            if before is not None:
                here = here * (before @ constant(self._refined, p))
            total = total + cost * (self._finest + (here * constant(self._extra, p)).sum())
            before = here
        return total


def _partition(sample: Sequence[int]) -> _Partition:
    return frozenset(frozenset(t for t, j in enumerate(sample) if j == option) for option in set(sample))


def _refines(fine: _Partition, coarse: _Partition) -> bool:
    return all(any(part <= other for other in coarse) for part in fine)
