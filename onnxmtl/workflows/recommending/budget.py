"""Budgets of layouts: those of :mod:`onnxmtl.policy.budget`, and the number of backbones (``models<=2``)."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from decimal import Decimal

from onnxmtl.deploy.recommendation import QUANTITIES, LimitResult
from onnxmtl.deploy.report import amount
from onnxmtl.errors import BudgetError
from onnxmtl.policy.budget import parse_budget
from onnxmtl.policy.layout import Layout
from onnxmtl.workflows.recommending.costs import CostTable

_MODELS = re.compile(r"models\s*<=\s*(\S*)")
_LIKE_MODELS = re.compile(r"models?\b", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Wanted:
    """One limit as written.

    Attributes:
        quantity: Key of :data:`onnxmtl.deploy.recommendation.QUANTITIES`.
        bound: In numbers (latency in milliseconds), or as a multiple of separate models'.
        relative: Whether it is such a multiple.
        text: As the user wrote it.
    """

    quantity: str
    bound: float
    relative: bool
    text: str


def parse(text: str) -> tuple[Wanted, ...]:
    """Read a budget.

    Raises:
        BudgetError: A part has another form; names it.
    """
    wanted = []
    for part in (part.strip() for part in text.split(",")) if text.strip() else ():
        match = _MODELS.fullmatch(part)
        if match is not None:
            if not re.fullmatch(r"[1-9][0-9]{0,5}", match[1]):
                msg = f"the budget's part {part!r} limits the number of backbones: write models<=2, a whole number"
                raise BudgetError(msg)
            wanted.append(Wanted("models", float(match[1]), False, part))
            continue
        if _LIKE_MODELS.match(part):
            msg = f"the budget's part {part!r} has to look like models<=2, to limit the number of backbones"
            raise BudgetError(msg)
        for limit in parse_budget(part or ","):  # an empty part is a mistake, too
            name = f"{limit.quantity}_trunk" if limit.trunk else limit.quantity
            wanted.append(Wanted(name, limit.bound, limit.relative, part))
    return tuple(wanted)


def resolve(wanted: Sequence[Wanted], costs: CostTable, expected: bool) -> tuple[LimitResult, ...]:
    """Limits in numbers.

    Args:
        wanted: As written.
        costs: Of blocks and heads.
        expected: Whether there is a traffic model: then multiply-adds are those expected per request, relative to
            separate models that compute every task.

    Raises:
        BudgetError: What is limited is not known.
    """
    found = []
    for one in wanted:
        if one.quantity not in costs.copies:
            if one.quantity == "latency":
                msg = f"{one.text}: latencies were not measured; give the model, and {one.text} in its budget"
            else:
                msg = (
                    f"{one.text}: the heads are not known, for a task has no number of classes: write "
                    f"name=kind:N in --tasks, or limit the trunk alone, as trunk.{one.text}"
                )
            raise BudgetError(msg)
        bound = one.bound
        if one.relative:
            bound = float(Decimal(repr(one.bound)) * Decimal(costs.separate(one.quantity)))
        quantity = one.quantity
        if expected and quantity in ("multiply_adds", "multiply_adds_trunk"):
            quantity = f"expected_{quantity}"
        found.append(LimitResult(one.text, quantity, bound))
    return tuple(found)


def check_reachable(limits: Sequence[LimitResult], costs: CostTable, cheapest: dict[str, float]) -> None:
    """Refuse limits that even the layout in which all is shared exceeds: nothing is cheaper in any respect.

    Args:
        limits: The budget.
        costs: For what separate models have.
        cheapest: Quantity -> what sharing everything costs.

    Raises:
        BudgetError: Names the limit and the least that can be reached.
    """
    for limit in limits:
        least = cheapest[limit.quantity]
        if least <= limit.bound:
            continue
        plain = limit.quantity.removeprefix("expected_")
        separate = costs.separate(plain) if plain in costs.copies else 0.0
        share = f" ({least / separate:.3g}x of separate models)" if separate else ""
        unit = " ms" if limit.quantity == "latency" else ""
        shown = f"{least:.4g}" if unit else amount(round(least))
        msg = (
            f"{limit.limit}: no layout keeps it; sharing everything has {shown}{unit} "
            f"{'' if unit else QUANTITIES.get(plain, plain)}{share}, and nothing has less"
        )
        raise BudgetError(" ".join(msg.split()))


def allows(limits: Sequence[LimitResult], costs: dict[str, float]) -> bool:
    """Whether a layout's costs keep all limits."""
    return all(costs[limit.quantity] <= limit.bound for limit in limits)


def shared_layout(costs: CostTable) -> Layout:
    """All tasks share all blocks."""
    return Layout.shared(costs.tasks, costs.depth)
