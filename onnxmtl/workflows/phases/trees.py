"""Trees that the found one is compared with: permuted tasks, and a plain tree of the same cost (BMTAS, Table 3)."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from onnxmtl.analysis.sites import site_table
from onnxmtl.cost.count import count
from onnxmtl.passes.spaces import Tree, layout_blocks
from onnxmtl.policy import Architecture, Layout
from onnxmtl.policy.branching import block_names, layout_of
from onnxmtl.policy.relatives import permutations, vanilla
from onnxmtl.runs import derive_seed
from onnxmtl.workflows.config import TREE_BASELINES
from onnxmtl.workflows.phases.baselines import Baselines, draw
from onnxmtl.workflows.phases.job import Job
from onnxmtl.workflows.preparation import round_attributes


def tree_of(job: Job, architecture: Architecture) -> Layout | None:
    """The tree that a run found or was given; None if its space is not one of trees."""
    if job.graphs.layout is not None:
        return job.graphs.layout
    if job.recipe.space != "branch":
        return None
    supermodel = job.graphs.supermodel
    return layout_of(site_table(supermodel), architecture, block_names(supermodel))


def train_trees(job: Job, architecture: Architecture, baselines: Baselines) -> Baselines:
    """Add the trees that ``--baselines`` asks for, trained like the found one.

    ``permutations``: up to ``config.random_draws`` different ones. ``vanilla``: the plain tree whose multiply-adds are
    nearest to the found one's.
    """
    config = job.session.config
    found = tree_of(job, architecture)
    if found is None or not set(TREE_BASELINES) & set(config.baselines):
        return baselines
    trees, notes = [], list(baselines.notes)
    if "permutations" in config.baselines:
        drawn = permutations(found, config.random_draws, derive_seed(config.seed, "trees"))
        trees += [("permutation", f"permutation-{number}", tree) for number, tree in enumerate(drawn, start=1)]
        if not drawn:
            notes.append("no permutations to compare with: all tasks stand alike in the tree")
    if "vanilla" in config.baselines:
        plain = vanilla(found, lambda tree: count(planted(job, tree)).multiply_adds)
        if plain == found:
            notes.append("no vanilla tree to compare with: the tree is one, tasks branch off all at once")
        else:
            trees.append(("vanilla", "vanilla", plain))
    draws = [draw(job, kind, name, planted(job, tree), baselines.single) for kind, name, tree in trees]
    return dataclasses.replace(baselines, draws=(*baselines.draws, *draws), notes=tuple(notes))


def planted(job: Job, layout: Layout) -> ir.Model:
    """The multi-task model of a tree, untrained."""
    tree = Tree(layout, layout_blocks(job.graphs.backbone, layout))
    made = job.graphs.rewrite(job.graphs.multitask, [tree], "tree")
    round_attributes(made)
    return made
