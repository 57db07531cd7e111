"""At grouped sites (:mod:`onnxmtl.ir.choice`), every group of tasks gets weights of its own.

Tasks are one group at a site if all their choices up to it coincide. Groups that parted and later take the same option
compute it on different inputs; in BMTAS's networks each of them has its own copy of the block, as a tree has.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from onnxmtl import ops
from onnxmtl.analysis.places import nodes_of_option, places
from onnxmtl.ir import Choice, Namer, choices, copy_initializer
from onnxmtl.ir.passes import InPlacePass, PassResult
from onnxmtl.passes.select.resolve import chosen_option
from onnxmtl.policy import Architecture


class UntieGroups(InPlacePass):
    """Give the second and further groups that take one option copies of its weights and running statistics.

    Requires a supermodel; run it before its Choices are resolved. Of the groups that take an option, the one with the
    first task (in the order of the outputs) keeps the weights. Supermodels without grouped sites are left alone.

    Raises:
        ModelError: The architecture does not name an option that a Choice has.
    """

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture

    def call(self, model: ir.Model) -> PassResult:
        """Untie in place."""
        graph = model.graph
        tasks = [str(value.name) for value in graph.outputs]
        sites: dict[str, dict[str, list[Choice]]] = {}
        for choice in choices(graph):
            if choice.grouped is not None:
                sites.setdefault(choice.site, {}).setdefault(choice.task, []).append(choice)
        if not sites:
            return PassResult(model, modified=False)
        place = places(graph)
        namer = Namer(graph)
        modified = False
        for of_task, taken in zip(sites.values(), self._groups(sites, tasks), strict=True):
            for option, groups in taken.items():
                for group in groups[1:]:
                    own: dict[ir.Value, ir.Value] = {}
                    for task in group:
                        for node in nodes_of_option(of_task[task], option, place):
                            modified |= _give_weights(node, own, graph, namer, "+".join(group))
        return PassResult(model, modified)

    def _groups(
        self, sites: dict[str, dict[str, list[Choice]]], tasks: list[str]
    ) -> Iterator[dict[int, list[list[str]]]]:
        """Per site, option -> the groups that take it, in order of their first task."""
        history: dict[str, tuple[int, ...]] = dict.fromkeys(tasks, ())
        for of_task in sites.values():
            groups: dict[tuple[int, ...], list[str]] = {}
            for task in tasks:
                if task in of_task:
                    history[task] += (chosen_option(of_task[task][0], self.architecture),)
                    groups.setdefault(history[task], []).append(task)
            taken: dict[int, list[list[str]]] = {}
            for path, group in groups.items():
                taken.setdefault(path[-1], []).append(group)
            yield taken


class ThawWeights(InPlacePass):
    """Weights that kept their values during the search (:func:`onnxmtl.ops.freeze`) are trained from here on."""

    preserves_numerics = True

    def call(self, model: ir.Model) -> PassResult:
        """Thaw every initializer."""
        thawed = [ops.thaw(value) for value in model.graph.initializers.values()]
        return PassResult(model, modified=any(thawed))


def _give_weights(node: ir.Node, own: dict[ir.Value, ir.Value], graph: ir.Graph, namer: Namer, suffix: str) -> bool:
    slots = ops.weight_slots(node)
    for slot, value in slots:
        if value not in own:
            own[value] = copy_initializer(graph, value, namer.unique(f"{value.name}/{suffix}"))
        node.replace_input_with(slot.index, own[value])
    return bool(slots)
