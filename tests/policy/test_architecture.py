"""Architectures: round trips, equality, and one line for everything that is wrong."""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmtl.analysis.table import Option, Site, SiteTable
from onnxmtl.errors import ModelError
from onnxmtl.policy import Architecture


def table(*sites: tuple[str, ...], tasks: tuple[str, ...] = ("seg", "depth"), last: tuple[int, ...] = ()) -> SiteTable:
    """Sites s0, s1, … with these option names; `last`: the tasks at the last site."""
    made = []
    for i, names in enumerate(sites):
        options = tuple(Option(name, 1, 1, 0, True, name == "skip") for name in names)
        made.append(Site(f"s{i}", i, i, "vcn", (f"c{i}",), options, last if i == len(sites) - 1 else ()))
    return SiteTable(tasks, tuple(made))


names = st.text(min_size=1, max_size=6)
mappings = st.dictionaries(names, st.dictionaries(names, names, min_size=1, max_size=3), max_size=4)


@given(mappings)
def test_json_round_trip(choices):
    architecture = Architecture(choices)
    again = Architecture.from_json(architecture.to_json())
    assert again == architecture and hash(again) == hash(architecture)
    assert again.to_json() == architecture.to_json() and again.to_dict() == choices


@given(mappings)
def test_the_order_of_sites_does_not_matter(choices):
    one = Architecture(choices)
    two = Architecture({site: dict(reversed(tasks.items())) for site, tasks in reversed(choices.items())})
    assert one == two and hash(one) == hash(two) and one.to_json() == two.to_json() and len({one, two}) == 1


def test_it_is_read_only_and_copyable():
    source = {"s0": {"seg": "shared"}}
    architecture = Architecture(source)
    source["s0"]["seg"] = "own"
    assert architecture.choices["s0"]["seg"] == "shared"
    with pytest.raises(TypeError):
        architecture.choices["s0"]["seg"] = "own"  # type: ignore[index]
    assert copy.deepcopy(architecture) == architecture
    assert architecture != Architecture({"s0": {"seg": "own"}})


@given(st.data())
def test_indices_and_probabilities_round_trip(data):
    sites = table(("shared", "own", "skip"), ("shared",), ("shared", "own"), last=(1,))
    picks = {(s.index, t): data.draw(st.integers(0, len(s.options) - 1)) for s in sites.sites for t in range(2)}
    architecture = Architecture.from_indices(sites, picks).validate(sites)
    present = {place: option for place, option in picks.items() if place != (2, 0)}
    assert architecture.indices(sites) == present
    assert list(architecture.choices["s2"]) == ["depth"]  # the other task never reaches the last site
    p = architecture.probabilities(sites)
    assert {(s, t): int(row.argmax()) for s, a in enumerate(p) for t, row in enumerate(a) if row.any()} == present
    assert sum(a.sum() for a in p) == 5


def test_uniform_with_a_substitute():
    sites = table(("shared", "own", "skip"), ("shared", "own"))
    assert Architecture.uniform(sites, "own").choices["s1"] == {"seg": "own", "depth": "own"}
    skipping = Architecture.uniform(sites, "skip", otherwise="shared")
    assert skipping.to_dict() == {"s0": {"seg": "skip", "depth": "skip"}, "s1": {"seg": "shared", "depth": "shared"}}
    with pytest.raises(ModelError, match=r"site 's1', task 'seg': no option 'skip' \(has shared, own\)"):
        Architecture.uniform(sites, "skip")


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({}, "site 's0' is missing"),
        ({"s0": {"seg": "shared", "depth": "own"}, "x": {}}, "site 'x' does not exist"),
        ({"s0": {"seg": "shared"}}, "site 's0': task 'depth' is missing"),
        ({"s0": {"seg": "shared", "depth": "own", "pose": "own"}}, "site 's0': no task 'pose'"),
        (
            {"s0": {"seg": "shared", "depth": "None"}},
            r"site 's0', task 'depth': no option 'None' \(has shared, own\)",
        ),
    ],
)
def test_validation_names_what_is_wrong(choices, message):
    with pytest.raises(ModelError, match=message) as caught:
        Architecture(choices).validate(table(("shared", "own")))
    assert "\n" not in str(caught.value)


def test_validation_lists_several_and_counts_the_rest():
    with pytest.raises(ModelError, match=r"site 's0' is missing; site 's1' is missing; .*; and 2 more$"):
        Architecture({}).validate(table(*[("shared", "own")] * 5))


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"architecture": []}', '{"architecture": {"s": 1}}', '{"architecture": {"s": {"t": 1}}}'],
)
def test_foreign_json_is_refused_in_one_line(text):
    with pytest.raises(ModelError) as caught:
        Architecture.from_json(text)
    assert "\n" not in str(caught.value)


def test_json_is_readable():
    text = Architecture({"s0": {"ü": "own"}}).to_json()
    assert json.loads(text) == {"architecture": {"s0": {"ü": "own"}}} and "ü" in text and text.endswith("\n")
