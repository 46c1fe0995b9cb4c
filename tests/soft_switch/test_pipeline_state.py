"""Covers registers, counters, meters, hashes, digests, random numbers, checksums and time within a program."""

from __future__ import annotations

import logging
import struct
import zlib
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soft_switch.errors import ProgramAssertionError
from soft_switch.model.externs import MeterConfig
from soft_switch.model.hashes import crc16, csum16, xor16
from soft_switch.pipeline import Pipeline
from tests.support.p4_programs import load, shared

pytestmark = pytest.mark.usefixtures("run_as")

MICROSECOND = 1000


class Answer(NamedTuple):
    """The header that state.p4 answers with."""

    first: int
    second: int
    third: int
    rest: bytes


@pytest.fixture
def pipeline() -> Pipeline:
    return load("state")


def ask(pipeline: Pipeline, what: int, index: int = 0, value: int = 0, more: bytes = b"", now_ns: int = 0) -> Answer:
    packet = pipeline.ingress(0, struct.pack("!BBI", what, index, value) + more, now_ns)
    assert packet is not None
    out = pipeline.egress(packet, now_ns, now_ns, 0, 0)
    assert out is not None
    return Answer(*struct.unpack("!IIQ", out[:16]), out[40:])


def test_registers_keep_values(pipeline: Pipeline) -> None:
    assert ask(pipeline, 0, 3, 55)[:2] == (0, 55)
    assert ask(pipeline, 0, 3, 66)[:2] == (55, 66)
    assert pipeline.registers["TestIngress.cells"].values[3] == 66
    pipeline.registers["TestIngress.cells"].values[3] = 1234
    assert ask(pipeline, 0, 3, 0).first == 1234


def test_accesses_outside_a_register_array_do_nothing(pipeline: Pipeline) -> None:
    assert ask(pipeline, 0, 16, 55)[:2] == (0, 0)
    assert not any(pipeline.registers["TestIngress.cells"].values)


@pytest.mark.parametrize("value", [0, 1, 0x7FFF, 0x8000, 0xFFFF])
def test_registers_hold_signed_values(pipeline: Pipeline, value: int) -> None:
    signed = value - 0x10000 if value & 0x8000 else value
    assert ask(pipeline, 1, 0, value).first == signed & 0xFFFFFFFF
    assert pipeline.registers["TestIngress.small_cells"].values[0] == value


def test_counters_count_packets_and_bytes(pipeline: Pipeline) -> None:
    for index in (1, 1, 15, 16, 255):
        ask(pipeline, 2, index, more=b"12345678")
    tally = pipeline.counters["TestIngress.tally"]
    assert [(i, c) for i, c in enumerate(tally.packets) if c] == [(1, 2), (15, 1)]
    assert (tally.bytes[1], tally.bytes[15]) == (28, 14)


def test_meters_count_bytes_or_packets(pipeline: Pipeline) -> None:
    pipeline.meters["TestIngress.by_bytes"].configs[2] = MeterConfig(cir=6, cburst=12, pir=6, pburst=12)
    pipeline.meters["TestIngress.by_packets"].configs[2] = MeterConfig(cir=1, cburst=1, pir=1, pburst=2)
    colours = [ask(pipeline, 3, 2)[:2] for _ in range(3)]
    assert colours == [(0, 0), (0, 1), (2, 2)]
    assert ask(pipeline, 3, 2, now_ns=1_000_000_000)[:2] == (0, 0)
    assert ask(pipeline, 3, 9)[:2] == (0, 0)


@settings(deadline=None)
@given(st.integers(0, 255), st.integers(0, 0xFFFFFFFF))
def test_hashes_are_those_of_bmv2(index: int, value: int) -> None:
    data = struct.pack("!BI", index, value)
    swapped = struct.pack("!IB", value, index)
    answer = ask(shared("state"), 4, index, value)
    assert answer.first == crc16(data)
    assert answer.second == zlib.crc32(swapped) % 1000 + 10
    assert answer.third == value << 8 | 0x50 | index & 0xF
    assert ask(shared("state"), 5, index, value)[:2] == (csum16(swapped), xor16(swapped))


