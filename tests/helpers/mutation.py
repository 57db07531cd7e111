"""Damaged files for fuzz tests, and a process of their own to open them in."""

from __future__ import annotations

import dataclasses
import multiprocessing
import random
import re
import resource
import signal
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import onnx

from helpers.processes import PRELOADED

DASHES = b"\n----\n"
EXTREME = (-(2**63), -(2**31), -2, -1, 0, 1, 2, 3, 7, 1000, 2**16, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1)
_OPS = (
    "Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "Relu", "PRelu", "Add", "Mul", "Div", "Mod", "Pow",
    "Concat", "Split", "Slice", "Gather", "GatherND", "ScatterND", "Reshape", "Expand", "Tile", "Pad", "Resize",
    "Upsample", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Range", "ConstantOfShape", "OneHot", "EyeLike",
    "BatchNormalization", "LayerNormalization", "GroupNormalization", "InstanceNormalization", "LRN", "MaxPool",
    "AveragePool", "GlobalAveragePool", "ReduceMean", "ReduceSum", "Softmax", "Dropout", "Cast", "CastLike",
    "Clip", "Where", "Shape", "Size", "Identity", "If", "Loop", "Scan", "TopK", "NonZero", "SpaceToDepth",
    "DepthToSpace", "Attention", "RandomNormal", "QuantizeLinear", "DequantizeLinear", "NoSuchOperator",
)  # fmt: skip


