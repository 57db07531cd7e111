"""What changes over a stage, as data: temperatures, the curriculum, and who takes turns.

A stage's numbers of steps (the length of a turn, a decay every so many steps) are those of its own length, or of the
length that its `reference` names, as papers give them. A run that is shorter or longer than the reference reads
everything at the corresponding place: 400 steps of a method that was published with 20 000 see the same temperatures.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

Unit = Literal["step", "turn", "share"]

_JUDGED = 40  # times that a policy is judged in one stage, at most
_COLDEST = 1e-6  # a sample is one-hot long before that; logits divided by less could overflow


@dataclasses.dataclass(frozen=True)
class Temperature:
    """Temperature of the Gumbel softmax over one stage.

    Attributes:
        start: At the first step.
        end: At the last step; not used by ``decay``.
        shape: ``exponential`` (equal ratios), ``linear`` (equal differences), ``polynomial``: `end` + (`start` −
            `end`) · (1 − step/steps)^`power`, which the last step does not quite bring to `end` (MTL-NAS), or
            ``decay``: times `ratio` after every `every` units, as the released codes do.
        ratio: Of ``decay``.
        every: Of ``decay``.
        unit: Of `every`: policy ``step`` s (AutoMTL), or ``turn`` s, finished runs of policy steps (AdaShare).
        power: Of ``polynomial``.
    """

    start: float = 5.0
    end: float = 0.1
    shape: Literal["exponential", "linear", "polynomial", "decay"] = "exponential"
    ratio: float = 0.965
    every: int = 1
    unit: Literal["step", "turn"] = "step"
    power: float = 2.0

    @property
    def legal(self) -> bool:
        """Whether it is more than 0 all the time; a polynomial may end at 0, where no step is."""
        lowest = min(self.start, self.ratio, self.every, self.power)
        return lowest > 0 and (self.end > 0 or (self.end == 0 and self.shape == "polynomial"))

    def at(self, step: float, steps: float, done: float = 0) -> float:
        """Temperature of step `step` (from 0) of `steps`, `done` units of the policy's training being over."""
        if self.shape == "decay":
            return max(self.start * self.ratio ** math.floor(done / self.every), _COLDEST)
        if self.shape == "polynomial":
            left = max(1.0 - step / steps, 0.0)
            return max(self.end + (self.start - self.end) * math.pow(left, self.power), _COLDEST)
        share = min(step / (steps - 1), 1.0) if steps > 1 else 1.0
        if self.shape == "linear":
            return self.start + (self.end - self.start) * share
        return self.start * math.exp(math.log(self.end / self.start) * share)


@dataclasses.dataclass(frozen=True)
class Curriculum:
    """Only the last sites decide at first; all others take option 0. One after another, from the back, they join.

    The last ⌊done / speed⌋ + 1 sites decide, `done` being counted in units (AdaShare: an epoch of policy training).

    Attributes:
        speed: Units per site; for ``share``: the share of the stage after which all sites decide.
        unit: ``turn`` (finished runs of policy steps), ``step`` (policy steps) or ``share`` (of the stage).
    """

    speed: float = 1.0
    unit: Unit = "turn"

    def active(self, done: float, sites: int) -> int:
        """How many of `sites` decide after `done` units (``share``: of the stage's length, which is 1)."""
        if self.unit == "share":
            return min(sites, math.floor(sites * done / self.speed) + 1) if self.speed > 0 else sites
        return min(sites, math.floor(done / self.speed) + 1)


@dataclasses.dataclass(frozen=True)
class Turns:
    """Policy steps and weight steps in turns.

    Attributes:
        policy: Steps of one turn of the policy; 0 if it is not trained.
        weights: Steps of one turn of the weights; 0 if they are not.
        first: Who begins.
    """

    policy: int
    weights: int
    first: Literal["policy", "weights"] = "policy"

    def is_policy(self, step: int) -> bool:
        """Whether step `step` (from 0) trains the policy."""
        place = step % (self.policy + self.weights)
        return place < self.policy if self.first == "policy" else place >= self.weights

    def begins(self, step: int) -> bool:
        """Whether a turn begins with step `step`."""
        return step == 0 or self.is_policy(step) != self.is_policy(step - 1)

    def policy_steps(self, step: float) -> float:
        """How many of the first `step` steps train the policy."""
        cycle = self.policy + self.weights
        whole = math.floor(step / cycle)
        rest = step - whole * cycle - (0 if self.first == "policy" else self.weights)
        return whole * self.policy + min(max(rest, 0.0), self.policy)

    def policy_turns(self, step: float) -> int:
        """How many turns of the policy are over after the first `step` steps."""
        if not self.policy:
            return 0
        # A little more than a whole turn may be a little less by rounding.
        return math.floor(self.policy_steps(step) / self.policy + 1e-9)

    def scaled(self, factor: float) -> Turns:
        """Turns of `factor` times the length, at least one step each, in about the same proportion."""
        trained = [turn for turn in (self.policy, self.weights) if turn]
        factor = max(factor, 1 / min(trained)) if factor < 1 else 1.0
        return dataclasses.replace(self, policy=round(self.policy * factor), weights=round(self.weights * factor))


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A stage's schedule in a run: all of it is a function of the step's number.

    Attributes:
        steps: Steps of the stage in this run.
        reference: Steps that `published` and all decays refer to; equal to `steps` where nothing is scaled.
        turns: Who trains when, in this run.
        published: The turns in a run of `reference` steps.
        temperature: Of the Gumbel softmax.
        curriculum: Or None: all sites decide from the start.
    """

    steps: int
    reference: int
    turns: Turns
    published: Turns
    temperature: Temperature
    curriculum: Curriculum | None

    def is_policy(self, step: int) -> bool:
        """Whether step `step` trains the policy."""
        return self.turns.is_policy(step)

    def turn_place(self, step: int) -> int:
        """How many steps before `step` train what it trains: each part goes through data of its own, batch by batch."""
        policy = round(self.turns.policy_steps(step))
        return policy if self.is_policy(step) else step - policy

    def place(self, step: int) -> float:
        """The step of the reference run that `step` corresponds to."""
        return float(step) if self.steps == self.reference else step * self.reference / self.steps

    def temperature_at(self, step: int) -> float:
        """Temperature of step `step`."""
        if self.temperature.shape == "decay":
            return self.temperature.at(0, 0, self._done(step, self.temperature.unit))
        return self.temperature.at(step, self.steps)

    def active_at(self, step: int, sites: int) -> int:
        """How many of `sites`, counted from the last one, decide in step `step`."""
        if self.curriculum is None:
            return sites
        return self.curriculum.active(self._done(step, self.curriculum.unit), sites)

    def judged_after(self, step: int, sites: int) -> bool:
        """Whether the policy is judged after `step`: when a turn of it ends and all `sites` decide, dozens of times."""
        if not self.is_policy(step) or self.active_at(step, sites) < sites:
            return False
        before, after = (self.turns.policy_turns(step + i) for i in (0, 1))
        every = -(-self.turns.policy_turns(self.steps) // _JUDGED)
        return after > before and after % every == 0

    def _done(self, step: int, unit: Unit) -> float:
        if unit == "share":
            return step / max(self.steps - 1, 1)
        place = self.place(step)
        return self.published.policy_turns(place) if unit == "turn" else self.published.policy_steps(place)
