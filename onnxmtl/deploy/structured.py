"""Frozen dataclasses from the JSON that :func:`dataclasses.asdict` gives, checked against their annotations."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def structured(kind: type[T], value: Any) -> T:
    """An instance of a dataclass, its fields read from a JSON object; entries that are no fields are left out.

    A field is a bool, int, float (null means that it was not finite), str, a dataclass, a tuple of any of these, a
    mapping from names to them, or one of them or None.

    Raises:
        TypeError: A value is of another type than its field.
        KeyError: A field without a default is missing.
    """
    if not isinstance(value, dict):
        msg = f"{kind.__name__} is a JSON object, not {type(value).__name__}"
        raise TypeError(msg)
    found, hints = {}, _hints(typing.cast(Any, kind))
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if field.name in value:
            found[field.name] = _read(hints[field.name], value[field.name], field.name)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise KeyError(field.name)
    return kind(**found)


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _read(hint: Any, value: Any, name: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        one = next(each for each in arguments if each is not type(None))
        return None if value is None else _read(one, value, name)
    if origin is tuple and isinstance(value, list):
        return tuple(_read(arguments[0], each, name) for each in value)
    if origin is Mapping and isinstance(value, dict):
        return {str(key): _read(arguments[1], each, f"{name}.{key}") for key, each in value.items()}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return structured(hint, value)
    if hint is float and value is None:
        return math.nan
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    msg = f"{name} is {type(value).__name__}, not {hint}"
    raise TypeError(msg)
