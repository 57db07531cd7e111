"""The policy: a heat map per task and site (as AutoMTL Fig. 5a and AdaShare Fig. 3), and how alike the tasks' policies
are (cosine, as AutoMTL Fig. 9 and AdaShare Fig. 3e)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from onnxmtl.deploy.html.figure import PANEL, Figure, Panel, legend_item
from onnxmtl.deploy.html.rows import NAMES, bands, broken, head_height, heads, name_cell, row_height, short_names
from onnxmtl.deploy.html.theme import option_class, task_class
from onnxmtl.deploy.runfiles import RunPolicy, SitePolicy
from onnxmtl.deploy.svg import SANS_EM, box, cut, group, label
from onnxmtl.policy.architecture import Architecture

_BETWEEN = 7  # tasks
_WIDEST = 15  # of a cell
_SURE = 0.9


def policy_figure(policy: RunPolicy, chosen: Architecture | None) -> Figure:
    """Probability of every option, per site (row) and task (column); what was chosen has a frame.

    Args:
        policy: With at least one site and one task.
        chosen: The architecture that was taken, if it is known.
    """
    options = option_names(policy)
    names = short_names([site.site for site in policy.sites])
    parts = broken(list(zip(policy.sites, names, strict=True)))
    panels = [_panel(part, policy, options, chosen, f"{i + 1} of {len(parts)}") for i, part in enumerate(parts)]
    certain = [max(p) >= _SURE for site in policy.sites for p in site.probabilities]
    text = (
        f"Probability of {_listed(options)} per site (row) and task (column)"
        f"{'; what was taken has a frame' if chosen is not None else ''}. "
        f"{sum(certain)} of {len(certain)} decisions are sure (probability {_SURE} or more)."
    )
    return Figure("policy", "Policy", text, tuple(panels), _legend(options, chosen is not None))


def option_names(policy: RunPolicy) -> list[str]:
    """Names of all options, in the order in which sites first offer them."""
    return list(dict.fromkeys(name for site in policy.sites for name in site.options))


def _panel(
    rows: Sequence[tuple[SitePolicy, str]],
    policy: RunPolicy,
    options: Sequence[str],
    chosen: Architecture | None,
    number: str,
) -> Panel:
    tasks = policy.tasks
    room = PANEL - NAMES - 4 - _BETWEEN * (len(tasks) - 1)
    cell = min(_WIDEST, room / (len(tasks) * len(options)))
    lefts = [NAMES + 4 + i * (cell * len(options) + _BETWEEN) for i in range(len(tasks))]
    top, height = head_height(tasks), row_height(len(policy.sites))
    width = lefts[-1] + cell * len(options)
    middles = [left + cell * len(options) / 2 for left in lefts]
    parts = [
        *heads([(task, i) for i, task in enumerate(tasks)], middles, top),
        *bands(len(rows), top, height, width),
    ]
    for i, (site, name) in enumerate(rows):
        y = top + i * height
        shapes = [name_cell(name, y + height / 2)]
        tips = []
        for task, left in zip(tasks, lefts, strict=True):
            p = site.of(task)
            if p is None:
                shapes.append(label(left + cell * len(options) / 2, y + height / 2 + 3, "–", "faint", anchor="middle"))
                continue
            taken = chosen.choices.get(site.site, {}).get(task) if chosen is not None else None
            shapes += _cells(site.options, p, options, taken, left, y, cell, height)
            tips.append(f"{task}: " + ", ".join(f"{o} {x:.2f}" for o, x in zip(site.options, p, strict=True)))
        parts.append(group(shapes, f"{site.site} (depth {site.depth}). {'; '.join(tips)}"))
    shown = f"heat map of the policy, part {number}: {len(rows)} sites, {len(tasks)} tasks"
    return Panel(max(PANEL, width), top + height * len(rows) + 4, "".join(parts), shown)


def _cells(
    offered: Sequence[str],
    probabilities: Sequence[float],
    options: Sequence[str],
    taken: str | None,
    left: float,
    y: float,
    cell: float,
    height: float,
) -> list[str]:
    """One cell per option, the options of all sites in the same places."""
    parts, frame = [], ""
    for name, p in zip(offered, probabilities, strict=True):
        place = options.index(name)
        x = left + place * cell
        parts.append(box(x, y + 1, cell - 0.8, height - 2, option_class(name, place), opacity=0.06 + 0.94 * p))
        if name == taken:
            frame = box(x - 0.2, y + 0.8, cell - 0.4, height - 1.6, "rim chosen", radius=1.5)
    return [*parts, frame] if frame else parts


def _legend(options: Sequence[str], framed: bool) -> tuple[Panel, ...]:
    items = []
    for i, name in enumerate(options):
        kind = option_class(name, i)
        scale = [box(j * 11, -6, 10.4, 12, kind, opacity=0.06 + 0.94 * j / 4) for j in range(5)]
        items.append(legend_item(scale, 55, f"{cut(name, 26)}, 0 to 1"))
    if framed:
        items.append(legend_item([box(0.5, -6, 11, 12, "rim chosen", radius=1.5)], 12, "taken"))
    return tuple(items)


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def correlation(policy: RunPolicy) -> list[list[float]]:
    """Cosine of every two tasks' probabilities over the sites that both pass through; nan if there are none."""
    return [[_cosine(policy, a, b) for b in policy.tasks] for a in policy.tasks]


