"""Policies over a supermodel's sites, architectures, and the decoders between them."""

from onnxmtl.policy.architecture import Architecture
from onnxmtl.policy.automtl import read_architecture, read_automtl_policy
from onnxmtl.policy.branching import block_names, layout_of
from onnxmtl.policy.budget import Absolute, Limit, parse_budget
from onnxmtl.policy.budgeted import Decoded, decode_budgeted
from onnxmtl.policy.decoders import argmax, sample, threshold
from onnxmtl.policy.layout import Layout, count_layouts
from onnxmtl.policy.measured import fit_to_measure
from onnxmtl.policy.policy import Policy
from onnxmtl.policy.random import random_at_cost, random_like

__all__ = [
    "Absolute",
    "Architecture",
    "Decoded",
    "Layout",
    "Limit",
    "Policy",
    "argmax",
    "block_names",
    "count_layouts",
    "decode_budgeted",
    "fit_to_measure",
    "layout_of",
    "parse_budget",
    "random_at_cost",
    "random_like",
    "read_architecture",
    "read_automtl_policy",
    "sample",
    "threshold",
]
