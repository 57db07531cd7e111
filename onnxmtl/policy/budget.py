"""Budgets as the user writes them: ``params<=0.6x, madds<=12M, trunk.params<=5M, latency<=4ms``.

``x`` is relative to separate models, one per task, side by side. Numbers count the emitted model with its heads;
``trunk.`` leaves the heads out, as the papers do. Several limits of a budget hold together.
"""

from __future__ import annotations

import dataclasses
import math
import re
from decimal import Decimal
from typing import Literal

from onnxmtl.cost.count import Costs
from onnxmtl.errors import BudgetError

Quantity = Literal["parameters", "multiply_adds", "latency"]

_NAMES: dict[str, Quantity] = {
    "params": "parameters",
    "parameters": "parameters",
    "madds": "multiply_adds",
    "multiply_adds": "multiply_adds",
    "latency": "latency",
}
_SHORT = {"parameters": "params", "multiply_adds": "madds", "latency": "latency"}
_AMOUNTS = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9}
_TIMES = {"ms": 1.0, "s": 1e3, "us": 1e-3}  # milliseconds
_FORM = re.compile(r"(trunk\.)?([a-z_]+)\s*<=\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*([a-zA-Z]*)", re.ASCII)
_EXAMPLE = "params<=0.6x, madds<=12M, trunk.params<=5M, latency<=4ms"


@dataclasses.dataclass(frozen=True)
class Absolute:
    """A limit in numbers.

    Attributes:
        quantity: What is limited.
        bound: The largest allowed value: elements, multiply-adds or milliseconds.
        trunk: Whether heads are left out.
        text: How the user wrote it; for messages.
    """

    quantity: Quantity
    bound: float
    trunk: bool = False
    text: str = ""

    def __post_init__(self) -> None:
        if not math.isfinite(self.bound):
            msg = f"a limit needs a finite bound, not {self.bound}"
            raise ValueError(msg)

    @property
    def name(self) -> str:
        """As in a budget: ``params``, ``trunk.madds`` …"""
        return ("trunk." if self.trunk else "") + _SHORT[self.quantity]

    def __str__(self) -> str:
        return self.text or f"{self.name}<={self.bound:g}"

    def allows(self, value: float) -> bool:
        """Whether `value` is within the limit."""
        return value <= self.bound

    def of(self, costs: Costs) -> float:
        """What a counted model has of the quantity.

        Raises:
            ValueError: Latency, which is measured and not counted.
        """
        return _of(costs, self.quantity, self.trunk)


@dataclasses.dataclass(frozen=True)
class Limit:
    """One part of a budget, as written.

    Attributes:
        quantity: What is limited.
        bound: A number, or a multiple of what separate models have; milliseconds for latency.
        relative: Whether `bound` is such a multiple.
        trunk: Whether heads are left out.
        text: How the user wrote it.
    """

    quantity: Quantity
    bound: float
    relative: bool = False
    trunk: bool = False
    text: str = ""

    def resolve(self, separate: Costs) -> Absolute:
        """The limit in numbers.

        Args:
            separate: The separate models together (each task's own, summed up).
        """
        bound = self.bound
        if self.relative:  # in decimals: 0.29 of 100 is 29
            bound = float(Decimal(repr(self.bound)) * Decimal(_of(separate, self.quantity, self.trunk)))
        return Absolute(self.quantity, bound, self.trunk, self.text)

    def __str__(self) -> str:
        return self.text or f"{'trunk.' * self.trunk}{_SHORT[self.quantity]}<={self.bound:g}{'x' * self.relative}"


def parse_budget(text: str) -> tuple[Limit, ...]:
    """Read a budget: limits separated by commas; the empty text is no limit.

    Raises:
        BudgetError: A part has another form; names it.
    """
    return tuple(_parse(part.strip()) for part in text.split(",")) if text.strip() else ()


def _parse(part: str) -> Limit:
    match = _FORM.fullmatch(part)
    if match is None:
        raise BudgetError(f"the budget's part {part!r} has to look like one of these: {_EXAMPLE}")
    trunk, name, number, unit = match.groups()
    quantity = _NAMES.get(name)
    if quantity is None:
        raise BudgetError(f"the budget's part {part!r} limits {name!r}; what can be limited: params, madds, latency")
    units = _TIMES if quantity == "latency" else {**_AMOUNTS, "x": 1.0}
    if unit not in units:
        known = ", ".join(u for u in units if u)
        raise BudgetError(f"the budget's part {part!r} has the unit {unit!r}; {name} takes one of {known}")
    if trunk and quantity == "latency":
        raise BudgetError(f"the budget's part {part!r}: latency is measured on the whole model; leave out 'trunk.'")
    try:
        bound = float(Decimal(number) * Decimal(repr(units[unit])))
    except (ArithmeticError, OverflowError):
        bound = 0.0
    if not 0 < bound < math.inf:
        raise BudgetError(f"the budget's part {part!r} needs a positive number, not {number!r}")
    return Limit(quantity, bound, unit == "x", bool(trunk), part)


def _of(costs: Costs, quantity: Quantity, trunk: bool) -> float:
    if quantity == "latency":
        msg = "latency is measured, not counted"
        raise ValueError(msg)
    return float(getattr(costs, f"{quantity}_trunk" if trunk else quantity))
