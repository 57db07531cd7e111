"""The README says what is: its examples run, its commands and options exist, its figures add up."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from onnxmtl import cli
from onnxmtl.kinds import TaskSet
from onnxmtl.workflows import verify

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
_SUFFIXES = {"M": 1e6, "k": 1e3, "MB": 1e6, "kB": 1e3}


def blocks(language):
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def pieces():
    """All code: indented lines and `inline` pieces outside fenced blocks, without comments."""
    prose = re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^    (\S.*)$", prose, re.MULTILINE)
    return [piece.partition(" #")[0].strip() for piece in (*indented, *re.findall(r"`([^`\n]+)`", prose))]


def invocations():
    """Every `onnxmtl …` in the README as words."""
    commands = (part.strip() for piece in pieces() for part in piece.split("&&"))
    return [shlex.split(command)[1:] for command in commands if command.startswith("onnxmtl ")]


def command_of(words):
    """The typer command behind some words, and what is left of them."""
    command = get_command(cli.app)
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    return command, words


def options_of(command):
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder that looks like a clone for what the README does in it."""
    (tmp_path / "samples").symlink_to(ROOT / "samples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Python


def test_the_main_example_runs(workplace, capsys):
    (code,) = (block for block in blocks("python") if "onnxmtl.compile(" in block)
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["result"].model == Path("runs/compile-1/model.onnx")
    assert verify(names["result"].path).passed
    printed = capsys.readouterr().out
    assert "better than constant by" in printed and "'normals': (1, 3, 64, 64)" in printed


def test_the_pass_example_runs_without_torch(workplace):
    (code,) = (block for block in blocks("python") if "ir.passes.Sequential" in block)
    code += "\nimport sys\nassert 'torch' not in sys.modules, 'torch was imported'\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\d+ \['features\.8\.2\.out'\]\n", done.stdout)


def test_the_torch_example_runs(capsys):
    (code,) = (block for block in blocks("python") if "onnxmtl.load" in block)
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "stride=4, channels=16" in printed
    # 8 x 3 x 3 x 3 weights at 32 x 32 places, 16 x 8 x 3 x 3 at 16 x 16.
    assert re.findall(r"\] (\d+)$", printed, re.MULTILINE) == [str(8 * 27 * 32 * 32), str(16 * 72 * 16 * 16)]


def test_every_python_block_is_tested():
    assert len(blocks("python")) == 3


# Commands


def test_commands_and_options_exist():
    found = invocations()
    assert {words[0] for words in found} >= {"compile", "inspect", "verify", "doctor", "data"}
    for words in found:
        command, rest = command_of(words)
        assert command.name != "onnxmtl" and not hasattr(command, "commands"), f"no such command: {words}"
        for word in rest:
            if word.startswith("-"):
                assert word.partition("=")[0] in options_of(command), f"{command.name} has no {word}"


def test_options_named_alone_exist():
    compiled, _ = command_of(["compile"])
    named = {word for piece in pieces() if piece.startswith("-") for word in piece.split() if word.startswith("-")}
    assert named >= {"--features", "--output-stride", "--batchnorm", "--input-size", "--resume", "--seed"}
    names = ("inspect", "recommend", "sweep", "bench", "quantize", "specialize", "add-task")
    others = [command_of([name])[0] for name in names]
    assert named <= options_of(compiled).union(*map(options_of, others))


def test_a_wrong_option_would_be_noticed():
    command, rest = command_of(["data", "preview", "scenes", "--colour"])
    assert command.name == "preview" and rest[1] not in options_of(command)


@pytest.mark.parametrize("name", [command.name for command in cli.COMMANDS])
def test_commands_answer_help(name, capsys):
    assert cli.main([name, "--help"]) == 0
    assert "Usage:" in capsys.readouterr().out


