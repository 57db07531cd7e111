"""Replace every Choice by the option an architecture takes there."""

from __future__ import annotations

import onnx_ir as ir

from onnxmtl.errors import ModelError
from onnxmtl.ir import Choice, choices, is_supermodel
from onnxmtl.ir.passes import InPlacePass, PassResult, Refused
from onnxmtl.policy import Architecture


class ResolveChoices(InPlacePass):
    """Wire each Choice's users to its chosen option and remove the Choice.

    Requires a supermodel and an architecture with one option for every (site, task) of it. Ensures a graph without
    Choices whose outputs keep their names; nodes nobody needs any more are left for the next pass.

    Raises:
        ModelError: The architecture does not name an option that a Choice has.
    """

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture

    def requires(self, model: ir.Model) -> None:
        """Refuse a model without Choices."""
        if not is_supermodel(model):
            raise Refused("select: this model holds no Choices, so there is nothing to select")

    def call(self, model: ir.Model) -> PassResult:
        """Resolve in place."""
        graph = model.graph
        for choice in list(choices(graph)):
            chosen = choice.options[chosen_option(choice, self.architecture)]
            if choice.output.is_graph_output():
                _keep_output(graph, choice, chosen)
            else:
                choice.output.replace_all_uses_with(chosen)
            graph.remove(choice.node, safe=True)
        return PassResult(model, modified=True)


def chosen_option(choice: Choice, architecture: Architecture) -> int:
    """Index of the option that the architecture takes at a Choice.

    Raises:
        ModelError: It names none that the Choice has.
    """
    name = architecture.choices.get(choice.site, {}).get(choice.task)
    if name not in choice.names:
        msg = (
            f"architecture: site {choice.site!r}, task {choice.task!r}: no option {name!r}; "
            f"this supermodel offers {', '.join(choice.names)}"
        )
        raise ModelError(msg)
    return choice.names.index(name)


def _keep_output(graph: ir.Graph, choice: Choice, chosen: ir.Value) -> None:
    """An output keeps its name: an Identity carries the chosen value there."""
    old = choice.output
    carrier = ir.Value(name=old.name, type=old.type, shape=old.shape)
    old.name = f"{old.name}/choice"
    graph.insert_after(
        choice.node, ir.Node("", "Identity", [chosen], outputs=[carrier], name=f"{choice.node.name}/output")
    )
    old.replace_all_uses_with(carrier, replace_graph_outputs=True)
