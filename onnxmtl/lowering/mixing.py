"""Choices that sink into weights.

For an operator that is linear in its weights, options on one input satisfy

    p0 * conv(x, W0) + p1 * conv(x, W1) = conv(x, p0 * W0 + p1 * W1),

and an identity skip is a Dirac kernel, so a whole site runs as one convolution. Normalizations on one input share
their batch statistics: in training mode one normalization with scale sum p_i*gamma_i and shift sum p_i*beta_i; in
evaluation mode scale sum p_i*gamma_i/sd_i and shift sum p_i*(beta_i - gamma_i*mu_i/sd_i). All of it is equal to the
separate evaluation in real arithmetic (float64: 1e-15), never bit-equal. Of a Choice between a value and zeros the
value alone is computed.

Whether it pays is decided per site from the graph alone: mixing costs a few passes over the weights and saves passes
over the activations, so it pays where a weight is used at many positions. A decision by timing would differ between
two runs of the same seed, and with it the bytes of the result.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import onnx_ir as ir
import torch

from onnxmtl import ops
from onnxmtl.errors import ModelError
from onnxmtl.lowering.ops import Context, Kernel
from onnxmtl.lowering.ops.reading import real
from onnxmtl.lowering.program import Op, Program
from onnxmtl.lowering.together import training_norm, world_size

# Positions (batch x height x width) per weight from which on mixing pays; measured by tests/benchmarks/bench_mixing.py.
POSITIONS_TO_MIX = 32


@dataclasses.dataclass(frozen=True)
class LinearMixer:
    """A Choice whose linear options become one operator.

    Attributes:
        kernel: The operator.
        x: Its input.
        options: (option, weight, bias or -1) of the operators that are mixed, two or more.
        dirac: The option that is an identity and fits into the kernel, or -1.
        centre: Where in the kernel the identity's ones go.
        others: (option, value) of the remaining options: computed as they are and added.
        positions: Positions per weight at batch 1, or None if unknown.
    """

    kernel: Kernel
    x: int
    options: tuple[tuple[int, int, int], ...]
    dirac: int
    centre: tuple[int, ...]
    others: tuple[tuple[int, int], ...]
    positions: float | None

    @property
    def reads(self) -> tuple[int, ...]:
        """Value numbers this mixture needs."""
        weights = [v for _, w, b in self.options for v in (w, b) if v >= 0]
        return (self.x, *weights, *(v for _, v in self.others))

    def pays(self, batch: int) -> bool:
        """Whether mixing is expected to be faster than running the options."""
        return self.positions is None or self.positions * batch >= POSITIONS_TO_MIX

    def __call__(self, values: Mapping[int, Any], p: torch.Tensor, context: Context) -> torch.Tensor:
        """sum_i p_i * option_i."""
        x, parts = values[self.x], p.unbind()
        weights = [values[w] for _, w, _ in self.options]
        biases = [values[b] if b >= 0 else None for _, _, b in self.options]
        # Only the policy learns: its gradient is a dot product per option, and no weight gradient is needed.
        trained = any(w is not None and w.requires_grad for w in (*weights, *biases))
        dots = torch.is_grad_enabled() and p.requires_grad and not trained
        with torch.set_grad_enabled(torch.is_grad_enabled() and not dots):
            shares = [parts[option] for option, _, _ in self.options]
            weight = _combine(weights, shares)
            bias = None if all(b is None for b in biases) else _combine(biases, shares)
            if self.dirac >= 0:
                weight = self._add_dirac(weight, parts[self.dirac])
        y = self._run(x, weight, bias, context)
        if dots:
            y = _with_policy_gradient(y, p, x, self, weights, biases, context)
        for option, value in self.others:
            y = torch.addcmul(y, values[value], parts[option])
        return y

    def _run(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, context: Context) -> torch.Tensor:
        result = self.kernel([x, weight] if bias is None else [x, weight, bias], context)
        assert isinstance(result, torch.Tensor)
        return result

    def _add_dirac(self, weight: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
        out, per_group = weight.shape[:2]
        rows = torch.arange(out, device=weight.device)
        index = (rows, rows % per_group, *(rows.new_full((out,), c) for c in self.centre))
        return weight.index_put(index, share.expand(out), accumulate=True)


class _PolicyGradient(torch.autograd.Function):
    """Passes the gradient of y on to y and computes that of p from dot products.

    With d_i = <dy, option_i> and <dy, y> = sum_i p_i * d_i, the last linear option never has to be computed
    (its d is what is left over); an identity's is <dy, x>.
    """

    @staticmethod
    def forward(
        ctx: Any,
        y: torch.Tensor,
        p: torch.Tensor,
        x: torch.Tensor,
        mixer: LinearMixer,
        weights: Sequence[torch.Tensor],
        biases: Sequence[torch.Tensor | None],
        context: Context,
    ) -> torch.Tensor:
        ctx.save_for_backward(y, p, x)
        ctx.rest = (mixer, weights, biases, context)
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        y, p, x = ctx.saved_tensors
        mixer, weights, biases, context = ctx.rest
        dp = torch.zeros_like(p)
        left = _inner(dy, y)
        if mixer.dirac >= 0:
            dp[mixer.dirac] = _inner(dy, x)
            left = left - p[mixer.dirac] * dp[mixer.dirac]
        for (option, _, _), weight, bias in zip(mixer.options[:-1], weights, biases, strict=False):
            dp[option] = _inner(dy, mixer._run(x, weight, bias, context))
            left = left - p[option] * dp[option]
        last = p[mixer.options[-1][0]]
        # Where p vanishes so does its share of the logits' gradient, p * dp.
        tiny = torch.finfo(p.dtype).tiny ** 0.5
        dp[mixer.options[-1][0]] = torch.where(last > tiny, left / last.clamp_min(tiny), torch.zeros_like(left))
        return dy, dp, None, None, None, None, None


def _inner(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """<a, b> in one pass over both."""
    return torch.dot(a.reshape(-1), b.reshape(-1))


def _with_policy_gradient(*arguments: Any) -> torch.Tensor:
    """`Function.apply` has no types of its own."""
    result: torch.Tensor = cast(Any, _PolicyGradient).apply(*arguments)
    return result


@dataclasses.dataclass(frozen=True)
class NormMixer:
    """A Choice of batch normalizations on one input.

    Attributes:
        x: The common input.
        options: (option, scale, shift, mean, variance) value numbers.
        identity: The option that passes x on, or -1.
        others: (option, value) of the remaining options.
        momentum: Torch's: weight of the new batch.
        epsilon: Added to the variance.
    """

    x: int
    options: tuple[tuple[int, int, int, int, int], ...]
    identity: int
    others: tuple[tuple[int, int], ...]
    momentum: float
    epsilon: float

    @property
    def reads(self) -> tuple[int, ...]:
        """Value numbers this mixture needs."""
        return (self.x, *(v for option in self.options for v in option[1:]), *(v for _, v in self.others))

    def pays(self, batch: int) -> bool:
        """One normalization is never slower than two."""
        return True

    def __call__(self, values: Mapping[int, Any], p: torch.Tensor, context: Context) -> torch.Tensor:
        """sum_i p_i * option_i; in training mode every option's running statistics move, as each would by itself."""
        x, parts = values[self.x], p.unbind()
        shares = [parts[option[0]] for option in self.options]
        scales, shifts, means, variances = ([values[o[i]] for o in self.options] for i in (1, 2, 3, 4))
        if context.training:
            mean, variance = torch.zeros_like(means[0]), torch.zeros_like(variances[0])
            scale, shift = _combine(scales, shares), _combine(shifts, shares)
            y = training_norm(x, scale, shift, mean, variance, 1.0, self.epsilon)
            spread = x.numel() > x.shape[1] or world_size() > 1  # one value per channel has no variance
            with torch.no_grad():
                for running_mean, running_variance in zip(means, variances, strict=True):
                    running_mean.lerp_(mean, self.momentum)
                    if spread:
                        running_variance.lerp_(variance, self.momentum)
            if self.identity >= 0:
                y = torch.addcmul(y, x, parts[self.identity])
        else:
            factors = [s * torch.rsqrt(v + self.epsilon) for s, v in zip(scales, variances, strict=True)]
            offsets = [b - f * m for b, f, m in zip(shifts, factors, means, strict=True)]
            scale, shift = _combine(factors, shares), _combine(offsets, shares)
            if self.identity >= 0:
                scale = scale + parts[self.identity]
            wide = (1, -1, *(1,) * (x.dim() - 2))
            y = torch.addcmul(shift.view(wide), x, scale.view(wide))
        for option, value in self.others:
            y = torch.addcmul(y, values[value], parts[option])
        return y


