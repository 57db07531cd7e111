"""JSON on disk: equal values give equal bytes; and keys made from it."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from onnxmtl.errors import RunError
from onnxmtl.runs.atomic import atomic_write


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` atomically: keys sorted, two spaces of indent, UTF-8, a newline at the end.

    Raises:
        RunError: The disk refuses.
        ValueError: `value` holds nan or infinity, which JSON does not have.
        TypeError: `value` holds something that is not JSON.
    """
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    atomic_write(path, (text + "\n").encode())


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file.

    Raises:
        RunError: The file is missing, unreadable, or not JSON.
    """
    try:
        return json.loads(Path(path).read_bytes())
    except OSError as error:
        msg = f"cannot read {path}: {error.strerror or error}"
        raise RunError(msg) from error
    except ValueError as error:
        msg = f"cannot read {path}: not valid JSON ({error}); the file was changed or cut off"
        raise RunError(msg) from error


def canonical(value: Any) -> Any:
    """`value` as it comes back from a JSON file (tuples become lists, keys strings)."""
    return json.loads(json.dumps(value, sort_keys=True, allow_nan=False))


def content_key(value: Any) -> str:
    """A key of 32 hexadecimal digits: equal for equal JSON values, whatever the order of their keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        RunError: The file cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        msg = f"cannot read {path}: {error.strerror or error}"
        raise RunError(msg) from error
