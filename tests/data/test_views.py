"""Views: parts of pictures, scaled, cut, padded and mirrored; labels that stay exact under them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers.pictures import ramp
from hypothesis import given
from hypothesis import strategies as st

from onnxmtl.data.folders.labels import (
    NOWHERE,
    borders_of,
    classes_of,
    depth_of,
    legacy_uncentred_normals,
    map_of,
    normals,
)
from onnxmtl.data.folders.pixels import NORMALISATIONS
from onnxmtl.data.folders.views import Augmentation, View, draw_view, whole

SIZES = st.tuples(st.integers(3, 40), st.integers(3, 40))


def brute_label(view, values, pad):
    """Pixel by pixel: which pixel of the picture the centre of a view's pixel falls into."""
    height, width = values.shape[:2]
    out = np.full((*view.size, *values.shape[2:]), pad, values.dtype)
    for i in range(view.size[0]):
        for j in range(view.size[1]):
            row, column = view.top + i, view.left + (view.size[1] - 1 - j if view.mirrored else j)
            if row < view.scaled[0] and column < view.scaled[1]:
                y = math.floor((row + 0.5) * height / view.scaled[0] + 1e-9)
                x = math.floor((column + 0.5) * width / view.scaled[1] + 1e-9)
                out[i, j] = values[min(y, height - 1), min(x, width - 1)]
    return out


@given(picture=SIZES, size=SIZES, seed=st.integers(0, 2**32), fit=st.sampled_from(["resize", "pad"]))
def test_labels_are_those_of_the_nearest_pixel(picture, size, seed, fit):
    generator = np.random.default_rng(seed)
    values = generator.integers(0, 200, picture)
    for view in (whole(picture, size, fit), draw_view(picture, size, fit, Augmentation(), generator)):
        np.testing.assert_array_equal(view.label(values, 255), brute_label(view, values, 255))


@given(picture=SIZES, size=SIZES, seed=st.integers(0, 2**32))
def test_images_show_what_labels_show(picture, size, seed):
    """A picture of constant blocks: far from their borders the interpolated picture is the nearest pixel."""
    blocks = np.kron(np.random.default_rng(seed).integers(0, 250, (2, 2, 3)), np.ones((20, 20, 1))).astype(np.uint8)
    generator = np.random.default_rng(seed + 1)
    view = draw_view((40, 40), size, "resize", Augmentation(), generator)
    image, exact = view.image(blocks, 7), view.label(blocks, 7)
    assert image.shape == exact.shape and image.dtype == np.uint8
    rows, columns = np.mgrid[0 : size[0], 0 : size[1]]
    if view.mirrored:
        columns = size[1] - 1 - columns
    y = (rows + view.top + 0.5) * 40 / view.scaled[0]
    x = (columns + view.left + 0.5) * 40 / view.scaled[1]
    reach = 2 * max(1, 40 / view.scaled[0])
    clear = (abs(y - 20) > reach) & (abs(x - 20) > reach)
    np.testing.assert_array_equal(image[clear], exact[clear])


def test_floats_and_bytes_are_scaled_alike():
    pixels = ramp(30, 40, 3)
    view = View((20, 27), (16, 16), top=2, left=5)
    np.testing.assert_allclose(view.image(pixels.astype(np.float32), 0), view.image(pixels, 0), atol=0.51)


def test_a_whole_picture_of_the_right_size_is_left_alone():
    pixels = ramp(12, 9, 1)
    for fit in ("resize", "pad"):
        view = whole((12, 9), (12, 9), fit)
        np.testing.assert_array_equal(view.image(pixels, 0), pixels)
        np.testing.assert_array_equal(view.label(pixels, 0), pixels)


def test_fitting_by_padding_keeps_the_aspect():
    assert whole((30, 40), (32, 64), "pad").scaled == (30, 40)
    assert whole((30, 40), (15, 64), "pad").scaled == (15, 20)
    assert whole((30, 40), (32, 20), "pad").scaled == (15, 20)
    assert whole((30, 40), (32, 20), "resize").scaled == (32, 20)


@given(picture=SIZES, size=SIZES, seed=st.integers(0, 2**32))
def test_what_is_drawn(picture, size, seed):
    augmentation = Augmentation((0.5, 1.5), 0.0, True)
    view = draw_view(picture, size, "resize", augmentation, np.random.default_rng(seed))
    again = draw_view(picture, size, "resize", augmentation, np.random.default_rng(seed))
    assert view == again
    for axis, offset in ((0, view.top), (1, view.left)):
        assert math.floor(0.5 * picture[axis]) <= view.scaled[axis] <= math.ceil(1.5 * picture[axis])
        assert 0 <= offset <= max(view.scaled[axis] - size[axis], 0)


def test_scales_places_and_sides_are_all_drawn():
    augmentation = Augmentation((0.5, 2.0), 0.25, True)
    views = [draw_view((100, 80), (60, 60), "pad", augmentation, np.random.default_rng(k)) for k in range(2000)]
    heights = np.array([view.scaled[0] for view in views])
    assert sorted(set(heights.tolist())) == [50, 75, 100, 125, 150, 175, 200]
    assert (np.unique(heights, return_counts=True)[1] > 220).all()  # about 286 of each
    assert 900 < sum(view.mirrored for view in views) < 1100
    tops = {view.top for view in views if view.scaled[0] == 200}
    assert min(tops) == 0 and max(tops) > 130
    plain = Augmentation((1.0, 1.0), 0.0, False)
    assert {draw_view((60, 60), (60, 60), "pad", plain, np.random.default_rng(k)) for k in range(9)} == {
        View((60, 60), (60, 60))
    }


