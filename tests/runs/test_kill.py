"""A run survives SIGKILL at any moment: always readable, never a step back."""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from onnxmtl.runs import RunDirectory, read_json

CHILD = """
import hashlib, sys
from onnxmtl.runs import RunDirectory, read_json, write_json

path = sys.argv[1]
try:
    run = RunDirectory.resume(path, {"seed": 1})
except Exception:
    run = RunDirectory.create(path, {"seed": 1})
first = run.phase("first")
if not first.done:
    with first.writing() as folder:
        (folder / "data").write_bytes(b"x" * 100_000)
number = 0
while True:
    phase = run.phase(f"train-{number}", {"after": first})
    if phase.done:
        number += 1
        continue
    latest = phase.checkpoints.latest_checkpoint()
    start = latest[0] if latest else -1
    if latest:
        assert read_json(latest[1] / "state.json")["step"] == start
    print("step", number, start, flush=True)

    def save(step):
        def writer(folder):
            data = step.to_bytes(8, "little") * 5_000
            (folder / "weights").write_bytes(data)
            write_json(folder / "state.json", {"step": step, "digest": hashlib.sha256(data).hexdigest()})
        phase.checkpoints.save_checkpoint(step, writer)

    for step in range(start + 1, 40):
        save(step)
    with phase.writing() as folder:
        (folder / "result").write_bytes(b"r" * 50_000)
"""


def progress(path: Path) -> tuple[int, int]:
    """(done training phases, newest step of the running one), checked to be readable and whole."""
    with RunDirectory.resume(path, {"seed": 1}) as run:
        first = run.phase("first")
        number = 0
        while True:
            phase = run.phase(f"train-{number}", {"after": first})
            if not phase.done:
                break
            assert (phase.path / "result").read_bytes() == b"r" * 50_000
            number += 1
        if first.done:
            assert (first.path / "data").read_bytes() == b"x" * 100_000
        else:
            assert number == 0
        latest = phase.checkpoints.latest_checkpoint()
        if latest is None:
            return number, -1
        state = read_json(latest[1] / "state.json")
        weights = (latest[1] / "weights").read_bytes()
        assert state == {"step": latest[0], "digest": hashlib.sha256(weights).hexdigest()}
        return number, latest[0]


def test_thirty_kills(tmp_path):
    moments = random.Random(0)
    path = tmp_path / "run"
    seen: tuple[int, int] = (0, -1)
    advanced = 0
    for count in range(30):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        if count % 3 != 1:  # mostly at work; at times during the start
            assert child.stdout.readline().startswith("step")
        time.sleep(moments.random() * 0.1)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        assert child.returncode == -signal.SIGKILL
        now = progress(path)
        assert now >= seen, f"went back from {seen} to {now}"
        advanced += now > seen
        seen = now
    assert advanced >= 15  # most children got somewhere, or the test tests nothing
