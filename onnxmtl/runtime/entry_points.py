"""Running only what the asked tasks need: the segments of a multi-task model that lead to them.

ONNX Runtime computes a whole graph even if one output is fetched. A directory of entry points holds the graph in
segments, and a call runs those that lead to the asked outputs, in one of two ways:

- **as one model**, put together when a combination of tasks is first asked for: nothing is computed or handed over that
  need not be. Each combination has a session with weights of its own in memory.
- **by segment**, one after the other: one session per segment, so every weight is in memory once, whatever is asked
  for. Tensors between segments stay where they are computed: they are handed over as ``OrtValue`` by IOBinding, on the
  GPU where the session has one, and dropped after their last reader.
"""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxmtl.errors import ModelError
from onnxmtl.runtime.assembly import assemble
from onnxmtl.runtime.images import fitting
from onnxmtl.runtime.manifest import Manifest, Segment
from onnxmtl.runtime.sessions import CPU, Array, Session, one_line, onnxruntime, run, session

# ONNX Runtime's name for the memory in which a provider leaves its results; all others leave them on the host.
_DEVICES = {"CUDAExecutionProvider": "cuda", "TensorrtExecutionProvider": "cuda"}
# Threads of one session spin between its operators, and for a while after it is done; then they take the cores away
# from the session that comes next. Of combinations they stop with the run: beside seven others that spin, a file on two
# threads took 1.6 times as long. By segment they do not spin at all: on two cores shared with other programs five
# segments took 2.5 times as long as the file with ONNX Runtime's default, 3.6 times if they stop with the run (they all
# have to be woken), and 1.2 times so.
_TOGETHER = {"session.force_spinning_stop": "1"}
_BY_SEGMENT = {"session.intra_op.allow_spinning": "0"}
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"  # since ONNX Runtime 1.21


@dataclasses.dataclass(frozen=True)
class Step:
    """One segment of a plan.

    Attributes:
        segment: Its position in the manifest.
        outputs: The tensors of it that are needed.
        dropped: Tensors that nobody reads after it.
    """

    segment: int
    outputs: tuple[str, ...]
    dropped: tuple[str, ...]