def test_digests_report_even_packets_that_are_dropped(pipeline: Pipeline) -> None:
    assert pipeline.digests == {"seen_t": 2}
    ask(pipeline, 6, 1, 2)
    seen = []
    pipeline.on_digest = lambda name, values: seen.append((name, values))
    ask(pipeline, 6, 7, 0xDEADBEEF)
    assert pipeline.ingress(0, struct.pack("!BBI", 6, 255, 1), 0) is None
    ask(pipeline, 2)
    assert seen == [("seen_t", (7, 0xDEADBEEF)), ("seen_t", (255, 1))]


def test_random_numbers_are_in_range_and_repeat_from_run_to_run() -> None:
    runs = [[ask(p, 7).first for _ in range(200)] for p in (load("state"), load("state"))]
    assert runs[0] == runs[1]
    assert set(runs[0]) == set(range(10, 21))


def test_programs_may_log_and_assert(pipeline: Pipeline, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "soft_switch.model.program"):
        ask(pipeline, 7, 0, 31)
    assert "value 31" in caplog.text
    with pytest.raises(ProgramAssertionError, match=r"state\.p4"):
        ask(pipeline, 7, 255)


def test_egress_sees_times_and_queue_depths(pipeline: Pipeline) -> None:
    arrived, enqueued, dequeued = 5_000_999, 6_000_000, 9_500_999
    packet = pipeline.ingress(1, struct.pack("!BBI", 2, 0, 0), arrived)
    assert packet is not None
    assert (packet.egress_port, packet.priority, packet.length) == (2, 3, 6)
    out = pipeline.egress(packet, enqueued, dequeued, 5, 6)
    assert out is not None
    ingress_us, egress_us = int.from_bytes(out[16:22], "big"), int.from_bytes(out[22:28], "big")
    waited_us, enqueued_us, depths = struct.unpack("!III", out[28:40])
    assert (ingress_us, egress_us) == (arrived // MICROSECOND, dequeued // MICROSECOND)
    assert (waited_us, enqueued_us) == (3500, 6000)
    assert depths == 5 << 16 | 6 << 8 | 2 << 4 | 7


def ipv4(ttl: int, protocol: int, source: int, target: int, wrong: int = 0) -> bytes:
    fields = [0x45, 3, 40, 7, 0, ttl, protocol, 0, source, target]
    fields[7] = csum16(struct.pack("!BBHHHBBHII", *fields)) ^ wrong
    return struct.pack("!BBHHHBBHII", *fields)


def udp(source: int, target: int, ports: tuple[int, int], payload: bytes) -> bytes:
    length = 8 + len(payload)
    pseudo = struct.pack("!IIBBH", source, target, 0, 17, length)
    header = struct.pack("!HHHH", *ports, length, 0)
    return header[:6] + csum16(pseudo + header + payload).to_bytes(2, "big") + payload


ADDRESS = st.integers(0, 0xFFFFFFFF)


@settings(deadline=None)
@given(st.integers(1, 255), ADDRESS, ADDRESS, st.sampled_from([0, 0, 1, 0x8000]), st.binary(max_size=9))
def test_ipv4_checksums_are_verified_and_updated(
    ttl: int, source: int, target: int, wrong: int, payload: bytes
) -> None:
    answer = ask(shared("state"), 8, 0, 0, ipv4(ttl, 6, source, target, wrong) + payload)
    assert answer.first == (1 if wrong else 0)
    assert answer.rest == ipv4(ttl - 1, 6, source, target) + payload


@settings(deadline=None)
@given(ADDRESS, ADDRESS, st.binary(max_size=9), st.booleans())
def test_a_checksum_may_cover_the_payload(source: int, target: int, payload: bytes, corrupt: bool) -> None:
    segment = udp(source, target, (9, 10), payload)
    sent = segment[:-1] + bytes([segment[-1] ^ 1]) if corrupt and payload else segment
    answer = ask(shared("state"), 8, 1, 0, ipv4(9, 17, source, target) + sent)
    assert answer.first == int(sent != segment)
    assert answer.rest == ipv4(8, 17, source, target) + udp(source, target, (9, 4791), sent[8:])
