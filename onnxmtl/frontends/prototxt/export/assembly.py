"""What belongs to the whole network: inputs, outputs, silenced blobs, shared weights."""

from __future__ import annotations

from collections import Counter
from typing import Any

import onnx_ir as ir

from onnxmtl.frontends.prototxt.dialect import INPUT_NAMES
from onnxmtl.frontends.prototxt.export.net import Net
from onnxmtl.frontends.prototxt.schema import message


def header(graph: ir.Graph, net: Net) -> Any:
    """A ``NetParameter`` with the network's name and inputs.

    Caffe's inputs are layers of their own. AutoMTL's are fields, and its reader knows them as "data" only.
    """
    found = message("NetParameter")
    found.name = str(graph.name or "")
    inputs = [value for value in graph.inputs if not value.is_initializer()]
    for value in inputs:
        if not value.uses():
            net.remark("prototxt-skipped", f"the input {value.name!r} is not read by anything and is left out")
            continue
        name = _input_name(value, net, alone=len(inputs) == 1)
        net.put(value, name)
        dims = net.shape(value)
        if not net.automtl:
            layer = found.layer.add(name=name, type="Input", top=[name])
            layer.input_param.shape.add().dim.extend(dims)
        else:
            found.input.append(name)
            if len(dims) == 4 and len(inputs) == 1:
                found.input_dim.extend(dims)
            else:
                found.input_shape.add().dim.extend(dims)
    return found


def _input_name(value: ir.Value, net: Net, *, alone: bool) -> str:
    name = str(value.name)
    if not net.automtl or not alone or name in INPUT_NAMES:
        return name
    called = net.reserve(INPUT_NAMES[0])
    net.remark("prototxt-renamed", f"the input {name!r} is called {called!r}, as AutoMTL's reader wants it")
    return called


def silence(graph: ir.Graph, net: Net) -> None:
    """Make the model's outputs, in their order, what nobody reads: all else that nobody reads is silenced.

    An output that is read within the network gets a second blob of its own by a Split.
    """
    outputs = [net.blob(value) for value in graph.outputs]
    unread = _unread(net)
    while dead := {w for w in net.layers if all(n in unread and n not in outputs for n in w.message.top)}:
        net.layers = [written for written in net.layers if written not in dead]
        unread = _unread(net)
    dropped = [name for name in unread if name not in outputs]
    if [name for name in unread if name in outputs] != outputs:
        for name in outputs:
            net.append("Split", f"{name}_output", [name], [net.reserve(f"{name}_output")])
    if dropped:
        net.append("Silence", "silence", dropped, [])


def _unread(net: Net) -> dict[str, None]:
    """Names of blobs that no layer reads, in the order in which they are made."""
    unread: dict[str, None] = {}
    for written in net.layers:
        for name in written.message.bottom:
            unread.pop(name, None)
        for name in written.message.top:
            unread.pop(name, None)
            unread[name] = None
    return unread


def tie(net: Net) -> None:
    """Weights that several layers use get a name, by which Caffe shares them."""
    uses = Counter(weight.key for written in net.layers for weight in written.weights if weight.key is not None)
    names: dict[object, str] = {}
    taken: Counter[str] = Counter()
    forms: dict[object, set[object]] = {}
    for written in net.layers:
        for i, weight in enumerate(written.weights):
            if not isinstance(weight.key, tuple):
                continue
            value = weight.key[0]
            forms.setdefault(value, set()).add(weight.key)
            if uses[weight.key] < 2:
                continue
            if weight.key not in names:
                name = str(value.name)
                names[weight.key] = name if not taken[name] else f"{name}_{taken[name]}"
                taken[name] += 1
            param = written.message.param
            while len(param) <= i:
                param.add()
            param[i].name = names[weight.key]
    for value, found in forms.items():
        if len(found) > 1:
            name = str(value.name) if isinstance(value, ir.Value) else ""
            what = (
                f"the weight {name!r} is used in {len(found)} forms, which Caffe cannot share: it is written for each"
            )
            net.remark("prototxt-untied", what)


def network(header: Any, net: Net) -> Any:
    """All in one message."""
    header.layer.extend(written.message for written in net.layers)
    return header
