"""A compiled program: its functions, their variables, and the objects that they use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from soft_switch.ir.statements import Stmt
from soft_switch.ir.variables import Types

INGRESS, PARSE_AGAIN, EGRESS = "ingress", "parse_again", "egress"


@dataclass(frozen=True, slots=True)
class Function:
    """A generated function.

    Attributes:
        name: :data:`INGRESS` with the parser, :data:`EGRESS` with the deparser, or :data:`PARSE_AGAIN`, which makes the
            state of an ingress clone from the packet as it came in.
        zeroed: variables that are read before they are set; they begin with 0.
        body: the statements.
    """

    name: str
    zeroed: tuple[str, ...]
    body: list[Stmt]


@dataclass(frozen=True, slots=True)
class Generated:
    """The code generated from a program.

    Attributes:
        functions: callees before their callers.
        types: types of variables.
        objects: tables' results, counters, hash memos and the like, by the name that the functions use.
        carried: variables that make up the state of a packet between ingress and egress, in order.
        preserved: how many fields a re-entering packet may keep.
        comes_again: whether packets may re-enter.
        rid_at: where egress_rid is in the state; None if egress does not read it.
        priority_at: where priority is in the state; None if egress does not read it.
        source: the functions as Python.
    """

    functions: tuple[Function, ...]
    types: Types
    objects: dict[str, Any]
    carried: tuple[str, ...]
    preserved: int
    comes_again: bool
    rid_at: int | None
    priority_at: int | None
    source: str = ""