def test_make_targets_exist():
    targets = {
        name
        for names in re.findall(r"^([a-z -]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        for name in names.split()
    }
    named = {piece.split()[1] for piece in pieces() if piece.startswith("make ")}
    assert {"demo", "test"} <= named <= targets


def test_files_exist():
    named = set(re.findall(r"(?:samples|tests|passes|onnxmtl)/[\w./-]*\w", README)) | set(
        re.findall(r"\]\((.+?)\)", README)
    )
    assert len(named) > 8
    assert not [name for name in named if not (ROOT / name).exists()]


def test_extras_exist():
    text = (ROOT / "pyproject.toml").read_text()
    for extras in re.findall(r"onnxmtl\[([\w,]+)\]", README):
        assert all(re.search(rf"^{extra} = \[", text, re.MULTILINE) for extra in extras.split(","))
    assert README.splitlines()[2].strip().startswith('pip install "onnxmtl[train,gs,gpu]"')


def test_the_task_file_is_one(tmp_path):
    (text,) = blocks("toml")
    (tmp_path / "tasks.toml").write_text(text)
    assert TaskSet.from_toml(tmp_path / "tasks.toml").names == ("seg", "depth")


# Trees


def test_the_table_and_the_layout_are_what_is_shown(workplace, capsys):
    """The command of the example prints what the README says, from the table shown, and writes the layout shown."""
    (block,) = (block for block in blocks("text") if block.startswith("$ onnxmtl recommend"))
    command, _, shown = block.partition("\n")
    assert cli.main(shlex.split(command)[2:]) == 0
    assert stripped(capsys.readouterr().out) == stripped(shown)
    assert blocks("csv") == [(ROOT / "samples" / "two_task.csv").read_text()]
    assert blocks("json") == [(workplace / "runs" / "recommend-1" / "layouts" / "01.json").read_text()]


def test_the_candidate_edges_are_what_is_shown(workplace, capsys):
    (block,) = (block for block in blocks("text") if block.startswith("$ onnxmtl inspect"))
    command, _, shown = block.partition("\n")
    assert cli.main(shlex.split(command)[2:]) == 0
    assert stripped(capsys.readouterr().out) == stripped(shown)


def stripped(text):
    return [line.rstrip() for line in text.strip().splitlines()]


# Figures


def test_figures_have_their_command_beside_them():
    figures = [block for block in blocks("text") if re.search(r"\d\.\d", block)]
    assert figures
    for block in figures:
        assert block.startswith("$ "), "a block of figures begins with the command that shows them"
        words = block.partition("\n")[0].split()[1:]
        assert words[0] == "make" or (words[0] == "onnxmtl" and command_of(words[1:])[0].name == words[1])


def test_figures_add_up():
    (block,) = (block for block in blocks("text") if block.startswith("$ make demo"))
    rows = [re.split(r"  +", line.strip()) for line in block.splitlines()]
    costs = {row[0]: row[1:] for row in rows if len(row) == 5 and row[-1].endswith("×")}
    assert len(costs) == 5
    for separate, _, found, ratio in costs.values():
        assert size(found) / size(separate) == pytest.approx(float(ratio[:-1]), abs=1e-3)
    metrics = [row for row in rows if len(row) == 8 and row[1].endswith(("↑", "↓"))]
    assert [row[0] for row in metrics] == ["seg", "depth", "normals"]
    total = re.search(r"all tasks and metrics: (\S+)%", block)
    assert sum(float(row[6][:-1]) for row in metrics) / 3 == pytest.approx(float(total[1]), abs=0.1)
    for _, metric, _, _, found, constant, _, margin in metrics:
        better = (float(found) - float(constant)) * (1 if metric.endswith("↑") else -1)
        assert better > 0 and better == pytest.approx(float(margin.split()[0]), rel=1e-2)
    once = [row for row in rows if len(row) == 7 and row[1] == "Conv" and "+" in row[5]]
    told = re.search(r"multiply-adds, (\d+) of (\d+) layers", block)
    assert (len(once), sum(len(row) == 7 and row[1] == "Conv" for row in rows)) == tuple(map(int, told.groups()))


def size(text):
    number, suffix = text.split()
    return float(number) * _SUFFIXES[suffix]
