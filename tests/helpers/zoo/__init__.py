"""The kinds of backbones that people bring, small in width and true in structure; and what torch's exporters write.

    module = NETWORKS["resnet18"]()        # seeded, in eval mode; module.body(image) is the feature map (or several)
    proto = export("resnet18", "legacy")   # an onnx.ModelProto; each is exported once
    model = backbone("resnet18", "legacy") # imported, with its feature found

Images are [N, 3, 64, 64]. No network has more than 300 000 parameters. BatchNorms have statistics as after training.
"""

from __future__ import annotations

from helpers.zoo.exporting import EXPORTERS, Exporter, export, write
from helpers.zoo.importing import backbone, features_of
from helpers.zoo.networks import NETWORKS, SIZE

__all__ = ["EXPORTERS", "NETWORKS", "SIZE", "Exporter", "backbone", "export", "features_of", "write"]
