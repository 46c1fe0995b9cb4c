"""Requests for any program: valid ones made from its P4Info, and the same with changed fields; programs likewise."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from p4.config.v1 import p4info_pb2
from p4.v1 import p4runtime_pb2

DEVICE_ID = 7
NUMBERS = (0, 1, 2, 3, 7, 8, 255, 256, 511, 512, 65535, 65536, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, (1 << 63) - 1)
STRINGS = (b"", b"\x00", b"\x01", b"\x02", b"\xff", b"\x00\x01", b"\x01\x00", b"\x01\xff", b"\xff" * 4, b"\xff" * 40)


class Generator:
    """Requests for a program, with values from small sets so that requests interact."""

    def __init__(self, p4info: p4info_pb2.P4Info, rnd: random.Random) -> None:
        self._info = p4info
        self._rnd = rnd
        self._actions = {action.preamble.id: action for action in p4info.actions}
        self._tables = {table.preamble.id: table for table in p4info.tables}
        self._ids = [
            item.preamble.id
            for kind in (
                p4info.tables,
                p4info.actions,
                p4info.action_profiles,
                p4info.counters,
                p4info.direct_counters,
                p4info.meters,
                p4info.direct_meters,
                p4info.registers,
                p4info.digests,
                p4info.value_sets,
            )
            for item in kind
        ] or [1]

    # Valid messages.

    def entity(self) -> p4runtime_pb2.Entity:
        """A valid entity of the program."""
        info, rnd = self._info, self._rnd
        makers: list[Callable[[p4runtime_pb2.Entity], None]] = [self._group, self._session]
        if info.tables:
            makers += [self._table_entry] * 6 + [self._direct]
        if info.action_profiles:
            makers += [self._member, self._member, self._profile_group]
        for things, maker in (
            (info.counters, self._counter),
            (info.meters, self._meter),
            (info.digests, self._digest),
            (info.value_sets, self._value_set),
            (info.registers, self._register),
        ):
            makers += [maker] if things else []
        entity = p4runtime_pb2.Entity()
        rnd.choice(makers)(entity)
        return entity

    def update(self) -> p4runtime_pb2.Update:
        kinds = (p4runtime_pb2.Update.INSERT, p4runtime_pb2.Update.MODIFY, p4runtime_pb2.Update.DELETE)
        return p4runtime_pb2.Update(type=self._rnd.choice(kinds), entity=self.entity())

    def value(self, width: int) -> bytes:
        number = self._rnd.choice((0, 1, 2, 3, (1 << width) - 1)) & ((1 << width) - 1)
        return number.to_bytes((max(number.bit_length(), 1) + 7) // 8, "big")

    def _field_match(self, field: p4info_pb2.MatchField, match: p4runtime_pb2.FieldMatch) -> bool:
        """Fill in a match; return False if it would match everything, and must be left out."""
        rnd, width, ones = self._rnd, field.bitwidth or 32, (1 << (field.bitwidth or 32)) - 1
        match.field_id = field.id
        if field.match_type == field.EXACT:
            match.exact.value = self.value(width)
            return True
        if rnd.random() < 0.3:
            return False
        if field.match_type == field.LPM:
            length = rnd.choice((1, width // 2 or 1, width))
            value = rnd.randrange(ones + 1) >> (width - length) << (width - length)
            match.lpm.prefix_len = length
            match.lpm.value = _bytes(value)
        elif field.match_type == field.TERNARY:
            mask = rnd.choice((1, ones))
            match.ternary.mask = _bytes(mask)
            match.ternary.value = _bytes(rnd.randrange(4) & mask)
        elif field.match_type == field.RANGE:
            match.range.low = b"\x01"
            match.range.high = _bytes(rnd.choice((1, ones)))
        else:
            match.optional.value = self.value(width)
        return True

    def _key(self, fields: Any, target: Any) -> bool:
        """Add the matches; return whether a priority is needed."""
        for field in fields:
            match = p4runtime_pb2.FieldMatch()
            if self._field_match(field, match):
                target.append(match)
        return any(field.match_type not in (field.EXACT, field.LPM) for field in fields)

    def _action(self, table: p4info_pb2.Table, message: p4runtime_pb2.Action) -> None:
        action = self._actions[self._rnd.choice(table.action_refs).id]
        message.action_id = action.preamble.id
        for param in action.params:
            message.params.add(param_id=param.id, value=self.value(param.bitwidth or 32))

    def _table_entry(self, entity: p4runtime_pb2.Entity) -> None:
        rnd = self._rnd
        table = rnd.choice(self._info.tables)
        entry = entity.table_entry
        entry.table_id = table.preamble.id
        if rnd.random() < 0.15:
            entry.is_default_action = True
        elif self._key(table.match_fields, entry.match):
            entry.priority = rnd.randint(1, 3)
        kind = rnd.randrange(3) if table.implementation_id and not entry.is_default_action else 3
        if kind == 0:
            entry.action.action_profile_member_id = rnd.randint(1, 3)
        elif kind == 1:
            entry.action.action_profile_group_id = rnd.randint(1, 3)
        elif kind == 2:
            for _ in range(rnd.randrange(3)):
                item = entry.action.action_profile_action_set.action_profile_actions.add(weight=rnd.randint(1, 3))
                self._action(table, item.action)
        elif rnd.random() < 0.9:
            self._action(table, entry.action.action)
        if table.idle_timeout_behavior and rnd.random() < 0.5:
            entry.idle_timeout_ns = rnd.choice((1, 10**7, 10**9, (1 << 63) - 1))
        if rnd.random() < 0.2:
            entry.metadata = b"note"
        if table.direct_resource_ids and rnd.random() < 0.3:
            entry.counter_data.packet_count = rnd.randrange(9)
        if table.direct_resource_ids and rnd.random() < 0.3:
            self._meter_config(entry.meter_config)

    def _direct(self, entity: p4runtime_pb2.Entity) -> None:
        kind = self._rnd.choice((entity.direct_counter_entry, entity.direct_meter_entry))
        whole = p4runtime_pb2.Entity()
        self._table_entry(whole)
        kind.table_entry.table_id = whole.table_entry.table_id
        kind.table_entry.priority = whole.table_entry.priority
        kind.table_entry.match.extend(whole.table_entry.match)
        if kind is entity.direct_counter_entry:
            kind.data.packet_count = 5
        else:
            self._meter_config(kind.config)

    def _meter_config(self, config: p4runtime_pb2.MeterConfig) -> None:
        cir = self._rnd.choice((0, 1, 1000, (1 << 63) - 1))
        config.cir = config.pir = cir
        config.cburst = config.pburst = self._rnd.randrange(9)

    def _member(self, entity: p4runtime_pb2.Entity) -> None:
        profile = self._rnd.choice(self._info.action_profiles)
        entity.action_profile_member.action_profile_id = profile.preamble.id
        entity.action_profile_member.member_id = self._rnd.randint(1, 3)
        self._action(self._tables[profile.table_ids[0]], entity.action_profile_member.action)

    def _profile_group(self, entity: p4runtime_pb2.Entity) -> None:
        group = entity.action_profile_group
        group.action_profile_id = self._rnd.choice(self._info.action_profiles).preamble.id
        group.group_id = self._rnd.randint(1, 3)
        for member in self._rnd.sample((1, 2, 3), self._rnd.randrange(4)):
            group.members.add(member_id=member, weight=self._rnd.randint(1, 2))

    def _counter(self, entity: p4runtime_pb2.Entity) -> None:
        counter = self._rnd.choice(self._info.counters)
        entity.counter_entry.counter_id = counter.preamble.id
        if self._rnd.random() < 0.8:
            entity.counter_entry.index.index = self._rnd.randrange(min(4, counter.size))
        entity.counter_entry.data.byte_count = self._rnd.randrange(4)

    def _meter(self, entity: p4runtime_pb2.Entity) -> None:
        meter = self._rnd.choice(self._info.meters)
        entity.meter_entry.meter_id = meter.preamble.id
        if self._rnd.random() < 0.8:
            entity.meter_entry.index.index = self._rnd.randrange(min(4, meter.size))
        if self._rnd.random() < 0.8:
            self._meter_config(entity.meter_entry.config)

    def _register(self, entity: p4runtime_pb2.Entity) -> None:
        entity.register_entry.register_id = self._rnd.choice(self._info.registers).preamble.id

    def _digest(self, entity: p4runtime_pb2.Entity) -> None:
        entity.digest_entry.digest_id = self._rnd.choice(self._info.digests).preamble.id
        entity.digest_entry.config.max_list_size = self._rnd.randrange(3)
        entity.digest_entry.config.max_timeout_ns = self._rnd.choice((0, 10**6, (1 << 63) - 1))
        entity.digest_entry.config.ack_timeout_ns = self._rnd.choice((0, 10**6))

    def _value_set(self, entity: p4runtime_pb2.Entity) -> None:
        value_set = self._rnd.choice(self._info.value_sets)
        entity.value_set_entry.value_set_id = value_set.preamble.id
        for _ in range(self._rnd.randrange(4)):
            self._key(value_set.match, entity.value_set_entry.members.add().match)

    def _replicas(self, target: Any) -> None:
        for _ in range(self._rnd.randrange(4)):
            if self._rnd.random() < 0.8:
                target.add(
                    port=self._rnd.choice((b"\x00", b"\x01", b"\x02", b"\x01\xfe")), instance=self._rnd.randrange(4)
                )
            else:
                target.add(egress_port=self._rnd.randrange(4), instance=self._rnd.randrange(4))

    def _group(self, entity: p4runtime_pb2.Entity) -> None:
        group = entity.packet_replication_engine_entry.multicast_group_entry
        group.multicast_group_id = self._rnd.randint(1, 3)
        self._replicas(group.replicas)

    def _session(self, entity: p4runtime_pb2.Entity) -> None:
        session = entity.packet_replication_engine_entry.clone_session_entry
        session.session_id = self._rnd.randint(1, 3)
        session.class_of_service = self._rnd.randrange(8)
        session.packet_length_bytes = self._rnd.choice((0, 0, 1, 20, 64))
        self._replicas(session.replicas)

    def stream_request(self) -> p4runtime_pb2.StreamMessageRequest:
        request, rnd = p4runtime_pb2.StreamMessageRequest(), self._rnd
        kind = rnd.randrange(4)
        if kind == 0:
            request.arbitration.device_id = DEVICE_ID
            request.arbitration.election_id.low = rnd.randrange(4)
            if rnd.random() < 0.3:
                request.arbitration.role.name = rnd.choice(("a", "b"))
        elif kind == 1:
            request.packet.payload = rnd.randbytes(rnd.randrange(80))
            for header in self._info.controller_packet_metadata:
                if header.preamble.name == "packet_out":
                    for field in header.metadata:
                        request.packet.metadata.add(metadata_id=field.id, value=self.value(field.bitwidth))
        elif kind == 2:
            request.digest_ack.digest_id = rnd.choice(self._ids)
            request.digest_ack.list_id = rnd.randrange(4)
        else:
            request.other.type_url = "type.googleapis.com/nothing"
        return request

    # Changes.

    def mutate(self, message: Message) -> None:
        """Change a field anywhere in the message."""
        rnd = self._rnd
        while True:
            inner = [value for field, value in message.ListFields() for value in _messages(field, value)]
            if not inner or rnd.random() < 0.25:
                break
            message = rnd.choice(inner)
        fields = message.DESCRIPTOR.fields
        if not fields:
            return
        field = rnd.choice(fields)
        if rnd.random() < 0.2:
            message.ClearField(field.name)
        elif _is_repeated(field):
            self._mutate_repeated(message, field)
        elif field.message_type is not None:
            getattr(message, field.name).SetInParent()
        else:
            setattr(message, field.name, self._scalar(field))

    def _mutate_repeated(self, message: Message, field: FieldDescriptor) -> None:
        items = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            return
        kind = self._rnd.randrange(3)
        if kind == 0 and items:
            del items[self._rnd.randrange(len(items))]
        elif kind == 1 and items:
            items.extend([items[0]])
        elif field.message_type is not None:
            items.add()
        else:
            items.append(self._scalar(field))

    def _scalar(self, field: FieldDescriptor) -> Any:
        rnd = self._rnd
        kind = field.cpp_type
        if kind == FieldDescriptor.CPPTYPE_BOOL:
            return rnd.random() < 0.5
        if kind == FieldDescriptor.CPPTYPE_STRING:
            data = rnd.choice(STRINGS) if rnd.random() < 0.7 else rnd.randbytes(rnd.randrange(6))
            return data if field.type == FieldDescriptor.TYPE_BYTES else data.decode("latin-1")
        if kind == FieldDescriptor.CPPTYPE_ENUM:
            return rnd.choice([value.number for value in field.enum_type.values] + [77])
        if kind in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
            return rnd.random()
        bits = 32 if kind in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32) else 64
        number = rnd.choice(self._ids) if rnd.random() < 0.3 else rnd.choice(NUMBERS)
        if kind in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64):
            number = -number if rnd.random() < 0.2 else number
            return max(-(1 << (bits - 1)), min(number, (1 << (bits - 1)) - 1))
        return number % (1 << bits)


def _bytes(number: int) -> bytes:
    return number.to_bytes((max(number.bit_length(), 1) + 7) // 8, "big")


def _is_repeated(field: Any) -> bool:
    # Newer versions of protobuf have no `label`, older ones no `is_repeated`.
    return bool(field.is_repeated if hasattr(field, "is_repeated") else field.label == FieldDescriptor.LABEL_REPEATED)


def _messages(field: FieldDescriptor, value: Any) -> Iterator[Message]:
    if field.message_type is None or field.message_type.GetOptions().map_entry:
        return
    if _is_repeated(field):
        yield from value
    else:
        yield value


def changed_json(text: bytes, rnd: random.Random) -> bytes:
    """A compiled program with a changed value, or with changed bytes."""
    if rnd.random() < 0.2:
        place = rnd.randrange(len(text))
        return rnd.choice((text[:place], text[:place] + rnd.randbytes(3) + text[place + 3 :], b"", b"[]", b"\xff\xfe"))
    root = json.loads(text)
    for _ in range(rnd.choice((0, 1, 1, 2))):
        node: Any = root
        while True:
            values = node.values() if isinstance(node, dict) else node
            inner = [value for value in values if isinstance(value, dict | list) and value]
            if not inner or rnd.random() < 0.15:
                break
            node = rnd.choice(inner)
        keys: list[Any] = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = rnd.choice(keys)
        odd = (None, 0, -1, 1, 1 << 40, "", "x", "0x", [], {}, [1], {"type": "field"}, True, 1.5)
        if rnd.random() < 0.3:
            del node[key]
        else:
            node[key] = rnd.choice((*odd, node[rnd.choice(keys)]))
    return json.dumps(root).encode()
