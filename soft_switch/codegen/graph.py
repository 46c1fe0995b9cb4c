"""Control flow: where paths that diverge at a node meet again."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

Node = TypeVar("Node", bound=Hashable)


class CycleError(Exception):
    """A path leads back to ``node``."""

    def __init__(self, node: object) -> None:
        super().__init__(f"{node!r} leads back to itself")
        self.node = node


def post_dominators(first: Node | None, successors: Callable[[Node], Sequence[Node | None]]) -> dict[Node, Node | None]:
    """Return, for each node reachable from ``first``, the nearest one that every path from it to the end (None) passes.

    Raises:
        CycleError: a path leads back to a node.
    """
    order: list[Node] = []
    state: dict[Node, int] = {}
    stack: list[tuple[Node, int]] = []
    if first is not None:
        stack.append((first, 0))
        state[first] = 1
    while stack:
        node, position = stack.pop()
        following = successors(node)
        if position < len(following):
            stack.append((node, position + 1))
            after = following[position]
            if after is None:
                continue
            if state.get(after) == 1:
                raise CycleError(after)
            if after not in state:
                state[after] = 1
                stack.append((after, 0))
        else:
            state[node] = 2
            order.append(node)
    nearest: dict[Node, Node | None] = {}
    depth: dict[Node, int] = {}

    def meet(one: Node | None, other: Node | None) -> Node | None:
        while one != other:
            if one is None or other is None:
                return None
            if depth[one] > depth[other]:
                one = nearest[one]
            else:
                other = nearest[other]
        return one

    for node in order:  # successors come before their node
        following = successors(node)
        if following:
            common: Node | None = following[0]
            for after in following[1:]:
                common = meet(common, after)
        else:
            common = None
        nearest[node] = common
        depth[node] = 1 if common is None else depth[common] + 1
    return nearest
