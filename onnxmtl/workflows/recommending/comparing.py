"""Which layouts are trained to compare what was predicted of them with what is measured. No torch."""

from __future__ import annotations

import random
from collections.abc import Sequence

from onnxmtl.deploy.recommendation import Recommendation
from onnxmtl.errors import ModelError
from onnxmtl.policy.layout import Layout, count_layouts
from onnxmtl.policy.parts import without_idle_splits
from onnxmtl.runs import derive_seed
from onnxmtl.workflows.recommending.asking import Plan
from onnxmtl.workflows.recommending.store import Performance

_MISSES = 10_000  # draws without a new layout, after which there is none as good as certainly


def compared_layouts(
    found: Recommendation, known: Performance, plan: Plan, given: Sequence[Layout], seed: int
) -> list[tuple[Layout, str]]:
    """Which layouts are trained, and why (``top``, ``given``, ``random``); each once.

    Of random layouts with the same graph, those in which finished tasks split are left out: there may be fewer.

    Args:
        found: The answer; its best layouts are trained.
        known: Tasks and blocks.
        plan: How many.
        given: Layouts that the user names.
        seed: Of the random ones.
    """
    chosen: dict[Layout, str] = {}
    for row in found.layouts[: plan.train_top]:
        chosen.setdefault(row.layout, "top")
    for layout in given:
        chosen.setdefault(layout, "given")
    tasks, depth = len(known.tasks), len(known.blocks)
    total = count_layouts(tasks, depth)
    draw = random.Random(derive_seed(seed, "layouts"))
    room, misses = min(plan.train_random, total - len(chosen)), 0
    while room > 0 and misses < _MISSES:
        drawn = Layout.from_id(known.tasks, depth, draw.randrange(total))
        layout = Layout(known.tasks, without_idle_splits(drawn.groups, known.costs.parts), known.blocks)
        misses += 1
        if layout not in chosen:
            chosen[layout] = "random"
            room, misses = room - 1, 0
    return list(chosen.items())


def read_layout(file: str, tasks: Sequence[str], blocks: Sequence[str]) -> Layout:
    """A layout file of these tasks and blocks (names).

    Raises:
        ModelError: It cannot be read, or is about others.
    """
    names, layout = tuple(blocks), Layout.from_file(file)
    try:
        layout = layout.for_tasks(tasks)
    except ModelError as error:
        msg = f"{file}: {error}"
        raise ModelError(msg) from error
    if len(layout.groups) != len(names) or (layout.blocks and layout.blocks != names):
        msg = (
            f"{file}: its blocks are not those of this run, which end at {', '.join(names)}; "
            "cut both alike with --blocks or --at"
        )
        raise ModelError(msg)
    return layout.with_blocks(names)
