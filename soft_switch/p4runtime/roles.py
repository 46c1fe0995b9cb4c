"""Permissions of roles: objects of the P4Info with the annotation ``@p4runtime_role("name")`` belong to that role.

In a program without such annotations every role has the whole pipeline, as the specification demands for a role without
config. In a program with annotations a named role has only the objects with its name; the default role ("") is never
restricted. Action profiles, direct counters and direct meters also belong to the roles of their tables. Packet I/O is
open to all roles unless the controller header is annotated. The ``role.config`` of clients has no effect.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from p4.config.v1 import p4info_pb2
from p4.v1 import p4runtime_pb2

from soft_switch.p4runtime.status import RequestError, denied

ANNOTATION = "p4runtime_role"
_PATTERN = re.compile(r"^@" + ANNOTATION + r'\(\s*"([^"]+)"\s*\)$')

# The field with the object's id, for each kind of entity.
_ID_FIELDS = {
    "action_profile_member": "action_profile_id",
    "action_profile_group": "action_profile_id",
    "counter_entry": "counter_id",
    "meter_entry": "meter_id",
    "digest_entry": "digest_id",
    "value_set_entry": "value_set_id",
    "register_entry": "register_id",
    "table_entry": "table_id",
}


class Roles:
    """The roles that a P4Info names."""

    def __init__(self, p4info: p4info_pb2.P4Info) -> None:
        self._owners: dict[int, frozenset[str]] = {}
        for kind in (
            p4info.tables,
            p4info.action_profiles,
            p4info.counters,
            p4info.meters,
            p4info.registers,
            p4info.digests,
            p4info.value_sets,
        ):
            for item in kind:
                self._owners[item.preamble.id] = _named(item.preamble)
        for profile in p4info.action_profiles:
            tables = (self._owners.get(table_id, frozenset()) for table_id in profile.table_ids)
            self._owners[profile.preamble.id] = self._owners[profile.preamble.id].union(*tables)
        self._headers = {item.preamble.name: _named(item.preamble) for item in p4info.controller_packet_metadata}
        self.names = frozenset[str]().union(*self._owners.values(), *self._headers.values())

    def restricts(self, role: str) -> bool:
        """Return whether this role has less than the whole pipeline."""
        return bool(role and self.names)

    def owns(self, role: str, object_id: int) -> bool:
        """Return whether the object is in the scope of the role; objects that do not exist are."""
        return not self.restricts(role) or role in self._owners.get(object_id, (role,))

    def has_packet_io(self, role: str, header: str) -> bool:
        """Return whether the role takes part in packet I/O; ``header`` is packet_in or packet_out."""
        named = self._headers.get(header)
        return not named or not self.restricts(role) or role in named

    def covers(self, role: str, entity: p4runtime_pb2.Entity) -> bool:
        """Return whether the entity is in the scope of the role. The replication engine belongs to the default role."""
        if not self.restricts(role):
            return True
        kind = entity.WhichOneof("entity")
        if kind is None:
            return True
        if kind in ("direct_counter_entry", "direct_meter_entry"):
            return self.owns(role, getattr(entity, kind).table_entry.table_id)
        if kind in _ID_FIELDS:
            return self.owns(role, getattr(getattr(entity, kind), _ID_FIELDS[kind]))
        return False

    def check(self, role: str, entity: p4runtime_pb2.Entity) -> None:
        """Check that the role may write the entity.

        Raises:
            RequestError: PERMISSION_DENIED otherwise.
        """
        if not self.covers(role, entity):
            raise self.refusal(role, f"this {entity.WhichOneof('entity')}")

    def refusal(self, role: str, what: str) -> RequestError:
        """Return the refusal for ``what`` out of the scope of the role."""
        return denied(
            f"{what} is not in the scope of role {role!r}; the P4Info gives it what is annotated "
            f'@{ANNOTATION}("{role}"), and names the roles: {", ".join(sorted(self.names))}'
        )


def _named(preamble: p4info_pb2.Preamble) -> frozenset[str]:
    matches = (_PATTERN.match(text.strip()) for text in preamble.annotations)
    return frozenset(match.group(1) for match in matches if match) | frozenset(_structured(preamble))


def _structured(preamble: p4info_pb2.Preamble) -> Iterable[str]:
    for annotation in preamble.structured_annotations:
        if annotation.name == ANNOTATION:
            yield from (item.string_value for item in annotation.expression_list.expressions if item.string_value)
