"""Which layers belong to a phase (``Net::FilterNet``)."""

from __future__ import annotations

from typing import Any

from onnxmtl.frontends.prototxt.schema import enum


def included(net: Any, layer: Any, phase: str) -> bool:
    """Whether a layer is part of the network in a phase ("test" or "train"), by its include and exclude rules.

    Level and stages are those of the net's own ``state``.
    """
    number = enum("Phase")[phase.upper()]
    if layer.include:
        return any(_meets(net.state, number, rule) for rule in layer.include)
    return not any(_meets(net.state, number, rule) for rule in layer.exclude)


def _meets(state: Any, phase: int, rule: Any) -> bool:
    if rule.HasField("phase") and rule.phase != phase:
        return False
    if rule.HasField("min_level") and state.level < rule.min_level:
        return False
    if rule.HasField("max_level") and state.level > rule.max_level:
        return False
    stages = set(state.stage)
    return stages.issuperset(rule.stage) and stages.isdisjoint(rule.not_stage)
