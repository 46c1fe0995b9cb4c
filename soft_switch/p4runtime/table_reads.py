"""Reads of table entries: each field set in the request narrows the result ("TableEntry", "Wildcard Reads")."""

from __future__ import annotations

from collections.abc import Iterator

from p4.v1 import p4runtime_pb2

from soft_switch.p4runtime import matches
from soft_switch.p4runtime.actions import encode_action
from soft_switch.p4runtime.direct_resources import encode_counter_data, refuse_color_counters
from soft_switch.p4runtime.loaded_program import EntryNotes, LoadedProgram
from soft_switch.p4runtime.meters import encode_meter_config
from soft_switch.p4runtime.p4info import TableInfo
from soft_switch.p4runtime.read_responses import ReadResponses
from soft_switch.p4runtime.status import invalid, unimplemented
from soft_switch.tables.entry import Entry
from soft_switch.tables.matches import ActionCall, Match, Member
from soft_switch.tables.table import Table

NO_NOTES = EntryNotes()


def read_table_entries(program: LoadedProgram, request: p4runtime_pb2.TableEntry, found: ReadResponses) -> None:
    """Read the entries (with is_default_action, the default entries) that ``request`` selects."""
    refuse_color_counters(request.HasField("meter_counter_data"), "table read")
    if request.table_id == 0:
        for field, is_set in (
            ("match", bool(request.match)),
            ("priority", request.priority != 0),
            ("action", request.HasField("action")),
            ("controller_metadata", request.controller_metadata != 0),
            ("metadata", bool(request.metadata)),
        ):
            if is_set:
                raise invalid(f"a read of all tables (table id 0) cannot filter by {field}; name a table")
        for table in program.info.tables:
            _read_table(program, table, program.pipeline.tables[table.name], request, found)
        return
    table, compiled = program.table(request.table_id)
    _check_request(table, request)
    _read_table(program, table, compiled, request, found)


def idle_entry(program: LoadedProgram, table: TableInfo, entry: Entry, message: p4runtime_pb2.TableEntry) -> None:
    """Fill in an entry of an idle timeout notification."""
    notes = program.notes.get((table.name, entry.match, entry.priority), NO_NOTES)
    _write_entry(program, table, entry, notes, p4runtime_pb2.TableEntry(), message)


def _check_request(table: TableInfo, request: p4runtime_pb2.TableEntry) -> None:
    if request.HasField("time_since_last_hit"):
        if not table.idle_timeout:
            raise invalid(f"table {table.name} has no idle timeout; leave time_since_last_hit unset")
        if request.is_default_action:
            raise invalid(
                f"table {table.name}: the default action has no idle timeout; leave time_since_last_hit unset"
            )
    if request.HasField("counter_data") and table.counter is None:
        raise invalid(f"table {table.name} has no direct counter; leave counter_data unset")
    if request.HasField("meter_config") and table.meter is None:
        raise invalid(f"table {table.name} has no direct meter; leave meter_config unset")
    if request.is_default_action:
        if request.match or request.priority:
            raise invalid(f"table {table.name}: the default action has no match and no priority; leave both unset")
        if request.HasField("counter_data") or request.HasField("meter_config"):
            raise unimplemented(f"table {table.name}: the default action has no direct resources on this switch")
    action_id = _wanted_action(request)
    if action_id is not None and action_id not in table.uses:
        raise invalid(f"table {table.name} has no action with id {action_id}")


def _wanted_action(request: p4runtime_pb2.TableEntry) -> int | None:
    """Return the action id to select by. By the specification, members, groups, sets and parameters do not select."""
    if request.HasField("action") and request.action.WhichOneof("type") == "action":
        return int(request.action.action.action_id)
    return None


def _read_table(
    program: LoadedProgram,
    table: TableInfo,
    compiled: Table,
    request: p4runtime_pb2.TableEntry,
    found: ReadResponses,
) -> None:
    if request.is_default_action:
        _read_default(program, table, compiled, request, found)
        return
    key = matches.decode_match(table, request.match) if request.match else None
    for entry in _candidates(table, compiled, key, request.priority):
        notes = program.notes.get((table.name, entry.match, entry.priority), NO_NOTES)
        if _wanted(program, entry, notes, key, request):
            _write_entry(program, table, entry, notes, request, found.add().table_entry)


def _candidates(table: TableInfo, compiled: Table, key: tuple[Match, ...] | None, priority: int) -> Iterator[Entry]:
    """Yield all entries, or only the one whose complete key the request gives."""
    if key is not None and (priority > 0 or not table.needs_priority):
        entry = compiled.get(key, priority)
        if entry is not None:
            yield entry
        return
    yield from compiled.entries()


def _wanted(
    program: LoadedProgram,
    entry: Entry,
    notes: EntryNotes,
    key: tuple[Match, ...] | None,
    request: p4runtime_pb2.TableEntry,
) -> bool:
    if key is not None and entry.match != key:
        return False
    if request.priority not in (0, entry.priority):
        return False
    if request.controller_metadata not in (0, notes.controller_metadata):
        return False
    if request.metadata not in (b"", entry.metadata):
        return False
    action_id = _wanted_action(request)
    if action_id is None:
        return True
    return isinstance(entry.target, ActionCall) and entry.target.action == program.info.actions.get(action_id).name


def _write_entry(
    program: LoadedProgram,
    table: TableInfo,
    entry: Entry,
    notes: EntryNotes,
    request: p4runtime_pb2.TableEntry,
    message: p4runtime_pb2.TableEntry,
) -> None:
    message.table_id = table.id
    matches.encode_match(table.fields, entry.match, message)
    message.priority = entry.priority
    message.metadata = entry.metadata
    message.controller_metadata = notes.controller_metadata
    message.is_const = entry.is_const
    message.idle_timeout_ns = entry.idle_timeout_ns
    if request.HasField("time_since_last_hit") and table.idle_timeout:
        message.time_since_last_hit.elapsed_ns = max(0, program.clock() - entry.last_hit_ns)
    if notes.one_shot is not None:
        message.action.action_profile_action_set.CopyFrom(notes.one_shot.message)
    elif isinstance(entry.target, ActionCall):
        encode_action(program.info, entry.target, message.action.action)
    elif isinstance(entry.target, Member):
        message.action.action_profile_member_id = entry.target.member_id
    else:
        message.action.action_profile_group_id = entry.target.group_id
    if request.HasField("counter_data") and table.counter is not None:
        encode_counter_data(entry.packets, entry.bytes, message.counter_data)
    if request.HasField("meter_config") and table.meter is not None and entry.meter is not None:
        message.meter_config.CopyFrom(encode_meter_config(entry.meter))


def _read_default(
    program: LoadedProgram,
    table: TableInfo,
    compiled: Table,
    request: p4runtime_pb2.TableEntry,
    found: ReadResponses,
) -> None:
    """Read the default entry; an indirect table has none that a client could name."""
    notes = program.notes.get((table.name, None, 0), NO_NOTES)
    if (
        table.profile is not None
        or request.controller_metadata not in (0, notes.controller_metadata)
        or request.metadata not in (b"", notes.metadata)
        or _wanted_action(request) not in (None, program.info.actions.by_name[compiled.default.action].id)
    ):
        return
    message = found.add().table_entry
    message.table_id = table.id
    message.is_default_action = True
    message.is_const = table.const_default
    message.metadata = notes.metadata
    message.controller_metadata = notes.controller_metadata
    encode_action(program.info, compiled.default, message.action.action)
