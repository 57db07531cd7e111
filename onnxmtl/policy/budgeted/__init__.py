"""The most probable architecture that keeps a budget."""

from onnxmtl.policy.budgeted.decode import Decoded, decode_budgeted, fastest

__all__ = ["Decoded", "decode_budgeted", "fastest"]
