"""The whole measurement: open all candidates, run them in turns in every setting, ask for memory and profile."""

from __future__ import annotations

import dataclasses
import functools
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from onnxmtl import runtime
from onnxmtl.deploy.bench.candidates import Candidate, multiply_adds
from onnxmtl.deploy.bench.feeds import Dims, Feeds, feeds_for, ports_of
from onnxmtl.deploy.bench.memory import Memory, measure_memory
from onnxmtl.deploy.bench.profiling import profile
from onnxmtl.deploy.bench.results import Bench, Measurement, Spread, Subject
from onnxmtl.deploy.bench.timing import SETTINGS, Run, interleaved, pinned
from onnxmtl.errors import ModelError

Tell = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class BenchOptions:
    """How to measure.

    Attributes:
        threads: Numbers of threads within an operator.
        batch: Numbers of images at once.
        providers: Execution providers, in order of preference; the first has to be usable.
        seconds: How long each candidate is timed in each setting.
        rounds: How often at least.
        shapes: Name of an input -> its dimensions (None: the batch), where files leave some open.
        memory: Whether to measure the memory of the sessions, each in a process of its own.
        profile: Whether to take ONNX Runtime's profile.
    """

    threads: tuple[int, ...] = (1,)
    batch: tuple[int, ...] = (1,)
    providers: tuple[str, ...] = (runtime.CPU,)
    seconds: float = 2.0
    rounds: int = 20
    shapes: Mapping[str, Dims] = dataclasses.field(default_factory=dict)
    memory: bool = True
    profile: bool = True


def bench(
    candidates: Sequence[Candidate],
    against: Candidate | None = None,
    options: BenchOptions | None = None,
    tell: Tell = lambda _: None,
) -> Bench:
    """Measure candidates side by side.

    Args:
        candidates: One or more, with different names.
        against: What ratios refer to; by default the first candidate, if there are several.
        options: How to measure.
        tell: Called with a few words before each step.

    Raises:
        ModelError: A file is no model, does not run, or does not take the batch; or two candidates have one name.
        MissingDependencyError: No ONNX Runtime, or none with the asked provider.
    """
    asked = options or BenchOptions()
    everyone = [*candidates, *([against] if against is not None else [])]
    _check(everyone, asked)
    subjects, remarks = _subjects(everyone, asked.shapes)
    baseline = against.name if against is not None else candidates[0].name if len(candidates) > 1 else ""
    measurements: list[Measurement] = []
    memory: dict[tuple[str, int], Memory | None] = {}
    cores: dict[int, tuple[int, ...]] = {}
    for threads in asked.threads:
        with pinned(threads) as chosen:
            cores[threads] = chosen
            opened = [[_open(file, threads, asked) for file in one.files] for one in everyone]
            for batch in asked.batch:
                tell(f"{threads} thread{'s' * (threads != 1)}, batch {batch}: {len(everyone)} candidates")
                feeds = [_feeds(one, sessions, batch, asked) for one, sessions in zip(everyone, opened, strict=True)]
                works = [_works(*pair) for pair in zip(opened, feeds, strict=True)]
                times = interleaved(works, seconds=asked.seconds * len(everyone), rounds=asked.rounds)
                passed = {one.name: found.totals[0] for one, found in zip(everyone, times, strict=True)}
                worked = {one.name: found.totals[1] for one, found in zip(everyone, times, strict=True)}
                for one, arrays, found in zip(everyone, feeds, times, strict=True):
                    if asked.memory and (one.name, batch) not in memory:
                        memory[one.name, batch] = measure_memory(
                            one.files, batch=batch, shapes=asked.shapes, threads=threads, providers=asked.providers
                        )
                    measurements.append(
                        Measurement(
                            candidate=one.name,
                            threads=threads,
                            batch=batch,
                            latency=Spread.of(passed[one.name]),
                            work=Spread.of(worked[one.name]),
                            parts=tuple(map(Spread.of, found.passed)),
                            ratio=_ratio(passed, one.name, baseline),
                            work_ratio=_ratio(worked, one.name, baseline),
                            ideal=_ideal(subjects, one.name, baseline),
                            memory=memory.get((one.name, batch)),
                            profile=profile(one.files, arrays, threads=threads, providers=asked.providers)
                            if asked.profile
                            else None,
                        )
                    )
    if any(len(chosen) < threads for threads, chosen in cores.items()):
        remarks.append("Threads were not bound to cores: the system does not allow it, or has fewer.")
    if asked.providers[0] == runtime.CPU and any(one.disturbed for one in measurements):
        remarks.append(
            "Other programs took the cores meanwhile: more time passed than was worked. Measure again on a quiet "
            "machine, or look at the ratio of processor time, which is that of latency for one thread."
        )
    return Bench(_machine(asked, cores), tuple(subjects), baseline, tuple(measurements), tuple(remarks))


