"""Errors of the embedded switch, each a subclass of :class:`SwitchError` with a message meant for users."""

from __future__ import annotations


class SwitchError(Exception):
    """Base of all errors that the embedded switch raises deliberately."""


class ArtifactError(SwitchError):
    """The compiled program is not valid JSON of p4c's bmv2 backend; the message says where and why."""


class UnsupportedConstructError(SwitchError):
    """The program uses a construct that this switch does not run. Raised while loading, never while forwarding."""

    def __init__(self, construct: str, place: str) -> None:
        super().__init__(f"{construct} is not supported by the embedded switch (at {place})")
        self.construct = construct
        self.place = place


class TableError(SwitchError):
    """Base of the errors of table and action profile writes."""


class InvalidEntryError(TableError):
    """A match, action, member or group does not fit its table or profile (kind, width, name, arity)."""


class ConstTableError(TableError):
    """The program fixes the entries or the default action of the table."""


class EntryExistsError(TableError):
    """The table already has an entry with this match and priority."""


class EntryNotFoundError(TableError):
    """The table has no entry with this match and priority."""


class TableFullError(TableError):
    """The table has as many entries as its size allows."""


class MemberExistsError(TableError):
    """The action profile already has a member with this identifier."""


class MemberNotFoundError(TableError):
    """The action profile has no member with this identifier."""


class GroupExistsError(TableError):
    """The action selector already has a group with this identifier."""


class GroupNotFoundError(TableError):
    """The action selector has no group with this identifier."""


class ProfileFullError(TableError):
    """The action profile has as many members as its size allows."""


class GroupTooLargeError(TableError):
    """The weights of a group add up to more than the group or the selector allows."""


class ProfileInUseError(TableError):
    """A member or group cannot be deleted while a table entry or a group refers to it."""


class ProgramAssertionError(SwitchError):
    """An ``assert`` or ``assume`` of the program did not hold for a packet."""
