"""Search spaces: passes that put Choices into a multi-task graph."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from onnxmtl.errors import RunError
from onnxmtl.ir.passes import InPlacePass
from onnxmtl.passes.spaces.branch import Branch
from onnxmtl.passes.spaces.select_or_skip import SelectOrSkip
from onnxmtl.passes.spaces.tree import Tree, layout_blocks
from onnxmtl.passes.spaces.vcn import Vcn

__all__ = ["SPACES", "Branch", "SelectOrSkip", "Tree", "Vcn", "layout_blocks", "space"]

SPACES: dict[str, Callable[..., InPlacePass]] = {
    "branch": Branch,
    "select_or_skip": SelectOrSkip,
    "tree": Tree,
    "vcn": Vcn,
}


def space(name: str, **options: Any) -> InPlacePass:
    """The pass of the space called `name`, with its arguments.

    Raises:
        RunError: No such space, or it does not take these arguments.
    """
    if name not in SPACES:
        msg = f"unknown search space {name!r}; there are: {', '.join(sorted(SPACES))}"
        raise RunError(msg)
    parameters = inspect.signature(SPACES[name]).parameters
    unknown = [repr(option) for option in options if option not in parameters]
    if unknown:
        known = ", ".join(parameters) or "none"
        msg = f"search space {name!r} takes no setting {' or '.join(unknown)}; its settings: {known}"
        raise RunError(msg)
    return SPACES[name](**options)
