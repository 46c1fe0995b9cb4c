"""A table for programs and people: keys by field name, matches as text, action parameters by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from soft_switch.errors import InvalidEntryError
from soft_switch.tables.entry import Entry
from soft_switch.tables.match_text import MatchLike, anything, read_match, read_value
from soft_switch.tables.matches import ActionCall, Group, Match, Member, Target
from soft_switch.tables.table import Table

Key: TypeAlias = Mapping[str, MatchLike] | Sequence[MatchLike]
"""The key of an entry: matches by field name, or one for each field in order."""
Arguments: TypeAlias = Mapping[str, Any] | Sequence[int | str]
"""The arguments of an action: by parameter name, or in order."""
ActionLike: TypeAlias = str | Target
Parameters: TypeAlias = Sequence[tuple[str, int]]
"""Name and width in bits of each parameter of an action."""


class NamedTable:
    """A match-action table whose entries are written by name.

    A name may be shortened to its last parts, as in ``route`` for ``RouterIngress.route``, where only one fits.

    Attributes:
        table: the table itself, for matches and actions as plain numbers.
    """

    def __init__(self, table: Table, parameters: Mapping[str, Parameters]) -> None:
        """Wrap ``table``; ``parameters`` are those of every action, by its full name."""
        self.table = table
        self._parameters = parameters

    @property
    def name(self) -> str:
        """The full name of the table."""
        return self.table.name

    def insert(self, key: Key, action: ActionLike, arguments: Arguments = (), *, priority: int = 0) -> Entry:
        """Add an entry.

        Args:
            key: matches by field name, or in order. A field left out of a mapping matches everything, which an exact
                field cannot. See :func:`~soft_switch.tables.match_text.read_match` for text.
            action: the name of an action, or an :class:`ActionCall`, :class:`Member` or :class:`Group`.
            arguments: of the action named; numbers or text, by parameter name or in order.
            priority: the entry with the highest priority wins; for tables with a ternary or range field.

        Raises:
            InvalidEntryError: the key or the action does not fit; the message names table and field or parameter.
            EntryExistsError: the table has an entry with this key and priority.
            TableFullError: the table is full.
            ConstTableError: the program fixes the entries.
        """
        return self.table.insert(self.key(key), priority, self.action(action, arguments))

    def modify(self, key: Key, action: ActionLike, arguments: Arguments = (), *, priority: int = 0) -> Entry:
        """Give an entry another action; its counter and meter stay.

        Raises:
            EntryNotFoundError: there is no such entry.
            InvalidEntryError: see :meth:`insert`.
        """
        return self.table.modify(self.key(key), priority, self.action(action, arguments))

    def delete(self, key: Key, *, priority: int = 0) -> None:
        """Remove an entry.

        Raises:
            EntryNotFoundError: there is no such entry.
        """
        self.table.delete(self.key(key), priority)

    def get(self, key: Key, *, priority: int = 0) -> Entry | None:
        """Return the entry with this key and priority."""
        return self.table.get(self.key(key), priority)

    def entries(self) -> Iterator[Entry]:
        """Return all entries, in the order in which they were added."""
        return self.table.entries()

    def set_default(self, action: ActionLike | None, arguments: Arguments = ()) -> None:
        """Set the action of packets that match no entry; None restores the program's own.

        Raises:
            ConstTableError: the program fixes the default action.
            InvalidEntryError: the action does not fit.
        """
        if action is None:
            self.table.set_default(None)
            return
        call = self.action(action, arguments)
        if not isinstance(call, ActionCall):
            raise InvalidEntryError(f"table {self.name}: the default is an action, not {call}")
        self.table.set_default(call)

    def key(self, given: Key) -> tuple[Match, ...]:
        """Return the matches of a key, one for each field.

        Raises:
            InvalidEntryError: an unknown field, or a match that does not fit its field.
        """
        table = self.table
        fields = list(zip(table.key_names, table.match_kinds, table.key_widths, strict=True))
        if isinstance(given, str):
            raise InvalidEntryError(
                f"table {self.name}: the key {given!r} is text; write a mapping such as {{{table.key_names[0]!r}: ...}}"
                if fields
                else f"table {self.name} has no key: set its default action instead"
            )
        if not isinstance(given, Mapping):
            matches = tuple(given)
            if len(matches) != len(fields):
                known = ", ".join(table.key_names) or "none"
                raise InvalidEntryError(
                    f"table {self.name} has {len(fields)} key fields ({known}), not {len(matches)}; give each a match, "
                    "or name fields in a mapping"
                )
            return tuple(
                read_match(match, kind, width, self._field(name))
                for match, (name, kind, width) in zip(matches, fields, strict=True)
            )
        by_name = {
            resolve(name, table.key_names, f"table {self.name}", "key field"): match for name, match in given.items()
        }
        return tuple(
            read_match(by_name[name], kind, width, self._field(name))
            if name in by_name
            else anything(kind, width, self._field(name))
            for name, kind, width in fields
        )

    def action(self, given: ActionLike, arguments: Arguments = ()) -> Target:
        """Return the action with its arguments as numbers.

        Raises:
            InvalidEntryError: an action that the table does not have, or arguments that are missing, unknown or too
                large.
        """
        if isinstance(given, ActionCall | Member | Group):
            if arguments:
                raise InvalidEntryError(
                    f"table {self.name}: {given} already has its arguments; name the action instead"
                )
            return given
        name = resolve(given, self.table.actions, f"table {self.name}", "action")
        where = f"table {self.name}, action {name}"
        parameters = self._parameters.get(name, ())
        names = [parameter for parameter, _ in parameters]
        if isinstance(arguments, Mapping):
            values = {resolve(key, names, where, "parameter"): value for key, value in arguments.items()}
            missing = [parameter for parameter in names if parameter not in values]
            if missing:
                raise InvalidEntryError(f"{where}: give a value for {', '.join(missing)}")
            ordered: Sequence[int | str] = [values[parameter] for parameter in names]
        else:
            ordered = arguments
            if isinstance(ordered, str) or len(ordered) != len(names):
                known = ", ".join(names) or "none"
                raise InvalidEntryError(f"{where} takes {len(names)} arguments ({known}), not {arguments!r}")
        numbers = (
            read_value(value, width, f"{where}, parameter {parameter}")
            for value, (parameter, width) in zip(ordered, parameters, strict=True)
        )
        return ActionCall(name, tuple(numbers))

    def _field(self, name: str) -> str:
        return f"table {self.name}, key field {name}"


class NamedTables(Mapping[str, NamedTable]):
    """The tables of a program by name, full or shortened."""

    def __init__(self, tables: Mapping[str, Table], parameters: Mapping[str, Parameters]) -> None:
        self._tables = tables
        self._parameters = parameters

    def __getitem__(self, name: str) -> NamedTable:
        """Return the table.

        Raises:
            InvalidEntryError: no table, or more than one, has this name.
        """
        return NamedTable(self._tables[resolve(name, self._tables, "the program", "table")], self._parameters)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tables)

    def __len__(self) -> int:
        return len(self._tables)

    def __contains__(self, name: object) -> bool:
        return name in self._tables


def resolve(name: str, known: Iterable[str], owner: str, kind: str) -> str:
    """Return the one of ``known`` that is ``name``, or that ends with it after a dot.

    Raises:
        InvalidEntryError: there is none, or more than one; the message lists what ``owner`` has.
    """
    names = list(known)
    if name in names:
        return name
    found = [candidate for candidate in names if candidate.endswith(f".{name}")]
    if len(found) == 1:
        return found[0]
    if found:
        raise InvalidEntryError(f"{owner}: {kind} {name!r} may be {' or '.join(found)}; write more of the name")
    raise InvalidEntryError(f"{owner} has no {kind} {name!r}; it has: {', '.join(names) or 'none'}")
