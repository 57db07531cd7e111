"""V1 layers (``layers { type: CONVOLUTION }``) into today's form, as Caffe's ``upgrade_proto.cpp`` does."""

from __future__ import annotations

from typing import Any

from onnxmtl.errors import ModelError
from onnxmtl.frontends.prototxt.schema import enum, is_repeated, message
from onnxmtl.frontends.prototxt.text import Document, Source

# V1 types whose name today is not the same word in another spelling.
_NAMES = {
    "ABSVAL": "AbsVal",
    "ARGMAX": "ArgMax",
    "BNLL": "BNLL",
    "HDF5_DATA": "HDF5Data",
    "HDF5_OUTPUT": "HDF5Output",
    "LRN": "LRN",
    "MVN": "MVN",
    "RELU": "ReLU",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "TANH": "TanH",
    "IM2COL": "Im2col",
}
# Fields that have no namesake in LayerParameter, or another meaning there.
_OWN = frozenset({"type", "param", "blob_share_mode", "blobs_lr", "weight_decay", "layer"})


def v1_types() -> dict[int, str]:
    """Number of a V1 layer type -> its name today."""
    return {number: _name(key) for key, number in enum("V1LayerType").items()}


def layers(document: Document) -> list[tuple[Any, Source]]:
    """The layers of a file as ``LayerParameter`` messages, V1 ones converted, each with where it stands.

    Raises:
        ModelError: The file is older still (V0), mixes both forms, or has no layers.
    """
    net, file = document.net, document.file
    if net.layer and net.layers:
        msg = f"{file}:{document.layers[0].line}: 'layers' (the old form) and 'layer' in one file; keep one form"
        raise ModelError(msg)
    if not net.layer and not net.layers:
        msg = f"{file}: there is no layer in it; give the file that describes the network (not the solver)"
        raise ModelError(msg)
    if net.layer:
        return list(zip(net.layer, document.layer, strict=True))
    for old, source in zip(net.layers, document.layers, strict=True):
        if old.HasField("layer"):
            msg = (
                f"{file}:{source.line}: is in Caffe's first format (V0); convert it with Caffe's "
                "upgrade_net_proto_text (and the weights with upgrade_net_proto_binary)"
            )
            raise ModelError(msg)
    return [(_upgraded(old), source) for old, source in zip(net.layers, document.layers, strict=True)]


def _upgraded(old: Any) -> Any:
    new = message("LayerParameter")
    new.type = _name(enum_name(old.type))
    for field, value in old.ListFields():
        if field.name in _OWN:
            continue
        if is_repeated(field):
            getattr(new, field.name).extend(value)
        elif field.message_type is not None:
            getattr(new, field.name).CopyFrom(value)
        else:
            setattr(new, field.name, value)
    for i, name in enumerate(old.param):
        while len(new.param) <= i:
            new.param.add()
        new.param[i].name = name
        if i < len(old.blob_share_mode):
            new.param[i].share_mode = old.blob_share_mode[i]
    return new


def enum_name(number: int) -> str:
    """Name of a V1 layer type's number."""
    return next(key for key, value in enum("V1LayerType").items() if value == number)


def _name(key: str) -> str:
    return _NAMES.get(key) or "".join(word.capitalize() for word in key.split("_"))
