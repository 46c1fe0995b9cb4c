"""Errors of the embedded switch, each a subclass of :class:`SwitchError` with a message fit for a user."""

from __future__ import annotations


class SwitchError(Exception):
    """Base of every error that the embedded switch raises on purpose."""


class ArtifactError(SwitchError):
    """The compiled program is not readable as the JSON that p4c writes for bmv2: the message says where and why."""


class UnsupportedConstructError(SwitchError):
    """The program uses something that this switch does not run. Raised while loading, never while forwarding."""

    def __init__(self, construct: str, place: str) -> None:
        super().__init__(f"{construct} is not supported by the embedded switch (at {place})")
        self.construct = construct
        self.place = place


class TableError(SwitchError):
    """Base of the errors of table and action profile writes."""


class InvalidEntryError(TableError):
    """A match, action, member or group does not fit what it is written to (kind, width, name, arity)."""


class ConstTableError(TableError):
    """The entries or the default action of the table are fixed by the program."""


class EntryExistsError(TableError):
    """The table already has an entry with this match and priority."""


class EntryNotFoundError(TableError):
    """The table has no entry with this match and priority."""


class TableFullError(TableError):
    """The table holds as many entries as its size allows."""


class MemberExistsError(TableError):
    """The action profile already has a member with this identifier."""


class MemberNotFoundError(TableError):
    """The action profile has no member with this identifier."""


class GroupExistsError(TableError):
    """The action selector already has a group with this identifier."""


class GroupNotFoundError(TableError):
    """The action selector has no group with this identifier."""


class ProfileFullError(TableError):
    """The action profile holds as many members as its size allows."""


class GroupTooLargeError(TableError):
    """The sum of the weights of a group exceeds what the group or the selector allows."""


class ProfileInUseError(TableError):
    """A member or group that a table entry or a group still refers to cannot be deleted."""


class ProgramAssertionError(SwitchError):
    """An ``assert`` or ``assume`` of the program did not hold for a packet."""