@dataclasses.dataclass(frozen=True)
class GateMixer:
    """A Choice between one value and zeros (an edge of the fusion space): the zeros are not made.

    Attributes:
        option: Which option the value is.
        value: Its number.
    """

    option: int
    value: int

    @property
    def reads(self) -> tuple[int, ...]:
        """The value alone."""
        return (self.value,)

    def pays(self, batch: int) -> bool:
        """One product is never slower than two and a sum."""
        return True

    def __call__(self, values: Mapping[int, Any], p: torch.Tensor, context: Context) -> torch.Tensor:
        """p_i * option_i."""
        result: torch.Tensor = values[self.value] * p[self.option]
        return result


Mixer = LinearMixer | NormMixer | GateMixer


def weighted_sum(options: Sequence[torch.Tensor], p: torch.Tensor) -> torch.Tensor:
    """The plain way: sum_i p_i * option_i."""
    parts = p.unbind()
    y = options[0] * parts[0]
    for option, share in zip(options[1:], parts[1:], strict=True):
        y = torch.addcmul(y, option, share)
    return y


def _combine(tensors: Sequence[torch.Tensor | None], shares: Sequence[torch.Tensor]) -> torch.Tensor:
    """sum_i share_i * tensor_i; a missing bias counts as zero."""
    result: torch.Tensor | None = None
    for tensor, share in zip(tensors, shares, strict=True):
        if tensor is not None:
            result = tensor * share if result is None else torch.addcmul(result, tensor, share)
    assert result is not None
    return result


