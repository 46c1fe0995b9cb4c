"""Converts entities to entries of BF Runtime's tables and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mfs_ctrl.errors import EntryError
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
from mfs_ctrl.p4rt.p4info import EXACT, LPM, RANGE, TERNARY, P4InfoIndex, Table
from mfs_ctrl.p4rt.p4info import Field as P4Field
from mfs_ctrl.tofino import bfrt_schema as names
from mfs_ctrl.tofino.bfrt_schema import ActionFields, Field, Schema, TableFields
from mfs_ctrl.tofino.messages import BF_RUNTIME

PRIORITY_MAX = 0xFFFFFF
"""In BF Runtime the highest number, of 24 bits, is the lowest priority; in P4Runtime it is the other way round."""
BYTES_PER_KBIT = 125
UNLIMITED_KBPS = 4_000_000_000
"""A cell that was never written reports 5.2 Tb/s."""
ROUNDING = 0.01
"""Bound of what the chip changes of a rate; 100 Gb/s become 99.77."""


def encode(entity: Entity, index: P4InfoIndex, schema: Schema) -> Any:
    """Return ``entity`` as a ``TableEntry`` of BF Runtime.

    Raises:
        EntryError: the program lacks an object that ``entity`` names.
        PipelineError: the program on the switch is not that of ``index``.
    """
    entry = BF_RUNTIME["TableEntry"]()
    match entity:
        case TableEntry():
            table = schema.table(entity.table)
            entry.table_id = table.id
            _encode_key(entity, index.tables.named(entity.table), table, entry)
            _encode_target(entity.target, index, table, entry.data)
        case DefaultAction(name, call):
            table = schema.table(name)
            entry.table_id, entry.is_default_entry = table.id, True
            _encode_call(call, index, table, entry.data)
        case ProfileMember(profile, member_id, call):
            table = schema.table(profile)
            entry.table_id = table.id
            _add_exact(entry, table, names.MEMBER, member_id)
            _encode_call(call, index, table, entry.data)
        case ProfileGroup(profile, group_id, members, max_size):
            table = schema.selector(profile)
            entry.table_id = table.id
            _add_exact(entry, table, names.GROUP, group_id)
            ids = [member_id for member_id, weight in members for _ in range(weight)]
            _add_number(entry.data, table, names.GROUP_SIZE, max_size)
            entry.data.fields.add(field_id=table.data[names.MEMBER].id).int_arr_val.val.extend(ids)
            entry.data.fields.add(field_id=table.data[names.MEMBER_STATUS].id).bool_arr_val.val.extend(
                [True] * len(ids)
            )
        case MeterConfig():
            table = schema.table(entity.meter)
            entry.table_id = table.id
            _add_exact(entry, table, names.METER_INDEX, entity.index)
            for name, value in _rates(entity).items():
                _add_number(entry.data, table, name, value)
    return entry


def encode_key(entity: Entity, index: P4InfoIndex, schema: Schema) -> Any:
    """Return a ``TableEntry`` that only identifies ``entity``, as a DELETE needs."""
    entry = encode(entity, index, schema)
    entry.ClearField("data")
    return entry


def decode(entry: Any, index: P4InfoIndex, schema: Schema, name: str) -> Entity | None:
    """Return the entity of an entry of the table that the P4Info calls ``name``; None if nothing is set.

    Raises:
        EntryError: the entry does not match the P4Info.
    """
    table = schema.by_id[entry.table_id]
    data = {field.field_id: field for field in entry.data.fields}
    if name in index.meters.by_name:
        return _decode_meter(entry, table, data, name)
    if name in index.profiles.by_name:
        if table.kind == schema.selector(name).kind:
            return _decode_group(entry, table, data, name)
        return ProfileMember(name, _key(entry, table)[names.MEMBER], _decode_call(entry.data, data, table, index))
    described = index.tables.named(name)
    if entry.is_default_entry:
        if described.is_indirect or not entry.data.action_id:
            return None
        return DefaultAction(name, _decode_call(entry.data, data, table, index))
    keys = {field.field_id: field for field in entry.key.fields}
    match = tuple(_decode_matches(keys, described, table))
    priority = 0
    if names.PRIORITY in table.key:
        priority = PRIORITY_MAX - _number(keys[table.key[names.PRIORITY].id].exact.value)
    return TableEntry(name, match, _decode_target(entry.data, data, table, index), priority)


def holds(present: Entity, wanted: Entity) -> bool:
    """Return whether ``present``, as read, is what the chip makes of ``wanted``.

    Rates and bursts are written in kbit/s and kbit, and the chip keeps a mantissa of a few bits of them.
    """
    if not isinstance(present, MeterConfig) or not isinstance(wanted, MeterConfig):
        return present == wanted
    pairs = zip(_rates(present).values(), _rates(wanted).values(), strict=True)
    return present.key == wanted.key and all(abs(held - asked) <= max(1, asked * ROUNDING) for held, asked in pairs)


def is_unset(meter: MeterConfig) -> bool:
    """Return whether the rates are those of a cell that was never written: above the rate of any port."""
    return meter.cir >= UNLIMITED_KBPS * BYTES_PER_KBIT


def _rates(meter: MeterConfig) -> dict[str, int]:
    values = {
        names.CIR_KBPS: meter.cir,
        names.PIR_KBPS: meter.pir,
        names.CBS_KBITS: meter.cburst,
        names.PBS_KBITS: meter.pburst,
    }
    return {name: math.ceil(value / BYTES_PER_KBIT) for name, value in values.items()}


def _meter(name: str, cell: int, rates: Mapping[str, int]) -> MeterConfig:
    values = (rates[key] * BYTES_PER_KBIT for key in (names.CIR_KBPS, names.CBS_KBITS, names.PIR_KBPS, names.PBS_KBITS))
    return MeterConfig(name, cell, *values)


def _encode_key(row: TableEntry, described: Table, table: TableFields, entry: Any) -> None:
    match = dict(row.match)
    for field in described.fields:
        _encode_match(match.get(field.name), field, table.key[field.name], entry.key.fields.add(), str(row))
    if names.PRIORITY in table.key:
        _add_exact(entry, table, names.PRIORITY, PRIORITY_MAX - row.priority)


def _encode_match(value: MatchValue | None, field: P4Field, column: Field, message: Any, what: str) -> None:
    """Add a match. BF Runtime wants every field of a key; one that is left out matches anything."""
    message.field_id = column.id
    match field.kind, value:
        case _, Exact(number) if field.kind == EXACT:
            message.exact.value = column.encode(number)
        case _, Lpm(number, prefix_len) if field.kind == LPM:
            message.lpm.value, message.lpm.prefix_len = column.encode(number), prefix_len
        case _, Ternary(number, mask) if field.kind == TERNARY:
            message.ternary.value, message.ternary.mask = column.encode(number), column.encode(mask)
        case _, Range(low, high) if field.kind == RANGE:
            message.range.low, message.range.high = column.encode(low), column.encode(high)
        case _, None if field.kind == LPM:
            message.lpm.value, message.lpm.prefix_len = column.encode(0), 0
        case _, None if field.kind == TERNARY:
            message.ternary.value = message.ternary.mask = column.encode(0)
        case _, None if field.kind == RANGE:
            message.range.low, message.range.high = column.encode(0), column.encode((1 << field.width) - 1)
        case _:
            raise EntryError(f"{what}: field {field.name} needs a match of kind {field.kind}, not {value}")


def _encode_target(target: Target, index: P4InfoIndex, table: TableFields, data: Any) -> None:
    match target:
        case ActionCall():
            _encode_call(target, index, table, data)
        case GroupRef(group_id):
            _add_number(data, table, names.GROUP, group_id)
        case MemberRef(member_id):
            _add_number(data, table, names.MEMBER, member_id)


def _encode_call(call: ActionCall, index: P4InfoIndex, table: TableFields, data: Any) -> None:
    described = index.actions.named(call.name)
    action = table.actions.get(call.name)
    if action is None:
        raise EntryError(f"table {table.name} has no action {call.name}; it has {', '.join(table.actions) or 'none'}")
    if len(call.args) != len(described.params):
        raise EntryError(f"action {call} has {len(call.args)} arguments, not {len(described.params)}")
    data.action_id = action.id
    for param, argument in zip(described.params, call.args, strict=True):
        if argument >> param.width:
            raise EntryError(f"action {call}: {param.name} = {argument} does not fit in {param.width} bits")
        column = action.params[param.name]
        data.fields.add(field_id=column.id).stream = column.encode(argument)


def _add_exact(entry: Any, table: TableFields, name: str, value: int) -> None:
    column = table.key[name]
    entry.key.fields.add(field_id=column.id).exact.value = column.encode(value)


def _add_number(data: Any, table: TableFields, name: str, value: int) -> None:
    column = table.data[name]
    data.fields.add(field_id=column.id).stream = column.encode(value)


def _key(entry: Any, table: TableFields) -> dict[str, int]:
    by_id = {field.id: name for name, field in table.key.items()}
    return {by_id[field.field_id]: _number(field.exact.value) for field in entry.key.fields}


def _decode_matches(keys: Mapping[int, Any], described: Table, table: TableFields) -> list[FieldMatch]:
    found = [(field, _decode_match(keys[table.key[field.name].id])) for field in described.fields]
    return [(field.name, value) for field, value in found if not _matches_all(value, field.width)]


def _decode_match(message: Any) -> MatchValue:
    match message.WhichOneof("match_type"):
        case "lpm":
            return Lpm(_number(message.lpm.value), message.lpm.prefix_len)
        case "ternary":
            return Ternary(_number(message.ternary.value), _number(message.ternary.mask))
        case "range":
            return Range(_number(message.range.low), _number(message.range.high))
        case _:
            return Exact(_number(message.exact.value))


def _matches_all(value: MatchValue, width: int) -> bool:
    match value:
        case Lpm(_, prefix_len):
            return prefix_len == 0
        case Ternary(_, mask):
            return mask == 0
        case Range(low, high):
            return low == 0 and high == (1 << width) - 1
        case Exact():
            return False


def _decode_target(message: Any, data: Mapping[int, Any], table: TableFields, index: P4InfoIndex) -> Target:
    if not message.action_id:
        for name, kind in ((names.GROUP, GroupRef), (names.MEMBER, MemberRef)):
            column = table.data.get(name)
            if column is not None and column.id in data and _number(data[column.id].stream):
                return kind(_number(data[column.id].stream))
    return _decode_call(message, data, table, index)


def _decode_call(message: Any, data: Mapping[int, Any], table: TableFields, index: P4InfoIndex) -> ActionCall:
    action: ActionFields | None = table.actions_by_id.get(message.action_id)
    if action is None:
        raise EntryError(f"the switch answered with action {message.action_id}, which table {table.name} does not have")
    if action.name not in index.actions.by_name:
        return ActionCall(action.name)
    params = index.actions.named(action.name).params
    return ActionCall(action.name, tuple(_number(data[action.params[param.name].id].stream) for param in params))


def _decode_group(entry: Any, table: TableFields, data: Mapping[int, Any], profile: str) -> ProfileGroup:
    ids = list(data[table.data[names.MEMBER].id].int_arr_val.val)
    weights = tuple((member, ids.count(member)) for member in sorted(set(ids)))
    size = _number(data[table.data[names.GROUP_SIZE].id].stream)
    return ProfileGroup(profile, _key(entry, table)[names.GROUP], weights, size)


def _decode_meter(entry: Any, table: TableFields, data: Mapping[int, Any], name: str) -> MeterConfig:
    rates = {
        key: _number(data[table.data[key].id].stream)
        for key in (names.CIR_KBPS, names.PIR_KBPS, names.CBS_KBITS, names.PBS_KBITS)
    }
    return _meter(name, _key(entry, table)[names.METER_INDEX], rates)


def _number(value: bytes) -> int:
    return int.from_bytes(value, "big")
