"""What an initializer is for. The role is stored in the value's metadata and read by optimizers and export.

Identity of weights is the initializer: two nodes share a weight if and only if they use the same ``ir.Value``.
"""

from __future__ import annotations

import enum

import onnx_ir as ir

KEY = "onnxmtl.role"


class Role(enum.StrEnum):
    """The roles of initializers. A value without a role is read as ``BACKBONE``."""

    BACKBONE = "backbone"  # weights of the user's network, shared by the tasks that choose them
    OWN = "own"  # a task's own copy of a backbone weight
    SKIP = "skip"  # a learnt projection that replaces a skipped operator
    HEAD = "head"  # task heads
    FUSION = "fusion"  # units between networks, attention modules
    LOGITS = "logits"  # the policy: one tensor per (site, task)
    STATISTIC = "statistic"  # running mean and variance


def role_of(value: ir.Value) -> Role:
    """The role of an initializer; ``Role.BACKBONE`` where none was set."""
    return Role(value.metadata_props.get(KEY, Role.BACKBONE))


def set_role(value: ir.Value, role: Role) -> ir.Value:
    """Set the role of an initializer and return the value."""
    value.metadata_props[KEY] = role.value
    return value
