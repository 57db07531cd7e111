"""Converters of Caffe's layers, one module per family; importing this package fills the registry."""

from onnxmtl.frontends.prototxt.layers import (
    activation,
    arithmetic,
    convolution,
    linear,
    normalization,
    pooling,
    resize,
    shape,
)

__all__ = ["activation", "arithmetic", "convolution", "linear", "normalization", "pooling", "resize", "shape"]