def damage_bytes(content: bytes, rng: random.Random) -> bytes:
    """Flip, insert, delete, double or cut bytes, once to eight times."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(data)) if data else 0
        match rng.randrange(6):
            case 0 if data:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at:at] = bytes(rng.choices(range(256), k=rng.randint(1, 9)))
            case 2:
                del data[at : at + rng.randint(1, 40)]
            case 3:
                part = data[at : at + rng.randint(1, 200)]
                data[at:at] = part
            case 4 if data:
                data[at] = rng.choice((0, 0x7F, 0x80, 0xFF))
            case _ if rng.random() < 0.2:
                del data[at:]
    return bytes(data)


def damage_model(content: bytes, rng: random.Random) -> bytes:
    """A model that still parses but means something else: sizes, types, operators, edges; one to three damages."""
    model = onnx.ModelProto.FromString(content)
    for _ in range(rng.randint(1, 3)):
        rng.choice(_DAMAGES)(model, rng)
    return model.SerializeToString()


def damage_text(content: bytes, rng: random.Random) -> bytes:
    """A prototxt with other numbers, words and brackets, or lines lost, doubled or moved; one to four times."""
    text = content.decode()
    for _ in range(rng.randint(1, 4)):
        tokens = list(re.finditer(r"-?\d[\w.]*|[A-Za-z_]\w*|[{}:<>\"\[\]]", text))
        if not tokens:
            break
        token, other = rng.choice(tokens), rng.choice(tokens)
        lines = text.splitlines(keepends=True)
        at = rng.randrange(len(lines))
        match rng.randrange(8):
            case 0 | 1 | 2:  # numbers are what layers are made of
                numbers = [t for t in tokens if t[0][-1].isdigit()] or tokens
                token = rng.choice(numbers)
                word = str(rng.choice((*EXTREME, "1e400", "nan", "-0.0", "0x10", "9" * 5000, "1" * 40)))
            case 3:
                word = other[0]
            case 4:
                word = rng.choice(("", "{", "}", '"', "#", "<", "type", "bottom", "top", "layer", "\x00", "é"))
            case 5:
                del lines[at : at + rng.randint(1, 6)]
                text = "".join(lines)
                continue
            case 6:
                lines[at:at] = lines[rng.randrange(len(lines)) :][: rng.randint(1, 12)]
                text = "".join(lines)
                continue
            case _:
                word = rng.choice(("x { " * 3000, "[" * 3000, "layer { " * 150))
        text = text[: token.start()] + word + text[token.end() :]
    return text.encode()


def _a_node(model: onnx.ModelProto, rng: random.Random) -> onnx.NodeProto:
    return rng.choice(model.graph.node) if model.graph.node else model.graph.node.add()


def _initializer_dims(model, rng):
    if model.graph.initializer:
        tensor = rng.choice(model.graph.initializer)
        if tensor.dims and rng.random() < 0.8:
            tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(EXTREME)
        else:
            tensor.dims.append(rng.choice(EXTREME))


def _initializer_type(model, rng):
    if model.graph.initializer:
        rng.choice(model.graph.initializer).data_type = rng.randrange(0, 30)


def _initializer_values(model, rng):
    """Shape-like constants get extreme values; sizes stay right."""
    integers = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT64]
    if integers:
        tensor = rng.choice(integers)
        try:
            values = onnx.numpy_helper.to_array(tensor).copy()
        except ValueError:  # damaged before
            return
        if values.size:
            values.reshape(-1)[rng.randrange(values.size)] = rng.choice(EXTREME)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def _external(model, rng):
    if model.graph.initializer:
        tensor = rng.choice(model.graph.initializer)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        places = ("/etc/passwd", "../outside.bin", "", "net.onnx", "a\x00b", "/dev/zero", "x" * 5000)
        entries = {
            "location": rng.choice(places),
            "offset": str(rng.choice(EXTREME)),
            "length": str(rng.choice(EXTREME)),
        }
        for key, value in entries.items():
            if rng.random() < 0.8:
                tensor.external_data.add(key=key, value=value)


def _shape(model, rng):
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    if values:
        shape = rng.choice(values).type.tensor_type.shape
        if shape.dim and rng.random() < 0.9:
            rng.choice(shape.dim).dim_value = rng.choice(EXTREME)
        elif rng.random() < 0.5:
            shape.dim.add(dim_param=rng.choice(("N", "", "a b", "N*N", "2**9999")))
        else:
            del shape.dim[:]


def _value_type(model, rng):
    values = [*model.graph.input, *model.graph.output]
    if values:
        rng.choice(values).type.tensor_type.elem_type = rng.randrange(0, 30)


def _attribute(model, rng):
    attributes = [a for n in model.graph.node for a in n.attribute]
    if not attributes:
        return
    attribute = rng.choice(attributes)
    match rng.randrange(5):
        case 0:
            attribute.i = rng.choice(EXTREME)
        case 1 if attribute.ints:
            attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(EXTREME)
        case 2:
            attribute.ints.append(rng.choice(EXTREME))
        case 3:
            attribute.type = rng.randrange(0, 15)
        case _:
            attribute.name = rng.choice(("group", "pads", "strides", "axis", "to", "value", "kernel_shape", ""))


def _operator(model, rng):
    node = _a_node(model, rng)
    node.op_type = rng.choice(_OPS)
    if rng.random() < 0.1:
        node.domain = rng.choice(("com.microsoft", "ai.onnx.ml", "onnxmtl", "x"))


def _edge(model, rng):
    node, other = _a_node(model, rng), _a_node(model, rng)
    names = [*other.input, *other.output, *(v.name for v in model.graph.input), ""]
    if node.input and rng.random() < 0.7:
        node.input[rng.randrange(len(node.input))] = rng.choice(names)
    elif rng.random() < 0.5:
        node.input.append(rng.choice(names))
    elif node.output:
        node.output[rng.randrange(len(node.output))] = rng.choice(names)


def _order(model, rng):
    nodes = list(model.graph.node)
    match rng.randrange(3):
        case 0:
            rng.shuffle(nodes)
        case 1 if nodes:
            nodes.pop(rng.randrange(len(nodes)))
        case _ if nodes:
            nodes.append(rng.choice(nodes))
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def _opset(model, rng):
    if model.opset_import and rng.random() < 0.8:
        model.opset_import[0].version = rng.choice((-1, 0, 1, 5, 7, 9, 11, 13, 18, 22, 24, 26, 40, 2**40))
    elif rng.random() < 0.5:
        model.ir_version = rng.choice((0, 1, 3, 7, 10, 12, 99, 2**40))
    else:
        del model.opset_import[:]


def _function(model, rng):
    """A function that calls itself, or one that has an operator's name."""
    function = model.functions.add(name=rng.choice(("f", "Relu", "Conv")), domain=rng.choice(("d", "")))
    function.input.append("a")
    function.output.append("b")
    function.opset_import.add(domain="", version=17)
    function.opset_import.add(domain="d", version=1)
    called = rng.choice((("f", "d"), ("Relu", ""), ("Nope", "d")))
    function.node.add(op_type=called[0], domain=called[1], input=["a"], output=["b"])
    model.opset_import.add(domain="d", version=1)
    node = _a_node(model, rng)
    node.op_type, node.domain = function.name, function.domain


