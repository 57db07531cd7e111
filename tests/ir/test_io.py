from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxmtl.ir import io, load, new_initializer, save, set_sources, to_bytes


def model():
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["N", 4]))
    node = ir.Node("", "Relu", [x], name="relu")
    y = node.outputs[0]
    y.name, y.type, y.shape = "y", x.type, x.shape
    graph = ir.Graph([x], [y], nodes=[node], opset_imports={"": 21}, name="g")
    set_sources(node, ["relu"])
    for name in ("b", "a", "c"):
        new_initializer(graph, name, np.arange(6, dtype=np.float32).reshape(2, 3))
    made = ir.Model(graph, ir_version=10, producer_name="onnxmtl")
    made.metadata_props.update({"onnxmtl.kind": "backbone", "k": "v", "another": "entry"})
    return made


def test_round_trip(tmp_path):
    path = save(model(), tmp_path / "m.onnx")
    again = load(path)
    assert again.metadata_props == model().metadata_props
    assert list(again.graph.initializers) == ["b", "a", "c"]
    assert to_bytes(again) == path.read_bytes() == to_bytes(model())
    assert io.weight_bytes(again) == 3 * 6 * 4


def test_bytes_are_the_same_in_every_process(tmp_path):
    """Also with other hash seeds, which shuffle the order of sets."""
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import test_io, hashlib; print(hashlib.sha256(test_io.to_bytes(test_io.model())).hexdigest())"
    )
    digests = set()
    for seed in ("0", "1"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        digests.add(done.stdout)
    assert len(digests) == 1


def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"old")

    def full(self, data):
        with self.open("wb") as file:
            file.write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        save(model(), path)
    assert path.read_bytes() == b"old" and [entry.name for entry in tmp_path.iterdir()] == ["m.onnx"]


def test_replaces_an_older_file(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"old")
    save(model(), path)
    onnx.checker.check_model(str(path), full_check=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.onnx"]


def test_large_weights_go_beside_the_model(tmp_path, monkeypatch):
    monkeypatch.setattr(io, "EXTERNAL_DATA_BYTES", 10)
    made = model()
    new_initializer(made.graph, "large", np.arange(5000, dtype=np.float32))
    save(made, tmp_path / "m.onnx")
    assert {entry.name for entry in tmp_path.iterdir()} == {"m.onnx", "m.onnx.data"}
    onnx.checker.check_model(str(tmp_path / "m.onnx"), full_check=True)
    again = load(tmp_path / "m.onnx").graph.initializers["large"].const_value
    np.testing.assert_array_equal(again.numpy(), np.arange(5000, dtype=np.float32))
