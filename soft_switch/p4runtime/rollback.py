"""Saves what a batch can change, to restore it, for batches that are carried out completely or not at all."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from functools import partial
from typing import Any, TypeAlias

from p4.v1 import p4runtime_pb2

from soft_switch.p4runtime import matches
from soft_switch.p4runtime.loaded_program import LoadedProgram
from soft_switch.p4runtime.p4info import ProfileInfo, TableInfo
from soft_switch.p4runtime.status import RequestError
from soft_switch.tables.entry import Entry
from soft_switch.tables.table import Table

Restore: TypeAlias = Callable[[], None]
# A part of the state: a unique name, and the function that saves it.
Part: TypeAlias = tuple[Hashable, Callable[[], Restore]]


def save(program: LoadedProgram, updates: Iterable[p4runtime_pb2.Update]) -> Restore:
    """Save everything that ``updates`` can change; the function returned restores it.

    Until then no packet may be processed and no other update carried out.
    """
    saved: dict[Hashable, Restore] = {}
    for update in updates:
        for name, keep in _parts(program, update.entity):
            if name not in saved:
                saved[name] = keep()

    def restore() -> None:
        for put_back in saved.values():
            put_back()
        program.idle.rebuild()

    return restore


def _parts(program: LoadedProgram, entity: p4runtime_pb2.Entity) -> Iterator[Part]:
    """Yield the parts that a write of ``entity`` can change; none if it names an object that does not exist."""
    kind = entity.WhichOneof("entity")
    info, pipeline = program.info, program.pipeline
    if kind == "table_entry":
        yield from _table_parts(program, entity.table_entry)
    elif kind in ("direct_counter_entry", "direct_meter_entry"):
        yield from _table_parts(program, getattr(entity, kind).table_entry)
    elif kind in ("action_profile_member", "action_profile_group"):
        yield from _profile_parts(program, info.profiles.by_id.get(getattr(entity, kind).action_profile_id))
    elif kind == "counter_entry":
        message = entity.counter_entry
        if message.counter_id in info.counters.by_id:
            counter = pipeline.counters[info.counters.get(message.counter_id).name]
            yield from _cells(counter.packets, message)
            yield from _cells(counter.bytes, message)
    elif kind == "meter_entry":
        if entity.meter_entry.meter_id in info.meters.by_id:
            meter = pipeline.meters[info.meters.get(entity.meter_entry.meter_id).name]
            yield from _cells(meter.configs, entity.meter_entry)
    elif kind == "packet_replication_engine_entry":
        engine = pipeline.replication
        for part in (engine.groups, engine.sessions, program.multicast_groups, program.clone_sessions):
            yield _dict(part)
    elif kind == "value_set_entry":
        if entity.value_set_entry.value_set_id in info.value_sets.by_id:
            value_set = pipeline.value_sets[info.value_sets.get(entity.value_set_entry.value_set_id).name]
            yield value_set.name, lambda: partial(value_set.set, value_set.members)
    elif kind == "digest_entry":
        yield "digests", program.digests.save


def _table_parts(program: LoadedProgram, message: p4runtime_pb2.TableEntry) -> Iterator[Part]:
    table = program.info.tables.by_id.get(message.table_id)
    if table is not None:
        compiled = program.pipeline.tables[table.name]
        entry = _named_entry(table, compiled, message)
        if entry is not None:
            yield id(entry), entry.save
        yield ("table", table.id), compiled.save
        yield _dict(program.notes)
        yield from _profile_parts(program, table.profile)


def _named_entry(table: TableInfo, compiled: Table, message: p4runtime_pb2.TableEntry) -> Entry | None:
    """Return the entry that a write changes; None if there is none, or if the write will fail."""
    if message.is_default_action or not table.fields:
        return None
    try:
        key = matches.decode_match(table, message.match)
        return compiled.get(key, matches.decode_priority(table, message.priority))
    except RequestError:
        return None


def _profile_parts(program: LoadedProgram, profile: ProfileInfo | None) -> Iterator[Part]:
    if profile is not None:
        yield ("profile", profile.id), program.pipeline.action_profiles[profile.name].save
        yield _dict(program.one_shots)
        yield _dict(program.group_max_sizes)


def _dict(values: dict[Any, Any]) -> Part:
    def keep() -> Restore:
        kept = dict(values)

        def put_back() -> None:
            values.clear()
            values.update(kept)

        return put_back

    return id(values), keep


def _cells(values: Any, message: p4runtime_pb2.CounterEntry | p4runtime_pb2.MeterEntry) -> Iterator[Part]:
    """Yield one cell or, without an index, all cells; nothing if the index is out of range."""
    index = message.index.index
    if message.HasField("index") and not 0 <= index < len(values):
        return
    where = slice(index, index + 1) if message.HasField("index") else slice(None)
    yield (id(values), where.start), lambda: partial(values.__setitem__, where, values[where])
