"""An index of a P4Info: tables, actions, counters and so on by name and by id.

The embedded switch has its own, because it is independent of the controller.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from google.protobuf import text_format
from p4.config.v1 import p4info_pb2

from mfs_ctrl.errors import EntryError
from mfs_ctrl.p4rt.bytestrings import to_int
from mfs_ctrl.p4rt.entries import ActionCall

EXACT, LPM, TERNARY, RANGE = "exact", "lpm", "ternary", "range"
KINDS = {
    p4info_pb2.MatchField.EXACT: EXACT,
    p4info_pb2.MatchField.LPM: LPM,
    p4info_pb2.MatchField.TERNARY: TERNARY,
    p4info_pb2.MatchField.RANGE: RANGE,
}
_TABLES_SHOWN = 3


class _Named(Protocol):
    @property
    def id(self) -> int: ...
    @property
    def name(self) -> str: ...


Item = TypeVar("Item", bound=_Named)


@dataclass(frozen=True, slots=True)
class Field:
    """A match field or an action parameter; ``width`` in bits, match ``kind`` or empty."""

    id: int
    name: str
    width: int
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Action:
    """An action and its parameters in P4Info order."""

    id: int
    name: str
    params: tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A table. ``initial_default`` is None if the P4Info does not give the program's default action."""

    id: int
    name: str
    fields: tuple[Field, ...]
    size: int
    is_const: bool
    is_indirect: bool
    initial_default: ActionCall | None

    @property
    def needs_priority(self) -> bool:
        """Whether entries of the table have a priority."""
        return any(field.kind in (TERNARY, RANGE) for field in self.fields)


@dataclass(frozen=True, slots=True)
class Array:
    """A counter, meter or action profile; ``size`` in cells or members."""

    id: int
    name: str
    size: int


class Directory(Generic[Item]):
    """The objects of one kind, by name and by id; ``kind`` is their name in error messages."""

    def __init__(self, kind: str, items: Iterable[Item]) -> None:
        self.kind = kind
        self.by_name = {item.name: item for item in items}
        self.by_id = {item.id: item for item in self.by_name.values()}

    def named(self, name: str) -> Item:
        """Return the object with this name.

        Raises:
            EntryError: there is no such object.
        """
        try:
            return self.by_name[name]
        except KeyError:
            raise EntryError(f"the program has no {self.kind} {name!r}; it has {self._names()}") from None

    def numbered(self, object_id: int) -> Item:
        """Return the object with this id.

        Raises:
            EntryError: there is no such object.
        """
        try:
            return self.by_id[object_id]
        except KeyError:
            raise EntryError(f"the program has no {self.kind} with id {object_id}; it has {self._names()}") from None

    def _names(self) -> str:
        return ", ".join(self.by_name) or "none"


class P4InfoIndex:
    """The objects of a P4Info that the controller writes and reads."""

    def __init__(self, message: p4info_pb2.P4Info) -> None:
        self.message = message
        self.actions = Directory("action", [_action(action) for action in message.actions])
        self.tables = Directory("table", [self._table(table) for table in message.tables])
        self.profiles = Directory("action profile", [_array(profile) for profile in message.action_profiles])
        self.counters = Directory("counter", [_array(counter) for counter in message.counters])
        self.meters = Directory("meter", [_array(meter) for meter in message.meters])

    @classmethod
    def from_text(cls, text: str) -> P4InfoIndex:
        """Read a P4Info in protobuf text format, as p4c writes it.

        Raises:
            EntryError: the text is not a P4Info.
        """
        return cls(_parsed(text))

    def _table(self, table: p4info_pb2.Table) -> Table:
        default = None
        if table.HasField("initial_default_action"):
            by_param = {item.param_id: item.value for item in table.initial_default_action.arguments}
            action = self.actions.numbered(table.initial_default_action.action_id)
            # Parameters that are left out are zero.
            args = tuple(to_int(by_param.get(param.id, b"")) for param in action.params)
            default = ActionCall(action.name, args)
        return Table(
            table.preamble.id,
            table.preamble.name,
            tuple(_match_field(field, table.preamble.name) for field in table.match_fields),
            table.size,
            table.is_const_table,
            table.implementation_id != 0,
            default,
        )


@functools.lru_cache(maxsize=4)
def _parsed(text: str) -> p4info_pb2.P4Info:
    """Return the message; switches of a fabric run the same program, and parsing takes longer than all else here."""
    message = p4info_pb2.P4Info()
    try:
        text_format.Merge(text, message, allow_unknown_field=True)
    except text_format.ParseError as error:
        raise EntryError(f"cannot parse the P4Info: {error}; compile the program again") from None
    return message


def _match_field(field: p4info_pb2.MatchField, table: str) -> Field:
    kind = KINDS.get(field.match_type)
    if kind is None:
        raise EntryError(
            f"table {table}: the match kind of field {field.name} is not supported; use {', '.join(KINDS.values())}"
        )
    return Field(field.id, field.name, field.bitwidth, kind)


def _action(action: p4info_pb2.Action) -> Action:
    params = tuple(Field(param.id, param.name, param.bitwidth) for param in action.params)
    return Action(action.preamble.id, action.preamble.name, params)


def _array(message: p4info_pb2.ActionProfile | p4info_pb2.Counter | p4info_pb2.Meter) -> Array:
    return Array(message.preamble.id, message.preamble.name, message.size)


def describe(message: p4info_pb2.P4Info) -> str:
    """Return the name of a program, or the first of its tables, since compilers set no name by themselves."""
    if message.pkg_info.name:
        return str(message.pkg_info.name)
    names = [table.preamble.name for table in message.tables]
    more = f" and {len(names) - _TABLES_SHOWN} more" if len(names) > _TABLES_SHOWN else ""
    return (
        f"the program with the tables {', '.join(names[:_TABLES_SHOWN])}{more}" if names else "a program without tables"
    )
