"""Module scopes: which torch module a node came from, as its exporter wrote it down."""

from __future__ import annotations

import ast

import onnx_ir as ir

_SCOPES = "pkg.torch.onnx.name_scopes"  # a list: "['', 'layer1', 'layer1.0', 'layer1.0.conv1', 'conv2d']"
_NAMESPACE = "namespace"  # ": resnet.ResNet/layer1: Sequential/layer1.0: Block/…/conv2d: aten.conv2d.default"


def scope(node: ir.Node) -> tuple[str, ...] | None:
    """The path of the module that the node is in, from the outermost module to the innermost: ("layer1", "0").

    Read from the metadata that torch's exporter writes (``pkg.torch.onnx.name_scopes``, ``namespace``), else from a
    name as torch's older exporter gives them ("/layer1/layer1.0/conv1/Conv").

    Returns:
        None if the node tells nothing about it; () for what the whole network's own forward does.
    """
    text = node.metadata_props.get(_SCOPES)
    if text is not None and (names := _names(text)) is not None:
        return _path(names[:-1])  # the last one is the operation
    text = node.metadata_props.get(_NAMESPACE)
    if text:
        return _path([part.partition(":")[0].strip() for part in text.split("/")[:-1]])
    name = str(node.name or "")
    if name.startswith("/"):
        return _path(name.split("/")[1:-1])
    return None


def _names(text: str) -> list[str] | None:
    try:
        names = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return names if isinstance(names, list) and names and all(isinstance(name, str) for name in names) else None


def _path(names: list[str]) -> tuple[str, ...]:
    """From nested names, each of which may repeat what is around it ("layer1", "layer1.0", "conv1")."""
    path: list[str] = []
    for name in names:
        parts = [part for part in name.split(".") if part]
        path = parts if parts[: len(path)] == path else [*path, *parts]
    return tuple(path)
