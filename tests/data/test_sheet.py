"""The contact sheet, and PNG files read back by hand."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest

from onnxmtl.data.pixels import _FONT, colour_map, encode_png, text_width, write_text
from onnxmtl.data.scenes import CLASSES, ROOM_TYPES, render_samples
from onnxmtl.data.sheet import CLASS_COLOURS, MARGIN, PANELS, contact_sheet, write_preview
from onnxmtl.errors import DataError


def decode(data):
    """RGB pixels of a PNG without filters."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, {}
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        (check,) = struct.unpack(">I", data[at + 8 + length : at + 12 + length])
        assert check == zlib.crc32(kind + body)
        chunks[kind] = body
        at += 12 + length
    width, height, depth, colour, *_ = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert (depth, colour) == (8, 2) and list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, 1 + 3 * width)
    assert (rows[:, 0] == 0).all()
    return rows[:, 1:].reshape(height, width, 3)


def test_png_holds_the_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (7, 11, 3)).astype(np.uint8)
    np.testing.assert_array_equal(decode(encode_png(pixels)), pixels)


def test_text_stays_inside():
    pixels = np.zeros((10, 40, 3), np.uint8)
    write_text(pixels, "Room 12", 1, 1, (9, 8, 7))
    written = (pixels == (9, 8, 7)).all(2)
    assert 30 < written.sum() < 120 and not written[:, :1].any() and text_width("Room 12") == 41
    write_text(pixels, "far away", 35, 6, (1, 1, 1))  # cut off, no error


@pytest.mark.parametrize("text", [*CLASSES, *ROOM_TYPES, *PANELS, "camera looks 14° down, depth 1.5 to 6.0 m"])
def test_every_letter_we_use_has_a_glyph(text):
    assert set(text) - {" "} <= set(_FONT)
    assert all(len(glyph) == 10 for glyph in _FONT.values())


def test_colour_map_goes_through_its_stops():
    stops = ("000000", "ff0000", "ffffff")
    colours = colour_map(np.array([[-1.0, 0.0, 0.25, 0.5, 1.0, 2.0]]), stops)[0].tolist()
    assert colours == [[0, 0, 0], [0, 0, 0], [128, 0, 0], [255, 0, 0], [255, 255, 255], [255, 255, 255]]


def test_the_sheet_shows_images_and_labels():
    sheet = contact_sheet(3, 40, 1)
    image, labels = render_samples(1, "train", [0], (40, 40))[0]
    top = next(y for y in range(60) if np.array_equal(sheet[y, MARGIN : MARGIN + 40], image[:, 0].T))
    np.testing.assert_array_equal(sheet[top : top + 40, MARGIN : MARGIN + 40], image.transpose(1, 2, 0))
    shown = sheet[top : top + 40, MARGIN + 44 : MARGIN + 84]
    for label in np.unique(labels["segmentation"]):
        assert (shown[labels["segmentation"] == label] == list(bytes.fromhex(CLASS_COLOURS[label]))).all()
    assert len(CLASS_COLOURS) == len(CLASSES)


def test_previews_are_reproducible_and_checked(tmp_path):
    first = write_preview("scenes", tmp_path / "a.png", count=1, size=16, seed=0)
    write_preview("scenes", tmp_path / "b.png", count=1, size=16, seed=0)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert decode(first.path.read_bytes()).shape == (first.height, first.width, 3)
    for name, count, size, words in (("scene", 1, 32, "did you mean 'scenes'"), ("scenes", 0, 32, "cannot preview 0")):
        with pytest.raises(DataError, match=words):
            write_preview(name, tmp_path / "c.png", count=count, size=size, seed=0)
    assert not (tmp_path / "c.png").exists()
