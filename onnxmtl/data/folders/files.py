"""The files of one sample, each read once."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxmtl.errors import DataError, MissingDependencyError

Raw = npt.NDArray[Any]

# numpy parses the header with ast.literal_eval, which fails at random in several threads of CPython 3.11 ("AST
# constructor recursion depth mismatch").
_NPY = threading.Lock()
_COLOURED = ("RGBA", "CMYK", "YCbCr", "LA", "PA")


class Files:
    """A sample's files by name; what was read once is kept for as long as the sample is made.

    Args:
        paths: Name -> file.
    """

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self.paths = paths
        self.last: Path | None = None
        """The file that was asked for last, for messages."""
        self._read: dict[str, Any] = {}

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return name in self.paths and self.paths[name].is_file()

    def image(self, name: str) -> Raw:
        """A picture: uint8 ``[H, W, 3]`` RGB of colour files, ``[H, W]`` of grey, palette (its indices) and deep ones.

        Raises:
            DataError: It is not there or cannot be read.
            MissingDependencyError: Pillow is not installed.
        """
        pixels: Raw = self._once(name, _read_image)
        return pixels

    def colours(self, name: str) -> Raw:
        """As :meth:`image`, but a palette gives its colours.

        Raises:
            DataError: It is not there or cannot be read.
            MissingDependencyError: Pillow is not installed.
        """
        pixels: Raw = self._once(name, lambda file: _read_image(file, (*_COLOURED, "P")))
        return pixels

    def array(self, name: str) -> Raw:
        """The array of an npy file.

        Raises:
            DataError: It is not there or cannot be read.
        """
        values: Raw = self._once(name, _read_array)
        return values

    def mat(self, name: str, variable: str) -> Any:
        """A variable of a Matlab file, as scipy gives it.

        Raises:
            DataError: It is not there or cannot be read.
            MissingDependencyError: scipy is not installed.
        """
        content = self._once(name, _read_mat)
        if variable not in content:
            msg = f"{self.paths[name]}: no variable {variable!r} in it"
            raise DataError(msg)
        return content[variable]

    def _once(self, name: str, read: Callable[[Path], Any]) -> Any:
        self.last = file = self.paths[name]
        if name not in self._read:
            try:
                self._read[name] = read(file)
            except (DataError, MissingDependencyError):
                raise
            except OSError as error:  # Pillow's "cannot identify image file" is one, too
                reason = error.strerror or " ".join(str(error).split())
                msg = f"{file}: cannot be read: {reason}"
                raise DataError(msg) from error
            except Exception as error:  # a damaged file: npy, mat and PNG readers raise many things
                msg = f"{file}: damaged: {type(error).__name__}: {' '.join(str(error).split())}"
                raise DataError(msg) from error
        return self._read[name]


def pillow() -> Any:
    """Pillow's Image module.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        msg = "reading pictures needs Pillow: pip install 'onnxmtl[train]'"
        raise MissingDependencyError(msg) from error
    return Image


def _read_image(file: Path, coloured: tuple[str, ...] = _COLOURED) -> Raw:
    with pillow().open(file) as picture:
        pixels: Raw = np.asarray(picture.convert("RGB") if picture.mode in coloured else picture)
    return pixels


def _read_array(file: Path) -> Raw:
    content = io.BytesIO(file.read_bytes())
    with _NPY:
        values = np.load(content, allow_pickle=False)
    if not isinstance(values, np.ndarray):
        values.close()
        msg = f"{file}: an archive, not one array: save it with numpy.save"
        raise DataError(msg)
    return values


def _read_mat(file: Path) -> Any:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        msg = "reading Matlab files needs scipy: pip install 'onnxmtl[train]'"
        raise MissingDependencyError(msg) from error
    return loadmat(file)
