from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """No test reads or fills the user's cache; the tests of a process share one, so that baselines are trained once."""
    before = os.environ.get("ONNXMTL_CACHE")
    folder = tmp_path_factory.mktemp("cache")
    os.environ["ONNXMTL_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["ONNXMTL_CACHE"]
    else:
        os.environ["ONNXMTL_CACHE"] = before


@pytest.fixture(scope="session", autouse=True)
def no_flushing():
    """Tests end programs, but none cuts the power: what is written need not reach the disk, which takes a long time.

    That everything is flushed, and when, is tested in tests/runs/test_atomic.py.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield
