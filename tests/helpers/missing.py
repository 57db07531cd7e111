"""A command, or Python code, in a process where some libraries cannot be imported."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

_BLOCK = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {libraries!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
"""


def run_without(libraries: Sequence[str], code: str) -> subprocess.CompletedProcess[str]:
    """Run Python code where `libraries` are not installed."""
    script = _BLOCK.format(libraries=tuple(libraries)) + code
    environment = {key: value for key, value in os.environ.items() if key != "ONNXMTL_DEBUG"}
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environment)


def command_without(libraries: Sequence[str], arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run ``onnxmtl`` where `libraries` are not installed."""
    return run_without(libraries, f"from onnxmtl.cli import main\nsys.exit(main({list(arguments)!r}))")
