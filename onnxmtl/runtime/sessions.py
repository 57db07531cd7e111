"""Sessions of ONNX Runtime: opened with the errors told in one line, run by names, timed."""

from __future__ import annotations

import importlib
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from onnxmtl.errors import MissingDependencyError, ModelError

CPU = "CPUExecutionProvider"

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Session: TypeAlias = Any  # onnxruntime.InferenceSession: onnxruntime ships no types

_ERRORS_ONLY = 3
_INSTALL = "onnxmtl needs an ONNX Runtime: pip install 'onnxmtl[cpu]' or pip install 'onnxmtl[gpu]' (not both)"


def onnxruntime() -> Any:
    """The onnxruntime module.

    Raises:
        MissingDependencyError: It is not installed, or only an empty folder of it is left (which is what
            remains when one of the two flavours is removed after both were installed).
    """
    try:
        module = importlib.import_module("onnxruntime")
    except ImportError as e:
        raise MissingDependencyError(_INSTALL) from e
    if not hasattr(module, "InferenceSession"):
        msg = f"the installed ONNX Runtime is broken (an empty package); {_INSTALL}"
        raise MissingDependencyError(msg)
    return module


def session(
    model: str | os.PathLike[str] | bytes,
    *,
    providers: Sequence[str] = (CPU,),
    optimize: bool = True,
    threads: int | None = None,
    settings: Mapping[str, str] | None = None,
    profile: str | os.PathLike[str] | None = None,
    name: str | None = None,
) -> Session:
    """Open an ``onnxruntime.InferenceSession``.

    Args:
        model: Path of a model file, or the serialised model.
        providers: Execution providers, in order of preference. The first one has to be usable: ONNX Runtime
            would fall back to the CPU without a word.
        optimize: Whether ONNX Runtime may rewrite the graph (fusions change the last bits of the results).
        threads: Threads within an operator; ONNX Runtime's own choice if None.
        settings: Entries of ONNX Runtime's session configuration, as ``session.force_spinning_stop``.
        profile: Beginning of the path that ``end_profiling`` writes its trace to; None: no profiling.
        name: What messages call the model; its path if None.

    Raises:
        MissingDependencyError: No ONNX Runtime, or none with the asked provider.
        ModelError: The file does not exist or ONNX Runtime does not load it.
    """
    rt = onnxruntime()
    if "CUDAExecutionProvider" in providers and hasattr(rt, "preload_dlls"):
        rt.preload_dlls()  # finds the CUDA libraries that came with torch or nvidia's wheels
    available = rt.get_available_providers()
    if missing := [name for name in providers if name not in available]:
        msg = f"the installed ONNX Runtime has no {missing[0]}, only {', '.join(available)}"
        raise MissingDependencyError(msg)
    if not isinstance(model, bytes) and not Path(model).is_file():
        msg = f"{model}: no such model file"
        raise ModelError(msg)
    options = rt.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    levels = rt.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    if threads is not None:
        options.intra_op_num_threads = threads
    for key, value in (settings or {}).items():
        options.add_session_config_entry(key, value)
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = os.fspath(profile)
    source = model if isinstance(model, bytes) else os.fspath(model)
    try:
        opened = rt.InferenceSession(source, options, providers=list(providers))
    except Exception as e:  # onnxruntime raises a dozen unrelated classes
        msg = f"{name or _name(model)}: ONNX Runtime cannot load it: {one_line(e)}"
        raise ModelError(msg) from e
    if providers and providers[0] not in opened.get_providers():
        msg = f"{providers[0]} could not be started; ONNX Runtime would run on {opened.get_providers()[0]}"
        raise MissingDependencyError(msg)
    return opened


def run(
    model: str | os.PathLike[str] | bytes | Session,
    feeds: Mapping[str, Array] | Array,
    outputs: Sequence[str] | None = None,
) -> dict[str, Array]:
    """Run a model once and return its outputs by name.

    Args:
        model: A session, or what :func:`session` opens.
        feeds: Input arrays by name, or the array of the only input.
        outputs: Names of the wanted outputs; all, in the model's order, if None.

    Raises:
        ModelError: ONNX Runtime does not load or does not run it (wrong input name, type or shape).
    """
    opened = session(model) if isinstance(model, (str, os.PathLike, bytes)) else model
    if not isinstance(feeds, Mapping):
        inputs = [value.name for value in opened.get_inputs()]
        if len(inputs) != 1:
            msg = f"the model has {len(inputs)} inputs ({', '.join(inputs)}): give the arrays by name"
            raise ModelError(msg)
        feeds = {inputs[0]: feeds}
    names = [value.name for value in opened.get_outputs()] if outputs is None else list(outputs)
    try:
        results = opened.run(names, dict(feeds))
    except Exception as e:  # as above
        msg = f"ONNX Runtime cannot run the model: {one_line(e)}"
        raise ModelError(msg) from e
    return dict(zip(names, results, strict=True))


def latency(
    model: str | os.PathLike[str] | bytes,
    image: Mapping[str, Array] | Array,
    *,
    seconds: float = 0.5,
    threads: int | None = None,
) -> float:
    """Milliseconds of one run: the median of runs over `seconds`, of 20 at least, after a few to warm up.

    Args:
        model: Path of a model file, or the serialised model.
        image: The array it is run on, or arrays by the names of its inputs.
        seconds: How long to measure.
        threads: As for :func:`session`.

    Raises:
        ModelError: ONNX Runtime does not load or does not run it.
    """
    opened = session(model, threads=threads)
    for _ in range(5):
        run(opened, image)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 20 or time.perf_counter() < end:
        begin = time.perf_counter()
        run(opened, image)
        times.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(times)


def _name(model: str | os.PathLike[str] | bytes) -> str:
    return "the model" if isinstance(model, bytes) else os.fspath(model)


def one_line(error: Exception) -> str:
    """ONNX Runtime's messages span lines and open with a bracketed code."""
    return " ".join(str(error).split())
