"""From the bytes of a picture to what a network takes, and how that is declared in the model's contract."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from onnxmtl.data.dataset import InputSpec
from onnxmtl.data.folders.files import Raw


@dataclasses.dataclass(frozen=True)
class Normalisation:
    """(v − mean) · scale per channel, for RGB or BGR pixels v in 0 … `top`."""

    top: float = 1.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)
    colour: str = "RGB"

    def apply(self, pixels: Raw) -> npt.NDArray[np.float32]:
        """RGB ``[H, W, 3]`` in 0 … 255 -> float32 ``[3, H, W]``."""
        channels = pixels[..., ::-1] if self.colour == "BGR" else pixels
        scale = np.asarray(self.scale, np.float64)
        factor = (scale * (self.top / 255)).astype(np.float32)
        offset = (-np.asarray(self.mean) * scale).astype(np.float32)
        return np.ascontiguousarray((channels * factor + offset).transpose(2, 0, 1), np.float32)

    def spec(self, size: tuple[int, int]) -> InputSpec:
        """The declaration."""
        return InputSpec(3, *size, (0.0, self.top), self.mean, self.scale, colour=self.colour)


_STD = (0.229, 0.224, 0.225)

NORMALISATIONS = {
    # What torchvision's backbones were trained with.
    "imagenet": Normalisation(1.0, (0.485, 0.456, 0.406), (1 / _STD[0], 1 / _STD[1], 1 / _STD[2])),
    # As the codes of AdaShare, AutoMTL and TreeMTL: OpenCV's channel order, Caffe's means, no scale.
    "bgr-mean": Normalisation(255.0, (104.00698793, 116.66876762, 122.67891434), colour="BGR"),
    # As BMTAS: 2 v / 255 − 1.
    "signed": Normalisation(1.0, (0.5, 0.5, 0.5), (2.0, 2.0, 2.0)),
    "unit": Normalisation(),
}
"""Ways to prepare pixels, by the name users write."""
