"""Layouts by enumeration: TreeMTL's own way, word by word as methods.md 2.3 describes it, and random ones."""

from __future__ import annotations

import copy
import itertools
import random

from hypothesis import strategies as st

from onnxmtl.policy.layout import Layout

State = list[list[set[int]]]


def splits(group: set[int]) -> list[tuple[set[int], set[int]]]:
    """The 2^(n-1) - 1 splits into (part without the smallest, part with it), as binary numbers over the others."""
    first, *others = sorted(group)
    found = []
    for bits in itertools.product((0, 1), repeat=len(others)):
        second = {first, *(task for task, bit in zip(others, bits, strict=True) if bit)}
        if second != group:
            found.append((group - second, second))
    return found


def enumerated(tasks: int, blocks: int) -> list[State]:
    """All layouts in the order in which the recursive cuts find them; [block][group] sets of tasks."""
    found: list[State] = []
    seen: set[frozenset[tuple[int, frozenset[int]]]] = set()

    def visit(state: State, lowest: int, cuts: int) -> None:
        seen.add(_key(state))
        found.append(state)
        if cuts == tasks - 1:
            return
        for block in range(lowest, blocks):
            for group in [g for g in state[block] if len(g) > 1]:
                for parts in splits(group):
                    cut = copy.deepcopy(state)
                    for later in range(block, blocks):
                        cut[later].remove(group)
                        cut[later].extend(parts)
                    if _key(cut) not in seen:
                        visit(cut, block, cuts + 1)

    visit([[set(range(tasks))] for _ in range(blocks)], 0, 0)
    return found


def _key(state: State) -> frozenset[tuple[int, frozenset[int]]]:
    return frozenset((block, frozenset(group)) for block, groups in enumerate(state) for group in groups)


def groups_of(state: State) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """A state as the groups of a layout."""
    return tuple(tuple(sorted(tuple(sorted(group)) for group in block)) for block in state)


def random_layout(names: tuple[str, ...], blocks: int, seed: int) -> Layout:
    """Each block splits some groups of the one before at random."""
    draw = random.Random(seed)
    current = [list(range(len(names)))]
    groups = []
    for _ in range(blocks):
        parts: list[list[int]] = []
        for group in current:
            colours = [draw.randrange(3) if draw.random() < 0.3 else 0 for _ in group]
            parts += [[t for t, c in zip(group, colours, strict=True) if c == colour] for colour in set(colours)]
        current = parts
        groups.append(tuple(map(tuple, parts)))
    return Layout(names, tuple(groups))


def layouts(most_tasks: int = 6, most_blocks: int = 6) -> st.SearchStrategy[Layout]:
    """Random layouts."""
    return st.builds(
        lambda tasks, blocks, seed: random_layout(tuple("abcdefghij"[:tasks]), blocks, seed),
        st.integers(1, most_tasks),
        st.integers(1, most_blocks),
        st.integers(0, 2**32),
    )
