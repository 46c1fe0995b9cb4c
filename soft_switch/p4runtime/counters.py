"""Indirect counters (specification, "CounterEntry")."""

from __future__ import annotations

from p4.v1 import p4runtime_pb2

from soft_switch.p4runtime.arrays import indices
from soft_switch.p4runtime.direct_resources import check_counter_data, encode_counter_data
from soft_switch.p4runtime.loaded_program import LoadedProgram
from soft_switch.p4runtime.read_responses import ReadResponses
from soft_switch.p4runtime.status import invalid


def write_counter(program: LoadedProgram, update_type: int, message: p4runtime_pb2.CounterEntry) -> None:
    """Set one cell, or all if no index is given; without ``data`` nothing changes."""
    if update_type != p4runtime_pb2.Update.MODIFY:
        raise invalid("the cells of a counter always exist: only MODIFY is possible")
    info = program.info.counters.get(message.counter_id)
    cells = indices(message, f"counter {info.name}", info.size)
    if not message.HasField("data"):
        return
    check_counter_data(message.data, f"counter {info.name}")
    counter = program.pipeline.counters[info.name]
    for index in cells:
        counter.packets[index] = int(message.data.packet_count)
        counter.bytes[index] = int(message.data.byte_count)


def read_counters(program: LoadedProgram, message: p4runtime_pb2.CounterEntry, found: ReadResponses) -> None:
    """Read one cell, all cells of a counter (no index), or all cells of all counters (id 0)."""
    selected = [program.info.counters.get(message.counter_id)] if message.counter_id else list(program.info.counters)
    for info in selected:
        counter = program.pipeline.counters[info.name]
        cells = indices(message, f"counter {info.name}", info.size) if message.counter_id else range(info.size)
        for index in cells:
            cell = found.add().counter_entry
            cell.counter_id = info.id
            cell.index.index = index
            encode_counter_data(counter.packets[index], counter.bytes[index], cell.data)
