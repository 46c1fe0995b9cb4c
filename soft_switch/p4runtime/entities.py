"""Dispatch of reads and writes by kind of entity; kinds that are not served, with the reason."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

from p4.v1 import p4runtime_pb2

from soft_switch.p4runtime import (
    action_profiles,
    counters,
    direct_resources,
    meters,
    replication_engine,
    table_entries,
    table_reads,
    value_sets,
)
from soft_switch.p4runtime.loaded_program import LoadedProgram
from soft_switch.p4runtime.read_responses import ReadResponses
from soft_switch.p4runtime.roles import Roles
from soft_switch.p4runtime.rollback import save
from soft_switch.p4runtime.status import ABORTED, RequestError, as_request_error, invalid, unimplemented

# Each function takes a message of its own entity type.
Write: TypeAlias = Callable[[LoadedProgram, int, Any], None]
Read: TypeAlias = Callable[[LoadedProgram, Any, ReadResponses], None]

UPDATE_TYPES = (p4runtime_pb2.Update.INSERT, p4runtime_pb2.Update.MODIFY, p4runtime_pb2.Update.DELETE)

WRITES: dict[str, Write] = {
    "table_entry": table_entries.write_table_entry,
    "action_profile_member": action_profiles.write_member,
    "action_profile_group": action_profiles.write_group,
    "counter_entry": counters.write_counter,
    "direct_counter_entry": direct_resources.write_direct_counter,
    "meter_entry": meters.write_meter,
    "direct_meter_entry": direct_resources.write_direct_meter,
    "packet_replication_engine_entry": replication_engine.write_entry,
    "value_set_entry": value_sets.write_value_set,
    "digest_entry": lambda program, update_type, entry: program.digests.write(update_type, entry),
}
READS: dict[str, Read] = {
    "table_entry": table_reads.read_table_entries,
    "action_profile_member": action_profiles.read_members,
    "action_profile_group": action_profiles.read_groups,
    "counter_entry": counters.read_counters,
    "direct_counter_entry": direct_resources.read_direct_counters,
    "meter_entry": meters.read_meters,
    "direct_meter_entry": direct_resources.read_direct_meters,
    "packet_replication_engine_entry": replication_engine.read_entries,
    "value_set_entry": value_sets.read_value_sets,
    "digest_entry": lambda program, entry, found: program.digests.read(entry, found),
    "extern_entry": lambda _program, entry, _found: _check_no_extern(entry),
}
NOT_SERVED = {
    "register_entry": (
        "registers cannot be read or written over P4Runtime on this switch, as on bmv2; "
        "use a counter, a table entry, a digest or a packet-in"
    ),
    "extern_entry": "this switch has no externs beyond those of v1model",
}


def _kind(entity: p4runtime_pb2.Entity, served: Container[str]) -> str:
    kind = entity.WhichOneof("entity")
    if kind is None:
        raise invalid("the entity is empty: one of its fields must be set")
    if kind not in served:
        raise unimplemented(NOT_SERVED[kind])
    return str(kind)


def _check_no_extern(request: p4runtime_pb2.ExternEntry) -> None:
    """Accept a read of all externs of all types, which finds none; refuse any other."""
    if request.extern_type_id or request.extern_id:
        raise unimplemented(NOT_SERVED["extern_entry"])


def write_batch(
    program: LoadedProgram, updates: Sequence[p4runtime_pb2.Update], lock: AbstractContextManager[object], role: str
) -> list[RequestError | None]:
    """Carry out every update, in order, even if others fail; return a result for each, None where it succeeded.

    ``lock`` is held for each update and released in between. ``role`` is that of the client.
    """
    results = []
    for update in updates:
        with lock:
            results.append(_write_one(program, update, role))
    return results


def write_all_or_none(
    program: LoadedProgram, updates: Sequence[p4runtime_pb2.Update], lock: AbstractContextManager[object], role: str
) -> list[RequestError | None]:
    """Carry out all updates, in order, or none: the first failure ends the batch and undoes the others.

    ``lock`` is held throughout, so every packet is processed either before or after the batch. The results are those of
    :func:`write_batch`; if an update failed, the others have ABORTED.
    """
    with lock:
        restore = save(program, updates)
        for number, update in enumerate(updates):
            error = _write_one(program, update, role)
            if error is not None:
                restore()
                undone = RequestError(ABORTED, f"undone, because update {number} of the batch failed")
                untried = RequestError(ABORTED, f"not carried out, because update {number} of the batch failed")
                return [*[undone] * number, error, *[untried] * (len(updates) - number - 1)]
    return [None] * len(updates)


def _write_one(program: LoadedProgram, update: p4runtime_pb2.Update, role: str) -> RequestError | None:
    try:
        program.roles.check(role, update.entity)
        if update.type not in UPDATE_TYPES:
            raise invalid("the type of the update is not set; it is INSERT, MODIFY or DELETE")
        kind = _kind(update.entity, WRITES)
        WRITES[kind](program, update.type, getattr(update.entity, kind))
    except Exception as error:
        return as_request_error(error)
    return None


def read_batch(
    program: LoadedProgram, requests: Sequence[p4runtime_pb2.Entity], role: str
) -> tuple[list[p4runtime_pb2.ReadResponse], list[RequestError | None]]:
    """Return responses with what the valid requests select, and a result for each request, None where it is valid.

    Entities out of the scope of ``role`` are left out.
    """
    found = ReadResponses()
    results: list[RequestError | None] = []
    for request in requests:
        mark = found.mark()
        try:
            kind = _kind(request, READS)
            READS[kind](program, getattr(request, kind), found)
        except Exception as error:
            # A request that fails half-way returns nothing.
            found.back_to(mark)
            results.append(as_request_error(error))
        else:
            results.append(None)
    if program.roles.restricts(role):
        return _in_scope(program.roles, role, found.messages), results
    return found.messages, results


def _in_scope(
    roles: Roles, role: str, responses: Sequence[p4runtime_pb2.ReadResponse]
) -> list[p4runtime_pb2.ReadResponse]:
    kept = ([entity for entity in response.entities if roles.covers(role, entity)] for response in responses)
    return [p4runtime_pb2.ReadResponse(entities=entities) for entities in kept if entities]
