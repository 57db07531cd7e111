"""Which dialect a prototxt is in: Caffe's, or that of AutoMTL, whose fields mean other things.

| | Caffe | AutoMTL |
|---|---|---|
| BatchNorm | statistics only; Scale follows | scale and shift inside (``affine``), torch's ``momentum`` |
| Pooling rounds | up (CEIL) | down (FLOOR); the last window never starts in the padding |
| ``bottom: "data"`` or ``"blob1"`` | a blob of that name | the input, whatever its name |
| several ``kernel_size`` | one per axis | the last one |
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

from onnxmtl.frontends.prototxt.text import Source

Dialect = Literal["auto", "caffe", "automtl"]

INPUT_NAMES = ("data", "blob1")  # what AutoMTL takes for the input
_AUTOMTL = frozenset({"track_running_stats", "affine", "batch_norm_param.momentum", "inplace"})
_CAFFE = frozenset({"use_global_stats", "moving_average_fraction", "scale_param", "input_param", "bias_param"})


def detect(net: Any, layers: Iterable[tuple[Any, Source]]) -> tuple[bool, str]:
    """Whether a file is in AutoMTL's dialect, and how one can tell."""
    layers = list(layers)
    automtl = next(_marks(layers, _AUTOMTL), "")
    caffe = next(_marks(layers, _CAFFE), "")
    if caffe:
        return False, f"{caffe} is Caffe's" + (f", although {automtl} is AutoMTL's" if automtl else "")
    if automtl:
        return True, f"{automtl} is AutoMTL's"
    made = set(net.input)
    for layer, source in layers:
        for name in layer.bottom:
            if name not in made and name in INPUT_NAMES and len(net.input) == 1:
                return True, f"line {source.line} reads {name!r}, which is not made anywhere, and means the input"
        made.update(layer.top)
    return False, "nothing in it is AutoMTL's"


def _marks(layers: Iterable[tuple[Any, Source]], fields: frozenset[str]) -> Iterator[str]:
    for _, source in layers:
        for place in source.fields:
            names = place.path.split(".")
            if fields & {place.path, *names[:1], *names[-1:]}:
                yield f"{place.path} (line {place.line})"