def test_zoom_is_relative_to_what_evaluation_shows():
    """Twice the scale at which the whole picture is shown: twice the zoom, whatever the network's size."""
    one = Augmentation((1.0, 1.0), 0.0, False)
    rng = np.random.default_rng
    assert draw_view((480, 640), (480, 640), "resize", one, rng(0)).zoom == pytest.approx(1)
    assert draw_view((480, 640), (240, 320), "resize", one, rng(0)).zoom == pytest.approx(2)
    assert draw_view((480, 640), (240, 640), "resize", one, rng(0)).zoom == pytest.approx(math.sqrt(2))
    assert draw_view((300, 400), (512, 512), "pad", one, rng(0)).zoom == pytest.approx(1)
    assert draw_view((300, 400), (150, 512), "pad", one, rng(0)).zoom == pytest.approx(2)


# Labels


PLAIN, MIRROR = View((2, 2), (2, 2)), View((2, 2), (2, 2), mirrored=True)


def test_class_ids():
    ids = np.array([[0, 3], [255, 40]], np.uint8)
    assert classes_of()(ids, PLAIN).tolist() == [[0, 3], [NOWHERE, 40]]
    table = np.array([5, 6, 7, 8])
    assert classes_of(table)(ids, PLAIN).tolist() == [[5, 8], [NOWHERE, 40]]  # 40 is for others to refuse
    assert classes_of(ignored=())(np.array([[-1.0, 2.0]]), PLAIN).tolist() == [[NOWHERE, 2]]
    assert classes_of()(ids, PLAIN).dtype == np.int64


def test_depth_fits_the_zoom():
    values = np.array([[2.0, 0.0], [-1.0, np.nan]], np.float32)
    twice = View((4, 4), (2, 2), zoom=2.0)
    assert depth_of(-1)(values, twice).tolist() == [[[1.0, 0.0], [0.0, 0.0]]]
    assert depth_of(0)(values, twice).tolist() == [[[2.0, 0.0], [0.0, 0.0]]]
    assert depth_of(1)(values, twice).tolist() == [[[4.0, 0.0], [0.0, 0.0]]]
    deep = np.array([[511, 65000]], np.uint16)
    found = depth_of(-1, lambda d: np.log1p(d) / np.float32(np.log(2**16)), 64500)(deep, PLAIN)
    assert found.dtype == np.float32 and found.tolist() == [[[pytest.approx(9 / 16), 0.0]]]


def test_normals_are_centred_unit_vectors_that_mirrors_turn():
    """Bytes of the vector (0.6, -0.8, 0): v = (n + 1) / 2 · 255."""
    values = np.array([[[204, 25.5, 127.5], [255, 255, 255]], [[255, 128, 128], [0, 0, 0]]]).astype(np.uint8)
    found = normals(values, PLAIN)
    np.testing.assert_allclose(found[:, 0, 0], [0.6, -0.8, 0], atol=0.006)
    np.testing.assert_allclose(np.linalg.norm(found, axis=0), [[1, 0], [1, 0]], atol=1e-6)
    assert found[0, 1, 0] == pytest.approx(1, abs=1e-4)  # a byte of 255 is a direction, too
    np.testing.assert_allclose(normals(values, MIRROR), found * np.array([-1, 1, 1])[:, None, None])


def test_legacy_normals_are_the_codes_quirk():
    values = np.array([[[204, 25, 128], [255, 128, 128]]], np.uint8)
    found = legacy_uncentred_normals(values, MIRROR)
    np.testing.assert_allclose(found[:, 0, 0], np.array([204, 25, 128]) / 255, rtol=1e-6)
    assert found[:, 0, 1].tolist() == [0, 0, 0] and found.dtype == np.float32


def test_maps_and_borders():
    values = np.array([[0, 50], [200, -1]], np.int32)
    assert map_of(100, 255)(values, PLAIN).tolist() == [[[0.0, 0.5], [1.0, 255.0]]]
    ids = np.array([[3, 3, 8], [3, 5, 8], [-1, -1, -1]])
    assert borders_of(255)(ids, PLAIN)[0].tolist() == [[0, 1, 0], [1, 1, 0], [255, 255, 255]]


def test_normalisations_are_what_they_declare():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 3)).astype(np.uint8)
    for name, normalisation in NORMALISATIONS.items():
        spec = normalisation.spec((5, 4))
        colours = pixels[..., ::-1] if spec.colour == "BGR" else pixels
        low, high = spec.range
        values = low + colours.astype(np.float64) / 255 * (high - low)
        expected = (values - np.array(spec.mean)) * np.array(spec.scale)
        found = normalisation.apply(pixels)
        np.testing.assert_allclose(found, expected.transpose(2, 0, 1), rtol=1e-4, atol=1e-4, err_msg=name)
        assert found.dtype == np.float32 and found.flags.c_contiguous
    assert NORMALISATIONS["bgr-mean"].spec((5, 4)).mean[0] == 104.00698793
