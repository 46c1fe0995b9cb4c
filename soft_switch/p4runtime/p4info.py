"""The P4Info as an index from ids to objects of plain types (specification, "The P4Info Message")."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from p4.config.v1 import p4info_pb2

from soft_switch.p4runtime.status import invalid, not_found

KIND_NAMES: dict[int, str] = {
    p4info_pb2.MatchField.EXACT: "exact",
    p4info_pb2.MatchField.LPM: "lpm",
    p4info_pb2.MatchField.TERNARY: "ternary",
    p4info_pb2.MatchField.RANGE: "range",
    p4info_pb2.MatchField.OPTIONAL: "optional",
}
PRIORITY_KINDS = frozenset(("ternary", "range", "optional"))
SINGLE_RATE_TWO_COLOR = "single rate two color"
TWO_RATE_THREE_COLOR = "two rate three color"


@dataclass(frozen=True, slots=True)
class Field:
    """A match field, action parameter or packet metadata field; ``width`` is in bits."""

    id: int
    name: str
    width: int
    kind: str = ""


@dataclass(frozen=True, slots=True)
class ActionInfo:
    """An action with its parameters, in the order of the program."""

    id: int
    name: str
    params: tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class ActionUse:
    """An action as a table lists it: for entries, as the default, or both."""

    action: ActionInfo
    in_entries: bool
    as_default: bool


@dataclass(frozen=True, slots=True)
class ProfileInfo:
    """An action profile; with ``max_group_size`` 0 only ``size`` bounds a group. Sizes are in members."""

    id: int
    name: str
    table_ids: tuple[int, ...]
    with_selector: bool
    size: int
    max_group_size: int


@dataclass(frozen=True, slots=True)
class CounterInfo:
    """An indirect counter (``size`` cells) or a direct one (``size`` 0)."""

    id: int
    name: str
    size: int


@dataclass(frozen=True, slots=True)
class MeterInfo:
    """An indirect meter (``size`` cells) or a direct one (``size`` 0)."""

    id: int
    name: str
    size: int
    kind: str


@dataclass(frozen=True, slots=True)
class ValueSetInfo:
    """A parser value set of at most ``size`` members."""

    id: int
    name: str
    fields: tuple[Field, ...]
    size: int


@dataclass(frozen=True, slots=True)
class TableInfo:
    """A table, with its references resolved."""

    id: int
    name: str
    fields: tuple[Field, ...]
    uses: dict[int, ActionUse]
    is_const: bool
    const_default: bool
    profile: ProfileInfo | None
    counter: CounterInfo | None
    meter: MeterInfo | None
    idle_timeout: bool

    @property
    def needs_priority(self) -> bool:
        """Whether entries have a priority: some field is ternary, range or optional."""
        return any(field.kind in PRIORITY_KINDS for field in self.fields)


class _Numbered(Protocol):
    @property
    def id(self) -> int: ...
    @property
    def name(self) -> str: ...


Item = TypeVar("Item", bound=_Numbered)


def _check_distinct(kind: str, items: Sequence[_Numbered], owner: str = "", names: bool = True) -> None:
    """Raise INVALID_ARGUMENT if an object has no id, or two have the same id or, with ``names``, the same name."""
    where = f" of {owner}" if owner else ""
    ids: dict[int, str] = {}
    by_name: set[str] = set()
    for item in items:
        if item.id == 0:
            raise invalid(f"P4Info: {kind} {item.name!r}{where} has no id")
        if item.id in ids:
            raise invalid(f"P4Info: two {kind}s{where}, {ids[item.id]!r} and {item.name!r}, have the id {item.id}")
        if names and item.name in by_name:
            raise invalid(f"P4Info: two {kind}s{where} have the name {item.name!r}")
        ids[item.id] = item.name
        by_name.add(item.name)


class Catalogue(Generic[Item]):
    """The objects of a kind, by id and by name; ``kind`` is the word for error messages."""

    def __init__(self, kind: str, items: list[Item]) -> None:
        """Index ``items``.

        Raises:
            RequestError: INVALID_ARGUMENT if ids or names are not unique.
        """
        _check_distinct(kind, items)
        self.kind = kind
        self.by_id = {item.id: item for item in items}
        self.by_name = {item.name: item for item in items}

    def __iter__(self) -> Iterator[Item]:
        return iter(self.by_id.values())

    def __len__(self) -> int:
        return len(self.by_id)

    def get(self, object_id: int) -> Item:
        """Return the object with this id.

        Raises:
            RequestError: NOT_FOUND if the P4Info has none, INVALID_ARGUMENT for 0, which is never an id.
        """
        item = self.by_id.get(object_id)
        if item is not None:
            return item
        if object_id == 0:
            raise invalid(f"no {self.kind} id given; it must not be 0 here")
        known = ", ".join(f"{item.name} ({item.id})" for item in list(self)[:8]) or "none"
        raise not_found(f"the P4Info has no {self.kind} with id {object_id} ({object_id:#x}); it has: {known}")


class ProgramInfo:
    """The objects of a P4Info."""

    def __init__(self, p4info: p4info_pb2.P4Info) -> None:
        """Index ``p4info``.

        Raises:
            RequestError: INVALID_ARGUMENT if it is not consistent.
        """
        self.message = p4info
        self.actions = Catalogue("action", [_action(action, p4info) for action in p4info.actions])
        self.profiles = Catalogue("action profile", [_profile(profile, p4info) for profile in p4info.action_profiles])
        self.counters = Catalogue("counter", [_counter(counter, counter.size) for counter in p4info.counters])
        self.direct_counters = Catalogue("direct counter", [_counter(item, 0) for item in p4info.direct_counters])
        self.meters = Catalogue("meter", [_meter(meter, meter.size) for meter in p4info.meters])
        self.direct_meters = Catalogue("direct meter", [_meter(item, 0) for item in p4info.direct_meters])
        self.tables = Catalogue("table", [self._table(table) for table in p4info.tables])
        self.value_sets = Catalogue("value set", [_value_set(item, p4info) for item in p4info.value_sets])
        self.packet_in = _packet_header(p4info, "packet_in")
        self.packet_out = _packet_header(p4info, "packet_out")

    def _table(self, table: p4info_pb2.Table) -> TableInfo:
        name = table.preamble.name
        uses = {}
        for reference in table.action_refs:
            action = self.actions.by_id.get(reference.id)
            if action is None:
                raise invalid(
                    f"P4Info: table {name} refers to action id {reference.id}, which the P4Info does not have"
                )
            uses[action.id] = ActionUse(
                action,
                in_entries=reference.scope != p4info_pb2.ActionRef.DEFAULT_ONLY,
                as_default=reference.scope != p4info_pb2.ActionRef.TABLE_ONLY,
            )
        profile = self.profiles.by_id.get(table.implementation_id)
        if profile is None and table.implementation_id:
            raise invalid(f"P4Info: table {name} is implemented by id {table.implementation_id}, which does not exist")
        resources = list(table.direct_resource_ids)
        return TableInfo(
            id=table.preamble.id,
            name=name,
            fields=_match_fields(table.match_fields, f"table {name}", self.message),
            uses=uses,
            is_const=table.is_const_table,
            const_default=table.const_default_action_id != 0,
            profile=profile,
            counter=next((item for item in self.direct_counters if item.id in resources), None),
            meter=next((item for item in self.direct_meters if item.id in resources), None),
            idle_timeout=table.idle_timeout_behavior != p4info_pb2.Table.NO_TIMEOUT,
        )


def _translated_width(p4info: p4info_pb2.P4Info, type_name: str, width: int, what: str) -> int:
    """Return the width of a value whose type may be translated (@p4runtime_translation); numbers pass unchanged."""
    if type_name in p4info.type_info.new_types:
        new_type = p4info.type_info.new_types[type_name]
        if new_type.WhichOneof("representation") == "translated_type":
            translated = new_type.translated_type
            if translated.WhichOneof("sdn_type") == "sdn_string":
                raise invalid(f"P4Info: {what}: type {type_name} is translated to strings, which is not supported")
            return int(translated.sdn_bitwidth)
    if width <= 0:
        raise invalid(f"P4Info: {what} has no bit width")
    return width


def _match_fields(fields: Sequence[p4info_pb2.MatchField], owner: str, p4info: p4info_pb2.P4Info) -> tuple[Field, ...]:
    found = tuple(_match_field(field, owner, p4info) for field in fields)
    # A value set of a plain bit<W> has one field without a name.
    _check_distinct("match field", found, owner, names=False)
    return found


def _match_field(field: p4info_pb2.MatchField, owner: str, p4info: p4info_pb2.P4Info) -> Field:
    what = f"match field {field.name or field.id} of {owner}"
    kind = KIND_NAMES.get(field.match_type)
    if kind is None:
        raise invalid(f"P4Info: {what}: its match type is not one of {', '.join(KIND_NAMES.values())}")
    return Field(field.id, field.name, _translated_width(p4info, field.type_name.name, field.bitwidth, what), kind)


def _action(action: p4info_pb2.Action, p4info: p4info_pb2.P4Info) -> ActionInfo:
    name = action.preamble.name
    params = tuple(
        Field(
            param.id,
            param.name,
            _translated_width(p4info, param.type_name.name, param.bitwidth, f"parameter {param.name} of {name}"),
        )
        for param in action.params
    )
    _check_distinct("parameter", params, f"action {name}", names=False)
    return ActionInfo(action.preamble.id, name, params)


def _profile(profile: p4info_pb2.ActionProfile, p4info: p4info_pb2.P4Info) -> ProfileInfo:
    users = {table.preamble.id for table in p4info.tables if table.implementation_id == profile.preamble.id}
    if not users or set(profile.table_ids) != users:
        raise invalid(
            f"P4Info: action profile {profile.preamble.name} names the tables {sorted(profile.table_ids)}, but "
            f"{sorted(users) or 'no table'} names it"
        )
    return ProfileInfo(
        profile.preamble.id,
        profile.preamble.name,
        tuple(profile.table_ids),
        profile.with_selector,
        profile.size,
        profile.max_group_size,
    )


def _counter(counter: p4info_pb2.Counter | p4info_pb2.DirectCounter, size: int) -> CounterInfo:
    return CounterInfo(counter.preamble.id, counter.preamble.name, size)


def _meter(meter: p4info_pb2.Meter | p4info_pb2.DirectMeter, size: int) -> MeterInfo:
    if meter.spec.type == p4info_pb2.MeterSpec.SINGLE_RATE_THREE_COLOR:
        raise invalid(f"P4Info: meter {meter.preamble.name}: single rate three color meters are not supported")
    two_color = meter.spec.type == p4info_pb2.MeterSpec.SINGLE_RATE_TWO_COLOR
    kind = SINGLE_RATE_TWO_COLOR if two_color else TWO_RATE_THREE_COLOR
    return MeterInfo(meter.preamble.id, meter.preamble.name, size, kind)


def _value_set(item: p4info_pb2.ValueSet, p4info: p4info_pb2.P4Info) -> ValueSetInfo:
    name = item.preamble.name
    return ValueSetInfo(item.preamble.id, name, _match_fields(item.match, f"value set {name}", p4info), item.size)


def _packet_header(p4info: p4info_pb2.P4Info, name: str) -> tuple[Field, ...] | None:
    """Return the fields of the header annotated @controller_header(name); None if there is none."""
    for header in p4info.controller_packet_metadata:
        if header.preamble.name == name:
            fields = tuple(
                Field(
                    field.id,
                    field.name,
                    # The program parses the header, so its own width counts, translated or not.
                    field.bitwidth or _translated_width(p4info, field.type_name.name, 0, f"{name}.{field.name}"),
                )
                for field in header.metadata
            )
            _check_distinct("metadata field", fields, name, names=False)
            return fields
    return None
