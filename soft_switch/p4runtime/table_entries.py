"""Writes of table entries and default entries (specification, "TableEntry"); see ``table_reads`` for reads."""

from __future__ import annotations

from p4.v1 import p4runtime_pb2

from soft_switch.p4runtime import matches
from soft_switch.p4runtime.actions import decode_action
from soft_switch.p4runtime.direct_resources import apply_resources, check_resources
from soft_switch.p4runtime.loaded_program import EntryNotes, LoadedProgram, OneShot
from soft_switch.p4runtime.one_shots import make_one_shot, release_one_shot, replace_one_shot
from soft_switch.p4runtime.p4info import TableInfo
from soft_switch.p4runtime.status import ALREADY_EXISTS, RequestError, denied, invalid, not_found, unimplemented
from soft_switch.tables.entry import Entry
from soft_switch.tables.matches import Group, Match, Member, Target
from soft_switch.tables.table import Table

INSERT = p4runtime_pb2.Update.INSERT
MODIFY = p4runtime_pb2.Update.MODIFY
DELETE = p4runtime_pb2.Update.DELETE


def write_table_entry(program: LoadedProgram, update_type: int, message: p4runtime_pb2.TableEntry) -> None:
    """Carry out an update of a TableEntry.

    Raises:
        RequestError: nothing has changed.
    """
    table, compiled = program.table(message.table_id)
    if message.is_const:
        raise invalid(f"table {table.name}: is_const is for reads; it must not be set in a write")
    if message.is_default_action:
        _write_default(program, update_type, table, compiled, message)
        return
    if not table.fields:
        raise invalid(f"table {table.name} has no key, so no entries; modify its default action instead")
    key = matches.decode_match(table, message.match)
    priority = matches.decode_priority(table, message.priority)
    existing = compiled.get(key, priority)
    if (table.is_const or (existing is not None and existing.is_const)) and (
        update_type != MODIFY or message.HasField("action")
    ):
        raise denied(
            f"table {table.name}: its entries are constant; only their direct resources can be modified, "
            "by an update without an action"
        )
    if update_type == DELETE:
        _delete(program, table, compiled, key, priority)
        return
    _check_idle_timeout(table, message)
    check_resources(table, message)
    if update_type == INSERT:
        if existing is not None:
            shown = matches.show_key(table, key, priority)
            raise RequestError(ALREADY_EXISTS, f"table {table.name} already has the entry {shown}")
        _insert(program, table, compiled, key, priority, message)
    else:
        if existing is None:
            raise matches.entry_not_found(table, key, priority)
        _modify(program, table, compiled, existing, message)


def _check_idle_timeout(table: TableInfo, message: p4runtime_pb2.TableEntry) -> None:
    if not table.idle_timeout and (message.idle_timeout_ns or message.HasField("time_since_last_hit")):
        raise invalid(f"table {table.name} has no idle timeout; leave idle_timeout_ns and time_since_last_hit unset")
    if message.HasField("time_since_last_hit"):
        raise invalid(f"table {table.name}: time_since_last_hit is for reads; leave it unset")
    if message.idle_timeout_ns < 0:
        raise invalid(f"table {table.name}: idle_timeout_ns must be 0 (never) or more, not {message.idle_timeout_ns}")
    if table.is_const and message.idle_timeout_ns:
        raise invalid(f"table {table.name}: its entries are constant and have no idle timeout")


def _insert(
    program: LoadedProgram,
    table: TableInfo,
    compiled: Table,
    key: tuple[Match, ...],
    priority: int,
    message: p4runtime_pb2.TableEntry,
) -> None:
    if not message.HasField("action"):
        raise invalid(f"table {table.name}: a new entry needs an action")
    one_shot = None
    if message.action.WhichOneof("type") == "action_profile_action_set":
        one_shot = make_one_shot(program, table, message.action.action_profile_action_set)
        target: Target = Group(one_shot.group_id)
    else:
        target = _decode_target(program, table, message.action)
    try:
        entry = compiled.insert(key, priority, target)
    except Exception:
        if one_shot is not None:
            release_one_shot(program, table, one_shot)
        raise
    program.notes[table.name, key, priority] = EntryNotes(message.controller_metadata, one_shot=one_shot)
    entry.metadata = message.metadata
    if table.idle_timeout:
        program.idle.set(compiled, entry, int(message.idle_timeout_ns), program.clock(), is_new=True)
    apply_resources(table, message, entry)