def _metadata(model, rng):
    key = rng.choice(("kind", "features", "tasks", "architecture", "source", "folded", "head"))
    value = rng.choice(("", "[", "[1, 2", "backbone", "supermodel", "final", "{}", '[{"name": 3}]', "[" * 3000))
    holder = model if rng.random() < 0.5 else _a_node(model, rng)
    holder.metadata_props.add(key=f"onnxmtl.{key}", value=value)


_DAMAGES = (
    _initializer_dims, _initializer_type, _initializer_values, _external, _shape, _value_type, _attribute, _attribute,
    _operator, _edge, _edge, _order, _opset, _function, _metadata,
)  # fmt: skip


def open_model(content: bytes) -> None:
    """Import and inspect a file of this content, as `onnxmtl inspect` and `onnxmtl compile` do."""
    from onnxmtl.deploy.inspect import inspect_model
    from onnxmtl.errors import OnnxMTLError
    from onnxmtl.workflows.importing import load

    if not content:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        path.write_bytes(content)
        try:
            inspect_model(path)
        except OnnxMTLError as error:
            if "\n" in str(error):
                raise AssertionError("an error of several lines") from error
        load(path)


def open_prototxt(content: bytes) -> None:
    """Import a prototxt of this content, with the weights that follow it behind a line of dashes, if any."""
    from onnxmtl.workflows.importing import load

    if not content:
        return
    text, _, weights = content.partition(DASHES)
    with tempfile.TemporaryDirectory() as folder:
        path, beside = Path(folder) / "net.prototxt", Path(folder) / "net.caffemodel"
        path.write_bytes(text)
        beside.write_bytes(weights)
        load(path, weights=beside if weights else None)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How one input ended: "ok", "refused: …" (an OnnxMTLError), or what must not happen."""

    index: int
    text: str

    @property
    def allowed(self) -> bool:
        return self.text == "ok" or self.text.startswith("refused: ")


def run_isolated(
    job: Callable[[bytes], object], cases: Sequence[bytes], *, seconds: int = 20, memory: int = 3 * 2**30
) -> list[Outcome]:
    """Run `job` on every case in another process, with a limit of time for each and of memory for all.

    A case that kills the process, or runs into the time limit, is told from the others, which go on after it.
    `job` must be importable by name (a function at the top of a module).
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    outcomes: list[Outcome] = []
    while len(outcomes) < len(cases):
        ours, theirs = context.Pipe(duplex=False)
        rest = cases[len(outcomes) :]
        child = context.Process(target=_work, args=(job, rest, len(outcomes), theirs, seconds, memory), daemon=True)
        child.start()
        theirs.close()
        try:
            while len(outcomes) < len(cases):
                outcomes.append(ours.recv())
        except EOFError:
            child.join()
            if child.exitcode == 97:
                raise RuntimeError("the process that opens the cases could not start") from None
            why = "hangs" if child.exitcode == -signal.SIGALRM else f"ends the process ({child.exitcode})"
            outcomes.append(Outcome(len(outcomes), why))
        child.join()
    return outcomes


def _work(job, cases, first, pipe, seconds, memory):
    import os

    try:
        job(b"")  # imports what it needs, before memory is limited
    except Exception:
        os._exit(97)
    with open("/proc/self/statm", encoding="ascii") as status:
        pages = int(status.read().split()[0])
    limit = pages * resource.getpagesize() + memory
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for index, case in enumerate(cases, first):
        signal.alarm(seconds)
        pipe.send(Outcome(index, outcome(job, case)))
        signal.alarm(0)
    pipe.close()


def outcome(job: Callable[[bytes], object], case: bytes) -> str:
    """What `job` does with one case, in words."""
    from onnxmtl.errors import OnnxMTLError

    try:
        job(case)
    except OnnxMTLError as error:
        text = str(error)
        return f"refused: {text}" if "\n" not in text and text else f"refused in several lines: {text!r}"
    except BaseException as error:
        import traceback

        where = traceback.extract_tb(error.__traceback__)
        places = " < ".join(f"{frame.filename.rsplit('/', 2)[-1]}:{frame.lineno}" for frame in reversed(where[-4:]))
        return f"{type(error).__name__}: {str(error)[:300]} at {places}"
    return "ok"
