"""Traffic: which tasks are asked for together, and how often. A block is computed if one of its tasks is asked for.

With it a layout's cost is the mean cost of a request: c_block · P(some task of the group is asked for). That depends
on the group alone, so the exact program stays exact.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxmtl.errors import TaskError
from onnxmtl.policy.enumeration import Group

_FORMS = '"seg+depth=0.5, normals=0.5", or a JSON file: {"requests": {"seg+depth": 0.5, "normals": 0.5}}'
_ROUNDING = 1e-9

__all__ = ["Traffic", "read_traffic"]


@dataclasses.dataclass(frozen=True)
class Traffic:
    """A distribution over requests.

    Attributes:
        tasks: Names.
        requests: (Indices of the tasks asked for, probability); probabilities sum to 1.

    Raises:
        TaskError: A request has no or an unknown task, a probability is not in 0 … 1, or they do not sum to 1.
    """

    tasks: tuple[str, ...]
    requests: tuple[tuple[frozenset[int], float], ...]

    def __post_init__(self) -> None:
        for asked, probability in self.requests:
            if not asked or not asked <= set(range(len(self.tasks))):
                msg = f"a request of the traffic asks for {sorted(asked)}; tasks go from 0 to {len(self.tasks) - 1}"
                raise TaskError(msg)
            if not 0 <= probability <= 1:
                msg = f"the traffic's request for {self._name(asked)} has the probability {probability}, not 0 to 1"
                raise TaskError(msg)
        total = math.fsum(probability for _, probability in self.requests)
        if abs(total - 1) > _ROUNDING:
            msg = f"the probabilities of the traffic's requests sum to {total:g}; they have to sum to 1"
            raise TaskError(msg)

    @classmethod
    def of(cls, tasks: Sequence[str], requests: Mapping[str, float]) -> Traffic:
        """Requests by names joined with ``+``: ``{"seg+depth": 0.5, "normals": 0.5}``; ``*`` asks for all.

        Raises:
            TaskError: See the class; or a name is unknown.
        """
        found = []
        for text, probability in requests.items():
            names = list(tasks) if text.strip() == "*" else [name.strip() for name in text.split("+")]
            unknown = [name for name in names if name not in tasks]
            if unknown:
                msg = f"the traffic asks for the task {unknown[0]!r}; the tasks are {', '.join(tasks)}"
                raise TaskError(msg)
            found.append((frozenset(map(list(tasks).index, names)), float(probability)))
        return cls(tuple(tasks), tuple(found))

    @classmethod
    def independent(cls, tasks: Sequence[str], probabilities: Sequence[float]) -> Traffic:
        """Each task is asked for by itself with its probability; requests for nothing do not count."""
        rows = []
        for mask in range(1, 2 ** len(tasks)):
            chances = (p if mask >> t & 1 else 1 - p for t, p in enumerate(probabilities))
            rows.append((frozenset(t for t in range(len(tasks)) if mask >> t & 1), math.prod(chances)))
        total = math.fsum(p for _, p in rows)
        if len(probabilities) != len(tasks) or not all(0 <= p <= 1 for p in probabilities) or total <= 0:
            msg = f"independent traffic needs a probability from 0 to 1 for each of {len(tasks)} tasks, one above 0"
            raise TaskError(msg)
        return cls(tuple(tasks), tuple((asked, p / total) for asked, p in rows if p > 0))

    def probability(self, group: Group) -> float:
        """That some task of the group (indices) is asked for."""
        wanted = set(group)
        return min(1.0, math.fsum(p for asked, p in self.requests if asked & wanted))

    def _name(self, asked: frozenset[int]) -> str:
        return "+".join(self.tasks[t] for t in sorted(asked))


def read_traffic(source: str | Path, tasks: Sequence[str]) -> Traffic:
    """Read traffic: ``seg+depth=0.5, normals=0.5`` itself, or the path of a JSON file.

    The file: ``{"requests": {"seg+depth": 0.5, …}}``, or ``{"independent": {"seg": 0.9, "depth": 0.2, …}}``.

    Raises:
        TaskError: It cannot be read, has another form, or is no traffic; names the file.
    """
    text = str(source)
    if "=" in text and not Path(text).exists():
        parts = [part.partition("=") for part in text.split(",")]
        try:
            requests = {name.strip(): float(value) for name, _, value in parts}
        except ValueError as error:
            msg = f"the traffic {text!r} has to look like {_FORMS}"
            raise TaskError(msg) from error
        if len(requests) < len(parts):
            msg = f"the traffic {text!r} has a request twice"
            raise TaskError(msg)
        return Traffic.of(tasks, requests)
    try:
        content: Any = json.loads(Path(text).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        msg = f"cannot read the traffic {text}: {error}; it has to look like {_FORMS}"
        raise TaskError(msg) from error
    found = content.get("requests", content.get("independent")) if isinstance(content, dict) else None
    if not isinstance(found, dict) or not all(type(v) in (int, float) for v in found.values()):
        msg = f"{text}: the traffic has to look like {_FORMS}"
        raise TaskError(msg)
    try:
        if "requests" in content:
            return Traffic.of(tasks, found)
        if set(found) != set(tasks):
            msg = f"independent traffic needs a probability for each of the tasks {', '.join(tasks)}"
            raise TaskError(msg)
        return Traffic.independent(tasks, [float(found[name]) for name in tasks])
    except TaskError as error:
        msg = f"{text}: {error}"
        raise TaskError(msg) from error
