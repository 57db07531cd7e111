"""What users write in Python and name as ``module:name``: kinds, losses, metrics, heads."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import re
import sys
from collections.abc import Iterable
from typing import Any

from onnxmtl.errors import MissingDependencyError, OnnxMTLError, TaskError

_NAMED = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def close_match(word: str, known: Iterable[str]) -> str:
    """A hint: `` (did you mean 'x'?)`` where a known word is close, else ``""``."""
    found = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {found[0]!r}?)" if found else ""


def is_named(text: str) -> bool:
    """Whether `text` has the form ``module:name``."""
    return _NAMED.fullmatch(text) is not None


def load_named(spec: str, where: str, error_type: type[OnnxMTLError] = TaskError) -> Any:
    """Import what ``module:name`` says. Modules are looked for in the current folder too, as data sets are.

    Args:
        spec: ``module:name``.
        where: What messages start with, e.g. ``task 'seg': the loss``.
        error_type: What is raised where TaskError is not the word.

    Raises:
        TaskError: There is no such module or name, or importing it fails.
        MissingDependencyError: The module needs a library that is not installed.
    """
    module_name, _, name = spec.partition(":")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            msg = f"{where} {spec!r}: there is no module {error.name!r}, neither installed nor in {here}"
            raise error_type(msg) from error
        msg = f"{where} {spec!r}: its module needs {error.name!r}, which is not installed"
        raise MissingDependencyError(msg) from error
    except Exception as error:  # the user's module: anything can come
        msg = f"{where} {spec!r}: importing {module_name!r} raised {one_line(error)}"
        raise error_type(msg) from error
    if not hasattr(module, name):
        names = [key for key in vars(module) if not key.startswith("_")]
        msg = f"{where} {spec!r}: {name!r} is not there{close_match(name, names)} in module {module_name!r}"
        raise error_type(msg)
    return getattr(module, name)


def load_callable(spec: str, where: str, error_type: type[OnnxMTLError] = TaskError) -> Any:
    """:func:`load_named`, of something that can be called.

    Raises:
        TaskError: As :func:`load_named`, or it is not callable.
    """
    found = load_named(spec, where, error_type)
    if not callable(found):
        name = spec.partition(":")[2]
        msg = f"{where} {spec!r}: {name!r} is not callable, it is {type(found).__name__}"
        raise error_type(msg)
    return found


def same_code(one: Any, other: Any) -> bool:
    """Whether two functions or classes are one piece of code loaded twice.

    A cell of a notebook that runs again, or a script that is also imported by its name, may register again.
    """

    def file(code: Any) -> str | None:
        try:
            return inspect.getfile(code)
        except (TypeError, OSError):
            return None

    names = [getattr(code, "__qualname__", None) for code in (one, other)]
    modules = [getattr(code, "__module__", None) for code in (one, other)]
    same_place = modules[0] == modules[1] or (file(one) is not None and file(one) == file(other))
    named = names[0] is not None and not names[0].endswith("<lambda>")
    return named and names[0] == names[1] and same_place


def one_line(error: BaseException) -> str:
    """The error's class and message on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
