"""Arguments of primitives."""

from __future__ import annotations

from collections.abc import Callable

from soft_switch.codegen.compiler import Compiler
from soft_switch.errors import UnsupportedConstructError
from soft_switch.ir.statements import Stmt
from soft_switch.model.program import FieldRef, ObjectRef, Primitive

Handler = Callable[[Compiler, Primitive], list[Stmt]]
"""Compiles one primitive."""


def field_at(primitive: Primitive, position: int) -> FieldRef:
    """Return the field that an argument names.

    Raises:
        UnsupportedConstructError: the argument names something else.
    """
    target = primitive.args[position]
    if not isinstance(target, FieldRef):
        raise UnsupportedConstructError("target that is computed", primitive.place)
    return target


def object_at(primitive: Primitive, position: int) -> str:
    """Return the name of the extern that an argument names.

    Raises:
        UnsupportedConstructError: the argument names something else.
    """
    target = primitive.args[position]
    if not isinstance(target, ObjectRef):
        raise UnsupportedConstructError(f"primitive {primitive.op!r} on {target}", primitive.place)
    return target.name
