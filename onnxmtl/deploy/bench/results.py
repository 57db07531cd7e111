"""What a measurement says: times with their spread, ratios to separate models, and why they are no other."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from onnxmtl.deploy.bench.memory import Memory
from onnxmtl.deploy.bench.profiling import Profile
from onnxmtl.deploy.results import finite

ARITHMETIC = 0.9  # share of the profile from which on the latency is to follow the multiply-adds
SHORT = 10.0  # milliseconds below which the fixed costs of a run count
CLOSE = 0.1  # relative
DISTURBED = 1.2  # time passed over time worked


@dataclasses.dataclass(frozen=True)
class Spread:
    """A number that was measured many times.

    Attributes:
        median: The middle one.
        low, high: The quartiles: half of all values lie between them.
        count: How many there are.
    """

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of one value or more."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0], 1)
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high, len(values))

    @property
    def relative(self) -> float:
        """Half the distance of the quartiles, as a share of the median."""
        return (self.high - self.low) / 2 / self.median if self.median else 0.0


@dataclasses.dataclass(frozen=True)
class Subject:
    """What was measured.

    Attributes:
        name: What tables call it.
        files: Its models.
        multiply_adds: For one image, all models together; None if they cannot be counted.
        file_bytes: Of all models with their weights.
    """

    name: str
    files: tuple[str, ...]
    multiply_adds: int | None
    file_bytes: int


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One candidate in one setting.

    Attributes:
        candidate: Its name.
        threads: Within an operator.
        batch: Images at once.
        latency: Milliseconds of a batch, all models of the candidate.
        work: Milliseconds of the processor, all threads together, of the same.
        parts: Latency of each of its models.
        ratio: Latency over that of the baseline, within the same round; None of the baseline, or without one.
        work_ratio: The same of the processor's time.
        ideal: Multiply-adds over the baseline's; None if unknown.
        memory: Bytes that its sessions take; None if it was not measured.
        profile: Where the time goes; None if it was not measured.
    """

    candidate: str
    threads: int
    batch: int
    latency: Spread
    work: Spread
    parts: tuple[Spread, ...]
    ratio: Spread | None
    work_ratio: Spread | None
    ideal: float | None
    memory: Memory | None
    profile: Profile | None

    @property
    def throughput(self) -> float:
        """Images per second."""
        return 1e3 * self.batch / self.latency.median if self.latency.median else math.nan

    @property
    def disturbed(self) -> bool:
        """Whether other programs took the cores: more time passed than all threads of the run worked."""
        return self.latency.median > DISTURBED * self.work.median > 0

    @property
    def excess(self) -> float | None:
        """By how much the ratio is above the ideal one, relative; None if either is unknown."""
        return None if self.ratio is None or not self.ideal else self.ratio.median / self.ideal - 1


@dataclasses.dataclass(frozen=True)
class Bench:
    """A measurement of several candidates, side by side.

    Attributes:
        machine: Processor, ONNX Runtime, providers: text by name.
        subjects: The candidates, in order.
        baseline: Name of the one that ratios refer to; "" without.
        measurements: By setting, in the order of the candidates.
        remarks: What could not be measured, and why.
    """

    machine: Mapping[str, str]
    subjects: tuple[Subject, ...]
    baseline: str
    measurements: tuple[Measurement, ...]
    remarks: tuple[str, ...] = ()

    def base_of(self, one: Measurement) -> Measurement | None:
        """The baseline in the same setting."""
        for other in self.measurements:
            if other.candidate == self.baseline and (other.threads, other.batch) == (one.threads, one.batch):
                return other
        return None

    def explanations(self) -> tuple[str, ...]:
        """One sentence or more for each ratio: whether it is that of the multiply-adds, and if not, why."""
        found = (explain(one, base) for one in self.measurements if (base := self.base_of(one)) and one.ratio)
        return tuple(text for text in found if text)

    def to_json(self) -> dict[str, Any]:
        """As JSON values; numbers that are not finite are null."""
        content: dict[str, Any] = dataclasses.asdict(self)
        for row, one in zip(content["measurements"], self.measurements, strict=True):
            base = self.base_of(one)
            row["throughput"] = one.throughput
            row["excess"] = one.excess
            row["follows_multiply_adds"] = None if base is None or one.ratio is None else follows(one, base)
            if one.profile is not None:
                row["profile"]["share"] = one.profile.share
        content["explanations"] = list(self.explanations())
        plain: dict[str, Any] = finite(content)
        return plain


def follows(one: Measurement, base: Measurement) -> bool | None:
    """Whether the ratio is within 10 % of that of the multiply-adds.

    None where it need not be (convolutions and matrix products are less than 90 % of the profile of either, or the
    baseline's run is shorter than 10 ms), and where nobody can tell: the rounds differ by more than that, or something
    of this is unknown.
    """
    excess = one.excess
    if (
        excess is None
        or one.ratio is None
        or one.ratio.relative > CLOSE
        or one.profile is None
        or base.profile is None
        or base.latency.median < SHORT
    ):
        return None
    if min(one.profile.share, base.profile.share) < ARITHMETIC:
        return None
    return abs(excess) <= CLOSE


def explain(one: Measurement, base: Measurement) -> str:
    """In words: the ratio, the ideal one, and what of the profile makes the difference; "" if nothing can be said."""
    excess = one.excess
    if one.ratio is None or excess is None or one.ideal is None:
        return ""
    where = f"{one.candidate}, {_threads(one.threads)}, batch {one.batch}"
    said = f"{where}: {one.ratio.median:.3f}× of {base.candidate}, by multiply-adds {one.ideal:.3f}×"
    if one.ratio.relative > CLOSE:
        return f"{said}; the rounds differ by ±{one.ratio.relative:.0%}, too much to tell more."
    if abs(excess) <= CLOSE:
        return f"{said}, within {CLOSE:.0%} of it."
    mine, theirs = one.profile, base.profile
    if mine is None or theirs is None or not theirs.arithmetic or not theirs.total:
        return f"{said}; the profile, which was not taken, would tell why."
    reasons = []
    arithmetic = mine.arithmetic / theirs.arithmetic
    rest, rest_before = mine.total - mine.arithmetic, theirs.total - theirs.arithmetic
    weight = arithmetic * theirs.share  # of the ratio, what the arithmetic contributes
    reasons.append(
        f"convolutions and matrix products are {theirs.share:.0%} of the profile of {base.candidate} and take "
        f"{arithmetic:.3f}× ({weight:.3f} of the profile's ratio of {mine.total / theirs.total:.3f})"
    )
    if abs(arithmetic / one.ideal - 1) > CLOSE:
        reasons.append("not all of them run at the same rate: layers that are shared and those that are not differ")
    if rest_before:
        names = ", ".join(f"{name} {share:.0%}" for name, share in mine.others())
        reasons.append(
            f"all other operators, which multiply-adds do not count, take {rest / rest_before:.3f}×"
            + (f" (of {one.candidate}: {names})" if names else "")
        )
    if base.latency.median < SHORT:
        reasons.append(f"a run takes less than {SHORT:.0f} ms, so its fixed costs count")
    return f"{said}: {'; '.join(reasons)}."


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"
