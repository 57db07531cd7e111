"""Trees by measured time: what a block takes, and a table whose costs are microseconds.

A block alone, cut out and timed, tells little of what it takes within a model. So whole models are measured, in which
one task leaves the others at one block after the other; the difference between neighbours is what a second copy of a
block takes. The table with these times serves as any other: expected cost, decoders, counts. Only a measurement of the
emitted model says whether a limit is kept (:mod:`onnxmtl.policy.measured`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from onnxmtl.analysis.table import CostItem, SiteTable
from onnxmtl.errors import ModelError
from onnxmtl.policy.architecture import Architecture


@dataclasses.dataclass(frozen=True)
class Times:
    """Microseconds of one image.

    Attributes:
        blocks: Of one candidate of each site, by the site's id.
        rest: Of all else: what lies outside the sites, and the runtime's own work.
    """

    blocks: Mapping[str, float]
    rest: float = 0.0


def measured_times(table: SiteTable, measure: Callable[[Architecture], float]) -> Times:
    """Measure one model more than there are sites.

    Noise that would make a block take less than nothing is averaged out with its neighbours.

    Args:
        table: Of grouped sites (the space ``branch``).
        measure: Milliseconds of the model that an architecture selects, as :func:`onnxmtl.runtime.latency` gives them.

    Raises:
        ModelError: The table is another one.
    """
    _check(table)
    leaving = table.tasks_at(table.sites[-1])[-1]
    milliseconds = []
    for point in range(len(table.sites) + 1):
        choices = {
            site.id: {task: site.option_names[task == leaving and site.index >= point] for task in table.tasks_at(site)}
            for site in table.sites
        }
        milliseconds.append(measure(Architecture(choices).validate(table)))
    falling = not_rising(milliseconds)
    blocks = {site.id: 1e3 * (falling[site.index] - falling[site.index + 1]) for site in table.sites}
    return Times(blocks, max(0.0, 1e3 * falling[-1] - sum(blocks.values())))


def in_microseconds(table: SiteTable, times: Times) -> SiteTable:
    """The table with these times in the place of multiply-adds, in whole microseconds.

    Weights stay as they are. What lies outside the sites is one cost that is there always.

    Raises:
        ModelError: It is no table of the space ``branch``, or a block's time is missing.
    """
    _check(table)
    missing = [site.id for site in table.sites if site.id not in times.blocks]
    if missing:
        msg = f"the measured times lack the block {missing[0]!r}; they have: {', '.join(times.blocks) or 'none'}"
        raise ModelError(msg)
    items = []
    for site in table.sites:
        everyone = site.tasks or tuple(range(len(table.tasks)))
        above = {before.index: tuple(range(len(before.options))) for before in table.sites[: site.index]}
        if cost := round(times.blocks[site.id]):
            items += [CostItem(cost, site.index, option, everyone, above) for option in range(len(site.options))]
    if rest := round(times.rest):
        items.append(CostItem(rest, None, None, (0,)))
    sites = tuple(
        dataclasses.replace(
            site,
            options=tuple(dataclasses.replace(o, multiply_adds=round(times.blocks[site.id])) for o in site.options),
        )
        for site in table.sites
    )
    return dataclasses.replace(table, sites=sites, cost_items=tuple(items))


def not_rising(values: Sequence[float]) -> list[float]:
    """The closest sequence (least squares) that does not rise: neighbours that do are averaged."""
    parts: list[tuple[float, int]] = []
    for value in values:
        parts.append((value, 1))
        while len(parts) > 1 and parts[-2][0] < parts[-1][0]:
            (one, m), (two, n) = parts[-2:]
            parts[-2:] = [((one * m + two * n) / (m + n), m + n)]
    return [value for value, count in parts for _ in range(count)]


def _check(table: SiteTable) -> None:
    if not table.sites or not all(site.grouped for site in table.sites):
        msg = "times of blocks are for the space 'branch'; of other models the emitted one is measured"
        raise ModelError(msg)
