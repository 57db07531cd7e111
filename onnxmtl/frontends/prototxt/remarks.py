"""What was not used is said by name and line: fields, layers of the weights, weights that nothing gave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnxmtl.errors import ModelError
from onnxmtl.frontends.prototxt import sources
from onnxmtl.frontends.prototxt.builder import Builder, shown_lines
from onnxmtl.frontends.prototxt.registry import entry
from onnxmtl.frontends.prototxt.text import Document, Source

_LAYER_FIELDS = ("name", "type", "bottom", "top", "include", "exclude", "blobs", "blob_share_mode")
_HEADER_FIELDS = ("name", "input", "input_shape", "input_dim", "state")
_MANY = 8


def report_fields(net: Builder, document: Document, layers: Sequence[tuple[Any, Source]]) -> None:
    """Unknown fields, fields that are given twice, and known fields that no converter reads; each with its lines."""
    found: dict[tuple[str, str], list[int]] = {}

    def note(code: str, path: str, line: int) -> None:
        found.setdefault((code, path), []).append(line)

    for source in (document.header, *(source for _, source in layers)):
        for place in source.unknown:
            note("prototxt-unknown", place.path, place.line)
        for place in source.again:
            note("prototxt-repeated", place.path, place.line)
    for place in document.header.fields:
        if place.path.partition(".")[0] not in _HEADER_FIELDS:
            note("prototxt-ignored", place.path, place.line)
    for layer, source in layers:
        if sources.is_sink(layer.type) or layer.type in sources.DATA_LAYERS | sources.INPUT_LAYERS:
            continue  # reported as a whole
        known = entry(layer.type)
        reads = known.reads if known is not None else frozenset[str]()
        for place in source.fields:
            if not _is_read(place.path, reads):
                note("prototxt-ignored", place.path, place.line)
    texts = {
        "prototxt-unknown": "is not a field that onnxmtl knows; ignored",
        "prototxt-repeated": "is given more than once; the last one counts",
        "prototxt-ignored": "has no effect on the imported network; ignored",
    }
    for (code, path), lines in found.items():
        net.remark(code, f"{path} {texts[code]}: {shown_lines(lines)}")


def _is_read(path: str, reads: frozenset[str]) -> bool:
    parts = path.split(".")
    if parts[0] in _LAYER_FIELDS or path in ("param", "param.name", "param.share_mode"):
        return True
    if len(parts) == 1:  # the message itself
        return any(read.startswith(f"{path}.") for read in reads)
    return ".".join(parts[:2]) in reads


def report_weights(net: Builder, layers: Sequence[str]) -> None:
    """Layers whose weights nothing gave, and weights that no layer took.

    Raises:
        ModelError: A layer has more blobs in the file than the network reads, or no layer has any.
    """
    if net.weights is None:
        if net.drawn:
            what = f"no weights are given: those of {len(net.drawn)} layers start as their fillers say"
            net.remark("prototxt-initialized", what, hint="--weights net.caffemodel brings trained ones")
        return
    if not net.weights.used:
        msg = f"{net.weights.file}: none of its layers has the name of a layer of the network"
        raise ModelError(msg)
    surplus = list(net.weights.too_many())
    if surplus:
        msg = f"{net.weights.file}: {'; '.join(surplus)}; the prototxt and the weights do not belong together"
        raise ModelError(msg)
    if net.drawn:
        what = f"the weights of {_few(list(net.drawn))} are not in {net.weights.file} and start as their fillers say"
        net.remark("prototxt-initialized", what)
    unused = net.weights.unused()
    if unused:
        net.remark("prototxt-weights", f"{net.weights.file} has weights that no layer takes: {_few(unused)}")


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MANY} more" if len(names) > _MANY else ""
    return ", ".join(repr(name) for name in names[:_MANY]) + more
