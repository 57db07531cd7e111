from __future__ import annotations

import pytest
import torch
from helpers.compiling import DATA, write_backbone


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Graphs this small gain nothing from threads, and lose much where other processes want the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def backbone(tmp_path_factory):
    return write_backbone(tmp_path_factory.mktemp("backbone") / "net.onnx")


@pytest.fixture
def own_data(tmp_path, monkeypatch):
    """A module of the user's, in the current directory."""
    name = f"own_data_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(DATA)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return name
