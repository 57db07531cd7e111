"""Which architectures a policy proposes, and which of them is the best on held-out data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from onnxmtl.kinds import TaskSet
from onnxmtl.policy import Architecture, Layout, Policy, layout_of
from onnxmtl.policy.decoders import argmax, sample
from onnxmtl.policy.random_trees import is_tree_space
from onnxmtl.runs import derive_seed
from onnxmtl.train.metrics import higher_is_better

Metrics = Mapping[str, Mapping[str, float]]

# Added to the logit of an option that is forced: all others have no probability left, in float64 too.
FORCED = 1e4


def with_prefix(policy: Policy, sites: int) -> Policy:
    """The policy with the first `sites` sites forced to their first option (AutoMTL's bottom N)."""
    logits = [array.copy() for array in policy.logits]
    for array in logits[:sites]:
        array[:, 0] = array.max(axis=1) + FORCED
    return dataclasses.replace(policy, logits=tuple(logits))


def begins_shared(architecture: Architecture, policy: Policy, sites: int) -> bool:
    """Whether the first `sites` sites take their first option: a decoder under a budget may see no other way."""
    return all(
        set(architecture.choices[site.id].values()) <= {site.options[0].name} for site in policy.table.sites[:sites]
    )


def perturbed(policy: Policy, seed: int, draw: int) -> Policy:
    """The policy with Gumbel noise on its logits: its most probable architecture is a sample of `policy`.

    So a decoder that keeps a budget samples, too: from the architectures within the budget, roughly by probability.
    A function of (seed, draw, site, task).
    """
    logits = []
    for site, array in zip(policy.table.sites, policy.logits, strict=True):
        rows = []
        for row, task in zip(array, policy.table.tasks, strict=True):
            random = np.random.default_rng(derive_seed(seed, "perturb", draw, site.id, task))
            rows.append(row + random.gumbel(size=len(row)))
        logits.append(np.stack(rows) if rows else array)
    return dataclasses.replace(policy, logits=tuple(logits))


def propose(policy: Policy, *, samples: int, with_argmax: bool, seed: int) -> dict[Architecture, int]:
    """Architecture -> how often it was drawn; the most probable one alone if `samples` is 0."""
    found: dict[Architecture, int] = {}
    if with_argmax or not samples:
        found[argmax(policy)] = 0 if samples else 1
    for architecture in sample(policy, samples, seed):
        found[architecture] = found.get(architecture, 0) + 1
    return found


def distinct(policy: Policy, counts: Mapping[Architecture, int]) -> dict[Architecture, int]:
    """In the space ``branch`` of all architectures that are one tree the most probable one; elsewhere all of them.

    Args:
        policy: What they were drawn from.
        counts: Architecture -> how often it was drawn.
    """
    if not is_tree_space(policy.table):
        return dict(counts)
    trees: dict[Layout, list[Architecture]] = {}
    for architecture in counts:
        trees.setdefault(layout_of(policy.table, architecture), []).append(architecture)
    return {max(alike, key=policy.log_probability): sum(map(counts.__getitem__, alike)) for alike in trees.values()}


def scores(tasks: TaskSet, found: Sequence[Metrics]) -> list[float]:
    """How much better than the candidates' mean each one is, in percent, over all metrics of a task, then all tasks.

    Symmetric in the candidates, so that their order changes nothing. A metric without a value counts as the worst.
    """
    each = []
    for task in tasks:
        terms = []
        for metric in task.metrics:
            values = np.array([metrics[task.name].get(metric, math.nan) for metrics in found], dtype=np.float64)
            known = values[np.isfinite(values)]
            mean = float(np.abs(known).mean()) if known.size else 0.0
            if not mean:
                continue  # nobody has a value, or all are zero
            better = (values - known.mean()) / mean * (1 if higher_is_better(metric) else -1)
            worst = float(better[np.isfinite(better)].min())
            terms.append(np.where(np.isfinite(better), better, worst - 1.0))
        each.append(np.mean(terms, axis=0) if terms else np.zeros(len(found)))
    return [float(100 * value) for value in np.mean(each, axis=0)]
