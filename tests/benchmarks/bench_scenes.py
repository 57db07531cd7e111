"""How many scenes are drawn per second of a core, with all their labels.

Run: python tests/benchmarks/bench_scenes.py        (`taskset -c 0 python …` pins it to one core)
"""

from __future__ import annotations

import sys
import time

import numpy as np

from onnxmtl.data.scenes import render_samples
from onnxmtl.data.scenes.dataset import TOGETHER


def images_per_second(size: int, batches: int) -> tuple[float, float]:
    """Mean and best over batches as large as the data set draws them."""
    render_samples(0, "bench", range(TOGETHER), (size, size))
    times = []
    for batch in range(1, batches + 1):
        indices = range(batch * TOGETHER, (batch + 1) * TOGETHER)
        start = time.process_time()
        render_samples(0, "bench", indices, (size, size))
        times.append(time.process_time() - start)
    return TOGETHER / float(np.mean(times)), TOGETHER / min(times)


def main() -> None:
    for size, batches in ((64, 40), (128, 10), (256, 3)):
        mean, best = images_per_second(size, batches)
        sys.stdout.write(f"scenes at {size}x{size}, all labels: {mean:6.0f} images/s (best batch {best:.0f})\n")


if __name__ == "__main__":
    main()
