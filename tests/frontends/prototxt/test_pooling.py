"""Caffe's rounding, clipping and divisor against its C++ in loops, on random windows."""

from __future__ import annotations

import math

import numpy as np
from helpers import caffe
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onnxmtl.frontends.prototxt.layers.pooling import pooled_size

small = st.integers(1, 4)


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 9), st.integers(0, 8), st.booleans())
def test_number_of_windows_is_caffes(size, kernel, stride, pad, ceil):
    assume(pad < kernel <= size + 2 * pad)
    rounded = math.ceil if ceil else math.floor
    want = rounded((size + 2 * pad - kernel) / stride) + 1
    if pad and (want - 1) * stride >= size + pad:
        want -= 1
    assert pooled_size(size, kernel, stride, pad, ceil=ceil, clip=pad > 0) == want


@settings(max_examples=150, deadline=None)
@given(st.data(), st.booleans(), st.booleans(), st.booleans())
def test_pooling_is_caffes(data, average, ceil, automtl):
    size = data.draw(st.tuples(st.integers(3, 9), st.integers(3, 9)))
    kernel, stride = data.draw(st.tuples(small, small)), data.draw(st.tuples(small, small))
    pad = tuple(data.draw(st.integers(0, k - 1)) for k in kernel)
    assume(all(k <= n + 2 * p for k, n, p in zip(kernel, size, pad, strict=True)))
    clip = automtl or any(pad)
    counts = [
        pooled_size(n, k, s, p, ceil=ceil, clip=clip) for n, k, s, p in zip(size, kernel, stride, pad, strict=True)
    ]
    inside = all((c - 1) * s < n + p for c, s, n, p in zip(counts, stride, size, pad, strict=True))
    assume(inside)  # Caffe itself divides by 0, or finds -FLT_MAX, beyond
    settings_ = " ".join(
        f"{name}_h: {pair[0]} {name}_w: {pair[1]}"
        for name, pair in (("kernel", kernel), ("stride", stride), ("pad", pad))
    )
    body = (
        f"pooling_param {{ pool: {'AVE' if average else 'MAX'} {settings_} round_mode: {'CEIL' if ceil else 'FLOOR'} }}"
    )
    text = caffe.inputs(x=(1, 2, *size)) + caffe.layer("Pooling", "x", "y", body)
    model = caffe.load_text(text, dialect="automtl" if automtl else "caffe")
    x = np.random.default_rng(0).standard_normal((1, 2, *size)).astype(np.float32)
    want = caffe.pool(x, kernel, stride, pad, average=average, ceil=ceil, always_clip=automtl)
    got = caffe.run(model, x=x)["y"]
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
