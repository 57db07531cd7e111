from __future__ import annotations

import importlib
import types

from onnxmtl import runtime
from onnxmtl.deploy.doctor import examine, installed_flavours, probe


def test_this_installation_is_fine():
    health = examine()
    assert health.problems == () and health.repair == ""
    assert [one.usable for one in health.providers if one.asked == runtime.CPU] == [True]
    assert health.flavours == installed_flavours() and len(health.flavours) == 1
    assert health.versions["onnxmtl"]


def test_provider_that_is_not_there_is_a_problem_only_if_asked_for():
    found = probe("CUDAExecutionProvider")
    health = examine(["CUDAExecutionProvider"])
    assert health.providers == (found,)
    assert bool(health.problems) is not found.usable


def test_two_flavours():
    health = examine(flavours=["onnxruntime", "onnxruntime-gpu"])
    assert health.problems == ("onnxruntime and onnxruntime-gpu overwrite each other's files",)
    assert health.repair == "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"


def test_emptied_package(monkeypatch):
    """What is left of onnxruntime when one of two flavours is uninstalled: a module without InferenceSession."""
    monkeypatch.setattr(importlib, "import_module", lambda name: types.SimpleNamespace())
    health = examine(flavours=["onnxruntime"])
    assert "broken" in health.problems[0]
    assert health.repair == "pip install --force-reinstall --no-deps onnxruntime"
    assert health.providers == ()


def test_none_installed(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    health = examine(flavours=[])
    assert health.problems == ("no ONNX Runtime is installed",) and "onnxmtl[cpu]" in health.repair


def test_wrong_result_is_found(monkeypatch):
    monkeypatch.setattr(runtime, "run", lambda *args: {"y": args[1]["x"]})
    assert "wrong result" in probe(runtime.CPU).reason
