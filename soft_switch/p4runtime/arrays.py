"""Which cells of an indexed array (counter, meter) a message selects."""

from __future__ import annotations

from typing import TypeAlias

from p4.v1 import p4runtime_pb2

from soft_switch.p4runtime.status import OUT_OF_RANGE, RequestError, invalid

Indexed: TypeAlias = p4runtime_pb2.CounterEntry | p4runtime_pb2.MeterEntry


def indices(message: Indexed, what: str, size: int) -> range:
    """Return the cells that ``message.index`` selects in an array of ``size``; all if it is not set.

    Raises:
        RequestError: INVALID_ARGUMENT for a negative index, OUT_OF_RANGE for one past the end.
    """
    if not message.HasField("index"):
        return range(size)
    index = int(message.index.index)
    if index < 0:
        raise invalid(f"{what}: index {index} is negative; its indices are 0..{size - 1}")
    if index >= size:
        raise RequestError(OUT_OF_RANGE, f"{what}: index {index} is out of range; its indices are 0..{size - 1}")
    return range(index, index + 1)
