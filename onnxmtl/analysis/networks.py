"""The layers of separate networks, one per task, and between which of them features may be passed on.

Networks are compared by resolution (the stride of a layer) and by position, which is the share of the network's own
multiply-adds that has been executed up to and including a layer: this also works for networks of different depth.

The rule of MTL-NAS (Gao et al. 2020, Sec. 3.1; the released code, with layers counted instead of positions): an edge
leads from source layer j of one network to target layer i of another one if both belong to the same stage, j is not
later than i, and i − j < 3.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction

import onnx_ir as ir

from onnxmtl import ops
from onnxmtl.analysis.blocks import Block, blocks
from onnxmtl.analysis.features import feature_dims, nominal_strides
from onnxmtl.analysis.frontiers import boundaries, passive_values, reads, scan_order
from onnxmtl.errors import ModelError
from onnxmtl.ir import copy_initializer, copy_nodes, head_of, tasks_of_nodes
from onnxmtl.ir.copying import copy_shape

Layers = Mapping[str, Sequence["Layer"]]

# What may stand between a layer and the next one without being a part of it.
_BEHIND_A_LAYER = frozenset(
    {"MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "Dropout", "Identity", "Pad"}
)
# Two positions this close are one: shares are quotients of integers, in double precision.
_ROUNDING = 1e-12


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer of one task's network: a feature map that another network could read.

    Attributes:
        name: Of its tensor, without the prefix ``{task}/``.
        value: Name of its tensor in the graph.
        channels: Of the feature map.
        stride: Size of the image divided by that of the feature map. Layers of equal stride are one stage.
        share: Multiply-adds of the network's trunk that are executed up to and including this layer, of all of them;
            in (0, 1], increasing along the network.
        index: 0, 1, … along the network.
        shortcut: Whether it is a residual block: adds two feature maps.
    """

    name: str
    value: str
    channels: int
    stride: int
    share: float
    index: int
    shortcut: bool = False


@dataclasses.dataclass(frozen=True)
class Edge:
    """Features of a layer of one network, read by the fusion unit behind a layer of another one."""

    target_task: str
    target_layer: str
    source_task: str
    source_layer: str


def network_layers(model: ir.Model) -> dict[str, tuple[Layer, ...]]:
    """The layers of every task's network: the blocks that :func:`~onnxmtl.analysis.blocks.blocks` finds in its trunk.

    The tensor of a layer is the one before a pooling at the block's end: VGG-16 has 13 layers in stages of
    2, 2, 3, 3 and 3, ResNet-50 the stem and 16 residual blocks. Blocks that end with no feature map [N, C, H, W]
    (tokens) are none.

    Args:
        model: Separate networks with heads, see :class:`onnxmtl.passes.spaces.separate.Separate`. Read-only.

    Returns:
        Task -> its layers from the image on; a task whose head reads the image has none.

    Raises:
        ModelError: Two tasks share a part of the trunk; sizes that multiply-adds need are unknown.
    """
    needed = tasks_of_nodes(model.graph)
    trunk = [node for node in model.graph if head_of(node) is None and needed[node]]
    passive = passive_values(trunk)
    for node in trunk:
        if len(needed[node]) > 1 and any(value not in passive for value in node.outputs):
            names = ", ".join(sorted(needed[node]))
            msg = f"the tasks {names} share {node.name!r}; layers are those of separate networks: run Separate first"
            raise ModelError(msg)
    tasks = [str(value.name) for value in model.graph.outputs]
    return {
        task: tuple(_layers(_network(model.graph, [n for n in trunk if task in needed[n]]), task)) for task in tasks
    }


def backbone_layers(backbone: ir.Model) -> tuple[Layer, ...]:
    """The layers that :func:`network_layers` would find in every task's copy of a normalized backbone.

    Raises:
        ModelError: Sizes that multiply-adds need are unknown.
    """
    return tuple(_layers(backbone.graph, ""))


