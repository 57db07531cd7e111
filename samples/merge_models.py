"""Two models that were fine-tuned from one network, merged: the trunk that they share is computed once.

python samples/merge_models.py [--steps 60] [--careless] [--out DIR]

A small network learns to find bright regions (seg). Its trunk is frozen, and a new head on it learns to blur (depth).
Both are exported with torch's default exporter, which folds every BatchNormalization into its convolution, and merged.
With --careless the frozen trunk stays in training mode: its BatchNormalizations go on averaging, the exported weights
differ, and nothing can be shared; merge says where and why.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from onnxmtl.deploy.merge import cost_rows, pair_lines, parity_lines
from onnxmtl.workflows.merging import merge


def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Convolution, BatchNormalization, ReLU."""
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class Net(nn.Module):
    """A trunk of three blocks, stride 2, and a head of one convolution for one map as large as the image."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(block(3, 16), block(16, 32, stride=2), block(32, 32))
        self.head = nn.Conv2d(32, 1, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Float [N, 3, H, W] -> float [N, 1, H, W]."""
        return functional.interpolate(self.head(self.trunk(image)), scale_factor=2.0, mode="nearest")


def train(net: Net, target: str, steps: int, *, freeze: bool, careless: bool = False) -> None:
    """Learn `target` from random images; with `freeze` the head alone learns."""
    net.train()
    if freeze:
        net.trunk.requires_grad_(False)
        net.trunk.train(careless)  # the line that people forget: a frozen BatchNormalization averages in training mode
    weights = [weight for weight in net.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=1e-2)
    for _ in range(steps):
        image = torch.rand(8, 3, 32, 32)
        grey = functional.avg_pool2d(image.mean(1, keepdim=True), 5, 1, 2)
        wanted = (grey > 0.5).float() if target == "seg" else grey
        loss = functional.mse_loss(net(image), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def export(net: Net, path: Path) -> Path:
    """With torch's default exporter, for any batch size."""
    batch = torch.export.Dim("batch")
    torch.onnx.export(
        net.eval(), (torch.rand(2, 3, 32, 32),), path, dynamic_shapes=({0: batch},), verbose=False, external_data=False
    )
    return path


def main() -> None:
    """Train, freeze, train, export, merge."""
    parser = argparse.ArgumentParser(description="Merge two models that were fine-tuned from one.")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--careless", action="store_true", help="leave the frozen trunk in training mode")
    parser.add_argument("--out", type=Path, help="where the merged model goes; left out: nowhere")
    args = parser.parse_args()
    torch.manual_seed(0)
    seg = Net()
    train(seg, "seg", args.steps, freeze=False)
    depth = copy.deepcopy(seg)
    depth.head = nn.Conv2d(32, 1, 1)
    train(depth, "depth", args.steps, freeze=True, careless=args.careless)
    with tempfile.TemporaryDirectory() as folder:
        files = [export(net, Path(folder, name)) for name, net in (("seg.onnx", seg), ("depth.onnx", depth))]
        report = merge(files, (args.out or Path(folder)) / "both.onnx", tasks=["seg", "depth"])
    for row in cost_rows(report):
        print("  ".join(f"{cell:>14}" for cell in row))
    print(*pair_lines(report), *parity_lines(report), sep="\n")


if __name__ == "__main__":
    main()
