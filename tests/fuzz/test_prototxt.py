"""Damaged prototxt files and caffemodels: each ends in a model or in one clear line."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from helpers.caffe import inputs, layer, write_caffemodel
from helpers.mutation import DASHES, damage_bytes, damage_text, open_prototxt, run_isolated

FIXTURES = Path(__file__).parent.parent / "fixtures" / "prototxt"


def check(cases: list[bytes]) -> None:
    outcomes = run_isolated(open_prototxt, cases)
    wrong = [outcome for outcome in outcomes if not outcome.allowed]
    assert not wrong, "\n".join(f"case {outcome.index}: {outcome.text}" for outcome in wrong[:20])
    assert any(outcome.text == "ok" for outcome in outcomes) and any(outcome.text != "ok" for outcome in outcomes)


def damaged_texts(seed: int, number: int) -> list[bytes]:
    rng = random.Random(seed)
    sources = [path.read_bytes() for path in sorted(FIXTURES.glob("*.prototxt"))]
    return [rng.choice((damage_text, damage_text, damage_bytes))(rng.choice(sources), rng) for _ in range(number)]


def damaged_weights(folder: Path, seed: int, number: int) -> list[bytes]:
    """A sound prototxt with damaged weights: new blobs, those of old files, and V1 layers."""
    rng, numpy = random.Random(seed), np.random.default_rng(seed)
    text = inputs(data=(1, 3, 16, 16)) + "".join(
        (
            layer("Convolution", "data", "c", "convolution_param { num_output: 4 kernel_size: 3 pad: 1 }"),
            layer("BatchNorm", "c", "b"),
            layer("ReLU", "b", "b"),
            layer("Convolution", "b", "d", "convolution_param { num_output: 4 kernel_size: 3 pad: 1 }", "second"),
        )
    )
    blobs = {
        "convolution": [numpy.normal(size=(4, 3, 3, 3)), numpy.normal(size=4)],
        "batchnorm": [numpy.normal(size=4), numpy.uniform(1, 2, 4), np.ones(1)],
        "second": [numpy.normal(size=(4, 4, 3, 3)), numpy.normal(size=4)],
    }
    sources = [
        write_caffemodel(folder / f"{v1}{legacy}.caffemodel", blobs, v1=v1, legacy=legacy).read_bytes()
        for v1 in (False, True)
        for legacy in (False, True)
    ]
    return [text.encode() + DASHES + damage_bytes(rng.choice(sources), rng) for _ in range(number)]


def test_damaged_texts():
    check(damaged_texts(1, 100))


def test_damaged_weights(tmp_path):
    check(damaged_weights(tmp_path, 1, 100))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(2, 5))
def test_much_damage(seed, tmp_path):
    check(damaged_texts(seed, 1500))
    check(damaged_weights(tmp_path, seed, 1500))
