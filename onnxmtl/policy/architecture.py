"""An architecture: which option every task takes at every site. Plain data, readable as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from onnxmtl.analysis.table import SiteTable
from onnxmtl.errors import ModelError

_SHOWN = 3  # wrong entries named in an error


@dataclasses.dataclass(frozen=True)
class Architecture:
    """One option per (site, task). Equal architectures are equal and hash alike, whatever the order of their sites.

    Attributes:
        choices: Site id -> task name -> option name; read-only.
    """

    choices: Mapping[str, Mapping[str, str]]

    def __post_init__(self) -> None:
        frozen = {site: MappingProxyType(dict(tasks)) for site, tasks in self.choices.items()}
        object.__setattr__(self, "choices", MappingProxyType(frozen))

    def __hash__(self) -> int:
        return hash(frozenset((site, frozenset(tasks.items())) for site, tasks in self.choices.items()))

    def __reduce__(self) -> tuple[type[Architecture], tuple[dict[str, dict[str, str]]]]:
        return Architecture, (self.to_dict(),)  # read-only views cannot be copied, their content can

    @classmethod
    def uniform(cls, table: SiteTable, option: str, otherwise: str | None = None) -> Architecture:
        """Every task takes `option` at every site, or `otherwise` at sites that do not offer it.

        Raises:
            ModelError: A site offers neither.
        """
        choices = {}
        for site in table.sites:
            name = option if option in site.option_names or otherwise is None else otherwise
            choices[site.id] = dict.fromkeys(table.tasks_at(site), name)
        return cls(choices).validate(table)

    @classmethod
    def from_indices(cls, table: SiteTable, indices: Mapping[tuple[int, int], int]) -> Architecture:
        """Build it from (site index, task index) -> option index; entries of tasks that skip a site are dropped."""
        choices = {}
        for site in table.sites:
            tasks = {name: indices[site.index, table.tasks.index(name)] for name in table.tasks_at(site)}
            choices[site.id] = {name: site.options[option].name for name, option in tasks.items()}
        return cls(choices)

    def validate(self, table: SiteTable) -> Architecture:
        """Check that it names one existing option for every (site, task) of `table`, and nothing else.

        Returns:
            The architecture itself.

        Raises:
            ModelError: All that is wrong, in one line.
        """
        wrong: list[str] = []
        known = {site.id for site in table.sites}
        wrong.extend(f"site {name!r} does not exist" for name in sorted(set(self.choices) - known))
        for site in table.sites:
            given = self.choices.get(site.id)
            if given is None:
                wrong.append(f"site {site.id!r} is missing")
                continue
            tasks = table.tasks_at(site)
            wrong.extend(f"site {site.id!r}: no task {name!r}" for name in sorted(set(given) - set(tasks)))
            wrong.extend(f"site {site.id!r}: task {name!r} is missing" for name in tasks if name not in given)
            wrong.extend(
                f"site {site.id!r}, task {name!r}: no option {given[name]!r} (has {', '.join(site.option_names)})"
                for name in tasks
                if name in given and given[name] not in site.option_names
            )
        if wrong:
            more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
            msg = f"the architecture does not fit the supermodel: {'; '.join(wrong[:_SHOWN])}{more}"
            raise ModelError(msg)
        return self

    def indices(self, table: SiteTable) -> dict[tuple[int, int], int]:
        """(Site index, task index) -> option index.

        Raises:
            ModelError: It does not fit the table.
        """
        self.validate(table)
        return {
            (site.index, table.tasks.index(task)): site.option_index(option)
            for site in table.sites
            for task, option in self.choices[site.id].items()
        }

    def probabilities(self, table: SiteTable) -> list[np.ndarray[Any, np.dtype[np.float64]]]:
        """The architecture as certain draws: per site a one-hot array [tasks, options]; zeros for absent tasks.

        Raises:
            ModelError: It does not fit the table.
        """
        arrays = [np.zeros((len(table.tasks), len(site.options))) for site in table.sites]
        for (site, task), option in self.indices(table).items():
            arrays[site][task, option] = 1.0
        return arrays

    def to_dict(self) -> dict[str, dict[str, str]]:
        """Plain dictionaries: site id -> task name -> option name."""
        return {site: dict(tasks) for site, tasks in self.choices.items()}

    def to_json(self) -> str:
        """Readable JSON; equal architectures give equal text."""
        return json.dumps({"architecture": self.to_dict()}, sort_keys=True, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        """Read what :meth:`to_json` wrote. Whether it fits a supermodel is for :meth:`validate`.

        Raises:
            ModelError: Not JSON, or not of that form.
        """
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            msg = f"the architecture is not JSON: {error}"
            raise ModelError(msg) from error
        choices = content.get("architecture") if isinstance(content, dict) else None
        if not isinstance(choices, dict):
            msg = 'the architecture needs the form {"architecture": {site: {task: option}}}'
            raise ModelError(msg)
        for site, tasks in choices.items():
            if not isinstance(tasks, dict) or not all(isinstance(option, str) for option in tasks.values()):
                msg = f"the architecture's site {site!r} has to map task names to option names, as {{task: option}}"
                raise ModelError(msg)
        return cls(choices)
