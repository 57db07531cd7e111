"""What the soft-sharing passes have in common: which layers of the networks meet, and building nodes into trunks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from onnxmtl.analysis.networks import Layer, Layers, network_layers, without_stem
from onnxmtl.ir import Namer, Role, head_of, is_supermodel, new_initializer, set_role, stamp
from onnxmtl.ir.passes import Refused
from onnxmtl.passes._builder import Builder, Init, constant, infer_outputs, static_channels, static_size
from onnxmtl.passes.spaces.separate import Separate

Level = Mapping[str, Layer]
"""Task -> its layer: features that are mixed with one another."""
At = Literal["stages", "layers"]


def levels(layers: Layers, at: At = "stages", *, stem: bool = False) -> list[dict[str, Layer]]:
    """Which layers of separate networks meet, in an order in which every network goes forward.

    Stages are the same if their stride is. Tasks without a stage (their heads read an earlier feature, or their network
    has no such resolution) are not in its levels; a level has two tasks or more.

    Args:
        layers: Task -> its layers, of :func:`~onnxmtl.analysis.networks.network_layers`.
        at: ``stages``: the last layers of the stages; ``layers``: every layer. Where a stage has more layers in one
            network than in another, as many as in the shortest meet, evenly spread, the last one among them.
        stem: Whether a first layer without a shortcut before residual blocks is one.
    """
    runs = {task: dict(_runs(without_stem(found, stem))) for task, found in layers.items()}
    order = max(runs.values(), key=len, default={})
    done = dict.fromkeys(runs, -1)  # task -> index of its layer that met others last
    found: list[dict[str, Layer]] = []
    for stage in order:
        here = {
            task: of_task[stage]
            for task, of_task in runs.items()
            if stage in of_task and of_task[stage][0].index > done[task]
        }
        if len(here) < 2:
            continue
        count = 1 if at == "stages" else min(map(len, here.values()))
        found += [{task: run[-(-len(run) * k // count) - 1] for task, run in here.items()} for k in range(1, count + 1)]
        done |= {task: run[-1].index for task, run in here.items()}
    return found


def _runs(layers: Sequence[Layer]) -> Iterator[tuple[tuple[int, int], list[Layer]]]:
    """(stride, its how-manieth run) -> neighbouring layers of that stride."""
    seen: dict[int, int] = {}
    for stride, run in itertools.groupby(layers, lambda layer: layer.stride):
        yield (stride, seen.get(stride, 0)), list(run)
        seen[stride] = seen.get(stride, 0) + 1


def meeting_layers(model: ir.Model, at: At, stem: bool, name: str) -> tuple[Layers, list[dict[str, Layer]]]:
    """Make the networks of a multi-task graph separate; their layers and :func:`levels`.

    Raises:
        Refused: No two networks have a stage of one stride.
    """
    Separate()(model)
    layers = network_layers(model)
    found = levels(layers, at, stem=stem)
    if not found:
        msg = f"{name}: no two tasks have layers of the same stride, so there is nothing to mix"
        raise Refused(msg)
    return layers, found


def require_tasks(model: ir.Model, name: str) -> None:
    """Refuse a model without heads, one that holds Choices, and one with a single task."""
    if is_supermodel(model):
        raise Refused(f"{name}: this model holds Choices; give the pass the multi-task graph before them")
    if not any(head_of(node) is not None for node in model.graph):
        raise Refused(f"{name}: the graph has no task heads; run AttachHeads first")
    if len(model.graph.outputs) < 2:
        raise Refused(f"{name}: one task has nobody to share with; give two tasks or more")


def require_share(value: float, what: str, name: str) -> None:
    """Refuse a weight that is not between 0 and 1."""
    if not 0 <= value <= 1:
        raise Refused(f"{name}: {what} is a weight from 0 to 1, not {value}")


def require_at(at: str, name: str) -> None:
    """Refuse another word than those of :data:`At`."""
    if at not in ("stages", "layers"):
        raise Refused(f"{name}: at is 'stages' or 'layers', not {at!r}")


def rectangular_identity(_: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """A 1x1 convolution that hands on channel i as channel i, as far as both have it."""
    return np.eye(shape[0], shape[1]).reshape(shape)


class TrunkBuilder(Builder):
    """Builds nodes that belong to no head; its weights are those of fusion units.

    New nodes come to the end of the graph: sort it when all are there.
    """

    @classmethod
    def of(cls, graph: ir.Graph, prefix: str, made_by: object, namer: Namer, seed: int = 0) -> TrunkBuilder:
        """A builder whose names begin with `prefix`."""
        return cls(graph, prefix, "", made_by, seed, namer)

    def weight(self, name: str, shape: Sequence[int], init: Init, like: ir.Value, role: Role = Role.FUSION) -> ir.Value:
        """A new initializer of `like`'s element type."""
        return super().weight(name, shape, init, like, role)

    def constant(self, name: str, array: np.ndarray[Any, Any]) -> ir.Value:
        """A new initializer that is no weight."""
        return set_role(new_initializer(self.graph, self.name(name), array), Role.BACKBONE)

    def append(self, node: ir.Node) -> ir.Node:
        """Append a finished node: stamped, its outputs' types and shapes inferred."""
        stamp(node, self.made_by)
        self.graph.append(node)
        self.created.append(node)
        infer_outputs(node, self.graph.opset_imports)
        return node

    def weighted(self, x: ir.Value, weight: float, name: str, channels: int = 0) -> ir.Value:
        """`x` times a trained number, or a number per channel, which begins as `weight`."""
        shape = (channels, 1, 1) if channels else (1,)
        factor = self.weight(f"{name}.weight", shape, constant(weight), x)
        return self.op("Mul", [x, factor], name=name, shape=x.shape)

    def total(self, terms: Sequence[ir.Value], name: str = "sum") -> ir.Value:
        """The sum of values of one shape."""
        return terms[0] if len(terms) == 1 else self.op("Sum", terms, name=name, shape=terms[0].shape)

    def brought(self, x: ir.Value, like: ir.Value, name: str = "adapter") -> ir.Value:
        """`x` with the height, width and number of channels of `like`; `x` itself if it has them.

        Resized bilinearly; projected by a 1x1 convolution that begins as a rectangular identity, where there are fewer
        pixels.
        """
        channels = static_channels(like)
        projected = static_channels(x) == channels
        sizes = static_size(x), static_size(like)
        if not projected and sizes[0] is not None and sizes[1] is not None and sizes[0] < sizes[1]:
            x, projected = self.conv(x, channels, bias=False, init=rectangular_identity, name=name), True
        x = self.resize(x, like, f"{name}_resize")
        return x if projected else self.conv(x, channels, bias=False, init=rectangular_identity, name=name)


def users(value: ir.Value) -> list[tuple[ir.Node, int]]:
    """Who reads a value, and where: to be asked before new nodes read it, for :func:`replace`."""
    return [(use.node, use.idx) for use in value.uses()]


def replace(graph: ir.Graph, old: ir.Value, new: ir.Value, where: Sequence[tuple[ir.Node, int]], namer: Namer) -> None:
    """Put `new` in the place of `old` in these inputs, and among the graph's outputs, under the name it has there."""
    for node, index in where:
        node.replace_input_with(index, new)
    for index, value in enumerate(graph.outputs):
        if value is old:
            name, old.name = old.name, namer.unique(f"{old.name}/before")
            new.name = name
            graph.outputs[index] = new


def named_values(graph: ir.Graph) -> dict[str, ir.Value]:
    """Name -> value, of everything that nodes compute."""
    return {str(value.name): value for node in graph for value in node.outputs}
