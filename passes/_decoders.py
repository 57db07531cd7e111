"""Heads with a decoder, which read a fine feature besides the coarse one: DeepLabv3+, and its form for mobile networks.

BMTAS trains all its tasks with them: ASPP for ResNet-50, R-ASPP for MobileNetV2, and the decoder on a feature of
stride 4. (There ASPP belongs to the encoder and is shared where the tasks share all of it; here it is the head's.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir

from onnxmtl.kinds import Task
from onnxmtl.passes._blocks import default_width, image_level, joined, last_conv, pyramid
from onnxmtl.passes._builder import Builder, static_channels, static_size

FINE_STRIDE = 4
"""Image size over feature size that DeepLabv3+'s decoder works at."""


def deeplabv3plus(builder: Builder, fine: ir.Value, coarse: ir.Value, task: Task) -> ir.Value:
    """DeepLabv3+ (Chen et al. 2018): ASPP on the coarse feature, then the decoder, two 3x3 convolutions."""
    width = task.width or default_width(static_channels(coarse))
    return last_conv(builder, _decoder(builder, fine, pyramid(builder, coarse, width), width, separable=False), task)


def raspp(builder: Builder, fine: ir.Value, coarse: ir.Value, task: Task) -> ir.Value:
    """R-ASPP (MobileNetV2, Sandler et al. 2018): a 1x1 branch and image pooling; its decoder is depthwise separable."""
    width = task.width or default_width(static_channels(coarse))
    branches = [builder.conv_bn_relu(coarse, width, name="point"), *image_level(builder, coarse, width)]
    project = builder.conv_bn_relu(joined(builder, branches), width, name="project")
    return last_conv(builder, _decoder(builder, fine, project, width, separable=True), task)


def _decoder(builder: Builder, fine: ir.Value, x: ir.Value, width: int, *, separable: bool) -> ir.Value:
    """The fine feature with 3/16 of the channels (48 of 256) beside `x` at its size; two 3x3 layers over both."""
    with builder.scope("decoder"):
        low = builder.conv_bn_relu(fine, max(8, width * 3 // 16), name="fine")
        x = joined(builder, [builder.resize(x, fine, "up"), low])
        for name in ("conv1", "conv2"):
            if separable:
                with builder.scope(name):
                    x = builder.conv_bn_relu(x, static_channels(x), kernel=3, groups=static_channels(x), name="depth")
                    x = builder.conv_bn_relu(x, width, name="point")
            else:
                x = builder.conv_bn_relu(x, width, kernel=3, name=name)
        return x


def fine_and_coarse(features: Sequence[ir.Value], image: ir.Value) -> tuple[ir.Value, ir.Value] | None:
    """The feature for the decoder and the one for the pyramid; None if there are no two.

    The pyramid reads the smallest map, the decoder of the larger ones the one whose stride is nearest to 4. Where sizes
    are not known, the first and the last.
    """
    whole, sizes = static_size(image), [static_size(feature) for feature in features]
    known = [size for size in sizes if size is not None]
    if whole is None or len(known) < len(features):
        return (features[0], features[-1]) if len(features) > 1 else None
    heights = [height for height, _ in known]
    coarse = max(range(len(features)), key=lambda i: (-heights[i], i))
    others = [i for i in range(len(features)) if heights[i] > heights[coarse]]
    if not others:
        return None
    fine = min(others, key=lambda i: abs(math.log(whole[0] / heights[i] / FINE_STRIDE)))
    return features[fine], features[coarse]
