"""The table of sites: all that regularizers, expected costs and decoders know about a supermodel.

Pure data, without torch and without the graph. :func:`onnxmtl.analysis.sites.site_table` reads it from a model;
tests write it by hand. Tasks, sites and options are referred to by their index in ``tasks``, ``sites`` and
``Site.options``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Option:
    """One thing a task can take at a site.

    Attributes:
        name: Its name in the Choice's ``options``, e.g. ``"shared"``, ``"own"``, ``"skip"``.
        multiply_adds: Of one execution of the option, all members of the site together (batch 1).
        parameters_shared: Elements of its weights that other tasks or options can use too.
        parameters_own: Elements of its weights that only the one task has (the same number for every task).
        equal_across_tasks: Two tasks that hold the same value before the site and both take this option hold the
            same value after it.
        identity: The option hands the site's input on and computes nothing.
    """

    name: str
    multiply_adds: int
    parameters_shared: int
    parameters_own: int
    equal_across_tasks: bool
    identity: bool


@dataclasses.dataclass(frozen=True)
class Site:
    """A place where every task takes one option.

    Attributes:
        id: The ``site`` attribute of its Choices.
        index: Position in ``SiteTable.sites``, which is in topological order.
        depth: Length of the longest chain of sites before it: 0 for the first (AutoMTL's l in Eq. 3).
        kind: ``choice``; or ``grouped`` (:mod:`onnxmtl.ir.choice`), if all grouped sites before it lie above it and
            every group of tasks has weights of its own.
        members: Names of its Choice nodes, in graph order.
        options: In the order of the Choices' inputs; all tasks have the same ones.
        tasks: Indices of the tasks that pass through the site; empty means all of them. (A task whose head takes an
            early feature never reaches the sites after it.)
    """

    id: str
    index: int
    depth: int
    kind: str
    members: tuple[str, ...]
    options: tuple[Option, ...]
    tasks: tuple[int, ...] = ()

    @property
    def grouped(self) -> bool:
        """Whether it is a grouped site."""
        return self.kind == "grouped"

    @property
    def option_names(self) -> tuple[str, ...]:
        """Names of the options, in order."""
        return tuple(option.name for option in self.options)

    def option_index(self, name: str) -> int:
        """Position of the option called `name`.

        Raises:
            KeyError: The site has no such option.
        """
        names = self.option_names
        if name not in names:
            raise KeyError(name)
        return names.index(name)


class Agreement(Mapping[int, tuple[int, ...]]):
    """A mapping from sites to options that is another one and some more: what lies above a node of a deep network.

    Thousands of nodes differ from each other in the last few sites only. Each of these mappings keeps what it adds
    and points to the rest, so that all of them together are as long as the network, not as long as its square.
    Read-only; equal to any mapping with the same content.

    Attributes:
        base: The mapping that is extended, or None.
        added: Site -> options, for sites that `base` does not have.
        possible: Whether every site, those of `base` included, has an option.
    """

    __slots__ = ("_sites", "added", "base", "possible")

    def __init__(self, base: Agreement | None, added: Mapping[int, tuple[int, ...]]) -> None:
        self.base = base
        self.added = dict(added)
        self.possible: bool = all(self.added.values()) and (base is None or base.possible)
        self._sites: int = 0 if base is None else base._sites  # a bit set
        for site in self.added:
            if site in self:
                msg = f"the agreement holds site {site} already"
                raise ValueError(msg)
            self._sites |= 1 << site

    def __contains__(self, site: object) -> bool:
        return isinstance(site, int) and site >= 0 and bool(self._sites >> site & 1)

    def __getitem__(self, site: int) -> tuple[int, ...]:
        if site in self:
            for part in self.parts():
                if site in part.added:
                    return part.added[site]
        raise KeyError(site)

    def __iter__(self) -> Iterator[int]:
        return iter(self.to_dict())

    def __len__(self) -> int:
        return self._sites.bit_count()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Mapping):
            theirs = other.to_dict() if isinstance(other, Agreement) else dict(other)
            return self is other or self.to_dict() == theirs
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Agreement({self.to_dict()})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Agreement, (None, self.to_dict())  # flat: a chain of thousands would be copied by recursion

    def parts(self) -> Iterator[Agreement]:
        """This mapping, its base, the base's base, and so on."""
        part: Agreement | None = self
        while part is not None:
            yield part
            part = part.base

    def to_dict(self) -> dict[int, tuple[int, ...]]:
        """The whole content, sites ascending."""
        found = {site: options for part in self.parts() for site, options in part.added.items()}
        return dict(sorted(found.items()))


@dataclasses.dataclass(frozen=True)
class CostItem:
    """A class of computing nodes that are one computation if all choices above them agree.

    In the supermodel every task has its own copy of such a node (or some tasks share one); in the selected model
    those tasks that take the option, and hold the same value before it, run one node together. A node with weights of
    a task's own is an item with that one task.

    Attributes:
        cost: Multiply-adds of one execution (batch 1), > 0.
        site: Index of the site the node is part of an option of; None for a node outside all sites.
        option: Index of that option; None if and only if `site` is.
        tasks: Indices of the tasks that have such a node, ascending.
        agree: For each site above the node, its own site left out, the options after which tasks still hold the same
            value where this node reads it (none of the site's members at or above the node uses weights of a task's
            own). The analysis gives an :class:`Agreement`; any mapping will do.
        head: Whether the nodes belong to task heads: costs of the trunk leave them out.
    """

    cost: int
    site: int | None
    option: int | None
    tasks: tuple[int, ...]
    agree: Mapping[int, tuple[int, ...]] = dataclasses.field(default_factory=dict, hash=False)
    head: bool = False

    def __post_init__(self) -> None:
        if self.cost <= 0 or not self.tasks or (self.site is None) != (self.option is None):
            msg = f"not a cost item: cost {self.cost}, tasks {self.tasks}, site {self.site}, option {self.option}"
            raise ValueError(msg)
        if self.site in self.agree:
            msg = f"not a cost item: its own site {self.site} is among the sites above it"
            raise ValueError(msg)

    @property
    def upstream(self) -> tuple[int, ...]:
        """Indices of the sites above the node, its own site left out, ascending."""
        return tuple(sorted(self.agree))


@dataclasses.dataclass(frozen=True)
class WeightItem:
    """One trainable weight tensor.

    It is needed for sure if `always_tasks` is not empty, or if it has no `uses`; else if at least one use is drawn.

    Attributes:
        size: Elements.
        site: Index of the site it belongs to; None for a weight outside all sites.
        uses: (task, site, option) triples under which it is needed: the task takes the option at the site.
        always_tasks: Indices of the tasks that need it whatever is drawn (heads, layers outside all sites).
        head: Whether only nodes of task heads use it: costs of the trunk leave it out.
        agree: None for a weight that is one however many tasks use it. At a grouped site every group of tasks that use
            it has one of its own: tasks are a group if they agree above it, as in :attr:`CostItem.agree`; then all its
            uses are of one site and option.
    """

    size: int
    site: int | None
    uses: tuple[tuple[int, int, int], ...] = ()
    always_tasks: tuple[int, ...] = ()
    head: bool = False
    agree: Mapping[int, tuple[int, ...]] | None = dataclasses.field(default=None, hash=False)

    @property
    def always(self) -> bool:
        """Whether every architecture needs the weight."""
        return bool(self.always_tasks) or not self.uses

    @property
    def per_group(self) -> CostItem | None:
        """A weight of which every group of tasks has its own, as an item whose cost are its elements; else None."""
        if self.agree is None or self.always:
            return None
        (_, site, option), tasks = self.uses[0], tuple(task for task, _, _ in self.uses)
        return CostItem(self.size, site, option, tasks, self.agree, self.head)


@dataclasses.dataclass(frozen=True)
class SiteTable:
    """The sites of a supermodel, and what they cost.

    Attributes:
        tasks: Names of the tasks, in the order of the model's outputs.
        sites: In topological order; ``sites[i].index == i``.
        cost_items: Every computing node of the supermodel, heads included, in exactly one item.
        weight_items: Every trainable weight of the supermodel, once.
    """

    tasks: tuple[str, ...]
    sites: tuple[Site, ...]
    cost_items: tuple[CostItem, ...] = ()
    weight_items: tuple[WeightItem, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.tasks)) != len(self.tasks) or len({site.id for site in self.sites}) != len(self.sites):
            msg = "a table of sites has unique tasks and unique site ids"
            raise ValueError(msg)
        for position, site in enumerate(self.sites):
            if site.index != position or len(set(site.option_names)) != len(site.options) or not site.options:
                msg = f"site {site.id!r} has index {site.index} at position {position}, options {site.option_names}"
                raise ValueError(msg)
        checked: set[int] = set()  # parts that many items share, by their id
        weights = [item for weight in self.weight_items if (item := weight.per_group) is not None]
        for item in (*self.cost_items, *weights):
            self._check_uses([(task, item.site, item.option) for task in item.tasks])
            for part in item.agree.parts() if isinstance(item.agree, Agreement) else ():
                if id(part) in checked:
                    break
                checked.add(id(part))
                self._check_agree(part.added)
            if not isinstance(item.agree, Agreement):
                self._check_agree(item.agree)
        for weight in self.weight_items:
            if weight.agree is not None and len({(site, option) for _, site, option in weight.uses}) != 1:
                msg = f"a weight per group is of one option of one site, not of {weight.uses}"
                raise ValueError(msg)
            self._check_uses(list(weight.uses))
            self._check_uses([(task, None, None) for task in weight.always_tasks])

    def _check_agree(self, agree: Mapping[int, tuple[int, ...]]) -> None:
        self._check_uses([(0, site, option) for site, options in agree.items() for option in options])

    def _check_uses(self, uses: list[tuple[int, int | None, int | None]]) -> None:
        for task, site, option in uses:
            known = 0 <= task < len(self.tasks)
            if site is not None and option is not None:
                known = known and 0 <= site < len(self.sites) and 0 <= option < len(self.sites[site].options)
            if not known:
                msg = f"no such task, site, option: {task}, {site}, {option}"
                raise ValueError(msg)

    def site(self, site_id: str) -> Site:
        """The site called `site_id`.

        Raises:
            KeyError: There is none.
        """
        for site in self.sites:
            if site.id == site_id:
                return site
        raise KeyError(site_id)

    def tasks_at(self, site: Site) -> tuple[str, ...]:
        """Names of the tasks that decide at `site`, in the table's order."""
        return tuple(self.tasks[t] for t in site.tasks) if site.tasks else self.tasks

    @property
    def depth(self) -> int:
        """Number of sites on the longest chain (AutoMTL's L in Eq. 3); 0 for a table without sites."""
        return max((site.depth for site in self.sites), default=-1) + 1
