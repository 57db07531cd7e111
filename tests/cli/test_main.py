from __future__ import annotations

import errno
import itertools
import os
import signal
import subprocess
import sys
import time

import pytest
import typer

import onnxmtl
from onnxmtl import cli
from onnxmtl.errors import ModelError, RunError
from onnxmtl.ir.passes import PassError


@pytest.fixture
def failing(monkeypatch):
    """Run the command line with one more command, that raises the given error."""

    def run(error: BaseException) -> int:
        app = cli._build()

        @app.command("fail")
        def fail() -> None:
            raise error

        monkeypatch.setattr(cli, "app", app)
        return cli.main(["fail"])

    monkeypatch.delenv("ONNXMTL_DEBUG", raising=False)
    return run


def wrapped(*errors: Exception) -> Exception:
    """The last of `errors`, raised from the one before it, and so on."""
    for inner, outer in itertools.pairwise(errors):
        outer.__cause__ = inner
    return errors[-1]


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"onnxmtl {onnxmtl.__version__}\n"


@pytest.mark.parametrize("arguments", [["no-such-command"], ["inspect"], ["inspect", "a", "--no-such-option"], []])
def test_wrong_usage_is_2(arguments, capsys):
    assert cli.main(arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("command", [command.name for command in cli.COMMANDS])
def test_every_command_has_help_with_an_example(command, capsys):
    assert cli.main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    target = next(c for c in cli.COMMANDS if c.name == command)
    is_group = isinstance(getattr(__import__(target.module, fromlist=["x"]), target.attribute), typer.Typer)
    assert is_group or ("Example: onnxmtl" in shown and "--json" in shown)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ModelError("a.onnx: is empty; export it again"), "error: a.onnx: is empty; export it again"),
        (RunError("two\n  lines"), "error: two lines"),
        (wrapped(ModelError("the user's"), PassError("in a pass")), "error: the user's"),
        (wrapped(ValueError("deep"), ModelError("the user's"), PassError("a"), PassError("b")), "error: the user's"),
        (OSError(errno.ENOSPC, "No space left on device"), "error: No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), "error: /x/y: Permission denied"),
        (MemoryError(), "error: out of memory; a smaller --size or batch size needs less"),
    ],
)
def test_a_user_s_mistake_is_one_line(failing, error, line, capsys):
    assert failing(error) == 1
    out, err = capsys.readouterr()
    assert out == "" and err == line + "\n"


def test_a_bug_says_so_in_one_line(failing, capsys):
    assert failing(ZeroDivisionError("division by zero")) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ZeroDivisionError: division by zero (a bug of onnxmtl; ONNXMTL_DEBUG=1")
    assert err.count("\n") == 1


@pytest.mark.parametrize("error", [ModelError("mistake"), ZeroDivisionError("bug")])
def test_debug_shows_the_traceback(failing, error, monkeypatch):
    monkeypatch.setenv("ONNXMTL_DEBUG", "1")
    with pytest.raises(type(error)):
        failing(error)


def test_interrupt_is_130(failing, capsys):
    assert failing(KeyboardInterrupt()) == 130
    err = capsys.readouterr().err
    assert err.startswith("interrupted;") and "--resume" in err and err.count("\n") == 1


def test_exit_codes_of_commands_are_kept(failing):
    assert failing(typer.Exit(3)) == 3


def test_real_interrupt_of_a_real_process():
    code = (
        "import sys, time, onnxmtl.cli as c\n"
        "@c.app.command('wait')\n"
        "def wait() -> None:\n"
        "    print('ready', flush=True); time.sleep(60)\n"
        "sys.exit(c.main(['wait']))"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=30)
    assert child.returncode == 130 and err.startswith("interrupted;") and "Traceback" not in err


def test_reader_that_goes_away_is_no_traceback():
    code = (
        "import sys, onnxmtl.cli as c\n"
        "@c.app.command('talk')\n"
        "def talk() -> None:\n"
        "    for i in range(100000): print('a line of output', i)\n"
        "sys.exit(c.main(['talk']))"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None and child.stderr is not None
    child.stdout.readline()
    child.stdout.close()
    assert child.wait(timeout=60) == 1
    assert child.stderr.read() == b""
    child.stderr.close()


def test_installed_script_and_module_agree(tmp_path):
    script = os.path.join(os.path.dirname(sys.executable), "onnxmtl")
    done = subprocess.run([script, "inspect", "none.onnx"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == "error: none.onnx: no such file\n"
