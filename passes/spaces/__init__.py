"""Search spaces: passes that put Choices into a multi-task graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from onnxmtl.errors import RunError
from onnxmtl.ir.passes import InPlacePass
from onnxmtl.passes.spaces.vcn import Vcn

__all__ = ["SPACES", "Vcn", "space"]

SPACES: dict[str, Callable[..., InPlacePass]] = {"vcn": Vcn}


def space(name: str, **options: Any) -> InPlacePass:
    """The pass of the space called `name`, with its arguments.

    Raises:
        RunError: No such space, or it does not take these arguments.
    """
    if name not in SPACES:
        msg = f"unknown search space {name!r}; there are: {', '.join(sorted(SPACES))}"
        raise RunError(msg)
    try:
        return SPACES[name](**options)
    except TypeError as error:
        msg = f"search space {name!r}: {error}"
        raise RunError(msg) from error
