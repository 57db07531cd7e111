"""What is added to the task losses in weight steps. Penalties see the weights of a module, and what passes wrote on
them.

Losses of policy steps are in :mod:`onnxmtl.search.regularizers`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from onnxmtl.errors import RunError
from onnxmtl.lowering import LoweredModule
from onnxmtl.passes.spaces.sluice import has_sluices, subspaces_of

Penalty = Callable[[], torch.Tensor]
PenaltyFactory = Callable[[LoweredModule], Penalty]
PENALTIES: dict[str, PenaltyFactory] = {}


def register_penalty(name: str) -> Callable[[PenaltyFactory], PenaltyFactory]:
    """Decorator: make a penalty available to recipes.

    The factory gets the module once; what it returns is called in every weight step and returns a differentiable
    scalar of the module's weights as they are then. It finds the weights it is about by the nodes of the module
    (``module.nodes``), whose initializers carry the metadata that passes wrote.

    Raises:
        RunError: The name is taken.
    """

    def register(factory: PenaltyFactory) -> PenaltyFactory:
        if name in PENALTIES:
            msg = f"penalty {name!r} is registered already"
            raise RunError(msg)
        PENALTIES[name] = factory
        return factory

    return register


def penalty(name: str, module: LoweredModule) -> Penalty:
    """The penalty called `name`, for `module`.

    Raises:
        RunError: There is none of that name, or the module has no weights it is about.
    """
    if name not in PENALTIES:
        msg = f"unknown penalty {name!r}; there are: {', '.join(sorted(PENALTIES))}"
        raise RunError(msg)
    return PENALTIES[name](module)


def penalties(weights: Mapping[str, float], module: LoweredModule) -> list[tuple[float, str, Penalty]]:
    """(weight, name, penalty) of all that weigh something.

    Raises:
        RunError: As of :func:`penalty`.
    """
    return [(weight, name, penalty(name, module)) for name, weight in weights.items() if weight]


@register_penalty("orthogonality")
def orthogonality(module: LoweredModule) -> Penalty:
    """Σ ‖G₁ᵀ G₂‖², squared Frobenius norms, over tasks and layers: sluice networks (Ruder et al. 2019, Sec. 2).

    G₁ and G₂ hold the filters that compute the two subspaces of a task's layer, a column each: row r of the
    convolution's weight [C_out, C_in, k, k], flattened. Both terms that a residual block adds up are penalised; a layer
    whose halves are no convolution's (behind a Concat) is left out, as a diagnostic of the pass says.
    """
    found = {
        str(value.name): first
        for node in module.nodes
        for value in node.inputs
        if value is not None and value.is_initializer() and (first := subspaces_of(value)) is not None
    }
    if not found and not has_sluices(module.nodes):
        msg = "penalty 'orthogonality': no layer of the model has subspaces; it is for the search space 'sluice'"
        raise RunError(msg)

    def value() -> torch.Tensor:
        total = torch.zeros(())  # on the CPU: a scalar may be added to any tensor
        for name, first in found.items():
            filters = module.weight(name).flatten(1)
            total = total + (filters[:first] @ filters[first:].T).square().sum()
        return total

    return value