def _check(everyone: Sequence[Candidate], options: BenchOptions) -> None:
    names = [one.name for one in everyone]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        msg = f"two of what is measured are called {twice!r}; rename one"
        raise ModelError(msg)
    for one in everyone:
        for file in one.files:
            if not file.is_file():
                msg = f"{file}: {'is a directory' if file.is_dir() else 'no such file'}; give an ONNX file"
                raise ModelError(msg)
    if min((*options.threads, *options.batch), default=0) < 1 or options.rounds < 1 or not 0 <= options.seconds < 1e6:
        msg = "threads, batch and rounds are numbers from 1 on, seconds from 0 on"
        raise ModelError(msg)


def _subjects(everyone: Sequence[Candidate], shapes: Mapping[str, Dims]) -> tuple[list[Subject], list[str]]:
    found, remarks = [], []
    for one in everyone:
        count: int | None
        try:
            count = sum(multiply_adds(file, shapes) for file in one.files)
        except ModelError as error:
            count = None
            remarks.append(f"{error}; so there is no ideal ratio.")
        size = sum(_size(file) for file in one.files)
        found.append(Subject(one.name, one.labels or tuple(map(str, one.files)), count or None, size))
    return found, remarks


def _size(file: Path) -> int:
    beside = file.with_name(f"{file.name}.data")
    return file.stat().st_size + (beside.stat().st_size if beside.is_file() else 0)


def _open(file: Path, threads: int, options: BenchOptions) -> runtime.Session:
    return runtime.session(file, providers=options.providers, threads=threads, settings=SETTINGS)


def _feeds(one: Candidate, sessions: Sequence[runtime.Session], batch: int, options: BenchOptions) -> list[Feeds]:
    return [
        feeds_for(file, ports_of(session), batch, options.shapes)
        for file, session in zip(one.files, sessions, strict=True)
    ]


def _works(sessions: Sequence[runtime.Session], feeds: Sequence[Feeds]) -> list[Run]:
    works: list[Run] = []
    for session, arrays in zip(sessions, feeds, strict=True):
        runtime.run(session, arrays)  # tells in one line if it cannot be run
        works.append(functools.partial(session.run, None, arrays))
    return works


def _ratio(totals: Mapping[str, Sequence[float]], name: str, baseline: str) -> Spread | None:
    if not baseline or name == baseline:
        return None
    pairs = zip(totals[name], totals[baseline], strict=True)
    ratios = [one / base for one, base in pairs if base > 0]
    return Spread.of(ratios) if ratios else None


def _ideal(subjects: Sequence[Subject], name: str, baseline: str) -> float | None:
    counts = {subject.name: subject.multiply_adds for subject in subjects}
    one, base = counts[name], counts.get(baseline)
    return one / base if one and base and name != baseline else None


def _machine(options: BenchOptions, cores: Mapping[int, tuple[int, ...]]) -> dict[str, str]:
    bound = "; ".join(f"{threads}: {' '.join(map(str, chosen))}" for threads, chosen in cores.items() if chosen)
    return {
        "processor": processor(),
        "onnxruntime": str(runtime.onnxruntime().__version__),
        "providers": ", ".join(options.providers),
        "cores by threads": bound or "not bound",
    }


def processor() -> str:
    """What the system calls its processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine()
