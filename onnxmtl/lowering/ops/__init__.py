"""How each ONNX operator is computed in torch: one file per operator family, one registry."""

from onnxmtl.lowering.ops import (  # noqa: F401  (importing a family registers its operators)
    activation,
    arithmetic,
    conversion,
    convolution,
    dropout,
    linear,
    normalization,
    padding,
    pooling,
    reduction,
    resize,
    selection,
    shape,
)
from onnxmtl.lowering.ops.registry import (
    Context,
    Kernel,
    check_supported,
    kernel_for,
    lowers,
    supported_operators,
    unsupported,
)

__all__ = [
    "Context",
    "Kernel",
    "check_supported",
    "kernel_for",
    "lowers",
    "supported_operators",
    "unsupported",
]
