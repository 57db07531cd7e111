from __future__ import annotations

import sys

import pytest
from helpers.compiling import DATA, write_backbone


@pytest.fixture(scope="module")
def one_thread():
    """Graphs this small gain nothing from threads, and lose much where other processes want the cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The user's directory: a backbone ``net.onnx`` and a module ``mine`` with data sets."""
    write_backbone(tmp_path / "net.onnx")
    (tmp_path / "mine.py").write_text(DATA)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    monkeypatch.delenv("ONNXMTL_DEBUG", raising=False)
    yield tmp_path
    sys.modules.pop("mine", None)