class EntryPoints:
    """The tasks of a model, each to be had without the others. Made by :func:`load`.

    Calls may come from several threads at once. What a combination of tasks needs is loaded when it is first asked for,
    so the memory for tasks that never are is never taken; :meth:`open` loads it beforehand.

    Attributes:
        manifest: What the directory says about itself.
        by_segment: Whether segments run one after the other, each with a session of its own. Every weight is then in
            memory once; but with several threads each segment has to wake its own. Otherwise each combination of tasks
            that is asked for has one session, with weights of its own.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        providers: Sequence[str] = (CPU,),
        threads: int | None = None,
        optimize: bool = True,
        by_segment: bool = False,
    ) -> None:
        self.manifest = manifest
        self.by_segment = by_segment
        self._options: dict[str, Any] = {"providers": tuple(providers), "threads": threads, "optimize": optimize}
        self._sessions: dict[int | tuple[str, ...], Session] = {}  # of a segment, or of a combination of tasks
        self._plans: dict[tuple[str, ...], tuple[Step, ...]] = {}
        self._lock = threading.Lock()

    @property
    def input(self) -> str:
        """Name of the image input."""
        return self.manifest.input

    @property
    def shape(self) -> tuple[int | str | None, ...]:
        """Its shape as in the model: numbers, and names (or None) for free dimensions."""
        return self.manifest.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Its element type."""
        return self.manifest.dtype

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs (the tasks), in order."""
        return self.manifest.outputs

    @property
    def metadata(self) -> dict[str, str]:
        """The model's metadata, key -> text."""
        return self.manifest.metadata

    def segments_for(self, tasks: Sequence[str] | None = None) -> tuple[Segment, ...]:
        """The segments that lead to these tasks (all if None), in order.

        Raises:
            ModelError: A task that the model does not have.
        """
        return tuple(self.manifest.segments[step.segment] for step in self._plan(self._asked(tasks)))

    def open(self, tasks: Sequence[str] | None = None) -> EntryPoints:
        """Load what these tasks (all if None) need, so that the first call for them is as fast as the others.

        Raises:
            MissingDependencyError: As :func:`session`.
            ModelError: A task that the model does not have, or a segment that does not load.
        """
        asked = self._asked(tasks)
        if self.by_segment:
            for step in self._plan(asked):
                self._session(step.segment)
        else:
            self._session(tuple(sorted(asked)))
        return self

    def __call__(self, image: Array, tasks: Sequence[str] | None = None) -> dict[str, Array]:
        """Predict for floating-point images [N, C, H, W]; returns {task: array} in the asked order, all if None.

        Raises:
            MissingDependencyError: As :func:`session`.
            ModelError: The array is not floating point or has another shape than the model takes, the model has no such
                task, or a segment does not load or run.
        """
        asked = self._asked(tasks)
        array = np.ascontiguousarray(fitting(image, self.shape, self.dtype))
        if not self.by_segment:
            together = self._session(tuple(sorted(asked)))
            return run(together, {self.input: array} if together.get_inputs() else {}, asked)
        values: dict[str, Any] = {self.input: onnxruntime().OrtValue.ortvalue_from_numpy(array)}
        results: dict[str, Array] = {}
        for step in self._plan(asked):
            self._run(step, values, asked)
            results.update((name, values[name].numpy()) for name in step.outputs if name in asked)
            for name in step.dropped:
                del values[name]
        return {name: results[name] for name in asked}

    def _run(self, step: Step, values: dict[str, Any], asked: Sequence[str]) -> None:
        """Run one segment on what is in `values`, and put its results there."""
        segment = self.manifest.segments[step.segment]
        opened = self._session(step.segment)
        device = _DEVICES.get(opened.get_providers()[0], "cpu")
        binding = opened.io_binding()
        try:
            for name in segment.inputs:
                binding.bind_ortvalue_input(name, values[name])
            for name in step.outputs:
                read_again = name not in step.dropped
                binding.bind_output(name, device if read_again else "cpu")
            opened.run_with_iobinding(binding)
        except Exception as e:  # onnxruntime raises a dozen unrelated classes
            msg = f"{segment.file}: ONNX Runtime cannot run it: {one_line(e)}"
            raise ModelError(msg) from e
        values.update(zip(step.outputs, binding.get_outputs(), strict=True))

    def _session(self, key: int | tuple[str, ...]) -> Session:
        """Of a segment, by its position; or of a combination of tasks, by their sorted names."""
        opened = self._sessions.get(key)
        if opened is None:
            with self._lock:
                opened = self._sessions.get(key)
                if opened is None:
                    opened = self._sessions[key] = self._segment(key) if isinstance(key, int) else self._together(key)
        return opened

    def _segment(self, position: int) -> Session:
        return session(self.manifest.segments[position].file, settings=_BY_SEGMENT, **self._options)

    def _together(self, tasks: tuple[str, ...]) -> Session:
        folder = self.manifest.folder
        model = assemble([segment.file for segment in self.segments_for(tasks)], self.input, tasks)
        settings = {**_TOGETHER, _WEIGHTS_FOLDER: os.fspath(folder)}
        return session(model, settings=settings, name=f"{folder} ({', '.join(tasks)})", **self._options)

    def _asked(self, tasks: Sequence[str] | None) -> tuple[str, ...]:
        if tasks is None:
            return self.outputs
        if isinstance(tasks, str):
            tasks = (tasks,)
        if unknown := [name for name in tasks if name not in self.outputs]:
            msg = f"the model has no task {unknown[0]!r}, only {', '.join(self.outputs)}"
            raise ModelError(msg)
        if not tasks:
            msg = f"no task is asked for; name at least one of {', '.join(self.outputs)}"
            raise ModelError(msg)
        return tuple(dict.fromkeys(tasks))

    def _plan(self, asked: tuple[str, ...]) -> tuple[Step, ...]:
        key = tuple(sorted(asked))
        if key not in self._plans:
            self._plans[key] = plan(self.manifest.segments, asked)
        return self._plans[key]


def plan(segments: Sequence[Segment], asked: Sequence[str]) -> tuple[Step, ...]:
    """The segments that lead to the asked outputs, in order, and when each tensor is no longer needed.

    Args:
        segments: In an order in which they can run.
        asked: Names of outputs.
    """
    needed = set(asked)
    taken: list[int] = []
    for i in reversed(range(len(segments))):
        if needed.intersection(segments[i].outputs):
            taken.append(i)
            needed.update(segments[i].inputs)
    steps: list[Step] = []
    read: set[str] = set()  # by the segments after the one looked at
    for i in taken:  # the last first
        inside = tuple(name for name in segments[i].outputs if name in needed)
        dropped = {*segments[i].inputs, *inside} - read
        steps.append(Step(i, inside, tuple(sorted(dropped))))
        read.update(segments[i].inputs)
    return tuple(reversed(steps))
