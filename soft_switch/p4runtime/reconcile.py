"""State that a new program inherits from the old one (SetForwardingPipelineConfig, RECONCILE_AND_COMMIT).

Everything that clients wrote is read from the old program and written to the new one, including counts and
configurations. Registers of the same name and shape keep their values. Meters start with full buckets, idle times start
now, and waiting digest lists are dropped.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Any

from p4.v1 import p4runtime_pb2

from soft_switch.p4runtime import entities
from soft_switch.p4runtime.loaded_program import LoadedProgram
from soft_switch.p4runtime.p4info import Catalogue
from soft_switch.p4runtime.status import invalid

INSERT, MODIFY = p4runtime_pb2.Update.INSERT, p4runtime_pb2.Update.MODIFY
MAX_PROBLEMS_SHOWN = 4


def take_over(old: LoadedProgram, new: LoadedProgram) -> None:
    """Copy the state of ``old`` to ``new``, which is empty. No packet may be processed meanwhile.

    Raises:
        RequestError: INVALID_ARGUMENT naming what cannot be preserved.
    """
    updates = list(_updates(old))
    problems = list(dict.fromkeys(_different(old, new, (update.entity for update in updates))))
    if not problems:
        results = entities.write_batch(new, updates, threading.RLock(), "")
        problems = [error.message for error in results if error is not None]
    if problems:
        more = f"; and {len(problems) - MAX_PROBLEMS_SHOWN} more" if len(problems) > MAX_PROBLEMS_SHOWN else ""
        raise invalid(
            "the forwarding state cannot be preserved, so nothing has changed: "
            f"{'; '.join(problems[:MAX_PROBLEMS_SHOWN])}{more}"
        )
    for name, register in old.pipeline.registers.items():
        kept = new.pipeline.registers.get(name)
        if kept is not None and (kept.size, kept.width) == (register.size, register.width):
            kept.set_all(register.values)


def _updates(old: LoadedProgram) -> Iterator[p4runtime_pb2.Update]:
    """Yield the writes that give an empty program the state of ``old``, referenced objects first."""
    for entity in _read(old, "action_profile_member", "action_profile_group"):
        yield p4runtime_pb2.Update(type=INSERT, entity=entity)
    for entity in _read(old, "table_entry"):
        if entity.table_entry.is_const:
            yield from _resources_of_const_entry(entity)
        else:
            yield p4runtime_pb2.Update(type=INSERT, entity=entity)
    yield from _changed_defaults(old)
    for entity in _read(old, "counter_entry"):
        if entity.counter_entry.data.packet_count or entity.counter_entry.data.byte_count:
            yield p4runtime_pb2.Update(type=MODIFY, entity=entity)
    for entity in _read(old, "meter_entry"):
        if entity.meter_entry.HasField("config"):
            yield p4runtime_pb2.Update(type=MODIFY, entity=entity)
    for entity in _read(old, "value_set_entry"):
        if entity.value_set_entry.members:
            yield p4runtime_pb2.Update(type=MODIFY, entity=entity)
    for entity in _read(old, "digest_entry", "multicast_group_entry", "clone_session_entry"):
        yield p4runtime_pb2.Update(type=INSERT, entity=entity)


def _read(program: LoadedProgram, *kinds: str) -> Iterator[p4runtime_pb2.Entity]:
    requests = []
    for kind in kinds:
        request = p4runtime_pb2.Entity()
        if kind in ("multicast_group_entry", "clone_session_entry"):
            getattr(request.packet_replication_engine_entry, kind).SetInParent()
        else:
            getattr(request, kind).SetInParent()
        if kind == "table_entry":
            request.table_entry.counter_data.SetInParent()
            request.table_entry.meter_config.SetInParent()
        requests.append(request)
    responses, _ = entities.read_batch(program, requests, "")
    for response in responses:
        yield from response.entities


def _resources_of_const_entry(entity: p4runtime_pb2.Entity) -> Iterator[p4runtime_pb2.Update]:
    entry = entity.table_entry
    if entry.HasField("meter_config") or entry.counter_data.packet_count or entry.counter_data.byte_count:
        entry.is_const = False
        entry.ClearField("action")
        yield p4runtime_pb2.Update(type=MODIFY, entity=entity)


def _changed_defaults(old: LoadedProgram) -> Iterator[p4runtime_pb2.Update]:
    request = p4runtime_pb2.Entity()
    request.table_entry.is_default_action = True
    responses, _ = entities.read_batch(old, [request], "")
    for entity in (entity for response in responses for entity in response.entities):
        info, table = old.table(entity.table_entry.table_id)
        if table.default != table.initial_default or (info.name, None, 0) in old.notes:
            yield p4runtime_pb2.Update(type=MODIFY, entity=entity)


def _different(old: LoadedProgram, new: LoadedProgram, used: Iterable[p4runtime_pb2.Entity]) -> Iterator[str]:
    """Yield what has the same id in both programs but differs, so that entities would change their meaning."""
    for entity in used:
        for kind, object_id in _ids(entity):
            before, after = (_object(program, kind, object_id) for program in (old, new))
            if after is None:
                yield f"the new P4Info has no {kind.rstrip('s')} {before[0]} with id {object_id}"
            elif before != after:
                yield f"{kind.rstrip('s')} {before[0]} (id {object_id}) differs in the new P4Info"


def _object(program: LoadedProgram, kind: str, object_id: int) -> Any:
    """Return name and shape of an object."""
    catalogue: Catalogue[Any] = getattr(program.info, kind)
    item = catalogue.by_id.get(object_id)
    if item is None:
        return None
    return item.name, getattr(item, "fields", None), getattr(item, "params", None)


def _ids(entity: p4runtime_pb2.Entity) -> Iterator[tuple[str, int]]:
    """Yield kinds and ids of the objects that an entity names."""
    kind = entity.WhichOneof("entity")
    message = getattr(entity, kind)
    if kind == "table_entry":
        yield "tables", message.table_id
        if message.action.HasField("action"):
            yield "actions", message.action.action.action_id
        for item in message.action.action_profile_action_set.action_profile_actions:
            yield "actions", item.action.action_id
    elif kind == "action_profile_member":
        yield "profiles", message.action_profile_id
        yield "actions", message.action.action_id
    elif kind == "action_profile_group":
        yield "profiles", message.action_profile_id
    elif kind == "counter_entry":
        yield "counters", message.counter_id
    elif kind == "meter_entry":
        yield "meters", message.meter_id
    elif kind == "value_set_entry":
        yield "value_sets", message.value_set_id
