"""Why something of the user's, or of torch's, failed: in one line."""

from __future__ import annotations

import re

_OPERATOR = re.compile(r"(?:torch\.ops\.)?(?:aten|torchvision|prims)[.:]{1,2}[a-z_0-9]+")
_PLACE = re.compile(r'File "([^"]+)", line (\d+), in (\w+)')
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def reason_of(error: BaseException) -> str:
    """What stopped an exporter, and in which line of the user's code if it says so."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    texts = [str(e) for e in chain]
    operators = next((found.group(0) for text in texts for found in [_OPERATOR.search(text)] if found), "")
    places = [found for text in texts for found in _PLACE.findall(text) if "site-packages" not in found[0]]
    message = first_line(chain[-1])
    if operators and operators not in message:
        message = f"{operators}: {message}"
    if places:
        file, line, function = places[-1]
        message += f", at {file}:{line} in {function}"
    return message


def first_line(error: BaseException) -> str:
    """The error's type and the first line of what it says."""
    lines = [line.strip() for line in _COLOUR.sub("", str(error)).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].rstrip('.')[:200]}" if lines else type(error).__name__
