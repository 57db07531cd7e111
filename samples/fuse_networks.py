"""Two trained networks, one per task and not alike, joined by edges that a search finds (MTL-NAS).

python samples/fuse_networks.py [--steps 400] [--train-size 0] [--out DIR]

First a ResNet is trained for segmentation and a MobileNetV2 for depth: they stand for networks that you have. Then both
are given to one compile, in the order of the tasks. They keep their heads; layers of equal stride may read each other.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import onnxmtl
from onnxmtl.deploy.report import plain

BACKBONES = Path(__file__).parent / "backbones"
NETWORKS = {"seg=segmentation": "resnet18-small.onnx", "depth": "mobilenetv2-small.onnx"}


def main() -> None:
    """Train two networks and fuse them."""
    parser = argparse.ArgumentParser(description="Join two trained networks by edges that a search finds.")
    parser.add_argument("--steps", type=int, default=400, help="steps of each network, and of the search")
    parser.add_argument("--train-size", type=int, default=0, help="training images; 0: the data set's default")
    parser.add_argument("--out", type=Path, help="directory of the run; default: the next free runs/compile-N")
    args = parser.parse_args()
    extent = {
        "steps": args.steps,
        "train_size": args.train_size,
        "val_size": args.train_size // 4,
        "baselines": (),
    }
    with tempfile.TemporaryDirectory() as folder:
        trained = [
            onnxmtl.compile(BACKBONES / name, task, **extent, out=Path(folder) / name).model
            for task, name in NETWORKS.items()
        ]
        result = onnxmtl.compile(trained, ",".join(NETWORKS), recipe="mtlnas", **extent, out=args.out)
    print(plain(result.report))
    fused = result.report.fused
    for edge in fused.edges:
        kept = "kept" if edge.kept else "cut"
        print(f"{edge.source} {edge.source_layer} -> {edge.target} {edge.target_layer}: {edge.alpha:.2f}, {kept}")
    print(f"{len(fused.kept)} of {len(fused.edges)} edges")


if __name__ == "__main__":
    main()
