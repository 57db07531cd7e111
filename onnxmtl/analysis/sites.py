"""Read the table of sites from any supermodel.

Values are sorted into classes: two values of different tasks are in one class if they are the same computation up to
the choices above them (same operator, attributes and weights on inputs of one class; the k-th Choice of a site is one
class whatever the task). Everything the table says follows from the classes, so no space has to describe itself.
Fusion's Choices are of one task each, although other tasks read what is behind them: a node that is there once is
computed once.
Grouped sites (:mod:`onnxmtl.ir.choice`) are the exception: every earlier one lies above all nodes of a later one, and
their weights are one per group of tasks.
Walks over the graph are linear and without recursion. What lies above a value is a set of sites that grows along the
network: as a set of bits while it is read (n²/64 words for n sites: 1 MB for a thousand), and in the table as what it
adds to the set of a value before it (:class:`~onnxmtl.analysis.table.Agreement`), so the table is linear.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Mapping

import onnx_ir as ir

from onnxmtl import ops
from onnxmtl.analysis.places import Place, places, read_choices
from onnxmtl.analysis.table import Agreement, CostItem, Option, Site, SiteTable, WeightItem
from onnxmtl.errors import ModelError
from onnxmtl.ir import Choice, collection_paused, head_of, sources, tasks_of_nodes
from onnxmtl.ir.attributes import canonical_attributes

Member = tuple[str, int]  # (site id, position among the Choices of one task at the site, or among its tensors)


def site_table(model: ir.Model, cost: Callable[[ir.Node], int] = ops.multiply_adds) -> SiteTable:
    """The table of sites of `model`; without Choices it has no sites, but all costs and weights.

    Args:
        model: Any graph.
        cost: Of a node that has multiply-adds, in their place: what it takes by another measure.

    Raises:
        ModelError: Choices of one site disagree about their options or logits, or a site stands inside an option of
            another one; sizes needed for costs are unknown.
    """
    with collection_paused():
        return _Reader(model, cost).table()


@dataclasses.dataclass
class _Class:
    """Values that are one computation up to choices: which tasks have one, and what lies above."""

    upstream: int  # bit set of Choice members above
    tasks: set[int]
    before: _Class | None  # the input with most above it


@dataclasses.dataclass(frozen=True)
class _Above:
    """What lies above some value: the members as a bit set, and the options that keep tasks equal."""

    bits: int
    agreement: Agreement
    base: _Above | None = None


class _Reader:
    def __init__(self, model: ir.Model, cost: Callable[[ir.Node], int]) -> None:
        self.graph, self.cost = model.graph, cost
        self.tasks = tuple(str(v.name) for v in model.graph.outputs)
        self.task_index = {task: i for i, task in enumerate(self.tasks)}
        needed = tasks_of_nodes(model.graph)
        self.tasks_of = {node: {self.task_index[t] for t in needed[node]} for node in model.graph}
        self.choices = read_choices(model.graph)
        self.place = places(model.graph)
        self.member_of: dict[ir.Node, Member] = {}
        self.members: list[Member] = []
        self.bit: dict[Member, int] = {}
        self.bits_of: dict[str, int] = {}  # site -> all its members
        self.chain: dict[str, int] = {}  # grouped site -> the members of all grouped sites before it
        self._number_members()
        self._leave_out_readers()
        self.class_of: dict[ir.Value, Hashable] = {}
        self.classes: dict[Hashable, _Class] = {}
        self.node_class: dict[ir.Node, Hashable] = {}
        self._classify()
        self.equal = self._equal()
        self.above: dict[int, _Above] = {0: _Above(0, Agreement(None, {}))}  # by the set of members

    def _number_members(self) -> None:
        counts: dict[tuple[str, str], int] = {}
        logits: dict[tuple[str, str], ir.Value] = {}
        names: dict[str, tuple[str, ...]] = {}
        tensors: dict[str, dict[str, int]] = {}
        for node, choice in self.choices.items():
            key = (choice.site, choice.task)
            if choice.task not in self.task_index:
                raise ModelError(f"Choice {node.name!r} decides for {choice.task!r}, which is no output of the model")
            if logits.setdefault(key, choice.logits) is not choice.logits:
                raise ModelError(f"site {choice.site!r}, task {choice.task!r}: its Choices use different logits")
            if names.setdefault(choice.site, choice.names) != choice.names:
                raise ModelError(f"site {choice.site!r}: its Choices offer different options")
            position = counts.get(key, 0)
            counts[key] = position + 1
            if choice.grouped is not None:  # tasks need not read the same tensors of a block
                known = tensors.setdefault(choice.site, {})
                position = known.setdefault(choice.grouped, len(known))
            member = (choice.site, position)
            self.member_of[node] = member
            if member not in self.bit:
                self.bit[member] = 1 << len(self.members)
                self.bits_of[choice.site] = self.bits_of.get(choice.site, 0) | self.bit[member]
                self.members.append(member)
        before = 0
        for site in tensors:
            self.chain[site] = before
            before |= self.bits_of[site]

    def _leave_out_readers(self) -> None:
        """An option serves those who decide on it; others may read what they made of it (fusion)."""
        deciding: dict[str, set[int]] = {}
        for choice in self.choices.values():
            deciding.setdefault(choice.site, set()).add(self.task_index[choice.task])
        for node, place in self.place.items():
            if place is not None:
                self.tasks_of[node] &= deciding[place[0]]

    def _classify(self) -> None:
        """Give every value a class, and every class what lies above it."""
        ids: dict[Hashable, int] = {}
        for node in self.graph:
            keys: list[Hashable] = []
            upstream = 0
            before: _Class | None = None
            for value in node.inputs:
                if value is None:
                    keys.append(None)
                    continue
                if value.producer() is None:
                    keys.append(("leaf", id(value)))
                    continue
                keys.append(self.class_of[value])
                read = self.classes[self.class_of[value]]
                if before is None or read.upstream.bit_count() > before.upstream.bit_count():
                    before = read
                upstream |= read.upstream
            member = self.member_of.get(node)
            if member is not None:
                key: Hashable = ("choice", member)
                upstream |= self.bit[member]
            else:
                attributes = canonical_attributes(node, self.graph.opset_imports)
                if attributes is None:
                    attributes = id(node)
                key = (node.domain, node.op_type, attributes, tuple(keys))
                place = self.place[node]
                if place is not None and place[0] in self.chain:
                    key = (place, key)  # candidates are different computations, even of equal form
                    upstream |= self.chain[place[0]]
            # Keys nest; a number stands for each so that they stay small.
            number = ids.setdefault(key, len(ids))
            self.node_class[node] = number
            for index, output in enumerate(node.outputs):
                name: Hashable = (number, index)
                self.class_of[output] = name
                entry = self.classes.setdefault(name, _Class(0, set(), before))
                entry.upstream |= upstream
                entry.tasks |= self.tasks_of[node]

    def _equal(self) -> dict[Member, frozenset[int]]:
        """Member -> the options whose values are of one class for all tasks."""
        seen: dict[tuple[Member, int], set[Hashable]] = {}
        for node, choice in self.choices.items():
            for i, value in enumerate(choice.options):
                key = ("leaf", id(value)) if value.producer() is None else self.class_of[value]
                seen.setdefault((self.member_of[node], i), set()).add(key)
        equal: dict[Member, set[int]] = {member: set() for member in self.members}
        for (member, option), found in seen.items():
            if len(found) == 1:
                equal[member].add(option)
        return {member: frozenset(options) for member, options in equal.items()}

    def table(self) -> SiteTable:
        """Put the table together."""
        first: dict[str, Choice] = {}
        own_task: dict[str, set[int]] = {}
        nodes: dict[str, list[str]] = {}
        for node, choice in self.choices.items():
            first.setdefault(choice.site, choice)
            own_task.setdefault(choice.site, set()).add(self.task_index[choice.task])
            nodes.setdefault(choice.site, []).append(str(node.name))
        equal: dict[str, frozenset[int]] = {}
        for member, options in self.equal.items():
            equal[member[0]] = equal.get(member[0], options) & options
        ids = list(first)
        index = {site: i for i, site in enumerate(ids)}
        depths = self._depths(ids)
        weights, uses = self._weights(index)
        costs, cost_of = self._costs(index)
        computing = {place for node, place in self.place.items() if place is not None and node not in self.choices}
        sites = []
        for site in ids:
            offered = tuple(
                Option(
                    name=name,
                    multiply_adds=cost_of.get((site, i), 0),
                    parameters_shared=uses.get((site, i), (0, 0))[0],
                    parameters_own=uses.get((site, i), (0, 0))[1],
                    equal_across_tasks=i in equal[site],
                    identity=(site, i) not in cost_of and (site, i) not in uses and (site, i) not in computing,
                )
                for i, name in enumerate(first[site].names)
            )
            some = tuple(sorted(own_task[site])) if len(own_task[site]) < len(self.tasks) else ()
            kind = "grouped" if site in self.chain else "choice"
            sites.append(Site(site, index[site], depths[site], kind, tuple(nodes[site]), offered, some))
        return SiteTable(self.tasks, tuple(sites), tuple(costs), tuple(weights))

    def _depths(self, ids: Iterable[str]) -> dict[str, int]:
        """Length of the longest chain of sites before each."""
        depth = dict.fromkeys(ids, 0)
        depth.update({site: position for position, site in enumerate(self.chain)})
        above: dict[ir.Value, int] = {}
        for node in self.graph:
            before = max((above.get(v, 0) for v in node.inputs if v is not None), default=0)
            choice = self.choices.get(node)
            if choice is not None:
                if self.member_of[node][1] == 0:
                    depth[choice.site] = max(depth[choice.site], before)
                before = max(before, depth[choice.site] + 1)
            for output in node.outputs:
                above[output] = before
        return depth

    def _costs(self, index: Mapping[str, int]) -> tuple[list[CostItem], dict[Place, int]]:
        items: list[CostItem] = []
        per_place: dict[Place, int] = {}
        groups: dict[Hashable, list[ir.Node]] = {}
        for node in self.graph:
            if node in self.choices:
                continue
            entry = ops.spec(node)
            if entry is not None and entry.multiply_adds is not None:
                groups.setdefault(self.node_class[node], []).append(node)
        counted: set[tuple[Place, tuple[str, ...]]] = set()
        for key, nodes in groups.items():
            cost = self.cost(nodes[0])
            if cost <= 0:
                continue
            tasks = tuple(sorted(set().union(*(self.tasks_of[node] for node in nodes))))
            place = self.place[nodes[0]]
            site, option = (index[place[0]], place[1]) if place is not None else (None, None)
            if place is not None and (place, (name := sources(nodes[0]) or (str(nodes[0].name),))) not in counted:
                counted.add((place, name))
                per_place[place] = per_place.get(place, 0) + cost
            above = self._above(self.classes[key, 0], index)
            if len(nodes) == 1 and len(tasks) > 1:
                above = self.above[0]  # one node is one computation, whatever others chose before it (fusion)
            if site is not None and (inside := above.bits & self.bits_of[place[0] if place else ""]):
                # At the own site it is this item's option that has to keep the tasks equal.
                together = option in self._keeps_equal(inside)
                above = self._extend(above, above.bits & ~inside, index)
            else:
                together = True
            groups_of_tasks = [tasks] if together else [(task,) for task in tasks]
            head = all(head_of(node) is not None for node in nodes)
            items += [CostItem(cost, site, option, group, above.agreement, head) for group in groups_of_tasks]
        return items, per_place

    def _above(self, entry: _Class, index: Mapping[str, int]) -> _Above:
        """What lies above the values of a class; built along the inputs, each set once."""
        missing: list[int] = []
        current: _Class | None = entry
        while current is not None and current.upstream not in self.above:
            missing.append(current.upstream)
            current = current.before
        found = self.above[0 if current is None else current.upstream]
        for bits in reversed(missing):
            found = self._extend(found, bits, index)
        return found

    def _extend(self, near: _Above, bits: int, index: Mapping[str, int]) -> _Above:
        """The record of the set `bits`: what it adds to `near`, or to the nearest set before that which it contains."""
        if bits in self.above:
            return self.above[bits]
        base = near
        while True:
            added = self._added(base, bits, index)
            if added is not None:
                break
            assert base.base is not None  # the empty set fits everything
            base = base.base
        agreement = Agreement(base.agreement, added) if added else base.agreement
        self.above[bits] = _Above(bits, agreement, base)
        return self.above[bits]

    def _added(self, base: _Above, bits: int, index: Mapping[str, int]) -> dict[int, tuple[int, ...]] | None:
        """Sites and options that `bits` adds to `base`; None if `base` says anything that is not true of `bits`."""
        if base.bits & ~bits:
            return None
        added: dict[int, tuple[int, ...]] = {}
        for site in dict.fromkeys(member[0] for member in self._members(bits & ~base.bits)):
            options = self._keeps_equal(bits & self.bits_of[site])
            known = base.bits & self.bits_of[site]
            if not known:
                added[index[site]] = options
            elif options != self._keeps_equal(known):
                return None
        return added

    def _keeps_equal(self, bits: int) -> tuple[int, ...]:
        """The options that keep tasks equal at all of these members of one site."""
        return tuple(sorted(frozenset.intersection(*(self.equal[member] for member in self._members(bits)))))

    def _members(self, bits: int) -> Iterable[Member]:
        """The members of a bit set, in order."""
        while bits:
            last = bits & -bits
            yield self.members[last.bit_length() - 1]
            bits ^= last

    def _weights(self, index: Mapping[str, int]) -> tuple[list[WeightItem], dict[Place, tuple[int, int]]]:
        """All trainable weights, and per (site, option) the elements that are shared and that one task owns."""
        items: list[WeightItem] = []
        shared: dict[Place, int] = {}
        own: dict[Place, dict[int, int]] = {}
        for value in ops.trainable_values(self.graph):
            size = int(value.const_value.size) if value.const_value is not None else 0
            always: set[int] = set()
            users: dict[Place, set[int]] = {}
            users_of_value = {use.node for use in value.uses()}
            for node in users_of_value:
                place = self.place[node]
                if place is None:
                    always |= self.tasks_of[node]
                else:
                    users.setdefault(place, set()).update(self.tasks_of[node])
            triples = sorted((task, index[site], option) for (site, option), who in users.items() for task in who)
            sites = {site for _, site, _ in triples}
            home = sites.pop() if len(sites) == 1 and not always else None
            agree = self._agree_of_weight(users, users_of_value, index) if home is not None else None
            needing = [node for node in users_of_value if self.tasks_of[node]]
            head = bool(needing) and all(head_of(node) is not None for node in needing)
            uses = () if always else tuple(triples)
            items.append(WeightItem(size, home, uses, tuple(sorted(always)), head, agree))
            everyone = always.union(*users.values())
            for place, who in users.items():
                if len(everyone) > 1:
                    shared[place] = shared.get(place, 0) + size
                else:
                    per_task = own.setdefault(place, {})
                    per_task[min(who)] = per_task.get(min(who), 0) + size
        places = shared.keys() | own.keys()
        return items, {p: (shared.get(p, 0), max(own.get(p, {0: 0}).values())) for p in places}

    def _agree_of_weight(
        self, users: Iterable[Place], nodes: Iterable[ir.Node], index: Mapping[str, int]
    ) -> Agreement | None:
        """Of a weight that groups of tasks have one each of: what lies above those who use it; else None."""
        if any(site not in self.chain for site, _ in users):
            return None
        node = next(iter(nodes))  # all of them have all grouped sites before theirs above them, and no other
        return self._above(self.classes[self.node_class[node], 0], index).agreement
