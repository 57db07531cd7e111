"""All architectures of a small table, how probable they are, and how a supermodel becomes the selected graph."""

from __future__ import annotations

import itertools

import numpy as np

from onnxmtl.analysis.table import SiteTable
from onnxmtl.policy import Policy


def every_architecture(table: SiteTable) -> np.ndarray:
    """Options [architectures, sites, tasks]; -1 where a task does not pass through a site."""
    places = [(site.index, t) for site in table.sites for t in (site.tasks or range(len(table.tasks)))]
    options = [range(len(table.sites[s].options)) for s, _ in places]
    drawn = np.array(list(itertools.product(*options)), dtype=np.int64).reshape(-1, len(places))
    picks = np.full((len(drawn), len(table.sites), len(table.tasks)), -1, np.int64)
    for column, (s, t) in enumerate(places):
        picks[:, s, t] = drawn[:, column]
    return picks


def log_probabilities(policy: Policy, picks: np.ndarray) -> np.ndarray:
    """Of each architecture, by the definition of the softmax."""
    total = np.zeros(len(picks))
    for s, logits in enumerate(policy.logits):
        for t, row in enumerate(logits):
            if picks[0, s, t] >= 0:
                total += (row - row.max() - np.log(np.exp(row - row.max()).sum()))[picks[:, s, t]]
    return total


def number_of_architectures(table: SiteTable) -> int:
    """How many :func:`every_architecture` would list."""
    tasks = len(table.tasks)
    return int(np.prod([float(len(s.options)) ** len(s.tasks or range(tasks)) for s in table.sites]))


def random_policy(table: SiteTable, rng: np.random.Generator, spread: float) -> Policy:
    """Normal logits with this standard deviation; whole numbers now and then, so that ties occur."""
    logits = [rng.normal(0, spread, (len(table.tasks), len(site.options))) for site in table.sites]
    return Policy(table, tuple(np.round(array) if rng.random() < 0.2 else array for array in logits))
