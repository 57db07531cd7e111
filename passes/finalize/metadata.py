"""Metadata of an emitted model: what it is, who made it, and from which layers of the user's model each part came.

    onnxmtl.kind      "final"
    onnxmtl.version   version of onnxmtl
    onnxmtl.parts     JSON: [{"tasks": [names], "layers": [names of the user's nodes]}, …], a part being all that runs
                      for exactly these tasks; parts of more tasks first, layers in the order of execution

Equal models get equal bytes: all metadata is sorted, and there are no times and no paths. What exporters leave on
nodes (stack traces with paths of the user's machine) is removed; the user's node names stay as ``onnxmtl.source``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, MutableMapping

import onnx_ir as ir

from onnxmtl import __version__
from onnxmtl.ir import head_of, sources, tasks_of_nodes
from onnxmtl.ir.passes import InPlacePass, PassResult
from onnxmtl.passes.finalize.siblings import separated

KIND_KEY = "onnxmtl.kind"
VERSION_KEY = "onnxmtl.version"
PARTS_KEY = "onnxmtl.parts"
FINAL = "final"

# Only true of a graph that is still worked on.
_STALE = ("onnxmtl.features",)
_EXPORTERS = ("pkg.torch.", "pkg.onnxscript.")


class WriteMetadata(InPlacePass):
    """Write the keys above, drop exporters' debris, sort all metadata. Doing it twice changes nothing."""

    preserves_numerics = True

    def call(self, model: ir.Model) -> PassResult:
        """Write in place."""
        before = _snapshot(model)
        for key in _STALE:
            model.metadata_props.pop(key, None)
        model.metadata_props[KIND_KEY] = FINAL
        model.metadata_props[VERSION_KEY] = __version__
        model.metadata_props[PARTS_KEY] = json.dumps(parts(separated(model).graph), ensure_ascii=False)
        model.producer_name, model.producer_version = "onnxmtl", __version__
        for node in model.graph:
            node.doc_string = None
        for properties in _all_metadata(model):
            _tidy(properties)
        return PassResult(model, modified=_snapshot(model) != before)


def parts(graph: ir.Graph) -> list[dict[str, list[str]]]:
    """The graph's parts: for every set of tasks that some node serves, the user's layers that run for just these."""
    order = [str(value.name) for value in graph.outputs]
    needed = tasks_of_nodes(graph)
    found: dict[tuple[str, ...], dict[str, None]] = {}  # tasks -> layers, an ordered set
    for node in graph:
        if needed[node] and head_of(node) is None:
            tasks = tuple(name for name in order if name in needed[node])
            found.setdefault(tasks, {}).update(dict.fromkeys(sources(node)))
    ranked = sorted(found, key=lambda tasks: (-len(tasks), [order.index(name) for name in tasks]))
    return [{"tasks": list(tasks), "layers": list(found[tasks])} for tasks in ranked if found[tasks]]


def _all_metadata(model: ir.Model) -> Iterator[MutableMapping[str, str]]:
    graph = model.graph
    yield model.metadata_props
    yield graph.metadata_props
    for value in (*graph.inputs, *graph.initializers.values()):
        yield value.metadata_props
    for node in graph:
        yield node.metadata_props
        for value in node.outputs:
            yield value.metadata_props


def _tidy(properties: MutableMapping[str, str]) -> None:
    ordered = sorted((key, text) for key, text in properties.items() if not key.startswith(_EXPORTERS))
    properties.clear()
    properties.update(ordered)


def _snapshot(model: ir.Model) -> list[object]:
    metadata = [list(properties.items()) for properties in _all_metadata(model)]
    return [model.producer_name, model.producer_version, *metadata, *(node.doc_string for node in model.graph)]
