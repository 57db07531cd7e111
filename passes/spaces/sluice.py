"""Sluice networks (Ruder et al. 2019): separate networks that mix halves of their features, and outputs of stages.

The channels of a layer are two subspaces, G₁ (the first half) and G₂. After chosen layers those of all T tasks mix,

    x̃_{t,a} = Σ_{s,b} α_{ta,sb} · x_{s,b}        a 2T x 2T matrix α,

and what a task's head reads is a mixture of what its K stages end with, Σ_k β_{t,k} · x̃_t^k, resized and projected to
the last one. α begins as `own` for a subspace's own features and as (1 − own)/(2T − 1) for the others; β as `last` for
the last stage and as (1 − last)/(K − 1) for the others (the paper begins with a bias towards one subspace, and towards
the last layer). With own = last = 1 each task computes exactly what its own network does.

That the subspaces of a task hold different features is a penalty, Σ ‖G₁ᵀ G₂‖², on the convolutions that compute them:
the pass marks their weights (:func:`subspaces_of`), and ``orthogonality`` of :mod:`onnxmtl.search.penalties` adds it to
the loss.

Requires a multi-task graph. Ensures that every task has a network of its own (:mod:`onnxmtl.passes.spaces.separate`)
and no Choices. Halves of another size or number of channels are resized and projected by a 1x1 convolution that begins
as a rectangular identity.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np
import onnx_ir as ir

from onnxmtl import ops
from onnxmtl.analysis.networks import Layer, stage_ends, without_stem
from onnxmtl.ir import Diagnostic, Namer, report
from onnxmtl.ir.passes import InPlacePass, PassResult
from onnxmtl.ir.provenance import PASS_KEY
from onnxmtl.ops.registry import ACTIVATIONS
from onnxmtl.passes._builder import static_channels
from onnxmtl.passes.spaces._mixing import (
    At,
    Level,
    TrunkBuilder,
    meeting_layers,
    named_values,
    replace,
    require_at,
    require_share,
    require_tasks,
    users,
)

SUBSPACES_KEY = "onnxmtl.subspaces"
"""On the weight of a convolution: how many of its output channels are the first subspace; the others are the second."""

# What stands between a convolution and the layer's tensor, channel by channel.
_PER_CHANNEL = ACTIVATIONS | {"BatchNormalization", "InstanceNormalization", "Add", "Sum", "Mul", "Identity", "Dropout"}


def subspaces_of(value: ir.Value) -> int | None:
    """Output channels of the first subspace, if the pass marked this weight; else None."""
    found = value.metadata_props.get(SUBSPACES_KEY)
    return int(found) if found is not None else None


def has_sluices(nodes: Iterable[ir.Node]) -> bool:
    """Whether some of the nodes are the pass's own."""
    return any(node.metadata_props.get(PASS_KEY) == Sluice.__name__ for node in nodes)


