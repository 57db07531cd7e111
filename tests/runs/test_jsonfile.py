from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmtl.errors import RunError
from onnxmtl.runs import content_key, file_sha256, read_json, write_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def reversed_keys(value):
    if isinstance(value, dict):
        return {key: reversed_keys(value[key]) for key in reversed(list(value))}
    if isinstance(value, list):
        return [reversed_keys(item) for item in value]
    return value


@given(VALUES)
def test_key_ignores_the_order_of_entries(value):
    assert content_key(value) == content_key(reversed_keys(value))


@given(VALUES, VALUES)
def test_keys_differ_for_different_values(a, b):
    same = json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)
    assert (content_key(a) == content_key(b)) == same


def test_key_is_stable():
    assert content_key({"b": [1, 2.5], "a": "ä"}) == content_key({"a": "ä", "b": (1, 2.5)})
    expected = hashlib.blake2b(b'{"a":1}', digest_size=16).hexdigest()
    assert content_key({"a": 1}) == expected


def test_round_trip_and_bytes(tmp_path):
    write_json(tmp_path / "a.json", {"z": 1, "a": ["ü", None, 1.5]})
    write_json(tmp_path / "b.json", {"a": ["ü", None, 1.5], "z": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert read_json(tmp_path / "a.json") == {"z": 1, "a": ["ü", None, 1.5]}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_json_does_not_have_is_refused(tmp_path, value):
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"loss": value})
    assert not (tmp_path / "a.json").exists()


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe\x00"])
def test_broken_file_is_one_line(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(RunError, match=r"a\.json: not valid JSON") as caught:
        read_json(tmp_path / "a.json")
    assert "\n" not in str(caught.value)


def test_missing_file_is_one_line(tmp_path):
    for read in (read_json, file_sha256):
        with pytest.raises(RunError, match=r"cannot read .*a\.json: No such file"):
            read(tmp_path / "a.json")


def test_file_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert file_sha256(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
