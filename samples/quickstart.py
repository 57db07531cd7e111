"""The main job from Python: one backbone and three tasks in, one multi-task ONNX model out.

python samples/quickstart.py                                a real search, minutes
python samples/quickstart.py --steps 6 --train-size 32      only to see it run
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import onnxmtl
from onnxmtl import runtime
from onnxmtl.deploy.report import plain

BACKBONE = Path(__file__).parent / "backbones" / "resnet18-small.onnx"

parser = argparse.ArgumentParser(description="One backbone and three tasks in, one multi-task ONNX model out.")
parser.add_argument("--steps", type=int, default=400, help="steps of the whole search")
parser.add_argument("--train-size", type=int, default=0, help="training images; 0: the data set's default")
parser.add_argument("--out", help="directory of the run; default: the next free runs/compile-N")
args = parser.parse_args()

result = onnxmtl.compile(
    BACKBONE,
    "seg=segmentation,depth,normals",
    steps=args.steps,
    train_size=args.train_size,
    val_size=args.train_size // 4,
    out=args.out,
)
print(plain(result.report))

model = runtime.load(result.model)  # numpy and onnxruntime only
image = np.zeros((1, 3, 64, 64), np.float32)
print({task: output.shape for task, output in model(image).items()})
