"""Covers hashes, meters, counters and registers in isolation."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soft_switch.model.externs import GREEN, RED, YELLOW, CounterArray, MeterArray, MeterConfig, RegisterArray
from soft_switch.model.hashes import HashMemo, crc16, csum16, identity, pack_fields, xor16

SECOND = 1_000_000_000


def test_crc16_is_arc() -> None:
    assert crc16(b"123456789") == 0xBB3D
    assert crc16(b"") == 0


@given(st.binary(max_size=40))
def test_csum16_is_the_internet_checksum(data: bytes) -> None:
    padded = data + b"\0" * (len(data) & 1)
    total = sum(int.from_bytes(padded[i : i + 2], "big") for i in range(0, len(padded), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    assert csum16(data) == total ^ 0xFFFF


def test_hashes_have_known_values() -> None:
    # The header most often quoted as an example of RFC 1071, and its checksum.
    assert csum16(bytes.fromhex("45000073000040004011 0000 c0a80001c0a800c7")) == 0xB861
    assert xor16(bytes.fromhex("1234 5678 9a")) == 0x1234 ^ 0x5678 ^ 0x9A00
    assert identity(bytes(range(1, 11))) == 0x0102030405060708


def test_fields_are_packed_from_the_left() -> None:
    assert pack_fields([0x5, 0xABC, 0x3], [3, 12, 2]) == ((0b101 << 14 | 0xABC << 2 | 3) << 7).to_bytes(3, "big")


def test_fields_of_invalid_headers_are_left_out_of_a_hash() -> None:
    memo = HashMemo(zlib.crc32, 1, [(0, 16), (-1, 8)])
    assert memo[1, 0x1234, 0x56] == zlib.crc32(b"\x12\x34\x56")
    assert memo[0, 0x1234, 0x56] == zlib.crc32(b"\x56")
    assert len(memo) == 2


def test_an_unconfigured_meter_is_green() -> None:
    assert MeterArray("m", 1, "bytes").execute(0, 1 << 40, 0) == GREEN


def test_a_meter_has_two_rates_and_three_colors() -> None:
    meter = MeterArray("m", 2, "packets")
    meter.configs[1] = MeterConfig(cir=1, cburst=2, pir=2, pburst=4)
    # Full buckets: two packets within the committed burst, two more within the peak burst, then none.
    assert [meter.execute(1, 100, 0) for _ in range(5)] == [GREEN, GREEN, YELLOW, YELLOW, RED]
    # One second brings one committed and two peak tokens.
    assert [meter.execute(1, 100, SECOND) for _ in range(3)] == [GREEN, YELLOW, RED]
    assert [meter.execute(0, 100, SECOND) for _ in range(3)] == [GREEN, GREEN, GREEN]


def test_a_new_configuration_starts_with_full_buckets() -> None:
    meter = MeterArray("m", 1, "bytes")
    meter.configs[0] = MeterConfig(100, 100, 100, 100)
    assert [meter.execute(0, 100, 0) for _ in range(2)] == [GREEN, RED]
    meter.configs[0] = MeterConfig(100, 100, 100, 100)
    assert meter.execute(0, 100, 0) == GREEN
    meter.configs[0] = None
    assert meter.execute(0, 10_000, 0) == GREEN


@given(
    st.lists(st.tuples(st.integers(0, SECOND), st.integers(1, 1500)), max_size=60),
    st.integers(0, 10_000),
    st.integers(0, 3000),
)
def test_green_bytes_never_exceed_rate_and_burst(arrivals: list[tuple[int, int]], rate: int, burst: int) -> None:
    meter = MeterArray("m", 1, "bytes")
    meter.configs[0] = MeterConfig(rate, burst, 2 * rate, 2 * burst)
    now, green, passed = 0, 0, 0
    for gap, size in arrivals:
        now += gap
        color = meter.execute(0, size, now)
        green += size if color == GREEN else 0
        passed += size if color != RED else 0
        start = arrivals[0][0]
        assert green * SECOND <= rate * (now - start) + burst * SECOND
        assert passed * SECOND <= 2 * rate * (now - start) + 2 * burst * SECOND


@pytest.mark.parametrize("size", [0, 1, 7])
def test_arrays_start_at_zero(size: int) -> None:
    assert list(CounterArray("c", size).packets) == list(CounterArray("c", size).bytes) == [0] * size
    assert list(RegisterArray("r", size, 8).values) == [0] * size
