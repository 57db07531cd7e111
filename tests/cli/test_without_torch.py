"""On a device without torch: what needs it says so in one line (what does not, runs: workflows/test_benching.py)."""

from __future__ import annotations

from helpers.missing import run_without

from onnxmtl.errors import MissingDependencyError, missing_training

LINE = "error: this needs torch, which is not installed: pip install 'onnxmtl[train]'\n"


def test_commands_and_the_api_say_what_to_install(tmp_path):
    """One process for all of them: each fails before it reads anything."""
    done = run_without(
        ["torch"],
        f"""
import onnxmtl
from onnxmtl.cli import main

out = {str(tmp_path / "out")!r}
for command in (
    ["quantize", "model.onnx", "-o", out],
    ["compile", "model.onnx", "--tasks", "depth", "-o", out],
    ["specialize", "run", "-o", out],
    ["sweep", "model.onnx", "--tasks", "depth", "-o", out],
):
    assert main(command) == 1, command
try:
    onnxmtl.quantize("model.onnx")
except onnxmtl.OnnxMTLError as error:
    print(type(error).__name__, error)
""",
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == 4 * LINE
    assert done.stdout == "MissingDependencyError" + LINE.removeprefix("error:")
    assert not any(tmp_path.iterdir())


def test_what_is_told_of_which_library():
    def told(name: str | None) -> MissingDependencyError | None:
        return missing_training(ModuleNotFoundError("No module", name=name))

    assert "needs lightning-fabric" in str(told("lightning_fabric.strategies"))
    assert told("onnxmtl.nonsense") is None and told(None) is None and missing_training(ImportError("x")) is None
