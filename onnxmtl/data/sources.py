"""Data sets by name: what each is called, what it asks for and how it is opened."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from onnxmtl.data.dataset import DataSource
from onnxmtl.errors import DataError
from onnxmtl.kinds import TaskSet, close_match

# The modules that register the data sets, each loaded when one of its names is asked for.
_HOMES = {
    "scenes": "onnxmtl.data.scenes.source",
    "multifashion": "onnxmtl.data.multi",
    "multimnist": "onnxmtl.data.multi",
    "nyuv2": "onnxmtl.data.folders.nyuv2",
    "cityscapes": "onnxmtl.data.folders.cityscapes",
    "taskonomy": "onnxmtl.data.folders.taskonomy",
    "pascal-context": "onnxmtl.data.folders.pascal_context",
}
NAMES = tuple(_HOMES)
Options = TypeVar("Options")


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked of a named data set.

    Attributes:
        tasks: What must be labelled; classes may be open.
        size: Height and width of the images.
        seed: Of what is drawn.
        channels: Of the images: 1 or 3.
        path: Where the user says the files are; None: at the usual places.
        train_size: Training samples; None: all.
        val_size: Validation samples; None: all.
        options: The data set's own options, as text.
    """

    tasks: TaskSet
    size: tuple[int, int]
    seed: int
    channels: int = 3
    path: Path | None = None
    train_size: int | None = None
    val_size: int | None = None
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class NamedSource:
    """A data set that ``--data NAME[:PATH]`` names.

    Attributes:
        name: What users write.
        open: Opens it.
        show: Tasks of a preview, in the short form: all that it labels.
        size: Height and width of a preview.
        options: Dataclass of its options, with their defaults; None: it has none.
        doc: One line: what it is.
    """

    name: str
    open: Callable[[Request], DataSource]
    show: str
    size: tuple[int, int]
    options: type[Any] | None = None
    doc: str = ""


SOURCES: dict[str, NamedSource] = {}


def register_source(source: NamedSource) -> NamedSource:
    """Make a data set known by name.

    Raises:
        DataError: The name is taken.
    """
    if source.name in SOURCES:
        msg = f"data {source.name!r} is registered already: choose another name"
        raise DataError(msg)
    SOURCES[source.name] = source
    return source


def named_source(name: str) -> NamedSource:
    """What onnxmtl knows about a data set by name.

    Raises:
        DataError: No such data set.
    """
    home = _HOMES.get(name)
    if home is None:
        msg = f"unknown data {name!r}{close_match(name, NAMES)}: use {', '.join(NAMES)}"
        raise DataError(msg)
    importlib.import_module(home)
    return SOURCES[name]


def data_options(name: str) -> dict[str, Any]:
    """The options of a named data set, with their defaults; its module says what they mean.

    Raises:
        DataError: No such data set.
    """
    options = named_source(name).options
    return {} if options is None else {field.name: field.default for field in dataclasses.fields(options)}


def read_options(options: type[Options], given: Mapping[str, str], name: str) -> Options:
    """A dataclass of options from what the user wrote.

    Fields may be str, bool (yes/no), int, float or a pair of floats (``0.5-1.5``); what their values may be is checked
    by the dataclass itself, with a :class:`DataError` of one line that starts with the option.

    Raises:
        DataError: An unknown option, or a value that does not fit; one line.
    """
    types = get_type_hints(options)
    known = [field.name for field in dataclasses.fields(options)]  # type: ignore[arg-type]
    values = {}
    for key, text in given.items():
        if key not in known:
            msg = f"data {name!r} has no option {key!r}{close_match(key, known)}; it has {', '.join(known)}"
            raise DataError(msg)
        values[key] = _read(types[key], str(text).strip(), f"data {name!r}: option {key}")
    try:
        return options(**values)
    except DataError as error:
        msg = f"data {name!r}: option {error}"
        raise DataError(msg) from error


def one_of(option: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is not among those allowed.

    Raises:
        DataError: It is not; names the option and what may be written.
    """
    if value not in allowed:
        msg = f"{option}={value!r} is unknown{close_match(value, allowed)}: use {' or '.join(allowed)}"
        raise DataError(msg)


def _read(type_: Any, text: str, where: str) -> Any:
    if type_ is str:
        return text
    if type_ is bool:
        if text.lower() in ("yes", "true", "1", "no", "false", "0"):
            return text.lower() in ("yes", "true", "1")
        msg = f"{where}={text!r}: write yes or no"
        raise DataError(msg)
    pair = type_ not in (int, float)
    pieces = text.split("-") if pair else [text]
    try:
        numbers = tuple((int if type_ is int else float)(piece) for piece in pieces)
    except ValueError:
        numbers = ()
    if len(numbers) != (2 if pair else 1):
        wanted = "two numbers, as in 0.5-1.5" if pair else "a whole number" if type_ is int else "a number"
        msg = f"{where}={text!r}: write {wanted}"
        raise DataError(msg)
    return numbers if pair else numbers[0]
