"""The same search for several weights of a regularizer: Δ against multiply-adds (BMTAS, Fig. 2)."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from onnxmtl.deploy.html.figure import standalone
from onnxmtl.deploy.html.sweep_page import sweep_figure, sweep_page
from onnxmtl.deploy.sweep import SWEEP_PAGE, Sweep, spelled, summarized
from onnxmtl.errors import RunError
from onnxmtl.kinds import TaskSet
from onnxmtl.runs import RunDirectory, atomic_write, free_path, write_json
from onnxmtl.runs.atomic import is_temporary
from onnxmtl.search.ablations import COSTS
from onnxmtl.search.recipe import Recipe
from onnxmtl.workflows.compilation import compile
from onnxmtl.workflows.config import CompileConfig
from onnxmtl.workflows.method import resolve
from onnxmtl.workflows.session import Observer, Silent

SWEEP_FILE, FIGURE_FILE = "sweep.json", "sweep.svg"
_FILES = (SWEEP_FILE, SWEEP_PAGE, FIGURE_FILE)


@dataclasses.dataclass(frozen=True)
class Swept:
    """The result of :func:`sweep`.

    Attributes:
        path: Its directory: a run for each weight, ``sweep.json``, ``sweep.html``, and ``sweep.svg`` where there are
            single-task models to compare with.
        sweep: What was found.
    """

    path: Path
    sweep: Sweep


def sweep(
    model: Any,
    tasks: str | TaskSet,
    config: CompileConfig | None = None,
    *,
    regularizer: str = "multiply_adds",
    weights: Iterable[float],
    caffemodel: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    observer: Observer | None = None,
    **options: Any,
) -> Swept:
    """Compile once for every weight of a regularizer, and set the results against each other.

    What the runs are compared with is trained once: the others find it in the cache.

    Args:
        model: The backbone, as for :func:`onnxmtl.workflows.compile`.
        tasks: As there.
        config: As there; the weight of `regularizer` is replaced.
        regularizer: Whose weight differs.
        weights: 0 or more each; they are taken from small to large.
        caffemodel: The weights of a prototxt.
        out: Directory of the sweep, with a run for each weight; must be new or empty. Default: the next free
            ``runs/sweep-N``.
        resume: Go on with the sweep in `out`, which must have been started with the same arguments; more weights than
            there were are taken, too.
        observer: Told about progress.
        **options: As of ``compile``; fields of :class:`CompileConfig` among them.

    Raises:
        OnnxMTLError: As ``compile``; or there is no weight, one is given twice or is no number from 0 on; nothing is
            searched; or the recipe weighs costs by another regularizer, which would pull beside the swept one.
    """
    grid = sorted(float(weight) for weight in weights)
    if not grid or len(set(grid)) < len(grid) or not all(math.isfinite(w) and w >= 0 for w in grid):
        msg = f"a sweep needs different weights of {regularizer} from 0 on, not {', '.join(map(spelled, grid))}"
        raise RunError(msg)
    fields = {field.name for field in dataclasses.fields(CompileConfig)} - {"recipe"}  # it may be one of your own
    asked = dataclasses.replace(config or CompileConfig(), **{k: v for k, v in options.items() if k in fields})
    others = {name: value for name, value in options.items() if name not in fields}
    method = _searching(others, asked, regularizer)
    path = Path(out) if out is not None else free_path("runs", "sweep")
    if resume:
        _check_earlier(path, regularizer)
    else:
        RunDirectory.check_free(path)
    runs = []
    for number, weight in enumerate(grid, start=1):
        name = f"{regularizer}-{spelled(weight)}"
        _note(observer or Silent(), f"{regularizer} {spelled(weight)}: {number} of {len(grid)}")
        done = compile(
            model,
            tasks,
            dataclasses.replace(asked, regularizers={**asked.regularizers, regularizer: weight}),
            weights=caffemodel,
            out=path / name,
            resume=(path / name / "run.json").exists(),
            observer=observer,
            **others,
        )
        runs.append((weight, name, done.report))
    found = summarized(method.title, regularizer, runs)
    write_json(path / SWEEP_FILE, found.to_json())
    atomic_write(path / SWEEP_PAGE, sweep_page(found).encode())
    figure = sweep_figure(found)
    if figure is not None:
        atomic_write(path / FIGURE_FILE, standalone(figure).encode())
    return Swept(path, found)


def _searching(others: Mapping[str, Any], asked: CompileConfig, regularizer: str) -> Recipe:
    """The recipe, which must search, and have no other pull towards low costs unless the user wants it."""
    for name in ("architecture", "layout"):
        if others.get(name) is not None:
            msg = f"a sweep searches for every weight, and --{name} leaves nothing to search: leave it out"
            raise RunError(msg)
    method, _ = resolve(others.get("recipe"), asked, fixed=False)
    if not method.search_stages:
        msg = "a sweep searches for every weight, and here nothing is searched: leave out --policy random"
        raise RunError(msg)
    pulls = [name for name in method.regularizers if name in COSTS and name not in (regularizer, *asked.regularizers)]
    if regularizer in COSTS and pulls and not asked.budget:
        msg = (
            f"recipe {method.title!r} weighs costs by {pulls[0]}, which would pull beside {regularizer}: sweep "
            f"{pulls[0]}, or fix its weight (--fixed {pulls[0]}=0)"
        )
        raise RunError(msg)
    return method


def _check_earlier(path: Path, regularizer: str) -> None:
    """Refuse a directory that no sweep of this regularizer has begun."""
    if not path.is_dir():
        reason = "it is no directory" if path.exists() else "it does not exist"
        msg = f"cannot resume {path}: {reason}; give the directory of an earlier sweep"
        raise RunError(msg)
    names = [entry.name for entry in path.iterdir() if not is_temporary(entry)]
    odd = sorted(name for name in names if name not in _FILES and not name.startswith(f"{regularizer}-"))
    if odd:
        msg = f"cannot resume {path}: it is no sweep of {regularizer} (it has {odd[0]!r}); give an earlier one's"
        raise RunError(msg)


def _note(observer: Observer, text: str) -> None:
    told = getattr(observer, "note", None)
    if told is not None:
        told(text)
