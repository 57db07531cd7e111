"""For which option of which site a node of a supermodel works."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from onnxmtl.errors import ModelError
from onnxmtl.ir import Choice, as_choice, is_choice

Place = tuple[str, int]  # (site id, option)


def read_choices(graph: ir.Graph) -> dict[ir.Node, Choice]:
    """The Choices of a graph by their nodes, in graph order."""
    return {node: as_choice(node) for node in graph if is_choice(node)}


def places(graph: ir.Graph) -> dict[ir.Node, Place | None]:
    """For each node the (site, option) that it works for alone, or None.

    Raises:
        ModelError: A site stands inside an option of another one.
    """
    found_choices = read_choices(graph)
    place: dict[ir.Node, Place | None] = {}
    for node in reversed(graph):
        found: set[Place | None] = set()
        for output in node.outputs:
            if output.is_graph_output():
                found.add(None)
            for user, index in output.uses():
                choice = found_choices.get(user)
                if choice is not None:
                    found.add((choice.site, index) if index < len(choice.names) else None)
                else:
                    found.add(place[user])
        place[node] = found.pop() if len(found) == 1 else None
        if node in found_choices and (inside := place[node]) is not None and inside[0] != found_choices[node].site:
            raise ModelError(
                f"site {found_choices[node].site!r} stands inside an option of site {inside[0]!r}; "
                "every option of a site must read the site's input"
            )
    return place


def nodes_of_option(choices: Iterable[Choice], option: int, place: dict[ir.Node, Place | None]) -> list[ir.Node]:
    """The nodes that work for one option of these Choices (of one site) alone, each once."""
    found: dict[ir.Node, None] = {}
    waiting = []
    wanted: Place | None = None
    for choice in choices:
        wanted = (choice.site, option)
        waiting.append(choice.options[option].producer())
    while waiting:
        node = waiting.pop()
        if node is None or node in found or place.get(node) != wanted:
            continue
        found[node] = None
        waiting.extend(value.producer() for value in node.inputs if value is not None)
    return list(found)
