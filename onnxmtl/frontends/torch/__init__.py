"""A torch module to an ONNX model that can be trained again: BatchNormalization kept, batch open, scopes kept.

torch's own export is made for inference: it folds BatchNormalization into convolutions, drops Dropout and fixes the
batch. Here the module is exported in evaluation mode without any optimization, its ``nn.Dropout`` layers in training
mode (as a node they follow whoever trains the graph), and a batch of at least two images, so that nothing takes the
batch size for a constant. What torch.export cannot capture is traced by the older exporter.
"""

from __future__ import annotations

from onnxmtl.frontends.torch.exporting import export

__all__ = ["export"]
