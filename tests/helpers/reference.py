"""A supermodel evaluated the plain, slow, obviously right way: per task, per option, nothing mixed, nothing shared.

Running statistics move once per distinct computation in a forward pass, as in the selected model: there, tasks share
a normalization if they reach it by the same operators with the same weights. That the values agree is not enough: the
learnt skips of two tasks start as equal, and are two convolutions from the first step on. So computations are numbered.
"""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import onnx_ir as ir
import torch
from torch.nn import functional as F

from onnxmtl.ir import as_choice, is_choice
from onnxmtl.lowering import Draw


def single(value: float) -> float:
    """ONNX keeps floats of attributes, defaults too, in single precision."""
    return float(np.float32(value))


class Reference:
    def __init__(self, model: ir.Model, weights: dict[str, torch.Tensor], training: bool) -> None:
        self.model, self.weights, self.training = model, weights, training

    def __call__(self, images: torch.Tensor, draw: Draw) -> dict[str, torch.Tensor]:
        self.numbers: dict[Hashable, int] = {}
        self.moved: set[int] = set()
        return {str(out.name): self._task(images, out, draw) for out in self.model.graph.outputs}

    def _number(self, *computation: Hashable) -> int:
        """Equal for equal computations: what is done, and the numbers of what it is done to."""
        return self.numbers.setdefault(computation, len(self.numbers))

    def _task(self, images: torch.Tensor, output: ir.Value, draw: Draw) -> torch.Tensor:
        values: dict[ir.Value, tuple[torch.Tensor, int]] = {self.model.graph.inputs[0]: (images, self._number("image"))}

        def value(v: ir.Value) -> tuple[torch.Tensor, int]:
            """The tensor and the number of its computation."""
            if v in values:
                return values[v]
            if v.is_initializer():
                return self.weights[v.name], self._number("weight", v.name)
            node = v.producer()
            if is_choice(node):
                choice = as_choice(node)
                key = (choice.site, choice.task)
                if draw.hard:
                    result = value(choice.options[draw.options[key]])
                else:
                    p = draw.weights[key]
                    options = [value(option) for option in choice.options]
                    mixture = sum(p[i] * tensor for i, (tensor, _) in enumerate(options))
                    result = mixture, self._number("mixture", key, *(number for _, number in options))
            else:
                inputs = [(None, -1) if i is None else value(i) for i in node.inputs]
                attributes = tuple(sorted((name, repr(a.value)) for name, a in node.attributes.items()))
                number = self._number(node.op_type, attributes, *(number for _, number in inputs))
                result = self._node(node, [tensor for tensor, _ in inputs], number), number
            values[v] = result
            return result

        return value(output)[0]

    def _node(self, node: ir.Node, x: list[torch.Tensor], number: int) -> torch.Tensor:
        def ints(name, default):
            return list(node.attributes[name].as_ints()) if name in node.attributes else default

        def one(name, default):
            return node.attributes[name].value if name in node.attributes else default

        if node.op_type == "Conv":
            pads = ints("pads", [0, 0, 0, 0])
            padded = F.pad(x[0], (pads[1], pads[3], pads[0], pads[2]))
            bias = x[2] if len(x) > 2 else None
            return F.conv2d(padded, x[1], bias, ints("strides", [1, 1]), 0, ints("dilations", [1, 1]), one("group", 1))
        if node.op_type == "BatchNormalization":
            return self._norm(number, x, one("epsilon", single(1e-5)), 1.0 - one("momentum", single(0.9)))
        if node.op_type == "Relu":
            return torch.relu(x[0])  # not clamp: its derivative at an exact 0 (a padded channel) is 1, ReLU's is 0
        if node.op_type == "Add":
            return x[0] + x[1]
        if node.op_type == "Concat":
            return torch.cat(x, one("axis", 1))
        if node.op_type == "AveragePool":
            k = ints("kernel_shape", [])
            return F.avg_pool2d(x[0], k, ints("strides", k), 0, bool(one("ceil_mode", 0)), False)
        if node.op_type == "Pad":
            p = [int(i) for i in x[1]]
            return F.pad(x[0], (p[3], p[7], p[2], p[6], p[1], p[5], p[0], p[4]))
        if node.op_type == "Slice":
            return x[0].narrow(int(x[3]), int(x[1]), int(x[2]) - int(x[1]))
        raise NotImplementedError(node.op_type)

    def _norm(self, number: int, x: list[torch.Tensor], eps: float, momentum: float) -> torch.Tensor:
        data, scale, shift, mean, variance = x
        if self.training:
            m, v = data.mean((0, 2, 3)), data.var((0, 2, 3), unbiased=False)
            if number not in self.moved:
                self.moved.add(number)
                with torch.no_grad():
                    mean += momentum * (m - mean)
                    variance += momentum * (data.var((0, 2, 3), unbiased=True) - variance)
        else:
            m, v = mean, variance
        shaped = [t.view(1, -1, 1, 1) for t in (m, v, scale, shift)]
        return (data - shaped[0]) / torch.sqrt(shaped[1] + eps) * shaped[2] + shaped[3]
