"""The search at a lower resolution than that of the emitted model (BMTAS, Sec. 4.1): the same supermodel, smaller maps.

The network is imported once more for the smaller images and gets the same heads and the same search space; what it
learns is carried over by name. What the sites cost is always that of the large one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmtl import ops
from onnxmtl.analysis.features import feature_dims, read_features
from onnxmtl.analysis.sites import site_table
from onnxmtl.analysis.table import SiteTable
from onnxmtl.data import DataSource
from onnxmtl.errors import RunError
from onnxmtl.ir import Role, role_of
from onnxmtl.lowering import LoweredModule
from onnxmtl.passes.heads import AttachHeads
from onnxmtl.passes.instruments import Instrument
from onnxmtl.passes.spaces import space
from onnxmtl.passes.spaces.separate import Separate
from onnxmtl.passes.spaces.trunk import trunk_blocks
from onnxmtl.search.recipe import Recipe
from onnxmtl.workflows.config import CompileConfig
from onnxmtl.workflows.data import open_data
from onnxmtl.workflows.preparation import Prepared, import_backbone, rewritten
from onnxmtl.workflows.source import Source


@dataclasses.dataclass(frozen=True)
class Smaller:
    """What is searched in the place of the large supermodel.

    Attributes:
        supermodel: For smaller images; sites, names and weights are those of the large one.
        data: The data set at that size.
        separate: A network of its own for every task, where the recipe trains those before the supermodel. Its weights
            are those of the supermodel, by name, when it is trained.
    """

    supermodel: ir.Model
    data: DataSource
    separate: ir.Model | None = None


def prepare_smaller(
    source: Source,
    prepared: Prepared,
    config: CompileConfig,
    recipe: Recipe,
    instruments: Sequence[Instrument] = (),
) -> Smaller | None:
    """What is searched at ``config.search_input_size``; None if that is not asked for.

    Raises:
        OnnxMTLError: The network, its heads or the data do not take that size, or the supermodel is another one there.
    """
    size = config.search_input_size
    if not any(size) or not recipe.search_stages:
        return None
    asked = dataclasses.replace(config, input_size=size)
    backbone = import_backbone(source, prepared.tasks, asked, instruments)
    features = [feature.name for feature in read_features(prepared.backbone)]
    if [feature.name for feature in read_features(backbone)] != features:
        raise _another(size, "its features")
    sizes = {str(value.name): feature_dims(value) for value in prepared.backbone.graph.outputs}
    data, _ = open_data(backbone, prepared.tasks, asked)
    designed = {name: dims[1:] for name, dims in sizes.items() if dims is not None}
    heads = AttachHeads(prepared.tasks, config.seed, designed)
    multitask = rewritten(backbone, [heads], "heads", instruments)
    options = {"seed": config.seed, **recipe.space_options, **_cuts(prepared, recipe)}
    supermodel = rewritten(multitask, [space(recipe.space, **options)], "space", instruments)
    if _sites(site_table(supermodel)) != _sites(site_table(prepared.supermodel)):
        raise _another(size, "its sites")
    _take_weights(supermodel, prepared.supermodel, size)
    separate = rewritten(multitask, [Separate()], "separate", instruments) if recipe.separates else None
    return Smaller(supermodel, data, separate)


def carry_over(module: LoweredModule, model: ir.Model) -> None:
    """Store what was trained at the smaller size, and running statistics, in the large supermodel, by name."""
    for name in _learnt(model):
        value = model.graph.initializers[name]
        assert value.const_value is not None
        array = module.weight(name).detach().cpu().numpy().astype(value.const_value.dtype.numpy())
        value.const_value = ir.tensor(array, name=name)


def _cuts(prepared: Prepared, recipe: Recipe) -> dict[str, Any]:
    """Where blocks are made equal in multiply-adds, the cuts of the large supermodel: a small one has other costs."""
    options = recipe.space_options
    if recipe.space != "branch" or not isinstance(options.get("groups"), int):
        return {}
    found = trunk_blocks(prepared.multitask, options["groups"], options.get("at"), options.get("frontier", 1))
    return {"groups": None, "at": [block.name for block in found[:-1]]}


def _sites(table: SiteTable) -> list[tuple[object, ...]]:
    return [(site.id, site.option_names, table.tasks_at(site)) for site in table.sites]


def _take_weights(small: ir.Model, large: ir.Model, size: tuple[int, int]) -> None:
    """Give the small supermodel the weights of the large one; all else must be equal already."""
    floats = [_floats(model) for model in (small, large)]
    odd = sorted(floats[0].keys() ^ floats[1].keys())
    odd += [name for name in floats[0] if name in floats[1] and floats[0][name].shape != floats[1][name].shape]
    learnt = _learnt(large)
    fixed = [name for name in floats[0] if name in floats[1] and name not in learnt]
    odd += [name for name in fixed if not np.array_equal(floats[0][name], floats[1][name])]
    if odd:
        raise _another(size, f"the weight {odd[0]!r}")
    for name in learnt:
        small.graph.initializers[name].const_value = ir.tensor(floats[1][name], name=name)


def _floats(model: ir.Model) -> dict[str, np.ndarray]:
    return {
        name: value.const_value.numpy()
        for name, value in model.graph.initializers.items()
        if value.const_value is not None and value.const_value.dtype.is_floating_point()
    }


def _learnt(model: ir.Model) -> list[str]:
    """Names of what training changes: weights, logits, running statistics."""
    trainable = ops.trainable_values(model.graph)
    return [
        name
        for name, value in model.graph.initializers.items()
        if value in trainable or role_of(value) in (Role.LOGITS, Role.STATISTIC)
    ]


def _another(size: tuple[int, int], what: str) -> RunError:
    msg = (
        f"--search-input-size {size[0]}x{size[1]}: for images of that size the supermodel is another one ({what}), so "
        "nothing could be carried over; take half the size of the images, or search at their own"
    )
    return RunError(msg)
