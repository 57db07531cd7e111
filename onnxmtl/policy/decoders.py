"""From a policy to architectures: the most probable options, samples, or a threshold on one option.

Every decoder sees the table of sites only. Sampling is a pure function of (seed, number of the draw, site, task): one
more task or site, or more draws, leaves the other choices as they are.
"""

from __future__ import annotations

import numpy as np

from onnxmtl.policy.architecture import Architecture
from onnxmtl.policy.policy import Policy
from onnxmtl.runs.seeds import derive_seed


def argmax(policy: Policy) -> Architecture:
    """The most probable option at every (site, task); of equally probable ones the first."""
    picks = {
        (s, t): int(option)
        for s, logits in enumerate(policy.logits)
        for t, option in enumerate(np.argmax(logits, axis=1))
    }
    return Architecture.from_indices(policy.table, picks)


def sample(policy: Policy, k: int, seed: int, temperature: float = 1.0) -> tuple[Architecture, ...]:
    """`k` architectures, each drawn option by option from the policy; equal ones can occur.

    Args:
        policy: The distributions.
        k: How many to draw. The first draws do not depend on it.
        seed: The run's seed.
        temperature: Divides the logits; below 1 the likely options become likelier.
    """
    table = policy.table
    cumulative = [np.cumsum(p, axis=1) for p in policy.probabilities(temperature)]
    drawn = []
    for draw in range(k):
        picks: dict[tuple[int, int], int] = {}
        for site in table.sites:
            for t, task in enumerate(table.tasks):
                stream = derive_seed(seed, "sample", draw, site.id, task)
                # The last bound can fall short of 1 by rounding, so it is left out.
                bounds = cumulative[site.index][t][:-1]
                uniform = np.random.default_rng(stream).random()
                picks[site.index, t] = int(np.searchsorted(bounds, uniform, side="right"))
        drawn.append(Architecture.from_indices(table, picks))
    return tuple(drawn)


def threshold(policy: Policy, option: str, level: float = 0.5) -> Architecture:
    """`option` wherever its probability reaches `level`, else the most probable of the other options.

    Sites without that option, or with no other, are decoded as by :func:`argmax`.
    """
    picks: dict[tuple[int, int], int] = {}
    for site, probabilities in zip(policy.table.sites, policy.probabilities(), strict=True):
        chosen = site.option_index(option) if option in site.option_names and len(site.options) > 1 else None
        for t, row in enumerate(probabilities):
            if chosen is None:
                picks[site.index, t] = int(np.argmax(row))
            elif row[chosen] >= level:
                picks[site.index, t] = chosen
            else:
                others = np.where(np.arange(len(row)) == chosen, -1.0, row)
                picks[site.index, t] = int(np.argmax(others))
    return Architecture.from_indices(policy.table, picks)
