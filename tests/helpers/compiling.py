"""Tiny compilations for tests: a backbone, data sets as a user writes them, and runs in child processes."""

from __future__ import annotations

import hashlib
import multiprocessing
import random
import signal
from pathlib import Path
from typing import Any

import onnx_ir as ir

from helpers.graphs import GraphBuilder
from helpers.processes import PRELOADED, as_a_child
from onnxmtl.ir import save

TASKS = "seg=segmentation,depth"
BASELINES = ("single-task", "hard-sharing")
QUICK: dict[str, Any] = {
    "steps": 6,
    "batch_size": 2,
    "train_size": 8,
    "val_size": 4,
    "recalibration": 2,
    "baselines": (),
}

# Data as a user would write it. Names of the functions are the fault they have.
DATA = '''
import numpy as np

class Images:
    """Labels can be computed from the image, faults set in at sample 3."""

    classes = {"seg": 3, "room": 4}

    def __init__(self, count, fault=""):
        self.count, self.fault = count, fault

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        image = rng.random((3, 16, 16)).astype(np.float32)
        target = {
            "seg": (image.sum(0) * 0.99).astype(np.int64),
            "depth": image[:1] + 1,
            "room": np.int64(index % 4),
            "pose": image.mean((1, 2))[:2],
        }
        if self.fault and index >= 3:
            image, target = getattr(self, self.fault)(image, target, index)
        return image, target

    def gaps(self, image, target, index):
        gone = ["seg", "depth", "room", "pose"][index % 4]
        left = {name: value for name, value in target.items() if name != gone}
        return image, {**left, gone: None} if index % 2 else left

    def raises(self, image, target, index):
        raise OSError("image 3.png is broken\\nand this is a second line")

    def missing_file(self, image, target, index):
        open("/no/such/image.png")

    def shape(self, image, target, index):
        return image, {**target, "depth": target["depth"][0]}

    def dtype(self, image, target, index):
        return image, {**target, "seg": target["seg"].astype(np.float32)}

    def classes_out_of_range(self, image, target, index):
        return image, {**target, "seg": target["seg"] + 7}

    def huge(self, image, target, index):
        return image, {**target, "depth": target["depth"] * np.float32(1e38)}

    def no_depth(self, image, target, index):
        return image, {**target, "depth": None}


class NoDepth(Images):
    def __getitem__(self, index):
        image, target = super().__getitem__(index)
        return image, {**target, "depth": np.zeros((1, 16, 16), np.float32)}


def fine(): return Images(12), Images(4)
def gaps(): return Images(12, "gaps"), Images(6, "gaps")
def raises(): return Images(12, "raises"), Images(4)
def missing_file(): return Images(12, "missing_file"), Images(4)
def shape(): return Images(12, "shape"), Images(4)
def dtype(): return Images(12, "dtype"), Images(4)
def classes_out_of_range(): return Images(12, "classes_out_of_range"), Images(4)
def huge(): return Images(12, "huge"), Images(4)
def unlabelled(): return NoDepth(12), Images(4)
def unmeasured(): return Images(12), NoDepth(4)
def broken(): raise ValueError("no such disk")
def nothing(): return None
def lonely(): return Images(1), Images(4)
'''


def write_backbone(path: Path, seed: int = 0, size: int = 16, width: int = 4) -> Path:
    """A small residual network with a pooled output, as somebody exports it.

    Values worth naming: ``early`` (`width` channels, stride 1) and ``late`` (2 `width` channels, stride 2).
    """
    b = GraphBuilder(seed, size=size)
    x = b.block(b.image, width, name="stem")
    x = b.residual(x, width)
    x.name = "early"
    x = b.residual(x, 2 * width, stride=2)
    x.name = "late"
    b.graph.outputs.append(b.node("GlobalAveragePool", [x], ["N", 2 * width, 1, 1], "pool"))
    save(ir.Model(b.graph, ir_version=10), path)
    return path


def digests(folder: Path) -> dict[str, str]:
    """Relative path -> hash of every file that a run's result consists of."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name not in ("lock", "run.json")
    }


def _work(source: Path, out: Path, options: dict[str, Any], renames: int, cache: Path, errors: Any) -> None:
    """The child: compile a model, specialize a run or add a task to it, or die right after so many renames.

    Every result of a run, and of the cache, appears by a rename.
    """
    from onnxmtl.workflows import add_task, compile, specialize

    as_a_child(cache, renames)
    try:
        resume = (out / "run.json").exists()
        if "task" in options:
            add_task(source, out=out, resume=resume, checkpoint_every=1, **options)
        elif (source / "run.json").exists():
            specialize(source, out=out, resume=resume, checkpoint_every=1, **options)
        else:
            compile(source, TASKS, out=out, resume=resume, checkpoint_every=1, **options)
    except Exception as error:
        errors.put(f"{type(error).__name__}: {error}")
        raise


class Children:
    """Runs compilations in processes that can be killed, without paying for imports each time.

    The source of each is a model, or a run to specialize or to add a task to. Unless one is given, each run has a
    cache of its own, beside its directory.
    """

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)
        self._errors = self._context.SimpleQueue()

    def start(
        self, model: Path, out: Path, options: dict[str, Any], renames: int = 0, cache: Path | None = None
    ) -> Any:
        """A running child; with `renames` it kills itself after so many."""
        own = cache or out.with_name(f"{out.name}-cache")
        child = self._context.Process(target=_work, args=(model, out, options, renames, own, self._errors))
        child.start()
        return child

    def finish(self, model: Path, out: Path, options: dict[str, Any]) -> None:
        """Run to the end."""
        child = self.start(model, out, options)
        child.join()
        assert child.exitcode == 0, self.error()

    def error(self) -> str:
        """What the last failing child said."""
        return str(self._errors.get()) if not self._errors.empty() else "the child said nothing"

    def kill_after(self, seconds: float, model: Path, out: Path, options: dict[str, Any]) -> bool:
        """Kill a child after a while; whether it was still running."""
        child = self.start(model, out, options)
        child.join(seconds)
        running = child.exitcode is None
        child.kill()
        child.join()
        assert child.exitcode in (0, -signal.SIGKILL), self.error()
        return running

    def kill_at_rename(self, number: int, model: Path, out: Path, options: dict[str, Any]) -> bool:
        """Let a child die after so many renames; whether it died before it was done."""
        child = self.start(model, out, options, number)
        child.join()
        assert child.exitcode in (0, -signal.SIGKILL), self.error()
        return bool(child.exitcode)


def moments(seed: int, count: int, longest: float) -> list[float]:
    """`count` random times."""
    draw = random.Random(seed)
    return [draw.uniform(0, longest) for _ in range(count)]