def _modify(
    program: LoadedProgram, table: TableInfo, compiled: Table, entry: Entry, message: p4runtime_pb2.TableEntry
) -> None:
    if not entry.is_const:
        note_key = (table.name, entry.match, entry.priority)
        notes = program.notes.get(note_key, EntryNotes())
        one_shot = notes.one_shot
        if message.HasField("action"):
            one_shot = _retarget(program, table, compiled, entry, one_shot, message.action)
        program.notes[note_key] = EntryNotes(message.controller_metadata, one_shot=one_shot)
        entry.metadata = message.metadata
        if table.idle_timeout:
            program.idle.set(compiled, entry, int(message.idle_timeout_ns), program.clock(), is_new=False)
    apply_resources(table, message, entry)


def _retarget(
    program: LoadedProgram,
    table: TableInfo,
    compiled: Table,
    entry: Entry,
    one_shot: OneShot | None,
    action: p4runtime_pb2.TableAction,
) -> OneShot | None:
    if one_shot is not None and action.WhichOneof("type") == "action_profile_action_set":
        return replace_one_shot(program, table, one_shot, action.action_profile_action_set)
    # An entry cannot change between the styles: each refuses while the profile is in use by the other.
    compiled.modify(entry.match, entry.priority, _decode_target(program, table, action))
    return one_shot


def _delete(program: LoadedProgram, table: TableInfo, compiled: Table, key: tuple[Match, ...], priority: int) -> None:
    if compiled.get(key, priority) is None:
        raise matches.entry_not_found(table, key, priority)
    compiled.delete(key, priority)
    notes = program.notes.pop((table.name, key, priority), None)
    if notes is not None and notes.one_shot is not None:
        release_one_shot(program, table, notes.one_shot)


def _decode_target(program: LoadedProgram, table: TableInfo, action: p4runtime_pb2.TableAction) -> Target:
    kind = action.WhichOneof("type")
    profile = table.profile
    if profile is None:
        if kind != "action":
            raise invalid(f"table {table.name} has no action profile: its entries need an action, not {kind}")
        return decode_action(table, action.action)
    state = program.pipeline.action_profiles[profile.name]
    one_shot_only = program.one_shots.get(profile.name, 0) > 0
    if kind in ("action_profile_member_id", "action_profile_group_id") and one_shot_only:
        raise invalid(f"action profile {profile.name} is in use by one-shot action sets; the two styles do not mix")
    if kind == "action_profile_member_id":
        member_id = int(action.action_profile_member_id)
        if member_id not in state.members:
            raise not_found(f"action profile {profile.name} has no member {member_id}")
        return Member(member_id)
    if kind == "action_profile_group_id" and profile.with_selector:
        group_id = int(action.action_profile_group_id)
        if group_id not in state.groups:
            raise not_found(f"action profile {profile.name} has no group {group_id}")
        return Group(group_id)
    if kind == "action_profile_action_set" and profile.with_selector:
        raise invalid(f"action profile {profile.name} has members or groups already; the two styles do not mix")
    allowed = "a member, a group or an action set" if profile.with_selector else "a member"
    raise invalid(f"table {table.name} is implemented by {profile.name}: its entries need {allowed}, not {kind}")


def _write_default(
    program: LoadedProgram, update_type: int, table: TableInfo, compiled: Table, message: p4runtime_pb2.TableEntry
) -> None:
    if update_type != MODIFY:
        raise invalid(f"table {table.name}: the default action always exists; only MODIFY is possible")
    if message.match or message.priority:
        raise invalid(f"table {table.name}: the default action has no match and no priority; leave both unset")
    if message.idle_timeout_ns or message.HasField("time_since_last_hit"):
        raise invalid(f"table {table.name}: the default action has no idle timeout")
    if table.const_default:
        raise denied(f"table {table.name}: its default action is constant")
    if table.profile is not None:
        raise denied(f"table {table.name} is implemented by {table.profile.name}: its default is always NoAction")
    check_resources(table, message)
    if message.HasField("counter_data") or message.HasField("meter_config"):
        raise unimplemented(f"table {table.name}: the default action has no direct resources on this switch")
    note_key = (table.name, None, 0)
    if not message.HasField("action"):
        compiled.set_default(None)
        program.notes.pop(note_key, None)
        return
    if message.action.WhichOneof("type") != "action":
        raise invalid(f"table {table.name}: the default entry needs an action")
    compiled.set_default(decode_action(table, message.action.action, as_default=True))
    program.notes[note_key] = EntryNotes(message.controller_metadata, message.metadata)
