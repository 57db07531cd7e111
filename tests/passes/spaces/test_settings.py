"""Settings of search spaces, as configurations and command lines give them: their names, and their types."""

from __future__ import annotations

import pytest

from onnxmtl.errors import RunError
from onnxmtl.passes.spaces import SPACES, space


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fusion", {"own": 1}),
        ("fusion", {"own": {"conv1": 0.5, "conv2": 1}, "edges": "same-layer", "choices": False}),
        ("fusion", {"within": 2, "norm_epsilon": 1e-5}),
        ("cross_stitch", {"per": "channel", "own": 0.9}),
        ("branch", {"groups": 3}),
        ("branch", {"groups": [1, 2], "at": ["a", "b"]}),
        ("branch", {"groups": None}),
        ("vcn", {"shared_prefix": 2, "skip": "none"}),
    ],
)
def test_settings_of_their_types_are_taken(name, options):
    assert isinstance(space(name, **options), SPACES[name])


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("fusion", {"own": "much"}, "search space 'fusion': own is .*, not 'much'"),
        ("fusion", {"own": {"conv1": "much"}}, "own is"),
        ("fusion", {"own": True}, "own is"),
        ("fusion", {"within": 2.5}, "within is int, not 2.5"),
        ("fusion", {"edges": 3}, "edges is"),
        ("fusion", {"choices": 1}, "choices is bool, not 1"),
        ("branch", {"at": "late"}, "at is"),
        ("branch", {"groups": [1.5]}, "groups is"),
        ("fusion", {"widht": 3}, "takes no setting 'widht'"),
    ],
)
def test_settings_of_other_types_are_refused(name, options, words):
    with pytest.raises(RunError, match=words):
        space(name, **options)
