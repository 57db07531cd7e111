"""Policies over a supermodel's sites, architectures, and the decoders between them."""

from onnxmtl.policy.architecture import Architecture
from onnxmtl.policy.automtl import read_architecture, read_automtl_policy
from onnxmtl.policy.decoders import argmax, sample, threshold
from onnxmtl.policy.policy import Policy

__all__ = ["Architecture", "Policy", "argmax", "read_architecture", "read_automtl_policy", "sample", "threshold"]
