"""Files of users: what is read, and that everything else is refused in one clear line."""

from __future__ import annotations

import contextlib
import os

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers.networks import image_of, run, small_network
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxmtl.errors import ModelError, OnnxMTLError
from onnxmtl.frontends.onnx import MappedTensor, load, save_external
from onnxmtl.ir import to_bytes


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(to_bytes(small_network()))
    return path


@pytest.fixture
def external(tmp_path):
    save_external(small_network(), tmp_path / "net.onnx", threshold=0)
    return tmp_path / "net.onnx"


def refusal(path) -> str:
    with pytest.raises(ModelError) as e:
        load(path)
    message = str(e.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_reads_a_file(file):
    model = load(file)
    x = image_of(model, 1)
    np.testing.assert_array_equal(run(model, x)[0], run(small_network(), x)[0])


def test_no_such_file(tmp_path):
    assert "no such file" in refusal(tmp_path / "missing.onnx")


def test_directory(tmp_path):
    assert "directory" in refusal(tmp_path)


def test_empty_file(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"")
    assert "empty" in refusal(tmp_path / "a.onnx")


@pytest.mark.parametrize("content", [b"hello, this is no model\n" * 50, b"\x00" * 64, b"\xff" * 1000, b"PK\x03\x04"])
def test_garbage(tmp_path, content):
    (tmp_path / "a.onnx").write_bytes(content)
    assert "not an ONNX model" in refusal(tmp_path / "a.onnx")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(part=st.floats(0, 0.999), flip=st.integers(0, 7))
def test_truncated_at_any_byte(tmp_path, part, flip):
    """A truncated file is refused wherever it is cut (most cuts do not even parse), never with a foreign error."""
    whole = to_bytes(small_network())
    path = tmp_path / "cut.onnx"
    path.write_bytes(whole[: int(len(whole) * part)])
    refusal(path)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(position=st.floats(0, 0.999), value=st.integers(0, 255))
def test_a_damaged_byte_gives_no_foreign_error(tmp_path, position, value):
    content = bytearray(to_bytes(small_network()))
    content[int(len(content) * position)] = value
    path = tmp_path / "damaged.onnx"
    path.write_bytes(bytes(content))
    with contextlib.suppress(OnnxMTLError):  # damage to a number cannot be seen
        load(path)


def test_empty_graph(tmp_path):
    proto = ir.to_proto(small_network())
    del proto.graph.node[:]
    onnx.save(proto, tmp_path / "a.onnx")
    assert "empty" in refusal(tmp_path / "a.onnx")


def test_newer_than_the_installed_onnx(tmp_path, file):
    proto = onnx.load(file)
    proto.ir_version = onnx.IR_VERSION + 1
    onnx.save(proto, tmp_path / "a.onnx")
    assert "upgrade onnx" in refusal(tmp_path / "a.onnx")
    proto = onnx.load(file)
    proto.opset_import[0].version = onnx.defs.onnx_opset_version() + 1
    onnx.save(proto, tmp_path / "a.onnx")
    assert "opset" in refusal(tmp_path / "a.onnx")


def test_value_that_nothing_produces(tmp_path, file):
    proto = onnx.load(file)
    proto.graph.node[3].input[0] = "nowhere"
    onnx.save(proto, tmp_path / "a.onnx")
    message = refusal(tmp_path / "a.onnx")
    assert "'nowhere'" in message
    assert repr(proto.graph.node[3].name) in message


def test_weight_with_too_few_bytes(tmp_path, file):
    proto = onnx.load(file)
    proto.graph.initializer[0].raw_data = proto.graph.initializer[0].raw_data[:-4]
    onnx.save(proto, tmp_path / "a.onnx")
    assert repr(proto.graph.initializer[0].name) in refusal(tmp_path / "a.onnx")


def test_nodes_out_of_order_are_sorted(tmp_path, file):
    proto = onnx.load(file)
    nodes = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend(reversed(nodes))
    onnx.save(proto, tmp_path / "a.onnx")
    assert next(iter(load(tmp_path / "a.onnx").graph)).name == nodes[0].name


def test_cycle(tmp_path, file):
    proto = onnx.load(file)
    proto.graph.node[0].input[0] = proto.graph.node[-1].output[0]
    onnx.save(proto, tmp_path / "a.onnx")
    assert "cycle" in refusal(tmp_path / "a.onnx")


class TestExternalData:
    def test_is_mapped_and_computes_the_same(self, external):
        model = load(external)
        x = image_of(model, 1)
        np.testing.assert_array_equal(run(model, x)[0], run(small_network(), x)[0])

    def test_is_not_read_before_it_is_used(self, external):
        values = load(external).graph.initializers.values()
        assert all(isinstance(v.const_value, MappedTensor) for v in values)
        assert not any(v.const_value.file.mapped for v in values)
        next(iter(values)).const_value.numpy()
        assert all(v.const_value.file.mapped for v in values)  # one map for all of them

    def test_bytes_written_elsewhere_are_complete(self, external, tmp_path):
        content = to_bytes(load(external))
        os.remove(f"{external}.data")
        (tmp_path / "alone.onnx").write_bytes(content)
        x = image_of(small_network(), 1)
        np.testing.assert_array_equal(run(load(tmp_path / "alone.onnx"), x)[0], run(small_network(), x)[0])

    def test_relative_model_path(self, external, monkeypatch):
        monkeypatch.chdir(external.parent)
        model = load("net.onnx")
        monkeypatch.chdir("/")
        assert model.graph.initializers["stem.w"].const_value.numpy().shape == (4, 3, 3, 3)

    def test_round_trip(self, external, tmp_path):
        (tmp_path / "b").mkdir()
        save_external(load(external), tmp_path / "b" / "copy.onnx", threshold=0)
        assert (tmp_path / "b" / "copy.onnx.data").exists()
        a, b = load(external), load(tmp_path / "b" / "copy.onnx")
        for name, value in a.graph.initializers.items():
            np.testing.assert_array_equal(value.const_value.numpy(), b.graph.initializers[name].const_value.numpy())

    def test_overwriting_its_own_weights_is_refused(self, external):
        data = external.with_name(f"{external.name}.data")
        before = data.read_bytes()
        with pytest.raises(ModelError, match="weights of the model being saved"):
            save_external(load(external), external)
        assert data.read_bytes() == before

    @pytest.mark.parametrize("location", ["../secret.bin", "sub/../../secret.bin", "{tmp}/secret.bin", ""])
    def test_escaping_path(self, external, tmp_path, location):
        folder = tmp_path / "model"
        folder.mkdir()
        (tmp_path / "secret.bin").write_bytes(b"\0" * 100000)
        path = self._with_location(external, folder / "net.onnx", location.format(tmp=tmp_path))
        assert "outside the model's folder" in refusal(path)

    def test_escaping_symlink(self, external, tmp_path):
        folder = tmp_path / "model"
        folder.mkdir()
        (tmp_path / "secret.bin").write_bytes(b"\0" * 100000)
        (folder / "inside.bin").symlink_to(tmp_path / "secret.bin")
        path = self._with_location(external, folder / "net.onnx", "inside.bin")
        assert "outside the model's folder" in refusal(path)

    def test_hard_link(self, external, tmp_path):
        os.link(f"{external}.data", tmp_path / "other.bin")
        assert "hard links" in refusal(external)

    def test_missing(self, external):
        os.remove(f"{external}.data")
        assert "does not exist" in refusal(external)

    def test_truncated(self, external):
        os.truncate(f"{external}.data", os.path.getsize(f"{external}.data") - 1)
        assert "truncated" in refusal(external)

    def test_wrong_length(self, external, tmp_path):
        proto = onnx.load(external, load_external_data=False)
        for entry in proto.graph.initializer[0].external_data:
            if entry.key == "length":
                entry.value = str(int(entry.value) - 4)
        external.write_bytes(proto.SerializeToString())
        assert "its shape needs" in refusal(external)

    @staticmethod
    def _with_location(source, target, location):
        proto = onnx.load(source, load_external_data=False)
        for tensor in proto.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = location
        target.write_bytes(proto.SerializeToString())
        return target
