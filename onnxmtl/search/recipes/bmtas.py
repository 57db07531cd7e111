"""BMTAS (Bruggemann, Kanakis, Georgoulis, Van Gool, BMVC 2020): at every block a task takes one of T parallel copies.

Warm-up: copy t of every block is trained by task t alone. Search: policy and weights in turns on 20 % and 80 % of the
data, Gumbel softmax with a temperature from 5 to 0.1 (linear), the exact expected cost of the tree as the resource
loss. While two tasks have taken the same copies so far they share the computation; the most probable choices make a
tree, which is trained.

In all variants the policy's steps normalize with their batch's statistics, running statistics and the momentum of the
weights begin afresh after every turn of the policy, and the last normalization of each copy has no scale and shift
during the search (they come back with the tree).

The default has one update for all tasks, the resource loss as a share of what separate models execute, short turns,
Adam, and a tree that inherits the weights of the search. ``paper`` is the paper: updates task by task, and hence in the
tree the learning rate of every weight divided by the number of tasks that use it; SGD with the poly schedule, λ for
gigaflops, training from scratch; λ = 0.05 is that of BMTAS-2 (MobileNetV2). ``released`` is the
authors' code: Adam in the search, the policy's optimizer begins afresh too, the loss that charges too much for three
tasks and more (``bmtas_released``), added once per task, and a tree whose learning rates are not divided.

Where updates are made task by task, each task has images of its own (the authors: the same ones for all tasks), and the
statistics of stem and heads begin afresh with those of the copies.
"""

from __future__ import annotations

import dataclasses

from onnxmtl.search.presets import Preset, StagePreset, register_preset
from onnxmtl.search.recipe import Recipe, Stage, register_recipe
from onnxmtl.search.schedule import Temperature
from onnxmtl.train.optimizers import OptimizerSpec

_ADAM = OptimizerSpec("adam", lr=1e-3, betas=(0.9, 0.999), weight_decay=1e-4)
_SGD = OptimizerSpec("sgd", lr=5e-3, momentum=0.9, weight_decay=1e-4, schedule="poly")
_POLICY = OptimizerSpec("adam", lr=1e-2, betas=(0.9, 0.999), weight_decay=5e-5)
_RELEASED = "bmtas_released"  # the regularizer
_LINEAR = Temperature(5.0, 0.1, "linear")


@register_recipe
def bmtas() -> Recipe:
    """The default recipe."""
    return Recipe(
        name="bmtas",
        space="branch",
        space_options={"affine": "not-last"},
        stages=(
            Stage("warm-up", share=0.1, relaxation="own-branch", weights=_ADAM),
            Stage(
                "search",
                share=0.4,
                relaxation="gumbel",
                weights=dataclasses.replace(_ADAM, lr=5e-4),
                policy=OptimizerSpec("adam", lr=1e-1, betas=(0.5, 0.999), weight_decay=0.0),
                alternate=(2, 8),
                temperature=_LINEAR,
                reset=("weights", "statistics"),
            ),
            Stage(
                "train",
                share=0.5,
                relaxation="selected",
                weights=dataclasses.replace(_ADAM, schedule="cosine"),
            ),
        ),
        regularizers={"multiply_adds": 1.0},
        regularizer_options={"multiply_adds": {"of": "policy"}},
    )


@register_recipe
def bmtas_paper() -> Recipe:
    """Sections 3.2 and 3.3, and Appendix A."""
    return Recipe(
        name="bmtas",
        variant="paper",
        space="branch",
        space_options={"affine": "not-last"},
        stages=(
            Stage("warm-up", share=2 / 92, relaxation="own-branch", weights=_SGD, sequential=True, reference=2_000),
            Stage(
                "search",
                share=50 / 92,
                relaxation="gumbel",
                weights=_SGD,
                policy=_POLICY,
                alternate=(1, 1),
                unit="epoch",
                temperature=_LINEAR,
                sequential="weights",
                reset=("weights", "statistics"),
                reference=50_000,
            ),
            Stage(
                "train",
                share=40 / 92,
                relaxation="selected",
                weights=_SGD,
                fresh=True,
                sequential=True,
                per_task=True,
                reference=40_000,
            ),
        ),
        regularizers={"multiply_adds": 0.05},
        regularizer_options={"multiply_adds": {"of": "policy", "unit": "gflop"}},
    )


@register_recipe
def bmtas_released() -> Recipe:
    """As the authors' code trains."""
    paper = bmtas_paper()
    warm_up, search, train = paper.stages
    return dataclasses.replace(
        paper,
        variant="released",
        stages=(
            dataclasses.replace(warm_up, weights=_ADAM),
            dataclasses.replace(search, weights=_ADAM, reset=("weights", "policy", "statistics")),
            dataclasses.replace(train, per_task=False),
        ),
        regularizers={_RELEASED: 0.05},
        regularizer_options={_RELEASED: {"unit": "gflop", "per_task": True}},
    )


def _register() -> None:
    """Appendix A. Of the weights' 40 000 updates in the search, 80 % of the steps; NYUv2 has half of all numbers.

    PASCAL-Context's λ is that of BMTAS-2 with MobileNetV2, NYUv2's that of BMTAS-2 with ResNet-50; loss weights of
    human parts, a segmentation too, are 2. The paper searches on images of 1/2 and 2/3 of the size
    (``--search-input-size``).
    """
    published = {
        "pascal-context": (1, 512, {"segmentation": 1.0, "saliency": 5.0, "normals": 10.0, "edges": 50.0}, 5e-2),
        "nyuv2": (2, 0, {"segmentation": 1.0, "depth": 1.0, "normals": 10.0, "edges": 50.0}, 1e-3),
    }
    for name, (part, crop, losses, weight) in published.items():
        stages = {
            "warm-up": StagePreset(2_000 // part),
            "search": StagePreset(50_000 // part, policy_lr=1e-2),
            "train": StagePreset(40_000 // part),
        }
        for variant, penalty in (("", {}), ("paper", {"multiply_adds": weight}), ("released", {_RELEASED: weight})):
            preset = Preset(name, "BMTAS, Appendix A and Tables 1, 2", stages, 16, crop, 0, losses, penalty)
            register_preset("bmtas", preset, variant)


_register()
