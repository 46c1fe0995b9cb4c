"""Covers parser and deparser: select, lookahead, advance, verify, errors, and headers that are set (in)valid."""

from __future__ import annotations

import struct
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.p4_programs import send, shared

pytestmark = pytest.mark.usefixtures("run_as")

TOO_SHORT, BAD_VERSION, INVALID = 1, 2, 3


class Report(NamedTuple):
    """The header that parsing.p4 puts in front."""

    error: int
    path: int
    length: int
    egress_length: int
    peeked: int
    negative: int
    rest: bytes


def report(data: bytes) -> Report:
    out = send(shared("parsing"), data)
    assert out is not None
    return Report(*struct.unpack("!BBHIBH", out[:11]), out[11:])


def odd(first: int, second: int, third: int, sixth: int = 0, seventh: int = 0x55) -> bytes:
    number = first
    rest = ((second, 13), (third & 0xFF, 8), (0xABCDEF, 24), (0x112233445566, 48), (sixth, 1), (seventh, 7))
    for value, width in rest:
        number = number << width | value
    return number.to_bytes(13, "big")


def test_headers_that_are_not_written_and_the_payload_leave_unchanged() -> None:
    data = b"\x00\x10" + bytes(range(60))
    result = report(data)
    assert result.rest == data
    assert (result.error, result.length, result.egress_length) == (0, 62, 62 + 11)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 4), st.integers(0, 0x1FFF), st.integers(-128, 127), st.binary(max_size=20))
def test_fields_that_straddle_bytes_survive(first: int, second: int, third: int, payload: bytes) -> None:
    data = b"\x01\x10" + odd(first, second, third) + payload
    result = report(data)
    assert result.rest == data
    assert result.path == 1
    assert result.negative == third & 0xFFFF


@pytest.mark.parametrize(
    ("data", "path"),
    [
        (b"\x01\x10" + odd(0, 0xF, 0, sixth=1) + b"\x12\x34", 3),
        (b"\x01\x10" + odd(0, 0xF, 0, sixth=0) + b"\x12\x34", 1),
        (b"\x01\x10" + odd(0, 0xE, 0, sixth=1) + b"\x12\x34", 1),
        (b"\x2f\x20\xab\xc7", 2),
        (b"\x2f\x20\xab\xd7", 0),
        (b"\x2f\x10\xab\xc7", 0),
    ],
)
def test_select_may_use_several_fields_with_masks(data: bytes, path: int) -> None:
    result = report(data)
    assert (result.error, result.path) == (0, path)
    assert result.rest == data


def test_lookahead_reads_without_consuming() -> None:
    assert report(b"\x20\x20\xab\x00zz").peeked == 0xAB


@pytest.mark.parametrize("version", range(16))
def test_select_may_use_ranges(version: int) -> None:
    result = report(bytes([3, version << 4]) + b"skipme")
    if version == 15:
        assert (result.error, result.rest) == (BAD_VERSION, bytes([3, version << 4]) + b"skipme")
    elif 4 <= version <= 7:
        # What advance() skips is lost, as in bmv2: it belongs neither to a header nor to the payload.
        assert (result.path, result.rest) == (2, bytes([3, version << 4]) + b"ipme")
    else:
        assert result.path == 0


@pytest.mark.parametrize("words", range(16))
def test_the_parser_may_advance_by_a_length_in_the_packet(words: int) -> None:
    payload = bytes(range(10))
    result = report(bytes([4, 0x10 | words]) + payload)
    if words > 10 - 2:
        assert result.error == TOO_SHORT
    else:
        assert (result.error, result.path) == (0, 2)
        assert result.rest == bytes([4, 0x10 | words]) + payload[words:]


@pytest.mark.parametrize("size", range(15))
def test_a_packet_that_is_too_short_keeps_what_was_extracted(size: int) -> None:
    data = (b"\x01\x10" + odd(0, 1, 2))[:size]
    result = report(data)
    assert (result.error, result.rest, result.path) == (TOO_SHORT, data, 0)


def test_header_assignment_copies_all_fields_and_validity() -> None:
    data = b"\x01\x10" + odd(7, 0x1ABC, -3) + b"payload"
    result = report(data)
    assert result.rest == b"\x01\x10" + odd(7, 5, -3) + b"payload"
    assert result.path == 1


def test_a_header_that_becomes_valid_is_zero() -> None:
    data = b"\x01\x10" + odd(6, 0x1ABC, -3) + b"payload"
    added = (0xFF << 80).to_bytes(13, "big")
    result = report(data)
    assert result.rest == data[:15] + added + b"payload"
    assert result.egress_length == len(data) + 11 + 13


def test_headers_are_equal_only_if_both_are_valid() -> None:
    assert report(b"\x01\x10" + odd(5, 2, 3)).path == 99
    assert report(b"\x01\x10" + odd(1, 2, 3)).path == 1


def test_egress_may_drop_a_packet() -> None:
    assert send(shared("parsing"), b"\x2f\x20\xab\xc7") is not None
    data = b"\x04\x10\xde\xad"
    packet = shared("parsing").ingress(0, data, 0)
    assert packet is not None
    assert packet.length == 4
    assert shared("parsing").egress(packet, 0, 0, 0, 0) is None


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes_are_parsed_without_an_exception(data: bytes) -> None:
    send(shared("parsing"), data)
