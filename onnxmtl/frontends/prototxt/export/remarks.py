"""Which readers understand what was written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from onnxmtl.frontends.prototxt.export.net import Net

# Layers that not every Caffe has.
_WHERE = {
    "Clip": "BVLC's Caffe has it from 2018 on (in 1.0 it is not)",
    "Interp": "DeepLab's and PSPNet's Caffe have it",
    "Permute": "SSD's Caffe has it",
    "Upsample": "YOLO's relatives of Caffe have it",
}
_AUTOMTL = ("Convolution", "BatchNorm", "ReLU", "Pooling", "Eltwise", "Dropout", "InnerProduct")
_FEW = 4


def remark_readers(net: Net) -> None:
    """One remark for each thing that not all readers of a dialect know. onnxmtl reads all of it."""
    messages = [written.message for written in net.layers]
    for what, names in _unknown_to_automtl(messages) if net.automtl else _unknown_to_caffe(messages):
        more = f" and {len(names) - _FEW} more" if len(names) > _FEW else ""
        net.remark("prototxt-readers", f"{what}: {', '.join(map(repr, names[:_FEW]))}{more}")


def _unknown_to_caffe(layers: Sequence[Any]) -> Iterator[tuple[str, list[str]]]:
    for kind, where in _WHERE.items():
        names = [layer.name for layer in layers if layer.type == kind]
        if names:
            yield f"{kind} is not in every Caffe, {where}", names
    names = [layer.name for layer in layers if layer.pooling_param.HasField("round_mode")]
    if names:
        yield "round_mode of Pooling is not in every Caffe, BVLC's has it from 2018 on; older ones round up", names


def _unknown_to_automtl(layers: Sequence[Any]) -> Iterator[tuple[str, list[str]]]:
    others = dict.fromkeys(layer.type for layer in layers if layer.type not in _AUTOMTL)
    for kind in others:
        yield f"AutoMTL's own reader does not know {kind}", [layer.name for layer in layers if layer.type == kind]
    checks: dict[str, Callable[[Any], bool]] = {
        "a negative slope": lambda layer: bool(layer.relu_param.negative_slope),
        "windows that are not square": _is_oblong,
        "a product": lambda layer: layer.type == "Eltwise" and layer.eltwise_param.operation == 0,
        "a name of a shared weight": lambda layer: any(param.name for param in layer.param),
    }
    for what, found in checks.items():
        names = [layer.name for layer in layers if found(layer)]
        if names:
            yield f"AutoMTL's own reader ignores or refuses {what}", names


def _is_oblong(layer: Any) -> bool:
    conv, pool = layer.convolution_param, layer.pooling_param
    split = any(param.HasField(name) for param in (conv, pool) for name in ("kernel_h", "stride_h", "pad_h"))
    return split or len(conv.dilation) > 1
