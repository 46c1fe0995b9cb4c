"""Match keys: repeated FieldMatch of a TableEntry <-> a tuple of matches (specification, "Match Format")."""

from __future__ import annotations

from collections.abc import Iterable

from p4.v1 import p4runtime_pb2

from soft_switch.p4runtime import bytestrings
from soft_switch.p4runtime.p4info import Field, TableInfo
from soft_switch.p4runtime.status import RequestError, invalid, not_found
from soft_switch.tables.matches import Exact, Lpm, Match, Range, Ternary


def decode_match(table: TableInfo, key: Iterable[p4runtime_pb2.FieldMatch]) -> tuple[Match, ...]:
    """Return the match of an entry, an element per field of the table; omitted fields match everything.

    Raises:
        RequestError: INVALID_ARGUMENT, or OUT_OF_RANGE for a value that is too wide, naming table and field.
    """
    return decode_fields(f"table {table.name}", table.fields, key)


def decode_fields(owner: str, fields: tuple[Field, ...], key: Iterable[p4runtime_pb2.FieldMatch]) -> tuple[Match, ...]:
    """Do the same for anything with match fields; ``owner`` names it in errors."""
    given: dict[int, p4runtime_pb2.FieldMatch] = {}
    ids = {field.id for field in fields}
    for match in key:
        if match.field_id not in ids:
            known = ", ".join(f"{field.name} ({field.id})" for field in fields) or "none"
            raise invalid(f"{owner} has no match field with id {match.field_id}; its fields are: {known}")
        if match.field_id in given:
            raise invalid(f"{owner}: match field id {match.field_id} is given twice")
        given[match.field_id] = match
    return tuple(_decode_field(owner, field, given.get(field.id)) for field in fields)


def _decode_field(owner: str, field: Field, match: p4runtime_pb2.FieldMatch | None) -> Match:
    what = f"{owner}, field {field.name}" if field.name else f"{owner}, field {field.id}"
    if match is None:
        return _everything(field, what)
    kind = match.WhichOneof("field_match_type")
    if kind != field.kind:
        raise invalid(f"{what}: its match kind is {field.kind}, but {kind or 'no'} match was given")
    if kind == "exact":
        return Exact(bytestrings.decode(match.exact.value, field.width, what))
    if kind == "lpm":
        return _decode_lpm(field, match.lpm, what)
    if kind == "ternary":
        return _decode_ternary(field, match.ternary, what)
    if kind == "range":
        return _decode_range(field, match.range, what)
    return Ternary(bytestrings.decode(match.optional.value, field.width, what), _all_ones(field))


def _everything(field: Field, what: str) -> Match:
    if field.kind == "exact":
        raise invalid(f"{what}: an exact match needs a value")
    if field.kind == "lpm":
        return Lpm(0, 0)
    if field.kind == "range":
        return Range(0, _all_ones(field))
    return Ternary(0, 0)


def _all_ones(field: Field) -> int:
    return (1 << field.width) - 1


def _decode_lpm(field: Field, lpm: p4runtime_pb2.FieldMatch.LPM, what: str) -> Match:
    length = int(lpm.prefix_len)
    if length == 0:
        raise invalid(f"{what}: prefix length 0 matches everything; leave the field out instead")
    if not 0 < length <= field.width:
        raise invalid(f"{what}: prefix length {length} is not in 1..{field.width}")
    value = bytestrings.decode(lpm.value, field.width, what)
    if value & ((1 << (field.width - length)) - 1):
        raise invalid(f"{what}: {value:#x} has bits set after its prefix of {length} bits; they must be 0")
    return Lpm(value, length)


def _decode_ternary(field: Field, ternary: p4runtime_pb2.FieldMatch.Ternary, what: str) -> Match:
    mask = bytestrings.decode(ternary.mask, field.width, f"{what} (mask)")
    value = bytestrings.decode(ternary.value, field.width, what)
    if mask == 0:
        raise invalid(f"{what}: mask 0 matches everything; leave the field out instead")
    if value & ~mask:
        raise invalid(f"{what}: value {value:#x} has bits set outside its mask {mask:#x}; they must be 0")
    return Ternary(value, mask)


def _decode_range(field: Field, bounds: p4runtime_pb2.FieldMatch.Range, what: str) -> Match:
    low = bytestrings.decode(bounds.low, field.width, f"{what} (low)")
    high = bytestrings.decode(bounds.high, field.width, f"{what} (high)")
    if low > high:
        raise invalid(f"{what}: low {low} is above high {high}")
    if low == 0 and high == _all_ones(field):
        raise invalid(f"{what}: the range 0..{high} matches everything; leave the field out instead")
    return Range(low, high)


def decode_priority(table: TableInfo, priority: int) -> int:
    """Check the priority of an entry: above 0 if some field is ternary, range or optional, otherwise 0."""
    if table.needs_priority:
        if priority <= 0:
            raise invalid(
                f"table {table.name} has ternary, range or optional fields: "
                f"priority must be above 0 (the largest wins), not {priority}"
            )
    elif priority != 0:
        raise invalid(f"table {table.name} has only exact and lpm fields: priority must be 0, not {priority}")
    return priority


def encode_match(
    fields: tuple[Field, ...],
    key: tuple[Match, ...],
    message: p4runtime_pb2.TableEntry | p4runtime_pb2.ValueSetMember,
) -> None:
    """Fill in the canonical match of a message: fields that match everything are left out."""
    for field, match in zip(fields, key, strict=True):
        if not _matches_everything(field, match):
            target = message.match.add()
            target.field_id = field.id
            _encode_field(field, match, target)


def _matches_everything(field: Field, match: Match) -> bool:
    if isinstance(match, Lpm):
        return match.prefix_len == 0
    if isinstance(match, Range):
        return match.low == 0 and match.high == _all_ones(field)
    return isinstance(match, Ternary) and match.mask == 0


def _encode_field(field: Field, match: Match, message: p4runtime_pb2.FieldMatch) -> None:
    if isinstance(match, Lpm):
        message.lpm.value = bytestrings.encode(match.value)
        message.lpm.prefix_len = match.prefix_len
    elif isinstance(match, Range):
        message.range.low = bytestrings.encode(match.low)
        message.range.high = bytestrings.encode(match.high)
    elif field.kind == "optional":
        message.optional.value = bytestrings.encode(match.value)
    elif isinstance(match, Exact):
        message.exact.value = bytestrings.encode(match.value)
    else:
        message.ternary.value = bytestrings.encode(match.value)
        message.ternary.mask = bytestrings.encode(match.mask)


def show_key(table: TableInfo, key: tuple[Match, ...], priority: int) -> str:
    """Return a key as text for error messages, e.g. ``[ipv4.dst=0xa000000/8] priority 0``."""
    parts = []
    for field, match in zip(table.fields, key, strict=True):
        if isinstance(match, Exact):
            parts.append(f"{field.name}={match.value:#x}")
        elif isinstance(match, Lpm):
            parts.append(f"{field.name}={match.value:#x}/{match.prefix_len}")
        elif isinstance(match, Range):
            parts.append(f"{field.name}={match.low}..{match.high}")
        elif match.mask:
            parts.append(f"{field.name}={match.value:#x}&&&{match.mask:#x}")
    return f"[{', '.join(parts) or 'everything'}] priority {priority}"


def entry_not_found(table: TableInfo, key: tuple[Match, ...], priority: int) -> RequestError:
    """Return NOT_FOUND for an entry that is not in the table."""
    return not_found(f"table {table.name} has no entry {show_key(table, key, priority)}")
