"""Files that the tests of prototxt read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def fixture_folder() -> Path:
    return ROOT / "tests" / "fixtures" / "prototxt"


@pytest.fixture
def fixture_files(fixture_folder) -> list[Path]:
    files = sorted(fixture_folder.glob("*.prototxt"))
    assert len(files) >= 3
    return files


@pytest.fixture
def automtl_folder() -> Path:
    folder = Path(os.environ.get("ONNXMTL_SHARED", ROOT.parent / "shared")) / "data" / "automtl"
    if not folder.is_dir():
        pytest.skip("AutoMTL's files are not here")
    return folder