def _cosine(policy: RunPolicy, a: str, b: str) -> float:
    dot = left = right = 0.0
    for site in policy.sites:
        p, q = site.of(a), site.of(b)
        if p is not None and q is not None:
            dot += math.fsum(x * y for x, y in zip(p, q, strict=True))
            left += math.fsum(x * x for x in p)
            right += math.fsum(y * y for y in q)
    return min(1.0, dot / math.sqrt(left * right)) if left and right else math.nan


def correlation_figure(policy: RunPolicy) -> Figure:
    """The matrix of cosines."""
    values = correlation(policy)
    tasks = policy.tasks
    off = [
        values[i][j] for i in range(len(tasks)) for j in range(len(tasks)) if i != j and not math.isnan(values[i][j])
    ]
    low = math.floor(10 * min(off, default=0.0)) / 10
    left = 10 + min(110.0, 11 * SANS_EM * max(min(len(task), 14) for task in tasks))
    cell = min(44.0, (PANEL - left) / len(tasks))
    top = head_height(tasks)
    parts = heads([(t, i) for i, t in enumerate(tasks)], [left + cell * (i + 0.5) for i in range(len(tasks))], top)
    for i, one in enumerate(tasks):
        y = top + cell * i
        parts.append(label(left - 6, y + cell / 2 + 4, cut(one, 14), f"{task_class(i)} bold", anchor="end"))
        for j, other in enumerate(tasks):
            parts.append(_pair(values[i][j], low, left + cell * j, y, cell, f"{one} and {other}", i == j))
    size = top + cell * len(tasks) + 2
    text = (
        "Cosine of the tasks' probabilities over all sites (1: the same policy)"
        f"{f'; the colour begins at {low:.1f}' if off else ''}."
    )
    panel = Panel(PANEL, size, "".join(parts), "matrix of the cosines of the tasks' policies")
    return Figure("correlation", "Task correlation", text, (panel,))


def _pair(value: float, low: float, x: float, y: float, cell: float, names: str, same: bool) -> str:
    if math.isnan(value):
        return group([label(x + cell / 2, y + cell / 2 + 4, "–", "faint", anchor="middle")], f"{names}: no common site")
    share = 1.0 if low >= 1 else max(0.0, (value - low) / (1 - low))
    opacity = 0.05 + 0.95 * share
    shown = "1" if same else f"{value:.2f}"
    kind = "on" if opacity > 0.55 else ""
    size = 11 if cell >= 30 else 9.5
    return group(
        [
            box(x + 0.5, y + 0.5, cell - 1, cell - 1, "o0", radius=2, opacity=opacity),
            label(x + cell / 2, y + cell / 2 + 4, shown, kind, anchor="middle", size=size),
        ],
        f"{names}: {value:.4f}",
    )


def as_json(policy: RunPolicy) -> Mapping[str, Mapping[str, float]]:
    """Task -> task -> cosine."""
    values = correlation(policy)
    return {a: dict(zip(policy.tasks, row, strict=True)) for a, row in zip(policy.tasks, values, strict=True)}
