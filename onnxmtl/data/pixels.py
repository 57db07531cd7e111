"""Pictures without a picture library: PNG files, small print, colour maps."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]

# Glyphs of 5 columns; each column is a byte, its lowest bit the top row.
_FONT = {
    "a": "2054545478", "b": "7f48444438", "c": "3844444420", "d": "384444487f", "e": "3854545418", "f": "087e090102",
    "g": "98a4a4a47c", "h": "7f08040478", "i": "00447d4000", "j": "2040443d00", "k": "007f102844", "l": "00417f4000",
    "m": "7c04180478", "n": "7c08040478", "o": "3844444438", "p": "fc24242418", "q": "18242424fc", "r": "7c08040408",
    "s": "4854545420", "t": "043f444020", "u": "3c4040207c", "v": "1c2040201c", "w": "3c4030403c", "x": "4428102844",
    "y": "1ca0a0a07c", "z": "4464544c44", "0": "3e5149453e", "1": "00427f4000", "2": "4261514946", "3": "2141454b31",
    "4": "1814127f10", "5": "2745454539", "6": "3c4a494930", "7": "0171090503", "8": "3649494936", "9": "064949291e",
    ".": "0060600000", ",": "0050300000", "-": "0808080808", "/": "2010080402", ":": "0036360000", "°": "0609090600",
    "(": "001c224100", ")": "0041221c00", "+": "08083e0808", "=": "1414141414", "%": "2313086462", "'": "0005030000",
}  # fmt: skip
GLYPH_WIDTH, GLYPH_HEIGHT = 6, 8


def encode_png(pixels: Pixels) -> bytes:
    """The bytes of a PNG file of uint8 RGB pixels ``[H, W, 3]``."""
    height, width, _ = pixels.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], 1)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def text_width(text: str) -> int:
    """Pixels that a text takes."""
    return GLYPH_WIDTH * len(text) - 1


def write_text(pixels: Pixels, text: str, x: int, y: int, colour: tuple[int, int, int]) -> None:
    """Write small print into a picture ``[H, W, 3]``, top left corner at (x, y); what is outside is cut off."""
    for place, letter in enumerate(text.lower()):
        columns = bytes.fromhex(_FONT.get(letter, "0000000000"))
        for i, column in enumerate(columns):
            for j in range(8):
                row, col = y + j, x + GLYPH_WIDTH * place + i
                if column >> j & 1 and 0 <= row < pixels.shape[0] and 0 <= col < pixels.shape[1]:
                    pixels[row, col] = colour


def colour_map(values: npt.NDArray[Any], stops: tuple[str, ...]) -> Pixels:
    """Values in [0, 1] ``[H, W]`` -> uint8 RGB ``[H, W, 3]``, linear between colours given as ``rrggbb``."""
    table = np.array([list(bytes.fromhex(stop)) for stop in stops], np.float64)
    at = np.clip(values, 0, 1) * (len(table) - 1)
    low = np.minimum(at.astype(np.int64), len(table) - 2)
    mix = (at - low)[..., None]
    colours: Pixels = (table[low] * (1 - mix) + table[low + 1] * mix + 0.5).astype(np.uint8)
    return colours
