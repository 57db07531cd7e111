"""Running statistics of a selected model: plain averages over a number of training batches.

After a soft search the statistics belong to mixtures of options; used as they are, outputs are off by their own size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import onnx_ir as ir
import torch

from onnxmtl import ops
from onnxmtl.lowering import LoweredModule


def recalibrate(module: LoweredModule, model: ir.Model, images: Callable[[int], torch.Tensor], batches: int) -> None:
    """Replace every mean and variance by its average over `batches` batches, in place.

    Args:
        module: The lowered form of `model`, a selected model (its normalizations do not share statistics).
        model: The graph, for the momentum of each normalization.
        images: k -> images [N, C, H, W] of batch k, on the module's device.
        batches: How many to average over; 0 leaves the statistics alone.
    """
    average_statistics(module, momenta_of(model.graph), lambda k: module(images(k)), batches)


def momenta_of(nodes: Iterable[ir.Node]) -> dict[str, float]:
    """Name of a running mean or variance -> how much of a batch's one it takes; those that never move left out."""
    momenta: dict[str, float] = {}
    for node in nodes:
        if node.op_type != "BatchNormalization":
            continue
        onnx_momentum = node.attributes["momentum"].as_float() if "momentum" in node.attributes else 0.9
        for slot, value in ops.weight_slots(node):
            if slot.name in ("mean", "variance") and onnx_momentum < 1.0:  # at 1 they never move
                momenta[str(value.name)] = 1.0 - onnx_momentum
    return momenta


def initial_statistics(nodes: Iterable[ir.Node]) -> dict[str, float]:
    """Name of a running statistic -> what it is before the first batch: 0 for means, 1 for variances.

    Those that never move are left out.
    """
    moving = momenta_of(nodes := list(nodes))
    return {
        str(value.name): float(slot.name == "variance")
        for node in nodes
        for slot, value in ops.weight_slots(node)
        if str(value.name) in moving and slot.name in ("mean", "variance")
    }


def average_statistics(
    module: LoweredModule, momenta: Mapping[str, float], run: Callable[[int], object], batches: int
) -> None:
    """Replace running statistics by their averages over `batches` batches, in place.

    Args:
        module: The model.
        momenta: The statistics, each of one normalization, see :func:`momenta_of`.
        run: Runs batch k through the module, through each of these normalizations once at most.
        batches: How many; 0 leaves the statistics alone.
    """
    if not momenta or batches <= 0:
        return
    was_training = module.training
    module.train()
    sums = {name: torch.zeros_like(module.weight(name), dtype=torch.float64) for name in momenta}
    with torch.no_grad():
        for k in range(batches):
            for name in momenta:
                module.weight(name).zero_()
            run(k)
            # From zero, one update leaves momentum times the batch's statistic.
            for name, momentum in momenta.items():
                sums[name] += module.weight(name).double() / momentum
        for name, total in sums.items():
            module.weight(name).copy_(total / batches)
    module.train(was_training)
