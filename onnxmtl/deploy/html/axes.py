"""Axes: round ticks, and the way from numbers to pixels, linear or logarithmic."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

_TINY = 1e-200  # not told from 0


@dataclasses.dataclass(frozen=True)
class Axis:
    """One axis of a chart.

    Attributes:
        low, high: Its numbers, low < high.
        start, end: Its pixels; a y axis has start > end.
        log: Whether it is logarithmic (both numbers are positive then).
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """The pixel of a number; numbers beyond the axis are held at its end."""
        inside = min(max(value, self.low), self.high)
        if self.log:
            share = math.log(inside / self.low) / math.log(self.high / self.low)
        else:
            share = (inside - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int = 4) -> list[float]:
        """About `count` round numbers on the axis."""
        if self.log:
            return _log_ticks(self.low, self.high, count)
        step = round_step((self.high - self.low) / max(1, count))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [i * step for i in range(first, last + 1)]


def round_step(rough: float) -> float:
    """The smallest of 1, 2, 2.5 and 5 times a power of ten that is not below `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    for factor in (1.0, 2.0, 2.5, 5.0):
        if factor * power >= rough * (1 - 1e-9):
            return factor * power
    return 10.0 * power


def _log_ticks(low: float, high: float, count: int) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        found = [f * 10.0**d for d in decades for f in factors if low <= f * 10.0**d <= high]
        if len(found) <= count + 2:
            return found
    return found[:: math.ceil(len(found) / count)]


def axis(values: Sequence[float], start: float, end: float, *, zero: bool = False, log: bool = False) -> Axis:
    """An axis on which all `values` find room.

    Args:
        values: At least one.
        start, end: Pixels.
        zero: Whether 0 must be on it.
        log: Logarithmic where they are positive and span more than a factor of 20 (and less than people can read).
    """
    low, high = min(values), max(values)
    if log and low > _TINY and 20 < high / low < 1e12:
        return Axis(low / 1.15, high * 1.15, start, end, log=True)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low <= max(1e-9 * max(abs(low), abs(high)), _TINY):  # all equal
        room = abs(high) * 0.5 if abs(high) > _TINY else 1.0
        low, high = low - room, high + room
    room = 0.06 * (high - low)
    below = low if low == 0 else low - room
    return Axis(below, high if high == 0 else high + room, start, end)


def tick_text(value: float) -> str:
    """A tick's number."""
    if value and (abs(value) >= 1e5 or abs(value) < 1e-3):
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    text = f"{value:.4f}".rstrip("0").rstrip(".")
    return ("0" if text in ("", "-0") else text).replace("-", "−")
