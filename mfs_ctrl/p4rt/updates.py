"""Changes to a switch, as plain values: no protobuf, no gRPC."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from mfs_ctrl.p4rt.entries import Entity


class Operation(IntEnum):
    """Kind of an update; the numbers are those of P4Runtime's ``Update.Type``."""

    INSERT = 1
    MODIFY = 2
    DELETE = 3


INSERT, MODIFY, DELETE = Operation


@dataclass(frozen=True, slots=True)
class Update:
    """One change of an entity. Deleting a default action or the rates of a meter resets it."""

    operation: Operation
    entity: Entity

    def __str__(self) -> str:
        return f"{self.operation.name.lower()} {self.entity}"
