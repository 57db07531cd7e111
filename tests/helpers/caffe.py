"""Caffe's layers as its C++ computes them, written out in loops and numpy; small networks and weights for tests."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxmtl import runtime
from onnxmtl.errors import ModelError
from onnxmtl.frontends.prototxt.convert import convert
from onnxmtl.frontends.prototxt.schema import message
from onnxmtl.frontends.prototxt.text import parse
from onnxmtl.ir import diagnostics, to_bytes


def load_text(text: str, weights=None, **options) -> ir.Model:
    """A network from text; `weights` as :func:`onnxmtl.frontends.prototxt.weights.read` gives them."""
    return convert(parse(text, "net.prototxt"), weights, **options)


def inputs(**shapes: tuple[int, ...]) -> str:
    """``input:`` lines."""
    lines = [
        f'input: "{name}" input_shape {{ {" ".join(f"dim: {d}" for d in shape)} }}' for name, shape in shapes.items()
    ]
    return "\n".join(lines) + "\n"


def layer(kind: str, bottoms: str, tops: str, body: str = "", name: str = "") -> str:
    """One layer; bottoms and tops separated by spaces."""
    wires = " ".join([f'bottom: "{b}"' for b in bottoms.split()] + [f'top: "{t}"' for t in tops.split()])
    return f'layer {{ name: "{name or kind.lower()}" type: "{kind}" {wires} {body} }}\n'


def run(model: ir.Model, **feeds: np.ndarray) -> dict[str, np.ndarray]:
    """All outputs, by onnxruntime without its optimizations."""
    return runtime.run(runtime.session(to_bytes(model), optimize=False, threads=1), feeds)


def weights_of(model: ir.Model) -> dict[str, np.ndarray]:
    """Initializers by name."""
    return {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}


def error_of(function, *args) -> str | None:
    """The message of the ModelError that a call ends in; None if it does not."""
    try:
        function(*args)
    except ModelError as e:
        return str(e)
    return None


def remarks(model: ir.Model, code: str = "") -> list[str]:
    """Messages of the diagnostics, of one code or all."""
    return [str(d) for d in diagnostics(model) if not code or d.code == code]


def write_caffemodel(
    path: Path, layers: dict[str, list[np.ndarray]], *, v1: bool = False, legacy: bool = False
) -> Path:
    """A binary NetParameter with blobs by layer name."""
    net = message("NetParameter")
    for name, arrays in layers.items():
        entry = (net.layers if v1 else net.layer).add(name=name)
        for array in arrays:
            blob = entry.blobs.add()
            blob.data.extend(np.asarray(array, np.float32).ravel().tolist())
            if legacy:
                dims = (1,) * (4 - array.ndim) + array.shape
                blob.num, blob.channels, blob.height, blob.width = dims
            else:
                blob.shape.dim.extend(array.shape)
    path.write_bytes(net.SerializeToString())
    return path


# The layers


def conv(x, w, b=None, stride=(1, 1), pad=(0, 0), dilation=(1, 1), group=1):
    """ConvolutionLayer: a cross-correlation, group by group."""
    n, c, h, width = x.shape
    out, _, kh, kw = w.shape
    x = np.pad(x, ((0, 0), (0, 0), (pad[0],) * 2, (pad[1],) * 2)).astype(np.float64)
    oh = (h + 2 * pad[0] - (dilation[0] * (kh - 1) + 1)) // stride[0] + 1
    ow = (width + 2 * pad[1] - (dilation[1] * (kw - 1) + 1)) // stride[1] + 1
    y = np.zeros((n, out, oh, ow))
    for o in range(out):
        g = o // (out // group)
        part = x[:, g * (c // group) : (g + 1) * (c // group)]
        for i in range(kh):
            for j in range(kw):
                a, d = i * dilation[0], j * dilation[1]
                window = part[:, :, a : a + oh * stride[0] : stride[0], d : d + ow * stride[1] : stride[1]]
                y[:, o] += np.einsum("nchw,c->nhw", window[:, :, :oh, :ow], w[o, :, i, j])
    return y if b is None else y + b[:, None, None]


def deconv(x, w, b=None, stride=(1, 1), pad=(0, 0), group=1):
    """DeconvolutionLayer: what ConvolutionLayer does to gradients."""
    n, c, h, width = x.shape
    _, per, kh, kw = w.shape
    y = np.zeros((n, per * group, stride[0] * (h - 1) + kh, stride[1] * (width - 1) + kw))
    for i in range(h):
        for j in range(width):
            for ch in range(c):
                g = ch // (c // group)
                block = x[:, ch, i, j][:, None, None, None] * w[ch][None]
                y[
                    :, g * per : (g + 1) * per, i * stride[0] : i * stride[0] + kh, j * stride[1] : j * stride[1] + kw
                ] += block
    y = y[:, :, pad[0] : y.shape[2] - pad[0], pad[1] : y.shape[3] - pad[1]]
    return y if b is None else y + b[:, None, None]


def pool(x, kernel, stride, pad, *, average=False, ceil=True, always_clip=False):
    """PoolingLayer::Reshape and Forward_cpu, loop for loop. `always_clip`: as torch does, also without padding."""
    n, c, height, width = x.shape
    rounded = math.ceil if ceil else math.floor
    ph_count = int(rounded((height + 2 * pad[0] - kernel[0]) / stride[0])) + 1
    pw_count = int(rounded((width + 2 * pad[1] - kernel[1]) / stride[1])) + 1
    if pad[0] or pad[1] or always_clip:
        if (ph_count - 1) * stride[0] >= height + pad[0]:
            ph_count -= 1
        if (pw_count - 1) * stride[1] >= width + pad[1]:
            pw_count -= 1
    y = np.zeros((n, c, ph_count, pw_count))
    for ph in range(ph_count):
        for pw in range(pw_count):
            hstart, wstart = ph * stride[0] - pad[0], pw * stride[1] - pad[1]
            if average:
                hend, wend = min(hstart + kernel[0], height + pad[0]), min(wstart + kernel[1], width + pad[1])
                size = (hend - hstart) * (wend - wstart)
            else:
                hend, wend, size = hstart + kernel[0], wstart + kernel[1], 0
            hstart, wstart, hend, wend = max(hstart, 0), max(wstart, 0), min(hend, height), min(wend, width)
            window = x[:, :, hstart:hend, wstart:wend]
            y[:, :, ph, pw] = window.sum((2, 3)) / size if average else window.max((2, 3))
    return y


def lrn(x, size, alpha, beta, k):
    """LRNLayer across channels."""
    y = np.zeros(x.shape)
    for c in range(x.shape[1]):
        a, b = max(0, c - size // 2), min(x.shape[1], c + size // 2 + 1)
        y[:, c] = x[:, c] / (k + alpha / size * (x[:, a:b].astype(np.float64) ** 2).sum(1)) ** beta
    return y


def lrn_within(x, size, alpha, beta):
    """LRNLayer within channels: the AVE pooling of squares, shift 1."""
    mean = pool(x.astype(np.float64) ** 2, (size, size), (1, 1), (size // 2,) * 2, average=True)
    return x * (1 + alpha * mean) ** -beta


def interp(x, height, width):
    """caffe_cpu_interp2: bilinear, outer pixels on outer pixels."""
    h, w = x.shape[2:]
    y = np.zeros((*x.shape[:2], height, width))
    rh, rw = ((h - 1) / (height - 1) if height > 1 else 0.0), ((w - 1) / (width - 1) if width > 1 else 0.0)
    for i in range(height):
        for j in range(width):
            a, b = int(rh * i), int(rw * j)
            da, db = rh * i - a, rw * j - b
            a2, b2 = min(a + 1, h - 1), min(b + 1, w - 1)
            y[:, :, i, j] = (1 - da) * ((1 - db) * x[:, :, a, b] + db * x[:, :, a, b2]) + da * (
                (1 - db) * x[:, :, a2, b] + db * x[:, :, a2, b2]
            )
    return y
