"""A prototxt network into an ONNX graph: layer by layer, in file order, as Caffe's ``Net::Init`` goes."""

from __future__ import annotations

import dataclasses
import difflib
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Literal

import onnx_ir as ir

import onnxmtl.frontends.prototxt.layers  # noqa: F401  (fills the registry)
from onnxmtl.errors import ModelError
from onnxmtl.frontends.prototxt import sources, upgrade
from onnxmtl.frontends.prototxt.builder import Builder
from onnxmtl.frontends.prototxt.dialect import INPUT_NAMES, Dialect, detect
from onnxmtl.frontends.prototxt.phases import included
from onnxmtl.frontends.prototxt.registry import Blob, Layer, UnsupportedLayerError, entry
from onnxmtl.frontends.prototxt.remarks import report_fields, report_weights
from onnxmtl.frontends.prototxt.text import Document, Source
from onnxmtl.frontends.prototxt.weights import CaffeModel
from onnxmtl.ir import report

_IR_VERSION = 10


def convert(
    document: Document,
    weights: CaffeModel | None = None,
    *,
    dialect: Dialect = "auto",
    phase: Literal["test", "train"] = "test",
) -> ir.Model:
    """The network of a document as an ONNX model; remarks are attached to it.

    Raises:
        ModelError: What is wrong, with file and line; or one message that names all layers that are not supported.
    """
    return _Conversion(document, weights, dialect, phase).run()


@dataclasses.dataclass(frozen=True)
class _Unavailable:
    """A blob that is not computed: a label, a loss, or behind a layer that is not supported."""

    why: str


