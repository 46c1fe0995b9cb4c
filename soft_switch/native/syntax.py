"""Questions about the syntax trees of the generated Python."""

from __future__ import annotations

import ast


def constant_of(node: ast.expr) -> int | None:
    """The number that a constant is."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, int) else None


def method_of(node: ast.expr) -> str | None:
    """The name of the method that is called."""
    return node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else None


def is_data(node: ast.expr) -> bool:
    """Whether it is the packet's bytes."""
    return isinstance(node, ast.Name) and node.id == "data"


def limited(node: ast.expr) -> tuple[ast.expr, ast.expr | None]:
    """A frame, and how much of it is left where it was truncated."""
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice) and not is_data(node.value):
        return node.value, node.slice.upper
    return node, None


def is_bytes(node: ast.expr) -> bool:
    """Whether its value is some bytes."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, bytes)
    if isinstance(node, ast.Subscript):
        return is_data(node.value) and isinstance(node.slice, ast.Slice)
    return method_of(node) == "to_bytes"


def distance(node: ast.Slice) -> int | None:
    """The number of bytes of a slice, where it does not depend on the packet."""
    ends = []
    for end in (node.lower, node.upper):
        if isinstance(end, ast.Constant) and isinstance(end.value, int):
            ends.append(("", end.value))
        elif isinstance(end, ast.Name):
            ends.append((end.id, 0))
        elif isinstance(end, ast.BinOp) and isinstance(end.op, ast.Add) and isinstance(end.left, ast.Name):
            number = constant_of(end.right)
            if number is None:
                return None
            ends.append((end.left.id, number))
        else:
            return None
    return ends[1][1] - ends[0][1] if ends[0][0] == ends[1][0] else None
