"""Action profiles and selectors: actions that table entries share, as members or as groups of members."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from soft_switch.errors import (
    GroupExistsError,
    GroupNotFoundError,
    GroupTooLargeError,
    InvalidEntryError,
    MemberExistsError,
    MemberNotFoundError,
    ProfileFullError,
    ProfileInUseError,
)
from soft_switch.tables.matches import ActionCall, Group, Member


@dataclass(slots=True)
class GroupState:
    """Members of a group with their weights. ``max_size`` bounds the sum of weights; 0 means the selector's bound."""

    members: dict[int, int] = field(default_factory=dict)
    max_size: int = 0


class ActionProfile:
    """An action profile; with a selector it has groups.

    Attributes:
        size: bounds the number of members; 0 for no bound.
        max_group_size: bounds the sum of the weights of a group; 0 for no bound. Not part of the bmv2 JSON: the
            P4Runtime server sets it from the P4Info.
        check_action: checks and normalises a call; set by the tables that use the profile.
    """

    def __init__(self, name: str, size: int, with_selector: bool) -> None:
        self.name = name
        self.size = size
        self.max_group_size = 0
        self.with_selector = with_selector
        self.members: dict[int, ActionCall] = {}
        self.groups: dict[int, GroupState] = {}
        self.check_action: Callable[[ActionCall], ActionCall] = lambda call: call
        self._uses: Counter[Member | Group] = Counter()
        self._listeners: list[Callable[[], None]] = []

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` after every change of a member or group."""
        self._listeners.append(listener)

    def save(self) -> Callable[[], None]:
        """Save members, groups and the references to them; the function returned restores all."""
        members, groups, uses = dict(self.members), dict(self.groups), Counter(self._uses)

        def restore() -> None:
            self.members, self.groups, self._uses = members, groups, uses
            self._changed()

        return restore

    def acquire(self, target: Member | Group) -> None:
        """Note that a table entry refers to ``target``.

        Raises:
            MemberNotFoundError: there is no such member.
            GroupNotFoundError: there is no such group.
        """
        if isinstance(target, Member):
            self._member(target.member_id)
        else:
            self._group(target.group_id)
        self._uses[target] += 1

    def release(self, target: Member | Group) -> None:
        """Note that a table entry no longer refers to ``target``."""
        self._uses[target] -= 1

    def add_member(self, member_id: int, call: ActionCall) -> None:
        """Add a member.

        Raises:
            MemberExistsError: the identifier is in use.
            ProfileFullError: the profile is full.
            InvalidEntryError: the action does not fit the tables.
        """
        if member_id in self.members:
            raise MemberExistsError(f"action profile {self.name} already has member {member_id}")
        if self.size and len(self.members) >= self.size:
            raise ProfileFullError(f"action profile {self.name} is full with {self.size} members")
        self.members[member_id] = self.check_action(call)
        self._changed()

    def modify_member(self, member_id: int, call: ActionCall) -> None:
        """Give a member another action, for every entry and group that refers to it.

        Raises:
            MemberNotFoundError: there is no such member.
            InvalidEntryError: the action does not fit the tables.
        """
        self._member(member_id)
        self.members[member_id] = self.check_action(call)
        self._changed()

    def delete_member(self, member_id: int) -> None:
        """Remove a member.

        Raises:
            MemberNotFoundError: there is no such member.
            ProfileInUseError: an entry or a group refers to it.
        """
        self._member(member_id)
        if self._uses[Member(member_id)] > 0:
            raise ProfileInUseError(f"member {member_id} of {self.name} is used by a table entry")
        for group_id, group in self.groups.items():
            if member_id in group.members:
                raise ProfileInUseError(f"member {member_id} of {self.name} is in group {group_id}")
        del self.members[member_id]
        self._changed()

    def add_group(self, group_id: int, members: Mapping[int, int], max_size: int = 0) -> None:
        """Add a group; ``members`` gives the weight of each member.

        Raises:
            InvalidEntryError: the profile has no selector, or a weight is below 1.
            GroupExistsError: the identifier is in use.
            GroupTooLargeError: the weights add up to too much.
            MemberNotFoundError: there is no such member.
        """
        if not self.with_selector:
            raise InvalidEntryError(f"action profile {self.name} has no selector, so no groups")
        if group_id in self.groups:
            raise GroupExistsError(f"selector {self.name} already has group {group_id}")
        if max_size < 0 or (self.max_group_size and max_size > self.max_group_size):
            raise GroupTooLargeError(f"group {group_id} of {self.name}: maximum size {max_size} exceeds the selector's")
        self.groups[group_id] = self._checked_group(group_id, members, max_size)
        self._changed()

    def modify_group(self, group_id: int, members: Mapping[int, int]) -> None:
        """Replace the members of a group; its maximum size stays.

        Raises:
            GroupNotFoundError: there is no such group; otherwise see :meth:`add_group`.
        """
        old = self._group(group_id)
        self.groups[group_id] = self._checked_group(group_id, members, old.max_size)
        self._changed()

    def delete_group(self, group_id: int) -> None:
        """Remove a group.

        Raises:
            GroupNotFoundError: there is no such group.
            ProfileInUseError: a table entry refers to it.
        """
        self._group(group_id)
        if self._uses[Group(group_id)] > 0:
            raise ProfileInUseError(f"group {group_id} of {self.name} is used by a table entry")
        del self.groups[group_id]
        self._changed()

    def choices(self, target: Member | Group) -> Iterator[ActionCall]:
        """Yield the actions that ``target`` chooses from, in the order of member ids, each as often as its weight."""
        if isinstance(target, Member):
            yield self._member(target.member_id)
            return
        for member_id, weight in sorted(self._group(target.group_id).members.items()):
            for _ in range(weight):
                yield self.members[member_id]

    def _checked_group(self, group_id: int, members: Mapping[int, int], max_size: int) -> GroupState:
        for member_id, weight in members.items():
            self._member(member_id)
            if weight < 1:
                raise InvalidEntryError(f"group {group_id} of {self.name}: member {member_id} has weight {weight}")
        limit = max_size or self.max_group_size
        total = sum(members.values())
        if limit and total > limit:
            raise GroupTooLargeError(f"group {group_id} of {self.name}: weights add up to {total}, at most {limit}")
        return GroupState(dict(members), max_size)

    def _member(self, member_id: int) -> ActionCall:
        try:
            return self.members[member_id]
        except KeyError:
            raise MemberNotFoundError(f"action profile {self.name} has no member {member_id}") from None

    def _group(self, group_id: int) -> GroupState:
        try:
            return self.groups[group_id]
        except KeyError:
            raise GroupNotFoundError(f"selector {self.name} has no group {group_id}") from None

    def _changed(self) -> None:
        for listener in self._listeners:
            listener()
