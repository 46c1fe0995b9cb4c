"""Covers what STF scripts cannot express: value sets, fields of variable width, and endless loops."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soft_switch.model.hashes import crc16, csum16
from soft_switch.model.replication import MAX_ROUNDS, Replica
from soft_switch.pipeline import Pipeline
from soft_switch.switch import Switch
from soft_switch.tables.matches import Exact
from tests.support.p4_programs import load, send, shared

pytestmark = pytest.mark.usefixtures("run_as")

WRONG_CHECKSUM, TOO_LONG, FULL = 0xE, 0xD, 0xC


def packet(what: int, options: bytes, rest: bytes, wrong: int = 0) -> bytes:
    """The header with its checksum, the options between two nibbles, and the rest."""
    framed = (0xA << 8 * len(options) + 4 | int.from_bytes(options) << 4 | 0xB).to_bytes(len(options) + 1)
    start = struct.pack("!BB", what, len(options) << 4)
    checksum = csum16(start + framed) ^ wrong
    return start + struct.pack("!H", checksum) + framed + rest


@settings(deadline=None)
@given(st.binary(max_size=15), st.binary(min_size=1, max_size=9).filter(lambda b: b[0] > 3), st.booleans())
def test_options_of_any_width_leave_unchanged(options: bytes, rest: bytes, wrong: bool) -> None:
    data = packet(9, options, rest, int(wrong))
    expected = bytearray(data)
    expected[1] |= WRONG_CHECKSUM if wrong else 0
    assert send(shared("variants"), data) == bytes(expected)


@settings(deadline=None)
@given(st.binary(max_size=15))
def test_the_checksum_covers_the_options(options: bytes) -> None:
    out = send(shared("variants"), packet(1, options, b"\0", wrong=0x1234))
    assert out is not None
    size = len(options) + 1
    assert csum16(out[:2] + out[4 : 4 + size]) == int.from_bytes(out[2:4])
    assert out[4 : 4 + size] == out[4 + size : 4 + 2 * size] == packet(1, options, b"")[4:]


@settings(deadline=None)
@given(st.binary(max_size=15))
def test_a_hash_may_cover_the_options(options: bytes) -> None:
    out = send(shared("variants"), packet(5, options, b"\x01\x77"))
    assert out is not None
    assert out[-1] == crc16(options + b"\x01") % 255


def test_a_value_set_has_the_members_that_the_control_plane_writes() -> None:
    pipeline = load("variants")
    (members,) = pipeline.value_sets.values()
    data = packet(2, b"", b"\x40\x11\x22\x33\x99")
    as_payload = send(pipeline, data)
    members.set([(Exact(0x40),)])
    assert as_payload == data
    assert send(pipeline, data) == data[:-5] + b"\x99"
    members.set([])
    assert send(pipeline, data) == data


@pytest.mark.parametrize("name", ["stacks", "variants", "copies", "loops"])
@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_bytes_are_processed(name: str, data: st.DataObject) -> None:
    kind = data.draw(st.integers(0, 8))
    pipeline = shared(name)
    send(pipeline, bytes([kind]) + data.draw(st.binary(max_size=24)))
    pipeline.spawned.clear()


def test_an_option_without_length_ends_the_parser() -> None:
    out = send(shared("loops"), bytes([0, 0, 0, 5, 0, 9, 9]))
    assert out is not None
    assert out[1] == 2
    assert out[3:] == bytes([5, 0, 9, 9])


def switch_of(pipeline: Pipeline) -> Switch:
    switch = Switch()
    for port in range(4):
        switch.add_port(port, 1_000_000_000)
    switch.install(pipeline)
    return switch


def test_endless_resubmission_of_a_packet_is_stopped() -> None:
    pipeline = load("copies")
    switch = switch_of(pipeline)
    switch.receive(0, bytes([3, 0xFF, 0, 0]), 0)
    assert switch.transmit(1, 0) is None
    assert pipeline.replication.too_many_rounds == 1
    assert MAX_ROUNDS > 1


def test_copies_wait_in_the_queues_of_their_ports() -> None:
    pipeline = load("copies")
    pipeline.replication.groups[5] = (Replica(2, 7), Replica(3, 8), Replica(9, 9))
    switch = switch_of(pipeline)
    backlogged = []
    switch.on_backlog = backlogged.append
    switch.receive(0, bytes([5, 5, 0, 0]), 0)
    assert backlogged == [2, 3]
    assert switch.undeliverable == 1
    frames = [switch.transmit(port, 0) for port in (2, 3)]
    assert [frame[0][1] for frame in frames if frame is not None] == [7, 8]