def candidate_edges(
    layers: Layers, *, same_stage: bool = True, within: int = 3, stem: bool = False
) -> tuple[Edge, ...]:
    """All edges that the rule allows between every two networks, in both directions.

    Args:
        layers: Task -> its layers, of :func:`network_layers`.
        same_stage: Whether source and target must have the same stride.
        within: Fewer than this many layers of the target's stage (of all stages, without `same_stage`) lie behind the
            source, up to and including the target; between equal networks that is i − j < within.
        stem: Whether a first layer without a shortcut before residual blocks counts (MTL-NAS leaves out ResNet's).
            In networks without residual blocks all layers count.

    Returns:
        By target task, target layer, source task, source layer, each in their order.

    Raises:
        ModelError: `within` is less than 1.
    """
    if within < 1:
        msg = f"edges: within is a number of layers from 1 on, not {within}"
        raise ModelError(msg)
    found = []
    for target_task, source_task in itertools.permutations(layers, 2):
        targets = without_stem(layers[target_task], stem)
        for target in targets:
            for source in without_stem(layers[source_task], stem):
                if same_stage and source.stride != target.stride:
                    continue
                between = [
                    layer
                    for layer in targets
                    if source.share + _ROUNDING < layer.share <= target.share + _ROUNDING
                    and (not same_stage or layer.stride == target.stride)
                ]
                if source.share <= target.share + _ROUNDING and len(between) < within:
                    found.append((target, source, Edge(target_task, target.name, source_task, source.name)))
    return _ordered(layers, found)


def same_layer_edges(layers: Layers, *, stem: bool = True) -> tuple[Edge, ...]:
    """From every layer to the other networks' layers at the same place (the SuperNet of NDDR units, MTL-NAS Sec. 4.1).

    Between different networks that is the last source layer of the same stride that is not later than the target, and
    later than the target's predecessor.
    """
    found = []
    for target_task, source_task in itertools.permutations(layers, 2):
        before = 0.0
        for target in without_stem(layers[target_task], stem):
            fitting = [
                source
                for source in without_stem(layers[source_task], stem)
                if source.stride == target.stride and before + _ROUNDING < source.share <= target.share + _ROUNDING
            ]
            if fitting:
                source = fitting[-1]
                found.append((target, source, Edge(target_task, target.name, source_task, source.name)))
            before = target.share
    return _ordered(layers, found)


def stage_end_edges(layers: Layers, *, stem: bool = True) -> tuple[Edge, ...]:
    """Between the last layers of equal stages (NDDR-CNN, Gao et al. 2019; also cross-stitch units)."""
    found = []
    for target_task, source_task in itertools.permutations(layers, 2):
        sources = dict(stage_ends(without_stem(layers[source_task], stem)))
        for stage, target in stage_ends(without_stem(layers[target_task], stem)):
            if (source := sources.get(stage)) is not None:
                found.append((target, source, Edge(target_task, target.name, source_task, source.name)))
    return _ordered(layers, found)


def stage_ends(layers: Sequence[Layer]) -> list[tuple[tuple[int, int], Layer]]:
    """The last layer of every stage, which is a run of layers of one stride: ((stride, its how-manieth run), layer)."""
    runs: list[tuple[tuple[int, int], Layer]] = []
    seen: dict[int, int] = {}
    for stride, run in itertools.groupby(layers, lambda layer: layer.stride):
        runs.append(((stride, seen.get(stride, 0)), list(run)[-1]))
        seen[stride] = seen.get(stride, 0) + 1
    return runs


def without_stem(layers: Sequence[Layer], stem: bool = False) -> Sequence[Layer]:
    """The layers without a first one that has no shortcut while later ones do; all of them if `stem` is kept."""
    is_stem = not stem and bool(layers) and not layers[0].shortcut and any(layer.shortcut for layer in layers)
    return layers[1:] if is_stem else layers


def _ordered(layers: Layers, found: Sequence[tuple[Layer, Layer, Edge]]) -> tuple[Edge, ...]:
    task = {name: i for i, name in enumerate(layers)}
    key = [(task[e.target_task], t.index, task[e.source_task], s.index) for t, s, e in found]
    return tuple(edge for _, (_, _, edge) in sorted(zip(key, found, strict=True), key=lambda pair: pair[0]))


