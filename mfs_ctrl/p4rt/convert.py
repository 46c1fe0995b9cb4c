"""Converts entities to P4Runtime messages and back (specification v1.4, "Match Format", "Action Specification")."""

from __future__ import annotations

from collections.abc import Mapping

from p4.v1 import p4runtime_pb2

from mfs_ctrl.errors import EntryError
from mfs_ctrl.p4rt.bytestrings import to_bytes, to_int
from mfs_ctrl.p4rt.entries import (
    ActionCall,
    DefaultAction,
    Entity,
    Exact,
    FieldMatch,
    GroupRef,
    Lpm,
    MatchValue,
    MemberRef,
    MeterConfig,
    ProfileGroup,
    ProfileMember,
    Range,
    TableEntry,
    Target,
    Ternary,
)
from mfs_ctrl.p4rt.p4info import EXACT, LPM, RANGE, TERNARY, Action, Field, P4InfoIndex, Table

_KIND_OF: Mapping[type[MatchValue], str] = {Exact: EXACT, Lpm: LPM, Ternary: TERNARY, Range: RANGE}


def encode(entity: Entity, index: P4InfoIndex) -> p4runtime_pb2.Entity:
    """Return ``entity`` as a P4Runtime message.

    Raises:
        EntryError: the program lacks an object that ``entity`` names, or a value does not fit its field.
    """
    message = p4runtime_pb2.Entity()
    match entity:
        case TableEntry():
            _encode_row(entity, index, message.table_entry)
        case DefaultAction(table, call):
            message.table_entry.table_id = index.tables.named(table).id
            message.table_entry.is_default_action = True
            _encode_call(call, index, message.table_entry.action.action)
        case ProfileMember(profile, member_id, call):
            message.action_profile_member.action_profile_id = index.profiles.named(profile).id
            message.action_profile_member.member_id = member_id
            _encode_call(call, index, message.action_profile_member.action)
        case ProfileGroup(profile, group_id, members, max_size):
            message.action_profile_group.action_profile_id = index.profiles.named(profile).id
            message.action_profile_group.group_id = group_id
            message.action_profile_group.max_size = max_size
            for member_id, weight in members:
                message.action_profile_group.members.add(member_id=member_id, weight=weight)
        case MeterConfig(meter, cell, cir, cburst, pir, pburst):
            message.meter_entry.meter_id = index.meters.named(meter).id
            message.meter_entry.index.index = cell
            config = message.meter_entry.config
            config.cir, config.cburst, config.pir, config.pburst = cir, cburst, pir, pburst
    return message


def encode_reset(entity: DefaultAction | MeterConfig, index: P4InfoIndex) -> p4runtime_pb2.Entity:
    """Return the message that, written as MODIFY, restores the program's initial state: no action, or no rates."""
    message = encode(entity, index)
    if isinstance(entity, DefaultAction):
        message.table_entry.ClearField("action")
    else:
        message.meter_entry.ClearField("config")
    return message


def decode(message: p4runtime_pb2.Entity, index: P4InfoIndex) -> Entity | None:
    """Return the entity of a read response, or None for an object that is not set, such as a meter without rates.

    Raises:
        EntryError: the message does not match the P4Info.
    """
    match message.WhichOneof("entity"):
        case "table_entry":
            return _decode_row(message.table_entry, index)
        case "action_profile_member":
            member = message.action_profile_member
            profile = index.profiles.numbered(member.action_profile_id)
            return ProfileMember(profile.name, member.member_id, _decode_call(member.action, index))
        case "action_profile_group":
            group = message.action_profile_group
            members = tuple(sorted((item.member_id, item.weight) for item in group.members))
            profile = index.profiles.numbered(group.action_profile_id)
            return ProfileGroup(profile.name, group.group_id, members, group.max_size)
        case "meter_entry":
            entry = message.meter_entry
            if not entry.HasField("config"):
                return None
            name = index.meters.numbered(entry.meter_id).name
            config = entry.config
            return MeterConfig(name, entry.index.index, config.cir, config.cburst, config.pir, config.pburst)
        case other:
            raise EntryError(
                f"the switch answered a read with an entity of kind {other or 'none'}, which was not requested"
            )


