"""Policies in AutoMTL's terms: read, counted, and every wrong form in one line."""

import json

import pytest

from onnxmtl.errors import ModelError
from onnxmtl.policy import read_automtl_policy


def policy(**content):
    return json.dumps({"order": ["shared", "specific", "skip"], **content})


def test_the_largest_probability_counts_and_tasks_are_renamed():
    text = policy(
        policy={"conv1": {"a": [1, 0, 0], "b": [0.2, 0.5, 0.3]}, "conv2": {"a": [0, 0, 1.0], "b": [0.5, 0.5, 0]}}
    )
    assert read_automtl_policy(text, tasks={"a": "seg"}).to_dict() == {
        "conv1": {"seg": "shared", "b": "own"},
        "conv2": {"seg": "skip", "b": "shared"},
    }


def test_another_order():
    text = json.dumps({"order": ["skip", "shared", "own"], "policy": {"c": {"a": [0, 0, 1]}}})
    assert read_automtl_policy(text).to_dict() == {"c": {"a": "own"}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"policy": ' + "1" * 10_000 + "}", "not JSON"),
        ("[]", "needs the form"),
        (policy(), "needs the form"),
        (policy(policy={}), "needs the form"),
        (policy(policy={"c": [1, 0, 0]}), "layer 'c' has to map"),
        (policy(policy={"c": {"a": [1, 0]}}), "layer 'c', task 'a' needs 3 probabilities"),
        (policy(policy={"c": {"a": [0, 0, 0]}}), "layer 'c', task 'a' needs 3 probabilities"),
        (policy(policy={"c": {"a": [float("nan"), 0, 1]}}), "layer 'c', task 'a' needs 3 probabilities"),
        (policy(policy={"c": {"a": [10**400, 0, 0]}}), "layer 'c', task 'a' needs 3 probabilities"),
        (policy(policy={"c": {"a": "shared"}}), "layer 'c', task 'a' needs 3 probabilities"),
        (json.dumps({"order": ["shared", "wide"], "policy": {"c": {"a": [1, 0]}}}), "order"),
        (json.dumps({"order": ["own", "specific"], "policy": {"c": {"a": [1, 0]}}}), "names an option twice"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(text, message):
    with pytest.raises(ModelError, match=message) as error:
        read_automtl_policy(text)
    assert "\n" not in str(error.value)


def test_two_tasks_of_one_name():
    with pytest.raises(ModelError, match="one name"):
        read_automtl_policy(policy(policy={"c": {"a": [1, 0, 0], "b": [1, 0, 0]}}), tasks={"a": "b"})
