"""What a primitive is given, and what turns it into statements."""

from __future__ import annotations

from collections.abc import Callable

from soft_switch.codegen.compiler import Compiler
from soft_switch.codegen.ir import Stmt
from soft_switch.errors import UnsupportedConstructError
from soft_switch.model.program import FieldRef, ObjectRef, Primitive

Handler = Callable[[Compiler, Primitive], list[Stmt]]


def field_at(primitive: Primitive, position: int) -> FieldRef:
    """The field that the argument is; UnsupportedConstructError where it is none."""
    target = primitive.args[position]
    if not isinstance(target, FieldRef):
        raise UnsupportedConstructError("target that is computed", primitive.place)
    return target


def object_at(primitive: Primitive, position: int) -> str:
    """The name of the extern that the argument is; UnsupportedConstructError where it is none."""
    target = primitive.args[position]
    if not isinstance(target, ObjectRef):
        raise UnsupportedConstructError(f"primitive {primitive.op!r} on {target}", primitive.place)
    return target.name