def find_mixers(program: Program) -> dict[int, Mixer]:
    """For every Choice that can sink into weights, how; keyed by the Choice's position in the program."""
    producers = program.producers
    found: dict[int, Mixer] = {}
    for op in program.ops:
        if op.choice is None:
            continue
        options = op.inputs[:-1]
        made = [producers.get(value) for value in options]
        mixer = (
            _gate_mixer(options, made) or _linear_mixer(program, options, made) or _norm_mixer(program, options, made)
        )
        if mixer is not None:
            found[op.index] = mixer
    return found


def _group(made: Sequence[Op | None], allowed: Sequence[bool]) -> list[int]:
    """Positions of the largest set of options made by equal operators on one input; fewer than two: none."""
    groups: dict[tuple[Any, int], list[int]] = {}
    for i, op in enumerate(made):
        if op is not None and allowed[i]:
            groups.setdefault((op.identity, op.inputs[0]), []).append(i)
    best = max(groups.values(), key=len, default=[])
    return best if len(best) > 1 else []


def _gate_mixer(options: Sequence[int], made: Sequence[Op | None]) -> GateMixer | None:
    """If all options but one are zeros."""
    others = [i for i, op in enumerate(made) if op is None or not _makes_zeros(op.node)]
    return GateMixer(others[0], options[others[0]]) if len(others) == 1 and len(options) > 1 else None


def _makes_zeros(node: ir.Node) -> bool:
    if node.op_type != "ConstantOfShape" or node.domain != "":
        return False
    fill = node.attributes.get("value")
    return fill is None or not fill.as_tensor().numpy().any()


