"""JSON in metadata: anybody can write anything there."""

from __future__ import annotations

import json
from collections.abc import Mapping

from onnxmtl.errors import ModelError


def json_names(props: Mapping[str, str], key: str) -> tuple[str, ...]:
    """The list of names under `key`; empty if there is none.

    Raises:
        ModelError: Something else stands there.
    """
    found = json_list(props, key)
    if not all(isinstance(name, str) for name in found):
        raise ModelError(_damaged(key))
    return tuple(str(name) for name in found)


def json_list(props: Mapping[str, str], key: str) -> list[object]:
    """The JSON list under `key`; empty if there is none.

    Raises:
        ModelError: Something else stands there.
    """
    text = props.get(key)
    if not text:
        return []
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(_damaged(key)) from error
    if not isinstance(found, list):
        raise ModelError(_damaged(key))
    return found


def _damaged(key: str) -> str:
    return (
        f"the model's metadata {key!r} is damaged: it is no list as onnxmtl writes it; emit or export the model again"
    )
