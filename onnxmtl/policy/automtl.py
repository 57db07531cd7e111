"""Policies that AutoMTL's own code found, as architectures of ours."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxmtl.errors import ModelError
from onnxmtl.policy.architecture import Architecture

# AutoMTL's words and ours. The space `vcn` calls its options so.
_OPTIONS = {"shared": "shared", "specific": "own", "own": "own", "skip": "skip"}
_FORM = '{"order": ["shared", "specific", "skip"], "policy": {layer: {task: [p, p, p]}}}'


def read_architecture(path: str | os.PathLike[str]) -> Architecture:
    """Read an architecture from a file: ours (``architecture.json`` of a run), or a policy in AutoMTL's terms.

    Raises:
        ModelError: The file cannot be read, or has another form; names the file.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        msg = f"{path}: cannot be read as an architecture ({reason})"
        raise ModelError(msg) from error
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None  # the reader of ours says what is wrong
    try:
        foreign = isinstance(content, dict) and "policy" in content
        return read_automtl_policy(text) if foreign else Architecture.from_json(text)
    except ModelError as error:
        msg = f"{path}: {error}"
        raise ModelError(msg) from error


def read_automtl_policy(text: str, *, tasks: Mapping[str, str] | None = None) -> Architecture:
    """Read a policy in AutoMTL's terms: per convolution and task the probabilities of its options.

    The form is ``{"order": ["shared", "specific", "skip"], "policy": {layer: {task: [p, p, p]}}}``; other keys are
    left alone. Of soft probabilities the largest counts (AutoMTL's ``hard=True``), of equal ones the first. The layers
    are the prototxt's convolutions by name; these are the sites' ids if the supermodel was made from that prototxt.

    AutoMTL offers a skip everywhere: build the supermodel with ``skip="dense1x1"`` to have them all.

    Args:
        text: JSON.
        tasks: The policy's task names -> those of the supermodel; a name that is not in it is kept.

    Raises:
        ModelError: Not JSON or not of that form. Whether it fits a supermodel is for :meth:`Architecture.validate`.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: JSONDecodeError, or a number of thousands of digits
        msg = f"the policy is not JSON: {error}"
        raise ModelError(msg) from error
    policy = content.get("policy") if isinstance(content, dict) else None
    if not isinstance(policy, dict) or not policy:
        msg = f"the policy needs the form {_FORM}"
        raise ModelError(msg)
    order = _order(content.get("order", ["shared", "specific", "skip"]))
    renamed: dict[str, str] = dict(tasks or {})
    choices: dict[str, dict[str, str]] = {}
    for layer, rows in policy.items():
        if not isinstance(rows, dict):
            msg = f"the policy's layer {layer!r} has to map task names to probabilities; the form is {_FORM}"
            raise ModelError(msg)
        choices[layer] = {
            renamed.get(str(task), str(task)): order[_chosen(row, layer, task, order)] for task, row in rows.items()
        }
        if len(choices[layer]) < len(rows):
            msg = f"two tasks of the policy's layer {layer!r} are given one name; give each its own"
            raise ModelError(msg)
    return Architecture(choices)


def _order(names: Any) -> list[str]:
    if not isinstance(names, list) or not all(isinstance(name, str) and name in _OPTIONS for name in names):
        msg = f"the policy's order {names!r} has to list options out of {', '.join(_OPTIONS)}"
        raise ModelError(msg)
    order = [_OPTIONS[name] for name in names]
    if len(set(order)) < len(order):
        msg = f"the policy's order {names!r} names an option twice"
        raise ModelError(msg)
    return order


def _chosen(row: Any, layer: str, task: str, order: list[str]) -> int:
    numbers = isinstance(row, list) and all(isinstance(p, int | float) and 0 <= p <= 1 for p in row)
    if not numbers or len(row) != len(order) or max(row) <= 0:
        msg = f"the policy's layer {layer!r}, task {task!r} needs {len(order)} probabilities, it has {row!r}"
        raise ModelError(msg)
    return int(row.index(max(row)))
