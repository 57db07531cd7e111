"""Search spaces: passes that put Choices into a multi-task graph."""

from __future__ import annotations

import collections.abc
import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from onnxmtl.errors import RunError
from onnxmtl.ir.passes import InPlacePass
from onnxmtl.passes.spaces.branch import Branch
from onnxmtl.passes.spaces.cross_stitch import CrossStitch
from onnxmtl.passes.spaces.fusion import Fusion
from onnxmtl.passes.spaces.mtan import Mtan
from onnxmtl.passes.spaces.select_or_skip import SelectOrSkip
from onnxmtl.passes.spaces.sluice import Sluice
from onnxmtl.passes.spaces.tree import Tree, layout_blocks
from onnxmtl.passes.spaces.vcn import Vcn

__all__ = [
    "SPACES",
    "Branch",
    "CrossStitch",
    "Fusion",
    "Mtan",
    "SelectOrSkip",
    "Sluice",
    "Tree",
    "Vcn",
    "layout_blocks",
    "space",
]

SPACES: dict[str, Callable[..., InPlacePass]] = {
    "branch": Branch,
    "cross_stitch": CrossStitch,
    "fusion": Fusion,
    "mtan": Mtan,
    "select_or_skip": SelectOrSkip,
    "sluice": Sluice,
    "tree": Tree,
    "vcn": Vcn,
}


def space(name: str, *, seed: int | None = None, **options: Any) -> InPlacePass:
    """The pass of the space called `name`, with its arguments; `seed` is for those that draw weights.

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
    hints = get_type_hints(SPACES[name].__init__) if inspect.isclass(SPACES[name]) else {}
    for option, value in options.items():
        if not _is_of(value, hints.get(option, Any)):
            msg = f"search space {name!r}: {option} is {parameters[option].annotation}, not {value!r}"
            raise RunError(msg)
    if seed is not None and "seed" in parameters:
        options["seed"] = seed
    return SPACES[name](**options)


def _is_of(value: Any, hint: Any) -> bool:
    """Whether a setting is of its type; of a number or a word no more is asked, the pass knows which are good."""
    kind, parts = get_origin(hint), get_args(hint)
    if kind is Literal:
        return any(isinstance(value, type(part)) for part in parts)
    if kind in (Union, types.UnionType):
        return any(_is_of(value, part) for part in parts)
    if kind is collections.abc.Mapping:
        return isinstance(value, Mapping) and all(
            _is_of(key, parts[0]) and _is_of(of_key, parts[1]) for key, of_key in value.items()
        )
    if isinstance(kind, type) and issubclass(kind, collections.abc.Iterable):
        return isinstance(value, kind) and not isinstance(value, str) and all(_is_of(each, parts[0]) for each in value)
    if hint in (int, float):
        return isinstance(value, int | hint) and not isinstance(value, bool)
    return isinstance(value, hint) if isinstance(hint, type) and not getattr(hint, "_is_protocol", False) else True