def _encode_row(entry: TableEntry, index: P4InfoIndex, message: p4runtime_pb2.TableEntry) -> None:
    table = index.tables.named(entry.table)
    if table.needs_priority != (entry.priority > 0):
        raise EntryError(
            f"{entry}: table {table.name} {'requires a' if table.needs_priority else 'allows no'} priority"
        )
    message.table_id = table.id
    message.priority = entry.priority
    known = {field.name: field for field in table.fields}
    for name, value in entry.match:
        if name not in known:
            raise EntryError(f"{entry}: table {table.name} has no field {name}; it has {', '.join(known)}")
        if _KIND_OF[type(value)] != known[name].kind:
            raise EntryError(f"{entry}: field {name} has match kind {known[name].kind}, not {_KIND_OF[type(value)]}")
        _encode_match(value, known[name], message.match.add(), str(entry))
    match entry.target:
        case ActionCall():
            _encode_call(entry.target, index, message.action.action)
        case GroupRef(group_id):
            message.action.action_profile_group_id = group_id
        case MemberRef(member_id):
            message.action.action_profile_member_id = member_id


def _encode_match(value: MatchValue, field: Field, message: p4runtime_pb2.FieldMatch, what: str) -> None:
    message.field_id = field.id
    what = f"{what}: field {field.name}"
    match value:
        case Exact(number):
            message.exact.value = to_bytes(number, field.width, what)
        case Lpm(number, prefix_len):
            message.lpm.value = to_bytes(number, field.width, what)
            message.lpm.prefix_len = prefix_len
        case Ternary(number, mask):
            message.ternary.value = to_bytes(number, field.width, what)
            message.ternary.mask = to_bytes(mask, field.width, what)
        case Range(low, high):
            message.range.low = to_bytes(low, field.width, what)
            message.range.high = to_bytes(high, field.width, what)


def _encode_call(call: ActionCall, index: P4InfoIndex, message: p4runtime_pb2.Action) -> None:
    action = index.actions.named(call.name)
    if len(call.args) != len(action.params):
        names = ", ".join(param.name for param in action.params) or "none"
        raise EntryError(f"action {call} has {len(call.args)} arguments; its parameters are {names}")
    message.action_id = action.id
    for param, argument in zip(action.params, call.args, strict=True):
        message.params.add(param_id=param.id, value=to_bytes(argument, param.width, f"action {call}: {param.name}"))


def _decode_row(message: p4runtime_pb2.TableEntry, index: P4InfoIndex) -> Entity | None:
    table = index.tables.numbered(message.table_id)
    if message.is_default_action:
        if message.action.WhichOneof("type") != "action":
            return None
        return DefaultAction(table.name, _decode_call(message.action.action, index))
    return TableEntry(table.name, _decode_matches(message, table), _decode_target(message, index), message.priority)


def _decode_matches(message: p4runtime_pb2.TableEntry, table: Table) -> tuple[FieldMatch, ...]:
    by_id = {item.field_id: _decode_match(item) for item in message.match}
    # bmv2 returns a range of the full width for a field that was left out.
    return tuple(
        (field.name, by_id[field.id])
        for field in table.fields
        if field.id in by_id and not _matches_all(by_id[field.id], field)
    )


def _matches_all(value: MatchValue, field: Field) -> bool:
    match value:
        case Lpm(_, prefix_len):
            return prefix_len == 0
        case Ternary(_, mask):
            return mask == 0
        case Range(low, high):
            return low == 0 and high == (1 << field.width) - 1
        case Exact():
            return False


def _decode_match(message: p4runtime_pb2.FieldMatch) -> MatchValue:
    match message.WhichOneof("field_match_type"):
        case "exact":
            return Exact(to_int(message.exact.value))
        case "lpm":
            return Lpm(to_int(message.lpm.value), message.lpm.prefix_len)
        case "ternary":
            return Ternary(to_int(message.ternary.value), to_int(message.ternary.mask))
        case "range":
            return Range(to_int(message.range.low), to_int(message.range.high))
        case other:
            raise EntryError(f"the switch answered with a match of kind {other}, which is not supported")


def _decode_target(message: p4runtime_pb2.TableEntry, index: P4InfoIndex) -> Target:
    match message.action.WhichOneof("type"):
        case "action":
            return _decode_call(message.action.action, index)
        case "action_profile_group_id":
            return GroupRef(message.action.action_profile_group_id)
        case "action_profile_member_id":
            return MemberRef(message.action.action_profile_member_id)
        case other:
            raise EntryError(f"the switch answered with an action of kind {other}, which is not supported")


def _decode_call(message: p4runtime_pb2.Action, index: P4InfoIndex) -> ActionCall:
    action: Action = index.actions.numbered(message.action_id)
    by_id = {item.param_id: to_int(item.value) for item in message.params}
    return ActionCall(action.name, tuple(by_id.get(param.id, 0) for param in action.params))
