"""The direct counter and direct meter of a table entry (specification, "Direct Resources", "DirectCounterEntry")."""

from __future__ import annotations

from collections.abc import Iterator

from p4.v1 import p4runtime_pb2

from soft_switch.p4runtime import matches
from soft_switch.p4runtime.loaded_program import LoadedProgram
from soft_switch.p4runtime.meters import decode_meter_config, encode_meter_config
from soft_switch.p4runtime.p4info import TableInfo
from soft_switch.p4runtime.read_responses import ReadResponses
from soft_switch.p4runtime.status import invalid, unimplemented
from soft_switch.tables.entry import Entry


def check_resources(table: TableInfo, message: p4runtime_pb2.TableEntry) -> None:
    """Check resources against the table before anything changes.

    Raises:
        RequestError: INVALID_ARGUMENT or UNIMPLEMENTED.
    """
    if message.HasField("counter_data"):
        if table.counter is None:
            raise invalid(f"table {table.name} has no direct counter; leave counter_data unset")
        check_counter_data(message.counter_data, f"table {table.name}")
    if message.HasField("meter_config"):
        if table.meter is None:
            raise invalid(f"table {table.name} has no direct meter; leave meter_config unset")
        decode_meter_config(message.meter_config, table.meter)
    refuse_color_counters(message.HasField("meter_counter_data"), f"table {table.name}")


def apply_resources(table: TableInfo, message: p4runtime_pb2.TableEntry, entry: Entry) -> None:
    """Write counter_data if it is set; write meter_config, or reset the meter if it is not set."""
    if message.HasField("counter_data"):
        _set_counter(entry, message.counter_data)
    if table.meter is not None:
        config = decode_meter_config(message.meter_config, table.meter) if message.HasField("meter_config") else None
        entry.meter = config


def check_counter_data(data: p4runtime_pb2.CounterData, what: str) -> None:
    """Check that counts are not negative."""
    if data.packet_count < 0 or data.byte_count < 0:
        raise invalid(f"{what}: counter values must be 0 or more")


def refuse_color_counters(is_set: bool, what: str) -> None:
    """Refuse counters per color, which the specification makes optional."""
    if is_set:
        raise unimplemented(f"{what}: this switch keeps no counters per meter color")


def encode_counter_data(packets: int, byte_count: int, data: p4runtime_pb2.CounterData) -> None:
    """Fill in CounterData, with both counts whatever the counter's unit."""
    data.SetInParent()
    data.packet_count = packets
    data.byte_count = byte_count


def _set_counter(entry: Entry, data: p4runtime_pb2.CounterData) -> None:
    entry.packets = int(data.packet_count)
    entry.bytes = int(data.byte_count)


def _entry_of(program: LoadedProgram, message: p4runtime_pb2.TableEntry) -> tuple[TableInfo, Entry]:
    """Return the entry of a direct resource, or raise NOT_FOUND."""
    table, compiled = program.table(message.table_id)
    if message.is_default_action:
        raise unimplemented(f"table {table.name}: the default action has no direct resources on this switch")
    key = matches.decode_match(table, message.match)
    priority = matches.decode_priority(table, message.priority)
    entry = compiled.get(key, priority)
    if entry is None:
        raise matches.entry_not_found(table, key, priority)
    return table, entry


def _entries_of(
    program: LoadedProgram, message: p4runtime_pb2.TableEntry, resource: str
) -> Iterator[tuple[TableInfo, Entry]]:
    """Yield the entries that a read of direct resources selects: all tables (id 0), a table, or one entry."""
    if message.table_id == 0:
        for table in program.info.tables:
            if getattr(table, resource) is not None:
                compiled = program.pipeline.tables[table.name]
                yield from ((table, entry) for entry in compiled.entries())
        return
    table, compiled = program.table(message.table_id)
    if getattr(table, resource) is None:
        raise invalid(f"table {table.name} has no direct {resource}")
    if message.match or message.is_default_action:
        yield _entry_of(program, message)
        return
    for entry in compiled.entries():
        if message.priority in (0, entry.priority):
            yield table, entry


def _write_key(table: TableInfo, entry: Entry, message: p4runtime_pb2.TableEntry) -> None:
    message.table_id = table.id
    message.priority = entry.priority
    matches.encode_match(table.fields, entry.match, message)


def write_direct_counter(program: LoadedProgram, update_type: int, message: p4runtime_pb2.DirectCounterEntry) -> None:
    """Set the counter of an entry; only MODIFY is possible. Without ``data`` nothing changes."""
    if update_type != p4runtime_pb2.Update.MODIFY:
        raise invalid("a direct counter exists as long as its table entry: only MODIFY is possible")
    table, entry = _entry_of(program, message.table_entry)
    if table.counter is None:
        raise invalid(f"table {table.name} has no direct counter")
    if message.HasField("data"):
        check_counter_data(message.data, f"table {table.name}")
        _set_counter(entry, message.data)


def read_direct_counters(
    program: LoadedProgram, message: p4runtime_pb2.DirectCounterEntry, found: ReadResponses
) -> None:
    """Read the counters of the entries that ``table_entry`` selects."""
    for table, entry in _entries_of(program, message.table_entry, "counter"):
        counter = found.add().direct_counter_entry
        _write_key(table, entry, counter.table_entry)
        encode_counter_data(entry.packets, entry.bytes, counter.data)


def write_direct_meter(program: LoadedProgram, update_type: int, message: p4runtime_pb2.DirectMeterEntry) -> None:
    """Configure the meter of an entry; only MODIFY is possible. Without ``config`` everything is green."""
    if update_type != p4runtime_pb2.Update.MODIFY:
        raise invalid("a direct meter exists as long as its table entry: only MODIFY is possible")
    table, entry = _entry_of(program, message.table_entry)
    if table.meter is None:
        raise invalid(f"table {table.name} has no direct meter")
    refuse_color_counters(message.HasField("counter_data"), f"table {table.name}")
    config = decode_meter_config(message.config, table.meter) if message.HasField("config") else None
    entry.meter = config


def read_direct_meters(program: LoadedProgram, message: p4runtime_pb2.DirectMeterEntry, found: ReadResponses) -> None:
    """Read the meter configurations of the entries that ``table_entry`` selects."""
    refuse_color_counters(message.HasField("counter_data"), "direct meter")
    for table, entry in _entries_of(program, message.table_entry, "meter"):
        meter = found.add().direct_meter_entry
        _write_key(table, entry, meter.table_entry)
        if entry.meter is not None:
            meter.config.CopyFrom(encode_meter_config(entry.meter))
