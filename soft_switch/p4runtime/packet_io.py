"""Packet-in and packet-out: the program's controller headers as metadata fields (specification, "Packet I/O").

The fields of the header are concatenated, most significant bit first, and padded with zero bits to whole bytes.
"""

from __future__ import annotations

from p4.v1 import p4runtime_pb2

from soft_switch.errors import SwitchError
from soft_switch.p4runtime import bytestrings
from soft_switch.p4runtime.p4info import Field
from soft_switch.p4runtime.status import invalid


class ShortPacketError(SwitchError):
    """A packet left by the CPU port without the packet_in header that the program declares."""


def header_bytes(fields: tuple[Field, ...]) -> int:
    """Return the length of the controller header."""
    return (sum(field.width for field in fields) + 7) // 8


def pack_packet_out(fields: tuple[Field, ...] | None, packet: p4runtime_pb2.PacketOut) -> bytes:
    """Return the bytes for the data plane: the packet_out header, then the payload.

    Raises:
        RequestError: INVALID_ARGUMENT unless there is exactly one value for each field of the header; OUT_OF_RANGE for
            a value that its field cannot hold.
    """
    fields = fields or ()
    given: dict[int, bytes] = {}
    known = ", ".join(f"{field.name} ({field.id})" for field in fields) or "none"
    for item in packet.metadata:
        if all(field.id != item.metadata_id for field in fields):
            raise invalid(f"packet-out: unknown metadata id {item.metadata_id}; the packet_out header has: {known}")
        if item.metadata_id in given:
            raise invalid(f"packet-out: metadata id {item.metadata_id} is given twice")
        given[item.metadata_id] = item.value
    header = 0
    bits = 0
    for field in fields:
        if field.id not in given:
            raise invalid(f"packet-out: metadata {field.name} ({field.id}) is missing; the header has: {known}")
        value = bytestrings.decode(given[field.id], field.width, f"packet-out: metadata {field.name}")
        header = header << field.width | value
        bits += field.width
    length = header_bytes(fields)
    return (header << (8 * length - bits)).to_bytes(length, "big") + bytes(packet.payload)


def unpack_packet_in(fields: tuple[Field, ...] | None, data: bytes) -> p4runtime_pb2.PacketIn:
    """Return the PacketIn for a packet that left by the CPU port.

    Raises:
        ShortPacketError: the packet is shorter than the header.
    """
    fields = fields or ()
    length = header_bytes(fields)
    if len(data) < length:
        raise ShortPacketError(f"packet-in of {len(data)} bytes is shorter than its packet_in header ({length} bytes)")
    message = p4runtime_pb2.PacketIn(payload=data[length:])
    header = int.from_bytes(data[:length], "big")
    position = 8 * length
    for field in fields:
        position -= field.width
        value = (header >> position) & ((1 << field.width) - 1)
        message.metadata.add(metadata_id=field.id, value=bytestrings.encode(value))
    return message
