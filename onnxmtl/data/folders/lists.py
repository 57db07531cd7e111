"""Lists of files: the entries of a data set's splits, as long as the lists may be, and only files of its folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from onnxmtl.data.sources import Request
from onnxmtl.errors import DataError

Entry = Mapping[str, Path]
"""A sample's files, by name; the picture is called "image"."""


class _Listed(Mapping[str, Path]):
    """An entry as the list has it. A path object takes ten times the memory of its name, so none is kept."""

    __slots__ = ("_columns", "_names", "_root")

    def __init__(self, root: str, columns: tuple[str, ...], names: tuple[str, ...]) -> None:
        self._root, self._columns, self._names = root, columns, names

    def __getitem__(self, column: str, /) -> Path:
        try:
            return Path(self._root, self._names[self._columns.index(column)])
        except ValueError:
            raise KeyError(column) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def paths(self) -> Iterator[tuple[str, str]]:
        """Column and path of every file."""
        return ((column, f"{self._root}/{name}") for column, name in zip(self._columns, self._names, strict=True))


def listed(root: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[Entry]:
    """Entries of files below `root`, one per row; a row may have more names than there are columns."""
    base, names = str(root), tuple(columns)
    return [_Listed(base, names, tuple(row[: len(names)])) for row in rows]


def paths_of(entry: Entry) -> Iterator[tuple[str, str]]:
    """Column and path of every file of an entry."""
    if isinstance(entry, _Listed):
        return entry.paths()
    return ((column, str(file)) for column, file in entry.items())


def picture_of(entry: Entry) -> str:
    """Which picture it is."""
    return next(path for column, path in paths_of(entry) if column == "image")


_NOTHING = object()


def _is_below(path: object) -> bool:
    """Whether it is the name of a file that cannot lie outside of the folder."""
    if not isinstance(path, str) or not path or "\0" in path or path.startswith("/"):
        return False
    return ".." not in path or ".." not in path.split("/")


def read_splits(
    file: Path, root: Callable[[str], Path], columns: Sequence[str], name: str, how: str
) -> dict[str, list[Entry]]:
    """Splits from a JSON file ``{split: [[path, …], …]}``, as AdaShare's preparations have it.

    Args:
        file: The JSON file.
        root: Split -> folder that its paths are relative to.
        columns: What the paths of an entry are.
        name: Of the data set.
        how: How it must look.

    Raises:
        DataError: The file is not there, or does not look so.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        msg = f"data {name!r}: {file}: {error.strerror or error}; {how}"
        raise DataError(msg) from error
    except (ValueError, RecursionError) as error:
        msg = f"data {name!r}: {file}: not a JSON file ({' '.join(str(error).split())}); {how}"
        raise DataError(msg) from error
    found: dict[str, list[Entry]] = {}
    for split, entries in content.items() if isinstance(content, dict) else ():
        given = entries if isinstance(entries, list) else [entries]
        rows = [entry for entry in given if isinstance(entry, list) and len(entry) >= len(columns)]
        if len(rows) != len(given):
            wanted = ", ".join(columns)
            msg = f"data {name!r}: {file}: split {split!r} must be a list of entries [{wanted}]; {how}"
            raise DataError(msg)
        base = root(split)
        wrong = next((path for row in rows for path in row[: len(columns)] if not _is_below(path)), _NOTHING)
        if wrong is not _NOTHING:
            msg = f"data {name!r}: {file}: split {split!r} has an entry {wrong!r}, which is not a path below {base}"
            raise DataError(msg)
        found[split] = listed(base, columns, rows)
    if "train" not in found:
        msg = f"data {name!r}: {file} has no split 'train' (it has {', '.join(found) or 'none'}); {how}"
        raise DataError(msg)
    return found


def root_folder(request: Request, name: str, how: str) -> Path:
    """The folder of a data set: where the user says, or ``data/NAME``.

    Raises:
        DataError: It is not there.
    """
    folder = request.path if request.path is not None else Path("data") / name
    if not folder.is_dir():
        msg = f"data {name!r}: there is no folder {folder}; {how}"
        raise DataError(msg)
    return folder
