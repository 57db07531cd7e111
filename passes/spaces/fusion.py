"""The ``fusion`` space (MTL-NAS, Gao et al. 2020): separate networks, and edges on which they read each other.

Behind layer i of task t stands a unit that reads the layer's own features x and, on every candidate edge e, those of
another task's layer:

    y = act(BN(W·x + Σ_e Choice[edge: W_e·resize(x_e) · cut: 0]))

that is, one 1×1 convolution over the concatenation of all features, slice by slice. Sources are taken before their own
unit, so that no order of the layers is needed. ReLU follows where the layer ends with one, ReLU6 likewise; behind a
linear bottleneck nothing does, because its features may be negative.

Requires a multi-task graph with heads attached, outputs named after the tasks; every task gets a network of its own
(:mod:`onnxmtl.passes.spaces.separate`). Ensures one Choice per candidate edge, its options ``edge`` and ``cut``, its
site called ``{target task}/{layer}<{source task}/{source layer}``, decided by the target task. With w_own = 1 and all
edges cut, in evaluation mode, the graph computes what the separate networks do.

NDDR-CNN (Gao et al. 2019) is the same without Choices: ``Fusion(edges="stage-ends", choices=False, own=0.9)``.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import onnx_ir as ir

from onnxmtl.analysis.networks import (
    Edge,
    Layer,
    candidate_edges,
    network_layers,
    same_layer_edges,
    stage_end_edges,
    without_stem,
)
from onnxmtl.ir import Diagnostic, Namer, head_of, is_supermodel, report
from onnxmtl.ir.passes import InPlacePass, PassResult, Refused
from onnxmtl.passes.select.fusion import JoinEdges
from onnxmtl.passes.spaces._fusion_units import Activation, Source, UnitBuilder, UnitForm, activation_of
from onnxmtl.passes.spaces.separate import Separate

Edges = Literal["stage", "same-layer", "stage-ends"]


class Fusion(InPlacePass):
    """Turn a multi-task graph into separate networks with fusion units between them.

    Args:
        edges: Where edges may be: ``stage``, as MTL-NAS (:func:`~onnxmtl.analysis.networks.candidate_edges`);
            ``same-layer``, from every layer to the one at the same place; ``stage-ends``, the same only behind the last
            layer of each stage, as NDDR-CNN.
        choices: Whether every edge is a Choice. Without, all edges are open and each unit has one convolution.
        within: Of ``stage``: fewer than this many layers of the target's stage lie behind the source.
        same_stage: Of ``stage``: whether source and target must have the same stride.
        stem: Whether a first layer without a shortcut has edges too where later layers have shortcuts (ResNet).
        own: w_own, the initial weight of a layer's own features, in [0, 1]; the j foreign ones share the rest. One
            number, or by the layer's name, 1 where a name is missing.
        activation: Behind the normalization: ``auto`` as the module says, or the same everywhere.
        prior: Logit of ``edge`` to begin with, finite; that of ``cut`` is 0.
        norm_epsilon: ε of the units' BatchNormalization; rounded so that 1 − ε is exact.
        norm_momentum: Share of the old running statistics that a training step keeps.
    """

    def __init__(
        self,
        *,
        edges: Edges = "stage",
        choices: bool = True,
        within: int = 3,
        same_stage: bool = True,
        stem: bool = False,
        own: float | Mapping[str, float] = 1.0,
        activation: Literal["auto", "none", "relu", "relu6"] = "auto",
        prior: float = 0.0,
        norm_epsilon: float = 1e-3,
        norm_momentum: float = 0.95,
    ) -> None:
        self.edges = edges
        self.choices = choices
        self.within = within
        self.same_stage = same_stage
        self.stem = stem
        self.own = own
        self.activation = activation
        self.form = UnitForm(prior, norm_epsilon, norm_momentum)

    def requires(self, model: ir.Model) -> None:
        """Refuse a model without heads or with Choices, one task, and arguments that make no units."""
        if is_supermodel(model):
            raise Refused("fusion: this model already holds Choices; give the pass the multi-task graph before them")
        if not any(head_of(node) is not None for node in model.graph):
            raise Refused("fusion: the graph has no task heads; run AttachHeads first")
        if len(model.graph.outputs) < 2:
            raise Refused("fusion: one task has no other network to read; give two tasks or more")
        if self.edges not in get_args(Edges):
            raise Refused(f"fusion: edges is {' or '.join(map(repr, get_args(Edges)))}, not {self.edges!r}")
        if self.activation not in ("auto", *get_args(Activation)):
            raise Refused(f"fusion: activation is 'auto', 'relu', 'relu6' or 'none', not {self.activation!r}")
        if self.within < 1:
            raise Refused(f"fusion: within is a number of layers from 1 on, not {self.within}")
        for name, own in self.own.items() if isinstance(self.own, Mapping) else [("own", self.own)]:
            if not 0.0 <= own <= 1.0:
                raise Refused(f"fusion: the weight of a layer's own features is in 0 … 1, not {own:g} ({name})")
        if not math.isfinite(self.form.prior):
            raise Refused(f"fusion: prior is a finite logit, not {self.form.prior:g}")
        if not 0.0 < self.form.epsilon < 1.0 or not 0.0 <= self.form.momentum <= 1.0:
            numbers = f"{self.form.epsilon:g} and {self.form.momentum:g}"
            raise Refused(f"fusion: norm_epsilon lies between 0 and 1 and norm_momentum in 0 … 1, they are {numbers}")

    def call(self, model: ir.Model) -> PassResult:
        """Separate the networks and build the units in place.

        Raises:
            Refused: There is no edge, or `own` names a layer that no network has.
            ModelError: Sizes of the networks are unknown.
        """
        Separate()(model)
        layers = network_layers(model)
        edges = self.candidates(layers)
        if not edges:
            found = ", ".join(f"{task}: {len(of_task)}" for task, of_task in layers.items())
            msg = f"fusion: no layer of one network fits one of another (layers found: {found})"
            hint = "same_stage=False lets them differ in stride" if self.same_stage else "they need maps [N, C, H, W]"
            raise Refused(f"{msg}; {hint}")
        self._check_names(layers)
        self._build(model, layers, edges)
        if self.choices:
            model.metadata_props["onnxmtl.kind"] = "supermodel"
        else:
            JoinEdges()(model)
        return PassResult(model, modified=True)

    def candidates(self, layers: Mapping[str, Sequence[Layer]]) -> tuple[Edge, ...]:
        """The edges that the arguments allow between these layers."""
        if self.edges == "same-layer":
            return same_layer_edges(layers, stem=self.stem)
        if self.edges == "stage-ends":
            return stage_end_edges(layers, stem=self.stem)
        return candidate_edges(layers, same_stage=self.same_stage, within=self.within, stem=self.stem)

    def _build(self, model: ir.Model, layers: Mapping[str, Sequence[Layer]], edges: Sequence[Edge]) -> None:
        graph = model.graph
        values = {str(value.name): value for node in graph for value in node.outputs}
        value_of = {(task, layer.name): values[layer.value] for task, found in layers.items() for layer in found}
        of_unit: dict[tuple[str, str], list[Edge]] = {}
        for edge in edges:
            of_unit.setdefault((edge.target_task, edge.target_layer), []).append(edge)
        builder = UnitBuilder(graph, self, self.form)
        outputs = list(graph.outputs)
        made: list[tuple[ir.Value, list[tuple[ir.Node, int]], ir.Value]] = []
        for (task, layer), into in of_unit.items():
            x = value_of[task, layer]
            readers = [(use.node, use.idx) for use in x.uses() if use.node.graph is graph]
            sources = [
                Source(
                    f"{edge.source_task}/{edge.source_layer}",
                    value_of[edge.source_task, edge.source_layer],
                    site_id(edge) if self.choices else None,
                )
                for edge in into
            ]
            activation = activation_of(x) if self.activation == "auto" else self.activation
            y = builder.unit(f"{task}/{layer}/fusion", task, x, sources, self._own(layer), activation)
            made.append((x, readers, y))
        graph.extend(builder.nodes)
        for x, readers, y in made:
            for node, index in readers:
                node.replace_input_with(index, y)
            if x in outputs:
                _keep_output(graph, outputs.index(x), x, y, builder.namer)
        self._sort(graph)
        for task, found in layers.items():
            kept = without_stem(found, self.stem)
            for left_out in (one for one in found if (task, one.name) not in of_unit):
                fits = left_out in kept
                message = "no layer of another network fits" if fits else "it is the stem of a residual network"
                hint = "" if fits else "the setting stem=True gives it edges too"
                report(model, Diagnostic("unit-not-made", f"no unit is behind it: {message}", left_out.value, hint))

    def _own(self, layer: str) -> float:
        return float(self.own.get(layer, 1.0)) if isinstance(self.own, Mapping) else self.own

    def _check_names(self, layers: Mapping[str, Sequence[Layer]]) -> None:
        known = {layer.name for found in layers.values() for layer in found}
        for name in self.own if isinstance(self.own, Mapping) else ():
            if name not in known:
                close = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.4)
                hint = f"close to it: {', '.join(close)}" if close else "`onnxmtl inspect --space fusion` lists them"
                raise Refused(f"fusion: own names {name!r}, which is no layer; {hint}")

    def _sort(self, graph: ir.Graph) -> None:
        try:
            graph.sort()
        except ValueError as error:
            msg = f"fusion: with edges={self.edges!r} two of these networks would wait for each other"
            raise Refused(f"{msg}; edges='stage' never does that") from error


def site_id(edge: Edge) -> str:
    """Id of the site at which an edge is decided."""
    return f"{edge.target_task}/{edge.target_layer}<{edge.source_task}/{edge.source_layer}"


def _keep_output(graph: ir.Graph, index: int, old: ir.Value, new: ir.Value, namer: Namer) -> None:
    """An output that is a feature itself keeps its name: the unit's result has it from now on."""
    name, old.name = old.name, namer.unique(f"{old.name}/before")
    new.name = name
    graph.outputs[index] = new