def _linear_mixer(program: Program, options: Sequence[int], made: Sequence[Op | None]) -> LinearMixer | None:
    allowed = [
        op is not None and op.choice is None and ops.is_linear_op(op.node) and op.inputs[0] not in program.weights
        for op in made
    ]
    group = _group(made, allowed)
    if not group:
        return None
    members = [made[i] for i in group]
    first = members[0]
    assert first is not None and first.kernel is not None
    shapes = {
        tuple(op.node.inputs[1].shape or ()) for op in members if op is not None and op.node.inputs[1] is not None
    }
    if len(shapes) != 1:
        return None
    x = first.inputs[0]
    identity = next((i for i, value in enumerate(options) if value == x), -1)
    centre = _dirac_centre(first) if identity >= 0 else None
    dirac = identity if centre is not None else -1
    rest = tuple((i, value) for i, value in enumerate(options) if i not in group and i != dirac)
    triples = tuple(
        (i, op.inputs[1], op.inputs[2] if len(op.inputs) > 2 else -1)
        for i, op in zip(group, members, strict=True)
        if op is not None
    )
    return LinearMixer(first.kernel, x, triples, dirac, centre or (), rest, _positions(first))


def _norm_mixer(program: Program, options: Sequence[int], made: Sequence[Op | None]) -> NormMixer | None:
    allowed = [op is not None and op.node.op_type == "BatchNormalization" and op.node.domain == "" for op in made]
    group = _group(made, allowed)
    if not group:
        return None
    members = [made[i] for i in group]
    first = members[0]
    assert first is not None
    momentum, epsilon = 1.0 - real(first.node, "momentum", 0.9), real(first.node, "epsilon", 1e-5)
    x = first.inputs[0]
    identity = next((i for i, value in enumerate(options) if value == x), -1)
    rest = tuple((i, value) for i, value in enumerate(options) if i not in group and i != identity)
    rows = tuple(
        (i, op.inputs[1], op.inputs[2], op.inputs[3], op.inputs[4])
        for i, op in zip(group, members, strict=True)
        if op is not None
    )
    return NormMixer(x, rows, identity, rest, momentum, epsilon)


def _positions(op: Op) -> float | None:
    """How many output positions use each weight at batch 1."""
    weight = op.node.inputs[1]
    assert weight is not None
    if weight.shape is None:
        return None
    try:
        return ops.multiply_adds(op.node) / max(1, math.prod(weight.shape.numpy()))
    except (ModelError, ValueError):
        return None


def _dirac_centre(op: Op) -> tuple[int, ...] | None:
    """Kernel position of an identity in a convolution that keeps its input's shape; None if there is none.

    Needs C_in = C_out, stride 1, and at both ends of each axis padding of exactly half the dilated kernel's excess on
    the side of the tap: pad_begin divisible by the dilation and inside the kernel, output as large as the input.
    """
    node = op.node
    weight = node.inputs[1]
    if node.op_type != "Conv" or weight is None or weight.shape is None:
        return None
    shape = weight.shape.numpy()
    axes = len(shape) - 2
    attributes: Mapping[str, Any] = node.attributes
    groups = attributes["group"].as_int() if "group" in attributes else 1
    strides = attributes["strides"].as_ints() if "strides" in attributes else (1,) * axes
    dilations = attributes["dilations"].as_ints() if "dilations" in attributes else (1,) * axes
    auto = attributes["auto_pad"].as_string() if "auto_pad" in attributes else "NOTSET"
    if auto not in ("NOTSET", ""):
        return None
    pads = attributes["pads"].as_ints() if "pads" in attributes else (0,) * (2 * axes)
    if any(s != 1 for s in strides) or shape[0] != shape[1] * groups:
        return None
    centre = []
    for axis in range(axes):
        begin, end, dilation, taps = pads[axis], pads[axis + axes], dilations[axis], shape[axis + 2]
        if begin % dilation or begin // dilation >= taps or begin + end != dilation * (taps - 1):
            return None
        centre.append(int(begin // dilation))
    return tuple(centre)
