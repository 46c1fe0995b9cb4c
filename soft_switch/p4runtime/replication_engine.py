"""Multicast groups and clone sessions (specification, "PacketReplicationEngineEntry")."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from p4.v1 import p4runtime_pb2

from soft_switch.model.replication import CloneSession, Replica
from soft_switch.p4runtime import bytestrings
from soft_switch.p4runtime.loaded_program import LoadedProgram
from soft_switch.p4runtime.protobuf_versions import unknown_field_numbers
from soft_switch.p4runtime.read_responses import ReadResponses
from soft_switch.p4runtime.status import (
    ALREADY_EXISTS,
    OUT_OF_RANGE,
    RESOURCE_EXHAUSTED,
    RequestError,
    invalid,
    not_found,
    unimplemented,
)
from soft_switch.ports import HIGHEST_PORT, PORT_BITS
from soft_switch.queues.traffic_manager import QUEUES

INSERT = p4runtime_pb2.Update.INSERT
DELETE = p4runtime_pb2.Update.DELETE

HIGHEST_GROUP = (1 << 16) - 1
HIGHEST_INSTANCE = (1 << 16) - 1
HIGHEST_SESSION = (1 << 15) - 1
"""bmv2 has 15 bits for the session of a clone."""
MOST_REPLICAS = 4096
BACKUP_REPLICAS_FIELD = 4

Entry = TypeVar("Entry", p4runtime_pb2.MulticastGroupEntry, p4runtime_pb2.CloneSessionEntry)


def write_entry(program: LoadedProgram, update_type: int, message: p4runtime_pb2.PacketReplicationEngineEntry) -> None:
    """Carry out an update.

    Raises:
        RequestError: nothing has changed.
    """
    kind = message.WhichOneof("type")
    if kind == "multicast_group_entry":
        _write_group(program, update_type, message.multicast_group_entry)
    elif kind == "clone_session_entry":
        _write_session(program, update_type, message.clone_session_entry)
    else:
        raise invalid("the packet_replication_engine_entry is empty: set multicast_group_entry or clone_session_entry")


def _write_group(program: LoadedProgram, update_type: int, message: p4runtime_pb2.MulticastGroupEntry) -> None:
    group = int(message.multicast_group_id)
    what = f"multicast group {group}"
    _check_id(group, HIGHEST_GROUP, "multicast_group_id")
    _check_existence(update_type, group in program.multicast_groups, what)
    groups = program.pipeline.replication.groups
    if update_type == DELETE:
        del groups[group], program.multicast_groups[group]
        return
    replicas = _decode_replicas(message.replicas, what)
    groups[group] = replicas
    program.multicast_groups[group] = _canonical(message, replicas)


def _write_session(program: LoadedProgram, update_type: int, message: p4runtime_pb2.CloneSessionEntry) -> None:
    session = int(message.session_id)
    what = f"clone session {session}"
    _check_id(session, HIGHEST_SESSION, "session_id")
    _check_existence(update_type, session in program.clone_sessions, what)
    sessions = program.pipeline.replication.sessions
    if update_type == DELETE:
        del sessions[session], program.clone_sessions[session]
        return
    if message.class_of_service >= QUEUES:
        raise invalid(f"{what}: class_of_service {message.class_of_service} is not in 0..{QUEUES - 1}")
    if message.packet_length_bytes < 0:
        raise invalid(
            f"{what}: packet_length_bytes must be 0 (whole packets) or more, not {message.packet_length_bytes}"
        )
    replicas = _decode_replicas(message.replicas, what)
    sessions[session] = CloneSession(
        replicas, class_of_service=int(message.class_of_service), most_bytes=int(message.packet_length_bytes)
    )
    program.clone_sessions[session] = _canonical(message, replicas)


def _check_id(number: int, highest: int, field: str) -> None:
    if not 0 < number <= highest:
        raise invalid(f"{field} {number} is not in 1..{highest}")


def _check_existence(update_type: int, exists: bool, what: str) -> None:
    if update_type == INSERT and exists:
        raise RequestError(ALREADY_EXISTS, f"{what} already exists")
    if update_type != INSERT and not exists:
        raise not_found(f"{what} does not exist")


def _decode_replicas(messages: Iterable[p4runtime_pb2.Replica], what: str) -> tuple[Replica, ...]:
    replicas: dict[Replica, None] = {}
    for message in messages:
        if _has_backups(message):
            raise unimplemented(f"{what}: backup replicas are not supported; the ports of this switch are always up")
        replica = Replica(_decode_port(message, what), int(message.instance))
        if replica.rid > HIGHEST_INSTANCE:
            raise invalid(f"{what}: instance {replica.rid} is not in 0..{HIGHEST_INSTANCE}")
        if replica in replicas:
            raise invalid(f"{what}: port {replica.port} with instance {replica.rid} is given twice")
        replicas[replica] = None
    if len(replicas) > MOST_REPLICAS:
        raise RequestError(RESOURCE_EXHAUSTED, f"{what}: {len(replicas)} replicas; at most {MOST_REPLICAS} are allowed")
    return tuple(replicas)


def _has_backups(message: p4runtime_pb2.Replica) -> bool:
    # The field came with P4Runtime 1.5; the generated code of 1.4 has no name for it.
    return bool(getattr(message, "backup_replicas", ())) or BACKUP_REPLICAS_FIELD in unknown_field_numbers(message)


def _decode_port(message: p4runtime_pb2.Replica, what: str) -> int:
    kind = message.WhichOneof("port_kind")
    if kind is None:
        raise invalid(f"{what}: a replica has no port")
    if kind == "port":
        port = bytestrings.decode(message.port, PORT_BITS, f"{what}, port of a replica")
    else:
        port = int(message.egress_port)
        if port >> PORT_BITS:
            raise RequestError(OUT_OF_RANGE, f"{what}: port {port} of a replica does not fit in {PORT_BITS} bits")
    if port > HIGHEST_PORT:
        raise invalid(f"{what}: port {port} is where v1model drops packets; ports are 0..{HIGHEST_PORT}")
    return port


def _canonical(message: Entry, replicas: tuple[Replica, ...]) -> Entry:
    """Return the message as a read returns it: ports in their shortest form, in the field that the client used."""
    kept = type(message)()
    kept.CopyFrom(message)
    for target, replica in zip(kept.replicas, replicas, strict=True):
        if target.WhichOneof("port_kind") == "port":
            target.port = bytestrings.encode(replica.port)
    return kept


def read_entries(
    program: LoadedProgram, request: p4runtime_pb2.PacketReplicationEngineEntry, found: ReadResponses
) -> None:
    """Read one group or session (NOT_FOUND if it does not exist), or all with number 0; other fields do not matter."""
    kind = request.WhichOneof("type")
    if kind == "multicast_group_entry":
        group = request.multicast_group_entry.multicast_group_id
        for entry in _selected(program.multicast_groups, group, "multicast group"):
            found.add().packet_replication_engine_entry.multicast_group_entry.CopyFrom(entry)
    elif kind == "clone_session_entry":
        session = request.clone_session_entry.session_id
        for clone in _selected(program.clone_sessions, session, "clone session"):
            found.add().packet_replication_engine_entry.clone_session_entry.CopyFrom(clone)
    else:
        raise invalid("the packet_replication_engine_entry is empty: set multicast_group_entry or clone_session_entry")


def _selected(entries: dict[int, Entry], number: int, what: str) -> list[Entry]:
    if not number:
        return list(entries.values())
    if number not in entries:
        raise not_found(f"{what} {number} does not exist")
    return [entries[number]]
