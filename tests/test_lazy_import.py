"""What loads when: `import onnxmtl` and `onnxmtl --help` stay light, graph commands never load torch."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "onnx", "onnx_ir", "onnxruntime", "lightning_fabric", "safetensors", "scipy", "onnx_graphsurgeon")
TRAINING = ("torch", "lightning_fabric", "safetensors", "scipy")


def loaded(code: str) -> set[str]:
    """Top-level modules in sys.modules of a fresh interpreter after `code`."""
    report = "; import json, sys; print(); print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_test_sees_what_is_loaded():
    assert "onnx_ir" in loaded("import onnxmtl.ir")


@pytest.mark.parametrize(
    "code",
    [
        "import onnxmtl; onnxmtl.__version__; dir(onnxmtl)",
        "from onnxmtl import OnnxMTLError",
        "import onnxmtl.runs",
        "import onnxmtl.cli",
        "import onnxmtl.cli; assert onnxmtl.cli.main(['--help']) == 0",
        "import onnxmtl.cli; assert onnxmtl.cli.main(['--version']) == 0",
        "import onnxmtl.cli; assert onnxmtl.cli.main(['no-such-command']) == 2",
    ],
)
def test_nothing_heavy_is_loaded(code):
    assert not loaded(code) & {*HEAVY, "numpy"}


def test_no_command_s_help_loads_anything_heavy():
    code = "import onnxmtl.cli as c; assert not any(c.main([command.name, '--help']) for command in c.COMMANDS)"
    assert not loaded(code) & set(HEAVY)


@pytest.mark.parametrize("arguments", [["doctor"], ["inspect", "missing.onnx"], ["verify", "missing"]])
def test_commands_on_graphs_do_not_load_torch(arguments):
    found = loaded(f"import onnxmtl.cli; onnxmtl.cli.main({arguments!r})")
    assert "onnx_ir" in found and not found & set(TRAINING)


def test_the_runner_needs_numpy_and_onnxruntime_only():
    found = loaded("import onnxmtl.runtime; onnxmtl.runtime.onnxruntime()")
    assert "onnxruntime" in found and not found & {"onnx", "onnx_ir", "torch", "typer", "rich"}


def test_public_names_resolve():
    import onnxmtl

    for name in onnxmtl.__all__:
        assert getattr(onnxmtl, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        onnxmtl.nonsense  # noqa: B018
