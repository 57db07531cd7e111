"""The ``vcn`` space (AutoMTL): at every site each task takes the shared operator, its own copy, or a skip.

Requires a multi-task graph: a backbone with heads attached, outputs named after the tasks. Ensures one Choice per
(site, task, output tensor), all Choices of one (site, task) with one logits tensor; whatever the tasks cannot tell
apart yet (everything before the first site) stays one node. With the architecture "all shared" the supermodel
computes exactly what the multi-task graph did.

Soft mixing at a convolution and again at the normalization tied to it gives cross terms p_shared * p_own (the
shared norm on the own convolution); they vanish for one-hot draws. This is a property of the relaxation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import onnx_ir as ir

from onnxmtl import ops
from onnxmtl.ir import (
    Diagnostic,
    Role,
    copy_initializer,
    head_of,
    is_supermodel,
    new_initializer,
    report,
    role_of,
    set_role,
    set_sources,
    sources,
    stamp,
)
from onnxmtl.ir.passes import InPlacePass, PassResult, Refused, RemoveUnusedNodesPass
from onnxmtl.passes.spaces.copies import TaskCopies
from onnxmtl.passes.spaces.skip import Skip, SkipMode, plan_skip, skip_nodes
from onnxmtl.passes.spaces.units import Granularity, Unit, find_units
from onnxmtl.passes.spaces.why import explain_sites, no_skip

SHARED, OWN, SKIP = "shared", "own", "skip"


class Vcn(InPlacePass):
    """Turn a multi-task graph into AutoMTL's supermodel.

    Args:
        skip: ``auto`` (identity, else a parameter-free projection), ``grouped1x1`` (learnt, where it is cheaper than
            its operator), ``dense1x1`` (as AutoMTL's code) or ``none``.
        norm: ``follow``: a normalization takes its operator's choice; ``per_task``: every task always has its own,
            as AutoMTL's code (then nothing after the first one is computed once).
        granularity: ``op``: an operator with its bias, scale and normalization; ``block``: with its activation too,
            one Choice at its end.
        shared_prefix: The first N sites are forced to be shared and get no Choice.
        prior: Logit of ``shared`` to begin with, of the other options 0. While weights are young a skip disturbs
            least and looks best (in architecture search this is known of DARTS); with a prior it has to prove itself.
    """

    def __init__(
        self,
        *,
        skip: SkipMode = "auto",
        norm: Literal["follow", "per_task"] = "follow",
        granularity: Granularity = "op",
        shared_prefix: int = 0,
        prior: float = 0.0,
    ) -> None:
        self.prior = prior
        self.skip: SkipMode = skip
        self.norm = norm
        self.granularity: Granularity = granularity
        self.shared_prefix = shared_prefix

    def requires(self, model: ir.Model) -> None:
        """Refuse a model without heads, or one that holds Choices already."""
        if is_supermodel(model):
            raise Refused("vcn: this model already holds Choices; give the pass the multi-task graph before them")
        if not any(head_of(node) is not None for node in model.graph):
            raise Refused("vcn: the graph has no task heads; run AttachHeads first")
        if self.granularity == "block" and self.norm == "per_task":
            raise Refused("vcn: norm='per_task' takes normalization out of the choice, granularity='block' puts it in")

    def call(self, model: ir.Model) -> PassResult:
        """Insert the Choices in place; nodes that no task needs are dropped."""
        RemoveUnusedNodesPass()(model)
        units = find_units(model.graph, self.granularity)
        if not units:
            raise Refused("vcn: the backbone has no operator with weights to share")
        for remark in explain_sites(model.graph, self.granularity, units):
            report(model, remark)
        _Builder(model, self, units).build()
        model.metadata_props["onnxmtl.kind"] = "supermodel"
        return PassResult(model, modified=True)


class _Builder(TaskCopies):
    """Builds the supermodel's nodes task by task, in topological order of the multi-task graph."""

    def __init__(self, model: ir.Model, settings: Vcn, units: Sequence[Unit]) -> None:
        super().__init__(model.graph, settings)
        self.model, self.settings = model, settings
        self.own_weights: dict[tuple[str, ir.Value], ir.Value] = {}
        self.shared_copies: dict[tuple[ir.Node, tuple[int, ...]], ir.Value] = {}
        self.handled: set[ir.Node] = set()
        self.first = {unit.nodes[0]: unit for unit in units}
        self.decided = 0

    def build(self) -> None:
        """Visit the nodes in order; the new graph lists, per site, the tasks in their order."""
        for node in self.graph:
            tasks = self.tasks_of(node)
            if node in self.first and len(tasks) > 1:
                self._unit(self.first[node], tasks)
            elif node not in self.handled:
                if node in self.first:
                    message = f"only task {tasks[0]!r} comes by, so there is nothing to decide"
                    report(self.model, Diagnostic("site-not-made", message, str(node.name)))
                self.plain(node, tasks)
        self.finish()

    def _unit(self, unit: Unit, tasks: Sequence[str]) -> None:
        self.decided += 1
        self.handled.update(unit.nodes)
        if self.decided <= self.settings.shared_prefix:
            message = f"one of the first {self.settings.shared_prefix} sites, which the settings force to be shared"
            report(self.model, Diagnostic("site-not-made", message, unit.site, "a smaller --shared-prefix frees it"))
            for node in unit.nodes:
                self.plain(node, tasks)
            return
        for task in tasks:
            self._site(unit, task)

    def _site(self, unit: Unit, task: str) -> None:
        """The Choices of one task at one site; none where all of it is the task's own by the settings."""
        if all(self._per_task(node) for node in unit.nodes):
            for node in unit.nodes:
                self.maps[task][node.outputs[0]] = self._one(node, task, own=True)
            return
        first, x = unit.nodes[0], self.inputs(unit.nodes[0], task)[0]
        assert x is not None
        skip = self._skip(unit)
        names = [SHARED, OWN] + ([SKIP] if skip is not None else [])
        logits = self.logits(unit.site, task, len(names), self.settings.prior)
        if self.settings.granularity == "block":
            options = [
                (SHARED, self._chain(unit.nodes, task, own=False)),
                (OWN, self._chain(unit.nodes, task, own=True)),
            ]
            if skip is not None:
                options.append((SKIP, self._skipped(skip, unit, x, unit.nodes[-1].outputs[0], task)))
            self.choose(unit.site, task, unit.nodes[-1].outputs[0], options, logits)
            return
        skipped = None if skip is None else self._skipped(skip, unit, x, first.outputs[0], task)
        for node in unit.nodes:
            if self._per_task(node):
                self.maps[task][node.outputs[0]] = self._one(node, task, own=True)
                continue
            options = [(SHARED, self._one(node, task, own=False)), (OWN, self._one(node, task, own=True))]
            if skip is not None:
                # On a skip what follows the operator is skipped with it.
                through = skipped if node is first else self._follows(node, unit, task)
                assert through is not None
                options.append((SKIP, through))
            self.choose(unit.site, task, node.outputs[0], options, logits)

    def _per_task(self, node: ir.Node) -> bool:
        """Whether every task has its own `node` whatever it chooses."""
        return self.settings.norm == "per_task" and _has_statistics(node)

    def _follows(self, node: ir.Node, unit: Unit, task: str) -> ir.Value:
        before = unit.nodes[unit.nodes.index(node) - 1].outputs[0]
        return self.maps[task][before]

    def _chain(self, nodes: Sequence[ir.Node], task: str, *, own: bool) -> ir.Value:
        local = dict(self.maps[task])
        value = None
        for node in nodes:
            inputs = [None if v is None else local.get(v, v) for v in node.inputs]
            value = self._one(node, task, own=own, inputs=inputs)
            local[node.outputs[0]] = value
        assert value is not None
        return value

    def _one(self, node: ir.Node, task: str, *, own: bool, inputs: Sequence[ir.Value | None] | None = None) -> ir.Value:
        """One copy of `node` for `task`, with the shared weights or the task's own; equal shared copies are one."""
        values = tuple(inputs) if inputs is not None else self.inputs(node, task)
        if own:
            slots = {slot.index for slot, _ in ops.weight_slots(node)}
            values = tuple(
                self._own(v, task) if v is not None and i in slots and v.is_initializer() else v
                for i, v in enumerate(values)
            )
            return self.copy(node, values, f"{task}/own")[0]
        key = (node, tuple(map(id, values)))
        if key not in self.shared_copies:
            self.shared_copies[key] = self.copy(node, values, task)[0]
        return self.shared_copies[key]

    def _own(self, value: ir.Value, task: str) -> ir.Value:
        key = (task, value)
        if key not in self.own_weights:
            copy = copy_initializer(self.graph, value, self.namer.unique(f"{value.name}/{task}"))
            if role_of(value) is not Role.STATISTIC:
                set_role(copy, Role.OWN)
            self.own_weights[key] = copy
        return self.own_weights[key]

    def _skip(self, unit: Unit) -> Skip | None:
        if unit.norm_only:
            return None
        plan = plan_skip(unit.nodes[0], self.settings.skip)
        if isinstance(plan, str):
            report(self.model, no_skip(unit, plan))
            return None
        return plan

    def _skipped(self, skip: Skip, unit: Unit, x: ir.Value, like: ir.Value, task: str) -> ir.Value:
        """The value that replaces the operator's output when `task` skips it."""
        key = (unit.nodes[0], (id(x), -1))
        if skip.form in ("identity", "free"):
            if key not in self.shared_copies:
                base = self.namer.unique(f"{unit.site}/{task}/skip")
                nodes, value = skip_nodes(skip, x, like, base, self.graph)
                self._adopt(nodes, unit)
                self.shared_copies[key] = value
            return self.shared_copies[key]
        return self._learnt_skip(skip, unit, x, like, task)

    def _learnt_skip(self, skip: Skip, unit: Unit, x: ir.Value, like: ir.Value, task: str) -> ir.Value:
        base = self.namer.unique(f"{unit.site}/{task}/skip")
        fan_in = skip.channels_in // skip.groups
        shape = (skip.channels_out, fan_in, 1, 1)
        # As near to an identity as the shape allows: channel o starts as one input channel of its group.
        weight = np.zeros(shape, np.float32)
        weight[np.arange(skip.channels_out), np.arange(skip.channels_out) % fan_in] = 1.0
        w = set_role(new_initializer(self.graph, f"{base}/weight", weight), Role.SKIP)
        out = ir.Value(name=f"{base}/out", type=like.type, shape=like.shape)
        attributes = [ir.AttrInt64s("strides", list(skip.strides)), ir.AttrInt64("group", skip.groups)]
        nodes = [ir.Node("", "Conv", [x, w], attributes, outputs=[out], name=f"{base}/conv")]
        if skip.form == "dense1x1":
            vectors = []
            for name, fill, role in (("scale", 1.0, Role.SKIP), ("shift", 0.0, Role.SKIP),
                                     ("mean", 0.0, Role.STATISTIC), ("variance", 1.0, Role.STATISTIC)):  # fmt: skip
                array = np.full(skip.channels_out, fill, np.float32)
                vectors.append(set_role(new_initializer(self.graph, f"{base}/{name}", array), role))
            normed = ir.Value(name=f"{base}/norm_out", type=like.type, shape=like.shape)
            nodes.append(ir.Node("", "BatchNormalization", [out, *vectors], outputs=[normed], name=f"{base}/norm"))
            out = normed
        self._adopt(nodes, unit)
        return out

    def _adopt(self, nodes: Sequence[ir.Node], unit: Unit) -> None:
        for node in nodes:
            stamp(node, self.settings)
            set_sources(node, sources(unit.nodes[0]))
        self.order.extend(nodes)


def _has_statistics(node: ir.Node) -> bool:
    return any(slot.name in ("mean", "variance") for slot, _ in ops.weight_slots(node))
