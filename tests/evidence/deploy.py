"""Is what onnxmtl emits as fast as its multiply-adds say? ``make evidence-deploy`` measures, and prints the answer.

On ResNet-18, ResNet-34 and MobileNetV2, three tasks, images of 224×224, one and two threads, in ONNX Runtime:

- multi-task models against separate ones: latency within 10 % of the ratio of multiply-adds, where convolutions are
  90 % of the profile or more and a run takes 10 ms or more; elsewhere the profile says why not;
- entry points, every subset of the tasks: at most 1.1 × the share of the multiply-adds that they need, all tasks at
  most 1.1 × the single file; 1 ms is always allowed;
- two fine-tuned models with a frozen trunk, merged: at most 1.1 × the ratio of multiply-adds;
- latency predicted from tables, 20 random trees and 20 random architectures each (128×128): the share within ±10 %;
- int8 of a ResNet-18 that was trained on ``scenes``: size, and every task against what it may lose.

Everything is measured in turns. On a busy machine the column of processor time says more than latency, for one thread.
Each part is a file under ``--out``; what is there is not measured again.

    python tests/evidence/deploy.py --out runs/evidence-deploy
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import deploy_parts as parts
import deploy_tables as tables
from bench_deploy import NETWORKS, resnet
from deploy_parts import Network
from deploy_rows import Extent, Int8, Predicted, Ratio, Row

PARTS = ("separate", "entry-points", "merge", "predictions", "int8")
QUICK: dict[str, Network] = {"ResNet-6": lambda size: resnet((1, 1), size)}
QUICK_EXTENT = Extent(size=32, seconds=0.05, rounds=3, layouts=2, steps=3, val=8, train=16)
_KINDS: dict[str, type[Row]] = {
    "separate": Ratio,
    "entry-points": Ratio,
    "merge": Ratio,
    "predictions": Predicted,
    "int8": Int8,
}
_TIMED = ("size", "seconds", "rounds", "threads")
_DEPENDS = {
    "separate": _TIMED,
    "entry-points": _TIMED,
    "merge": _TIMED,
    "predictions": ("size", "layouts"),
    "int8": ("steps", "train", "val"),
}


@dataclasses.dataclass(frozen=True)
class Done:
    """One part on one network, as it was measured.

    Attributes:
        part, network: Which.
        rows: The figures.
        load: The machine's load (processes that want to run, mean of a minute) before and after.
        processor: What measured them.
        seconds: How long it took.
    """

    part: str
    network: str
    rows: tuple[Row, ...]
    load: tuple[float, float]
    processor: str
    seconds: float


def run(part: str, name: str, network: Network, extent: Extent, out: Path) -> Done:
    """Measure one part, or read it where it is done already in the same extent."""
    file = out / f"{part}-{name}.json"
    asked = json.loads(json.dumps(dataclasses.asdict(extent)))
    if file.is_file():
        content = json.loads(file.read_text())
        if all(content["asked"].get(name) == asked[name] for name in _DEPENDS[part]):
            return read(content)
    from onnxmtl.deploy.bench.bench import processor
    from onnxmtl.runs import write_json

    work: dict[str, Callable[[], Sequence[Row]]] = {
        "separate": lambda: parts.separate(name, network, extent),
        "entry-points": lambda: parts.entry_points(name, network, extent),
        "merge": lambda: parts.merged(name, network, extent),
        "predictions": lambda: parts.predictions(name, network, extent),
        "int8": lambda: parts.int8(name, network, extent, out),
    }
    start, before = time.monotonic(), os.getloadavg()[0]
    rows = tuple(work[part]())
    done = Done(part, name, rows, (before, os.getloadavg()[0]), processor(), time.monotonic() - start)
    write_json(file, {"asked": asked, **dataclasses.asdict(done)})  # whole or not at all
    return done


def read(content: dict[str, Any]) -> Done:
    """What :func:`run` wrote."""
    kind = _KINDS[content["part"]]
    rows = tuple(kind(**row) for row in content["rows"])
    before, after = content["load"]
    return Done(content["part"], content["network"], rows, (before, after), content["processor"], content["seconds"])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/evidence-deploy"))
    parser.add_argument("--parts", nargs="*", default=PARTS, choices=PARTS)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--seconds", type=float, default=10.0, help="for which each candidate is timed, per setting")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2], help="within an operator, a measurement each")
    parser.add_argument("--steps", type=int, default=600, help="of the training whose result becomes int8")
    parser.add_argument("--quick", action="store_true", help="a tiny network for a moment: shows that it works")
    given = parser.parse_args(arguments)
    networks = QUICK if given.quick else {name: NETWORKS[name] for name in given.networks}
    extent = (
        QUICK_EXTENT if given.quick else Extent(seconds=given.seconds, threads=tuple(given.threads), steps=given.steps)
    )
    given.out.mkdir(parents=True, exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = "1"
    done: list[Done] = []
    for part in given.parts:
        # What int8 does to a network takes a training each: the first one stands for all.
        for name in list(networks)[: 1 if part == "int8" else None]:
            one = run(part, name, networks[name], extent, given.out)
            done.append(one)
            print(f"[{part}, {name}] {len(one.rows)} rows in {one.seconds:.0f} s, load {one.load[1]:.1f}", flush=True)
    print()
    print(tables.summary([row for one in done for row in one.rows]))
    loads = [load for one in done for load in one.load]
    if loads:
        print(
            f"\n{done[-1].processor}, {os.cpu_count()} cores, load while measuring {min(loads):.1f} to {max(loads):.1f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
