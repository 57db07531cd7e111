"""Dataclasses from JSON: what was written comes back, and nothing else gets in."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmtl.deploy.results import finite
from onnxmtl.deploy.structured import structured


@dataclasses.dataclass(frozen=True)
class Inner:
    size: int
    share: float


@dataclasses.dataclass(frozen=True)
class Outer:
    name: str
    sure: bool
    inner: Inner
    maybe: Inner | None
    rows: tuple[Inner, ...]
    words: tuple[str, ...]
    tables: Mapping[str, Mapping[str, float]]
    count: int | None = None


numbers = st.floats(allow_nan=False, allow_infinity=False)
inners = st.builds(Inner, st.integers(), numbers)
outers = st.builds(
    Outer,
    name=st.text(),
    sure=st.booleans(),
    inner=inners,
    maybe=st.none() | inners,
    rows=st.lists(inners, max_size=3).map(tuple),
    words=st.lists(st.text(), max_size=3).map(tuple),
    tables=st.dictionaries(st.text(), st.dictionaries(st.text(), numbers, max_size=2), max_size=2),
    count=st.none() | st.integers(),
)


@settings(max_examples=40)
@given(outers)
def test_what_was_written_comes_back(one):
    content = json.loads(json.dumps({**dataclasses.asdict(one), "beside": 1}))
    assert structured(Outer, content) == one


def test_numbers_that_json_does_not_have():
    content = finite(dataclasses.asdict(Inner(1, math.inf)))
    assert content["share"] is None and math.isnan(structured(Inner, content).share)
    assert structured(Inner, {"size": 1, "share": 2}) == Inner(1, 2.0)


GOOD = {
    "name": "x", "sure": True, "inner": {"size": 1, "share": 0.5}, "maybe": None, "rows": [], "words": ["a"],
    "tables": {"a": {"b": 1.0}},
}  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": 1}, {"sure": 1}, {"sure": None}, {"inner": None}, {"inner": []}, {"inner": {"size": 1}},
        {"inner": {"size": True, "share": 0.5}}, {"inner": {"size": 1.5, "share": 0.5}}, {"rows": {}},
        {"inner": {"size": 1, "share": "much"}}, {"inner": {"size": 1, "share": False}}, {"maybe": 0}, {"rows": [1]},
        {"words": "a"}, {"words": [1]}, {"tables": []}, {"tables": {"a": 1}}, {"count": "1"},
    ],
)  # fmt: skip
def test_another_type_is_refused(wrong):
    assert structured(Outer, GOOD).count is None
    with pytest.raises((TypeError, KeyError)):
        structured(Outer, {**GOOD, **wrong})
    for name in wrong.keys() - {"count"}:
        with pytest.raises(KeyError):
            structured(Outer, {key: value for key, value in GOOD.items() if key != name})


def test_what_is_no_object():
    with pytest.raises(TypeError, match="Inner is a JSON object"):
        structured(Inner, [1, 2])
