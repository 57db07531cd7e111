"""``onnxmtl compile`` as a user calls it, in this process."""

from __future__ import annotations

from helpers.compiling import TASKS
from onnxmtl import cli

QUICK = ("--steps", "6", "--batch-size", "2", "--train-size", "8", "--val-size", "4", "--baselines", "none")


def command(capsys, *arguments, model="net.onnx", tasks=TASKS, out="run", quick=QUICK):
    """(exit code, what was printed, what was complained) of a tiny compilation with these options."""
    given = {arguments[i] for i in range(len(arguments))}
    pairs = [word for flag, value in zip(quick[::2], quick[1::2], strict=False) if flag not in given
             for word in (flag, value)]  # fmt: skip
    words = ["compile", str(model), "--tasks", tasks, *pairs, *map(str, arguments)]
    code = cli.main([*words, "-o", str(out)] if out else words)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def everything(folder):
    """Path -> content of all that is in a directory; None of directories."""
    return {
        path: path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if "__pycache__" not in str(path)
    }


def refused(capsys, folder, *arguments, words: str, written: bool = False, **options) -> str:
    """One line on stderr, exit code 1, nothing overwritten; nothing written either, unless training had begun."""
    before = everything(folder)
    code, out, err = command(capsys, *arguments, **options)
    after = everything(folder)
    assert (code, out) == (1, "")
    assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n"), err
    assert words in err and "a bug of onnxmtl" not in err, err
    assert {path: after[path] for path in before} == before
    if not written:
        assert after == before
    assert not [path for path in after if path.name.endswith(".tmp")]
    return err
