"""How each ONNX operator is computed in torch: one file per operator family, one registry."""

from onnxmtl.lowering.ops import (  # noqa: F401  (importing a family registers its operators)
    activation,
    arithmetic,
    attention,
    conversion,
    convolution,
    deformable,
    dropout,
    linear,
    normalization,
    padding,
    pooling,
    reduction,
    resize,
    sampling,
    scatter,
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
)

__all__ = [
    "Context",
    "Kernel",
    "check_supported",
    "kernel_for",
    "lowers",
    "supported_operators",
]
