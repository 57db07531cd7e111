"""How long steps of a VCN supermodel take, as ratios measured side by side.

(a) ResNet-18 at 64x64 with a stride-1 stem and no pool, 3 tasks, batch 4; (b) the same with the standard stem.
The plain way runs every option of every task by itself, with torch's own operators (`mixing="never"`). The reference
of the tests (`helpers/reference.py`), which writes normalization out and repeats what tasks have in common, is slower
than that and shown once, for (a).
Run: python tests/benchmarks/bench_mixing.py
"""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers.graphs import GraphBuilder
from helpers.reference import Reference

from onnxmtl.analysis.sites import site_table
from onnxmtl.ir import Role
from onnxmtl.ir.passes import Sequential
from onnxmtl.lowering import Draw, LoweredModule, to_torch
from onnxmtl.passes.select import select_passes
from onnxmtl.passes.spaces import Vcn
from onnxmtl.policy import Policy
from onnxmtl.policy.decoders import sample

TASKS = {"seg": 8, "depth": 1, "normals": 3}


def resnet18(standard_stem: bool, size: int = 64):
    b = GraphBuilder(0, size=size)
    if standard_stem:
        x = b.relu(b.norm(b.conv(b.image, 64, k=7, stride=2, bias=False)))
        side = (x.shape[2] - 1) // 2 + 1
        x = b.node("MaxPool", [x], ["N", 64, side, side], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    else:
        x = b.block(b.image, 64)
    for width, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        x = b.residual(x, width, stride)
        x = b.residual(x, width)
    return b.heads(x, TASKS)


def soft_draw(module: LoweredModule, policy: bool) -> Draw:
    weights = {k: torch.softmax(module.weight(n), -1) for k, n in module.logits.items()}
    return Draw(weights=weights if policy else {k: w.detach() for k, w in weights.items()})


def step(module: LoweredModule, images: torch.Tensor, draw: Callable[[], Draw | None]) -> Callable[[], None]:
    def run() -> None:
        module.zero_grad(set_to_none=True)
        outputs = module(images, draw=draw())
        sum(out.square().mean() for out in outputs.values()).backward()

    return run


def interleaved(runs: list[Callable[[], None]], repeats: int = 9) -> list[float]:
    """Median seconds of each, measured in turns."""
    for run in runs:
        run()
        run()
    times = [[] for _ in runs]
    for _ in range(repeats):
        for run, found in zip(runs, times, strict=True):
            start = time.perf_counter()
            run()
            found.append(time.perf_counter() - start)
    return [statistics.median(t) for t in times]


def supermodel_steps(standard_stem: bool) -> dict[str, float]:
    """Ratio to the plain way of a policy step, a weight step and the whole policy-train cycle of one each."""
    model = resnet18(standard_stem)
    Vcn()(model)
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    ratios, seconds = {}, {}
    for part in ("policy", "weights"):
        runs = []
        for mixing in ("never", "auto"):
            module = to_torch(model, mixing=mixing).train()
            for name, parameter in module.parameters_with().items():
                parameter.requires_grad_((module.roles[name] is Role.LOGITS) == (part == "policy"))
            runs.append(step(module, images, lambda m=module, p=part: soft_draw(m, p == "policy")))
        seconds[part] = interleaved(runs)
        ratios[part] = seconds[part][1] / seconds[part][0]
    plain, ours = (sum(s) for s in zip(*seconds.values(), strict=True))
    return {**ratios, "cycle": ours / plain}


def against_reference() -> dict[str, float]:
    """Ratio to the tests' reference of a policy step and a weight step of (a)."""
    model = resnet18(standard_stem=False)
    Vcn()(model)
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    ratios = {}
    for part in ("policy", "weights"):
        module = to_torch(model).train()
        for name, parameter in module.parameters_with().items():
            parameter.requires_grad_((module.roles[name] is Role.LOGITS) == (part == "policy"))
        reference = Reference(model, dict(module.tensors()), training=True)

        def slow(module: LoweredModule = module, reference: Reference = reference, part: str = part) -> None:
            module.zero_grad(set_to_none=True)
            outputs = reference(images, soft_draw(module, part == "policy"))
            sum(out.square().mean() for out in outputs.values()).backward()

        ours = step(module, images, lambda m=module, p=part: soft_draw(m, p == "policy"))
        theirs, mine = interleaved([slow, ours], repeats=5)
        ratios[part] = mine / theirs
    return ratios


def hard_step(standard_stem: bool) -> float:
    """Ratio of a hard step of the supermodel to a step of the selected model."""
    model = resnet18(standard_stem)
    Vcn()(model)
    table = site_table(model)
    (architecture,) = sample(Policy.uniform(table), 1, seed=1)
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    module = to_torch(model).train()
    options = {
        (site.id, task): site.option_index(architecture.choices[site.id][task])
        for site, task in itertools.product(table.sites, table.tasks)
    }
    selected = model.clone()
    Sequential(*select_passes(architecture))(selected)
    alone = to_torch(selected).train()
    own, hard = interleaved([step(alone, images, lambda: None), step(module, images, lambda: Draw(options=options))])
    return hard / own


def main() -> None:
    for name, standard, limit in (("(a) stride-1 stem, no pool", False, 0.75), ("(b) standard stem", True, 1.05)):
        ratios = supermodel_steps(standard)
        text = ", ".join(f"{part} step {ratio:.2f}x" for part, ratio in ratios.items())
        print(f"policy-train {name}, against the plain way (aim <= {limit}x): {text}")
    text = ", ".join(f"{part} step {ratio:.2f}x" for part, ratio in against_reference().items())
    print(f"policy-train (a), against the tests' reference (aim <= 0.75x): {text}")
    print(f"hard step against the selected model's own step (aim <= 1.15x): {hard_step(False):.2f}x")


if __name__ == "__main__":
    main()
