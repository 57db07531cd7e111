"""Damaged networks: each is a model that the checker takes, or one error with one line."""

from __future__ import annotations

import re

import onnx
import onnx_ir as ir
from helpers import caffe
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

NUMBERS = "0 1 2 3 -1 7 64 65536 4294967295 1e30 -0.5 nan inf"
NAMES = (
    "data conv1 inc both squeeze excite ReLU Crop Scale InnerProduct PReLU LRN Permute BatchNorm Reshape Concat "
    "Interp Axpy Reduction ArgMax Normalize Upsample MVN BN Bias Slice"
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_network_is_a_model_or_one_error(fixture_files, data):
    text = data.draw(st.sampled_from([file.read_text() for file in fixture_files]))
    for _ in range(data.draw(st.integers(1, 3))):
        kind = data.draw(st.integers(0, 3))
        if kind == 0:
            numbers = list(re.finditer(r"(?<=: )-?[0-9][0-9.e-]*", text))
            replace = data.draw(st.sampled_from(NUMBERS.split()))
        elif kind == 1:
            numbers = list(re.finditer(r'(?<=")[^"\n]+(?=")', text))
            replace = data.draw(st.sampled_from(["", *NAMES.split()]))
        elif kind == 2:
            numbers = list(re.finditer(r"(?m)^(layer|layers) \{.*\}$", text))
            replace = ""
        else:
            numbers = list(re.finditer(r"\w+: [^ ]+ ", text))
            replace = ""
        if numbers:
            found = data.draw(st.sampled_from(numbers))
            text = text[: found.start()] + replace + text[found.end() :]
    error = caffe.error_of(caffe.load_text, text)
    if error is not None:
        assert "\n" not in error and error.startswith("net.prototxt")
        return
    model = caffe.load_text(text)
    size = sum(value.const_value.size for value in model.graph.initializers.values())
    if size < 1 << 22:
        onnx.checker.check_model(ir.to_proto(model), full_check=True)