def _network(graph: ir.Graph, nodes: Sequence[ir.Node]) -> ir.Graph:
    """One task's trunk as a graph of its own, under the same names; its outputs are what heads read of it."""
    made = {value for node in nodes for value in node.outputs}
    members = set(nodes)
    ends = [v for v in made if v.is_graph_output() or any(use.node not in members for use in v.uses())]
    inputs = {v: ir.Value(name=v.name, type=v.type, shape=copy_shape(v)) for v in graph.inputs}
    weights = {v: None for node in nodes for v in reads(node) if v.is_initializer()}
    alone = ir.Graph(list(inputs.values()), [], nodes=[], opset_imports=dict(graph.opset_imports), name="network")
    values = {**inputs, **{v: copy_initializer(alone, v, str(v.name)) for v in weights if v not in inputs}}
    alone.extend(copy_nodes(nodes, values, lambda name: name))
    order = {value: i for i, value in enumerate(value for node in nodes for value in node.outputs)}
    alone.outputs.extend(values[value] for value in sorted(ends, key=order.__getitem__) if head_reads(value, members))
    return alone


def head_reads(value: ir.Value, trunk: set[ir.Node]) -> bool:
    """Whether a head of the network that consists of `trunk` reads the value, or an output of the model is it."""
    return value.is_graph_output() or any(
        head_of(use.node) is not None for use in value.uses() if use.node not in trunk
    )


def _layers(network: ir.Graph, task: str) -> Iterator[Layer]:
    if not len(network):
        return
    order = scan_order(network)
    position = {node: i for i, node in enumerate(order)}
    costs = list(itertools.accumulate((_cost(node) for node in order), initial=0))
    # Of the boundaries only those with one tensor count: behind it the unit's result takes the tensor's place.
    ends = {cut.position: cut.values[0] for cut in boundaries(order)}
    strides, height = nominal_strides(network), _image_height(network)
    before = index = 0
    for block in blocks(network):
        value = _tensor(block, position, ends)
        producer = value.producer()
        assert producer is not None
        cost = costs[position[producer] + 1]
        stride = _stride(value, strides, height)
        channels = value.shape[1] if value.shape is not None and len(value.shape) == 4 else None
        if isinstance(channels, int) and stride is not None and cost > before:
            name = str(value.name)
            shortcut = any(_adds(node) for node in block.nodes)
            share = cost / costs[-1]
            yield Layer(name.removeprefix(f"{task}/") if task else name, name, channels, stride, share, index, shortcut)
            before, index = cost, index + 1


def _cost(node: ir.Node) -> int:
    entry = ops.spec(node)
    return 0 if entry is None or entry.multiply_adds is None else ops.multiply_adds(node)


def _tensor(block: Block, position: Mapping[ir.Node, int], ends: Mapping[int, ir.Value]) -> ir.Value:
    """The tensor behind the block's last layer: before a pooling, if it alone is alive there."""
    value = block.outputs[-1]
    members = set(block.nodes)
    while True:
        node = value.producer()
        before = node.inputs[0] if node is not None and node.op_type in _BEHIND_A_LAYER else None
        maker = None if before is None else before.producer()
        if before is None or maker not in members or ends.get(position[maker] + 1) is not before:
            return value
        value = before


def _adds(node: ir.Node) -> bool:
    """Whether the node adds two feature maps."""
    maps = [v for v in node.inputs if v is not None and not v.is_initializer() and v.shape is not None]
    return node.op_type in ("Add", "Sum") and sum(len(v.shape) == 4 for v in maps if v.shape is not None) > 1


def _image_height(network: ir.Graph) -> int | None:
    dims = [feature_dims(value) for value in network.inputs]
    return next((found[1] for found in dims if found is not None), None)


def _stride(value: ir.Value, nominal: Mapping[ir.Value, Fraction], height: int | None) -> int | None:
    known = nominal.get(value)
    if known is not None and known.denominator == 1:
        return int(known)
    dims = feature_dims(value)
    return max(1, round(height / dims[1])) if height is not None and dims is not None else None
