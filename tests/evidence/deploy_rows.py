"""What ``make evidence-deploy`` finds: rows of plain numbers, and what has to hold of them."""

from __future__ import annotations

import dataclasses

from onnxmtl.deploy.bench.results import ARITHMETIC, CLOSE, SHORT

FLOOR = 1.0  # milliseconds that entry points may take in any case
EXCESS = 1.1  # what entry points and merged models may take, over their multiply-adds


@dataclasses.dataclass(frozen=True)
class Extent:
    """How much is measured.

    Attributes:
        size: Height and width of the images whose latency is measured.
        seconds: For which each candidate is timed in each setting.
        rounds: How often at least.
        threads: Within an operator, a measurement each.
        layouts: Random ones whose latency is predicted.
        steps: Of the training whose result becomes int8.
        val: Images on which int8 is judged.
        train: Images to train on; 0: the data set's default.
    """

    size: int = 224
    seconds: float = 10.0
    rounds: int = 10
    threads: tuple[int, ...] = (1, 2)
    layouts: int = 20
    steps: int = 600
    val: int = 1000
    train: int = 0


@dataclasses.dataclass(frozen=True)
class Ratio:
    """A latency over another one, beside the ratio of their multiply-adds.

    Attributes:
        part: "separate", "entry points", "by segment" (entry points with a session per segment) or "merge".
        network: The backbone.
        what: Which model of it.
        threads: Within an operator.
        base: Milliseconds of what it is compared with.
        latency: The ratio, median over the rounds.
        spread: Half the distance of its quartiles, relative.
        processor: The same ratio of the time that all threads worked, which other programs do not lengthen.
        ideal: Of multiply-adds.
        share: Convolutions and matrix products in the profile, the smaller one of both; nan if it was not taken.
        exact: Whether the outputs are bit-identical with the runtime's optimizations off; None: not asked.
        ulps: The largest difference with them on, which is large where an output is nearly 0; None: not asked.
        error: The largest difference then, over the output's largest value.
        why: In words, where the profile says it.
    """

    part: str
    network: str
    what: str
    threads: int
    base: float
    latency: float
    spread: float
    processor: float
    ideal: float
    share: float | None = None
    exact: bool | None = None
    ulps: int | None = None
    error: float | None = None
    why: str = ""

    @property
    def asked(self) -> bool:
        """Whether this ratio has to be that of the multiply-adds."""
        if self.part == "separate":
            return self.share is not None and self.share >= ARITHMETIC and self.base >= SHORT
        return not self._floor or max(self.latency, self.ideal * EXCESS) * self.base >= FLOOR

    def held(self, ratio: float) -> bool:
        """Whether a ratio, of latency or of processor time, is what it should be."""
        if self.part == "separate":
            return abs(ratio / self.ideal - 1) <= CLOSE
        return ratio <= max(EXCESS * self.ideal, FLOOR / self.base if self._floor else 0.0)

    @property
    def _floor(self) -> bool:
        return self.part in ("entry points", "by segment")


@dataclasses.dataclass(frozen=True)
class Predicted:
    """Latencies of random models, predicted from a table.

    Attributes:
        network: The backbone.
        table: What was predicted, and by what.
        clock: Whether the clock was read, or how long the processor worked.
        layouts: How many were measured.
        within: Share of them whose prediction is within ±10 %.
        middle, largest: Relative errors.
    """

    network: str
    table: str
    clock: str
    layouts: int
    within: float
    middle: float
    largest: float


@dataclasses.dataclass(frozen=True)
class Int8:
    """A task of a quantized model.

    Attributes:
        network: The backbone.
        allowed: What each task may lose, as given to ``--max-drop``.
        task, metric: What is watched.
        before, after: Its value of the float model, and of the int8 one.
        held: Whether the loss is allowed.
        blocks, int8: Number of blocks, and of those in int8.
        size: Bytes over those of the float model.
        latency: One image, one thread, over the float model; nan where nothing was written.
        parameters: Of the float model.
    """

    network: str
    allowed: str
    task: str
    metric: str
    before: float
    after: float
    held: bool
    blocks: int
    int8: int
    size: float
    latency: float | None
    parameters: int


Row = Ratio | Predicted | Int8
