"""From the IR to a trainable torch module and back."""

from onnxmtl.lowering.draw import Draw, SiteTask
from onnxmtl.lowering.module import LoweredModule, Mixing, to_torch, write_back

__all__ = ["Draw", "LoweredModule", "Mixing", "SiteTask", "to_torch", "write_back"]
