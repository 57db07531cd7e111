"""The table of networks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from helpers.zoo import classic, dense, mobile, residual, transformers
from helpers.zoo.layers import Network, seeded

SIZE = 64

_MAKERS: dict[str, Callable[[], Network]] = {
    "resnet18": residual.resnet18,
    "resnet50": residual.resnet50,
    "resnext": residual.resnext,
    "regnet": residual.regnet,
    "convnext": residual.ConvNeXt,
    "deeplab": residual.DeepLab,
    "vgg": classic.Vgg,
    "inception_v1": classic.inception_v1,
    "inception_v3": classic.inception_v3,
    "densenet": classic.densenet,
    "squeezenet": classic.SqueezeNet,
    "mobilenet_v1": mobile.mobilenet_v1,
    "mobilenet_v2": mobile.mobilenet_v2,
    "mobilenet_v3": mobile.MobileNetV3,
    "mnasnet": mobile.mnasnet,
    "efficientnet_v1": mobile.efficientnet_v1,
    "efficientnet_v2": mobile.efficientnet_v2,
    "shufflenet_v1": mobile.shufflenet_v1,
    "shufflenet_v2": mobile.shufflenet_v2,
    "unet": dense.UNet,
    "unet_resize": partial(dense.UNet, resize=True),
    "fpn": dense.Fpn,
    "yolo": dense.Yolo,
    "vit": partial(transformers.Vit, cls=True),
    "vit_sdpa": partial(transformers.Vit, cls=False),
    "swin": transformers.Swin,
}


def _make(name: str) -> Network:
    return seeded(_MAKERS[name]())


NETWORKS: dict[str, Callable[[], Network]] = {name: partial(_make, name) for name in _MAKERS}
