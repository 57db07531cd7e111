"""Damaged ONNX files, and random graphs: each ends in a model or in one clear line, never in a crash or a hang."""

from __future__ import annotations

import random

import pytest
from helpers.graphs import random_model
from helpers.mutation import damage_bytes, damage_model, open_model, run_isolated
from helpers.networks import small_network

from onnxmtl.ir import to_bytes


def check(cases: list[bytes]) -> None:
    outcomes = run_isolated(open_model, cases)
    wrong = [outcome for outcome in outcomes if not outcome.allowed]
    assert not wrong, "\n".join(f"case {outcome.index}: {outcome.text}" for outcome in wrong[:20])
    # Damage that is always refused, or never, would test little.
    assert any(outcome.text == "ok" for outcome in outcomes) and any(outcome.text != "ok" for outcome in outcomes)


def originals() -> list[bytes]:
    """A classifier as an exporter writes it, and graphs with residual and multi-path structure."""
    found = [to_bytes(small_network())]
    for seed in range(3):
        model = random_model(seed)
        model.metadata_props.clear()
        found.append(to_bytes(model))
    return found


def damaged(damage, seed: int, number: int) -> list[bytes]:
    rng, sources = random.Random(seed), originals()
    return [damage(rng.choice(sources), rng) for _ in range(number)]


@pytest.mark.parametrize("damage", [damage_bytes, damage_model], ids=["bytes", "structure"])
def test_damaged_files(damage):
    check(damaged(damage, 1, 80))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(2, 6))
@pytest.mark.parametrize("damage", [damage_bytes, damage_model], ids=["bytes", "structure"])
def test_many_damaged_files(damage, seed):
    check(damaged(damage, seed, 1500))
