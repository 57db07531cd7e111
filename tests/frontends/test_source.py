"""What is read from where: kinds told without imports, arguments that do not fit refused in one line."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from helpers.networks import image_of, run, small_network

from onnxmtl.errors import ModelError
from onnxmtl.frontends.source import file_of, kind_of, read
from onnxmtl.ir import Diagnostic, diagnostics, report, save, to_bytes


@pytest.fixture
def file(tmp_path):
    return save(small_network(), tmp_path / "net.onnx")


def refusal(*arguments, **options) -> str:
    with pytest.raises(ModelError) as caught:
        read(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("make", [str, lambda file: file, lambda file: file.parent, onnx.load, ir.load])
def test_all_kinds_of_onnx_are_one_network(file, make):
    path = file.rename(file.with_name("model.onnx"))
    model = read(make(path))
    x = image_of(small_network(), 1)
    np.testing.assert_array_equal(run(model, x)[0], run(small_network(), x)[0])


def test_a_directory_stands_for_its_model(file):
    assert file_of(file.parent) == file.parent  # none there yet
    save(small_network(), file.parent / "model.onnx")
    assert file_of(file.parent) == file.parent / "model.onnx"


def test_the_users_model_is_left_alone():
    mine = small_network()
    report(mine, Diagnostic("mine", "said before"))
    before = to_bytes(mine)
    model = read(mine)
    assert model is not mine and diagnostics(model) == diagnostics(mine)
    report(model, Diagnostic("new", "said of the copy"))
    model.graph.remove(list(model.graph)[-1])
    assert to_bytes(mine) == before and len(diagnostics(mine)) == 1


def test_the_users_proto_is_left_alone():
    proto = ir.to_proto(small_network())
    before = proto.SerializeToString(deterministic=True)
    model = read(proto)
    model.graph.inputs[0].name = "other"
    assert proto.SerializeToString(deterministic=True) == before


def test_a_proto_is_checked_as_a_file_is():
    assert "empty" in refusal(onnx.ModelProto(ir_version=8, graph=onnx.GraphProto(name="g")))
    proto = ir.to_proto(small_network())
    proto.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    assert "give the path" in refusal(proto)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.caffemodel", "--weights"),
        ("a.pt", "onnxmtl.load(module, example_input)"),
        ("a.onnx.data", "the .onnx file beside it"),
        ("a.engine", "TensorRT engine"),
        ("a.txt", ".txt is unknown"),
        ("a", "no suffix is unknown"),
    ],
)
def test_other_files(tmp_path, name, words):
    (tmp_path / name).write_bytes(b"x")
    message = refusal(tmp_path / name)
    assert words in message and str(tmp_path / name) in message


def test_missing_files(tmp_path):
    assert "no such file" in refusal(tmp_path / "a.onnx")
    assert "no such file" in refusal(tmp_path / "a.xyz")
    assert "a directory without a model.onnx" in refusal(tmp_path)


@pytest.mark.parametrize("thing", [None, 3, np.zeros(3), {"a": 1}, object()])
def test_other_objects(thing):
    assert "is no model: give a path" in refusal(thing)


def test_a_class_is_no_network():
    assert "give an instance, ReLU()" in refusal(torch.nn.ReLU)


def test_a_state_dict_is_no_network():
    assert "load them into the torch module" in refusal(torch.nn.Conv2d(1, 1, 1).state_dict())


def test_arguments_that_do_not_fit(file):
    assert "leave w.caffemodel out" in refusal(file, weights="w.caffemodel")
    assert "only a .prototxt has a dialect" in refusal(file, dialect="caffe")
    assert "dialect 'tf' is unknown" in refusal(file, dialect="tf")
    assert "for torch modules only" in refusal(file, torch.zeros(1))
    assert "an example input is needed" in refusal(torch.nn.ReLU())
    assert "leave w.caffemodel out" in refusal(torch.nn.ReLU(), torch.zeros(1, 2), weights="w.caffemodel")


def test_reading_a_file_imports_nothing_heavy(file):
    code = f"""
import sys
from onnxmtl.frontends.source import read
read({str(file)!r})
found = {{"torch", "onnx_graphsurgeon", "onnxruntime", "onnxscript"}} & set(sys.modules)
assert not found, found
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_kinds():
    assert kind_of("a.ONNX") == "onnx" and kind_of("net.prototxt") == "prototxt"
    assert kind_of(torch.nn.Sequential()) == "torch" and kind_of(small_network()) == "model"