class Sluice(InPlacePass):
    """Turn a multi-task graph into a sluice network.

    Args:
        own: What a subspace's own features weigh in α to begin with, from 0 to 1.
        last: What the last stage weighs in β to begin with, from 0 to 1.
        at: Mix after the last layers of the ``stages``, or after all ``layers``.
        stem: Whether a first layer without a shortcut before residual blocks counts too.
    """

    def __init__(self, *, own: float = 0.8, last: float = 0.9, at: At = "stages", stem: bool = False) -> None:
        self.own = own
        self.last = last
        self.at = at
        self.stem = stem

    def requires(self, model: ir.Model) -> None:
        """Refuse a model without heads or with Choices, a single task, and settings that mean nothing."""
        require_tasks(model, "sluice")
        require_share(self.own, "own", "sluice")
        require_share(self.last, "last", "sluice")
        require_at(self.at, "sluice")

    def call(self, model: ir.Model) -> PassResult:
        """Insert the units in place.

        Raises:
            Refused: No two networks have layers of one stride.
        """
        layers, found = meeting_layers(model, self.at, self.stem, "sluice")
        # A layer of one channel cannot be halved.
        found = [here for level in found if len(here := {t: v for t, v in level.items() if v.channels > 1}) > 1]
        graph = model.graph
        namer, values = Namer(graph), named_values(graph)
        for level in found:
            for task, layer in level.items():
                if not _mark(values[layer.value], layer, {values[other.value] for other in layers[task]}):
                    message = "its two subspaces are not halves of one convolution's filters"
                    report(model, Diagnostic("no-subspaces", message, layer.value, "no orthogonality penalty here"))
        outputs: dict[str, dict[Layer, ir.Value]] = {task: {} for task in layers}
        for level in found:
            for task, value in self._mix(graph, level, values, namer).items():
                outputs[task][level[task]] = value
        for task, mixed in outputs.items():
            ends = [layer for _, layer in stage_ends(without_stem(layers[task], self.stem))]
            self._join(graph, [(layer, mixed.get(layer, values[layer.value])) for layer in ends], namer)
        graph.sort()
        return PassResult(model, modified=True)

    def _mix(self, graph: ir.Graph, level: Level, values: dict[str, ir.Value], namer: Namer) -> dict[str, ir.Value]:
        """α: task -> what it goes on with."""
        features = {task: values[layer.value] for task, layer in level.items()}
        readers = {task: users(x) for task, x in features.items()}
        builders = {t: TrunkBuilder.of(graph, f"{level[t].value}/sluice", self, namer) for t in level}
        halves = {t: _halves(builders[t], x) for t, x in features.items()}
        rest = (1 - self.own) / (2 * len(level) - 1)
        mixed = {}
        for task, x in features.items():
            builder, made = builders[task], []
            for a, like in enumerate(halves[task]):
                terms = []
                for source, parts in halves.items():
                    for b, part in enumerate(parts):
                        with builder.scope(f"{a + 1}"), builder.scope(f"{source}.{b + 1}"):
                            weight = self.own if (source, b) == (task, a) else rest
                            terms.append(builder.weighted(builder.brought(part, like), weight, "alpha"))
                made.append(builder.total(terms))
            mixed[task] = builder.op("Concat", made, {"axis": 1}, shape=x.shape)
        for task, x in features.items():
            replace(graph, x, mixed[task], readers[task], namer)
        return mixed

    def _join(self, graph: ir.Graph, ends: Sequence[tuple[Layer, ir.Value]], namer: Namer) -> None:
        """β: the mixture of what a task's stages end with, in the place of the last one."""
        if len(ends) < 2:
            return
        last, end = ends[-1]
        readers = users(end)
        builder = TrunkBuilder.of(graph, f"{last.value}/sluice_beta", self, namer)
        rest = (1 - self.last) / (len(ends) - 1)
        terms = []
        for layer, value in ends:
            with builder.scope(layer.name):
                weight = self.last if value is end else rest
                terms.append(builder.weighted(builder.brought(value, end), weight, "beta"))
        replace(graph, end, builder.total(terms), readers, namer)


def _halves(builder: TrunkBuilder, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """The two subspaces of a layer."""
    channels, first = static_channels(x), first_half(static_channels(x))
    sizes = builder.constant("halves", np.array([first, channels - first], np.int64))
    name = builder.name("split")
    node = ir.node("Split", [x, sizes], {"axis": 1}, num_outputs=2, name=name)
    for index, value in enumerate(node.outputs, 1):
        value.name = f"{name}.{index}"
    builder.append(node)
    return node.outputs[0], node.outputs[1]


def first_half(channels: int) -> int:
    """How many of a layer's channels are the first subspace."""
    return channels // 2


def _mark(x: ir.Value, layer: Layer, ends: Collection[ir.Value]) -> bool:
    """Mark the weights of the convolutions whose output channels are a layer's; returns whether there are any."""
    found = False
    for node in _convolutions(x, ends):
        weight = node.inputs[1]
        if weight is not None and weight.const_value is not None and weight.const_value.shape[0] == layer.channels:
            weight.metadata_props[SUBSPACES_KEY] = str(first_half(layer.channels))
            found = True
    return found


def _convolutions(x: ir.Value, ends: Collection[ir.Value]) -> Iterator[ir.Node]:
    """The convolutions before a layer's tensor; of depthwise ones, which have a filter per channel, those before."""
    stack, seen = [x], {x}
    while stack:
        value = stack.pop()
        node = value.producer()
        if node is None or (value in ends and value is not x):
            continue
        if node.op_type == "Conv" and ops.is_linear_op(node):
            group = node.attributes.get_int("group", 1)
            if group == 1:
                yield node
                continue
            weight = node.inputs[1]
            shape = None if weight is None or weight.const_value is None else weight.const_value.shape
            if shape is None or (shape[0], shape[1]) != (group, 1):
                continue  # filters of different groups read different channels
        elif node.op_type not in _PER_CHANNEL:
            continue
        for before in node.inputs[:1] if node.op_type == "Conv" else node.inputs:
            # A gate [N, C, 1, 1] that scales the channels is no part of the filters.
            if before is None or before.is_initializer() or before in seen:
                continue
            if node.op_type == "Conv" or before.shape == node.outputs[0].shape:
                seen.add(before)
                stack.append(before)
