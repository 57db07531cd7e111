"""Messages as text, in protobuf's own layout: what Caffe's tools write and people know."""

from __future__ import annotations

import re
from typing import Any

from google.protobuf import text_format  # type: ignore[import-untyped,unused-ignore]

# Caffe's own files have the sizes of a shape in one line. Quotes and line breaks in names are escaped, so that nothing
# but such a block looks like one.
_SHAPE = re.compile(r"shape \{\n((?: *dim: -?\d+\n)+) *\}")


def to_text(net: Any) -> str:
    """A ``NetParameter`` as text: equal networks give equal text."""
    text: str = text_format.MessageToString(net, as_utf8=True)
    return _SHAPE.sub(lambda match: f"shape {{ {' '.join(match[1].split())} }}", text).rstrip() + "\n"