class _Conversion:
    def __init__(self, document: Document, weights: CaffeModel | None, dialect: Dialect, phase: str) -> None:
        self.document = document
        self.phase, every = phase.upper(), upgrade.layers(document)
        self.layers = [(layer, source) for layer, source in every if included(document.net, layer, phase)]
        kept = {id(source) for _, source in self.layers}
        self.left_out = [(layer, source) for layer, source in every if id(source) not in kept]
        self.net = Builder(document.net.name, weights)
        self.automtl, why = detect(document.net, self.layers)
        if dialect != "auto":
            self.automtl, why = dialect == "automtl", "as asked"
        name, other = ("AutoMTL's", "caffe") if self.automtl else ("Caffe's", "automtl")
        self.net.remark(
            "prototxt-dialect", f"read in {name} dialect ({why})", hint=f"--dialect {other} if that is wrong"
        )
        if self.left_out:
            self._say_left_out()
        self.blobs: dict[str, Blob | _Unavailable] = {}
        self.left: dict[str, None] = {}  # names of blobs that nobody has read yet, in order
        self.unsupported: list[str] = []
        self.skipped: dict[str, list[str]] = {}
        self.scales = _fused_scales(self.layers)
        self.fused = {j: i for i, j in self.scales.items()}

    def run(self) -> ir.Model:
        """All layers, then the outputs."""
        for name, shape in sources.declared_inputs(self.document):
            self._write(name, self.net.image(name, shape))
        for i, (message, source) in enumerate(self.layers):
            if i not in self.fused:
                self._layer(i, message, source)
        self._refuse_unsupported()
        self._outputs()
        model = ir.Model(self.net.graph, ir_version=_IR_VERSION, producer_name="onnxmtl")
        for kind, lines in self.skipped.items():
            self.net.remark("prototxt-skipped", f"{kind}: {', '.join(lines)}")
        report_fields(self.net, self.document, self.layers)
        report_weights(self.net, [str(layer.name) for layer, _ in self.layers])
        for remark in self.net.remarks:
            report(model, remark)
        return model

    # Layers

    def _layer(self, index: int, message: Any, source: Source) -> None:
        kind = message.type
        layer = Layer(message, message.name or kind or "layer", self.document.file, source.line, (), self.automtl)
        if kind in sources.INPUT_LAYERS or kind in sources.DATA_LAYERS:
            self._source(layer)
            return
        shown = f"line {source.line} {layer.name!r} ({kind})"
        if sources.is_sink(kind):
            self.skipped.setdefault("layers that serve training only are left out", []).append(shown)
            if kind == "Silence":  # nobody wants to see these
                for name in message.bottom:
                    self.left.pop(name, None)
            self._unavailable(layer, "a loss")
            return
        found = entry(kind)
        if found is None and not message.bottom and message.top and kind not in sources.NO_DATA:
            raise sources.own_data_layer(layer)
        if found is None:
            self.unsupported.append(f"{layer.name!r} ({kind or 'no type'}, line {source.line})")
            self._unavailable(layer, "unsupported")
            return
        names = [self._resolve(layer, name) for name in message.bottom]
        bottoms = [self.blobs[name] for name in names]
        missing = [blob for blob in bottoms if isinstance(blob, _Unavailable)]
        if missing:
            if missing[0].why != "unsupported":
                self.skipped.setdefault(f"layers that read {missing[0].why} are left out", []).append(shown)
            self._unavailable(layer, missing[0].why)
            return
        for name in names:
            self.left.pop(name, None)
        fewest, most = found.bottoms
        if not fewest <= len(bottoms) <= most:
            expected = str(fewest) if fewest == most else f"{fewest} or more" if most > 2 else f"{fewest} or {most}"
            raise layer.error(f"has {len(bottoms)} bottoms, it takes {expected}")
        layer = dataclasses.replace(layer, bottoms=tuple(b for b in bottoms if isinstance(b, Blob)))
        layer = self._with_scale(layer, index)
        first = len(self.net.graph)
        try:
            outputs = found.convert(layer, self.net)
        except UnsupportedLayerError as e:
            self.unsupported.append(f"{layer.name!r} ({kind}, line {source.line}: {e})")
            self._unavailable(layer, "unsupported")
            return
        self._store(layer, outputs, first)

    def _source(self, layer: Layer) -> None:
        shapes = sources.layer_shapes(layer)
        for top, shape in zip(layer.tops, shapes, strict=False):
            self._write(top, self.net.image(top, shape))
        for top in layer.tops[len(shapes) :]:
            self._write(top, _Unavailable("a label"))
        if layer.type != "Input":
            before = sources.preprocessing(layer.message)
            what = "became an input" + (f"; it {before} first, which is not part of the model" if before else "")
            hint = "give the network images prepared in the same way" if before else ""
            self.net.remark("prototxt-skipped", what, layer, hint)

    def _with_scale(self, layer: Layer, index: int) -> Layer:
        if index not in self.scales:
            return layer
        message, source = self.layers[self.scales[index]]
        scale = Layer(message, message.name or "Scale", layer.file, source.line, layer.bottoms, self.automtl)
        return dataclasses.replace(layer, scale=scale)

    def _store(self, layer: Layer, outputs: Sequence[Blob], first: int) -> None:
        """Name the outputs after the tops. Tops beyond the outputs (masks of a pooling) are not available."""
        tops = layer.tops if layer.scale is None else layer.scale.tops
        if len(tops) > len(outputs):
            for top in tops[len(outputs) :]:
                self._write(top, _Unavailable("unsupported"))
                self.unsupported.append(f"{layer.name!r} ({layer.type}, line {layer.line}: a second output {top!r})")
        last = layer.name if layer.scale is None else layer.scale.name
        fresh = len(self.net.graph) > first
        for top, blob in zip(tops, outputs, strict=False):
            if fresh:
                self.net.rename(blob, top, f"{top}.{last}")
            self._write(top, blob)

    # Blobs

    def _resolve(self, layer: Layer, name: str) -> str:
        """The name of an existing blob: AutoMTL's "data" and "blob1" mean the input.

        Raises:
            ModelError: Nothing makes that blob.
        """
        if name not in self.blobs and self.automtl and name in INPUT_NAMES and len(self.document.net.input) == 1:
            name = self.document.net.input[0]
        if name not in self.blobs:
            makers = [f"{m.name!r} (line {source.line})" for m, source in self.left_out if name in m.top]
            if makers:
                rules = f"left out of phase {self.phase} by include and exclude rules"
                raise layer.error(f"reads {name!r}, but what makes it is {rules}: {', '.join(makers)}; change those")
            raise layer.error(f"reads {name!r}, which no layer before it makes{_close(name, list(self.blobs))}")
        return name

    def _write(self, name: str, blob: Blob | _Unavailable) -> None:
        self.blobs[name] = blob
        self.left.pop(name, None)
        if isinstance(blob, Blob):
            self.left[name] = None

    def _unavailable(self, layer: Layer, why: str) -> None:
        """A layer that is not converted: what it reads counts as unread, what it makes does not exist."""
        for top in layer.tops:
            if top not in layer.message.bottom:
                self._write(top, _Unavailable(why))
        if why == "unsupported":
            for name in layer.message.bottom:
                self.left.pop(name, None)

    # The end

    def _outputs(self) -> None:
        """What nobody reads is an output; inputs that nobody reads are dropped."""
        graph = self.net.graph
        images, taken = set(graph.inputs), set[ir.Value]()
        for name in self.left:
            blob = self.blobs[name]
            if not isinstance(blob, Blob) or blob.value in images:
                continue
            value = blob.value
            if value in taken:  # several names of one blob
                copy = ir.Value(name=self.net.unique(name), type=value.type, shape=value.shape)
                graph.append(ir.Node("", "Identity", [value], outputs=[copy], name=self.net.node_name(f"{name}.copy")))
                value = copy
            taken.add(value)
            graph.outputs.append(value)
        used = [value for value in graph.inputs if value.uses()]
        graph.inputs.clear()
        graph.inputs.extend(used)
        if not graph.outputs or not used:
            msg = f"{self.document.file}: no layer of it computes anything from an input; check include and phase"
            raise ModelError(msg)

    def _refuse_unsupported(self) -> None:
        if not self.unsupported:
            return
        count = len(self.unsupported)
        shown = ", ".join(self.unsupported[:50]) + (f" and {count - 50} more" if count > 50 else "")
        are, them = ("s are", "them") if count > 1 else (" is", "it")
        msg = (
            f"{self.document.file}: {count} layer{are} not supported: {shown}; end the network before {them}, or put "
            f"layers of stock Caffe in place of {them}"
        )
        raise ModelError(msg)

    def _say_left_out(self) -> None:
        left = [f"line {source.line} {layer.name!r} ({layer.type})" for layer, source in self.left_out]
        what = f"layers that are not of phase {self.phase} are left out: {', '.join(left)}"
        self.net.remark("prototxt-skipped", what)


def _fused_scales(layers: Sequence[tuple[Any, Source]]) -> dict[int, int]:
    """Indices of BatchNorm layers -> of the Scale layers that alone read them, and have a bias."""
    readers: dict[int, list[int]] = defaultdict(list)
    made_by: dict[str, int] = {}
    for i, (layer, _) in enumerate(layers):
        for name in layer.bottom:
            if name in made_by:
                readers[made_by[name]].append(i)
        for name in layer.top:
            made_by[name] = i
    found = {}
    for i, (layer, _) in enumerate(layers):
        if layer.type != "BatchNorm" or len(readers[i]) != 1 or len(layer.top) != 1:
            continue
        scale, param = layers[readers[i][0]][0], layers[readers[i][0]][0].scale_param
        plain = param.axis in (1, -3) and param.num_axes == 1 and param.bias_term
        if scale.type == "Scale" and plain and len(scale.bottom) == 1 and len(scale.top) == 1:
            found[i] = readers[i][0]
    return found


def _close(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name[:100], known[:2000], n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
