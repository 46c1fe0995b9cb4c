"""The stamp: codec, Scapy layer and P4 header have the same layout."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.l2 import Ether

from host_agent.protocol.scapy_layer import MFS
from host_agent.protocol.stamp import (
    REMAINING_MAX_UNITS,
    SLACK_MAX_US,
    SLACK_MIN_US,
    STAMP_BYTES,
    Flags,
    Stage,
    Stamp,
    StampError,
    clamp_slack_us,
    units_of,
)
from p4src.artifact import ROOT

stamps = st.builds(
    Stamp,
    stage=st.sampled_from(Stage),
    flags=st.integers(0, 63).map(lambda bits: Flags(bits << 2)),
    next_type=st.integers(0, 0xFFFF),
    batch=st.integers(0, 2**32 - 1),
    flow=st.integers(0, 2**16 - 1),
    target_layer=st.integers(0, 255),
    current_layer=st.integers(0, 255),
    slack_us=st.integers(SLACK_MIN_US, SLACK_MAX_US),
    remaining=st.integers(0, REMAINING_MAX_UNITS),
    reserved=st.integers(0, 2**32 - 1),
)


@given(stamps)
def test_unpack_inverts_pack(stamp: Stamp) -> None:
    assert Stamp.unpack(stamp.pack()) == stamp
    assert len(stamp.pack()) == STAMP_BYTES


@given(stamps)
def test_scapy_layer_writes_and_reads_the_same_bytes(stamp: Stamp) -> None:
    layer = MFS(
        stage=stamp.stage.value,
        flags=stamp.flags.value,
        next_type=stamp.next_type,
        batch=stamp.batch,
        flow=stamp.flow,
        target_layer=stamp.target_layer,
        current_layer=stamp.current_layer,
        slack=stamp.slack_us,
        remaining=stamp.remaining,
        reserved=stamp.reserved,
    )
    assert bytes(layer) == stamp.pack()
    read = Ether(bytes(Ether(type=0x88B5)) + stamp.pack())[MFS]
    assert (read.stage, read.batch, read.slack) == (stamp.stage, stamp.batch, stamp.slack_us)
    named = {flag.name for flag in Flags if flag and flag in stamp.flags}
    assert set(str(read.flags).split("+")) - {""} == named


def test_p4_header_has_the_same_fields_in_the_same_order() -> None:
    source = (ROOT / "shared" / "headers.p4").read_text()
    body = re.search(r"header mfs_t \{(.*?)\}", source, re.DOTALL)
    assert body is not None
    in_p4 = [(name, int(bits)) for bits, name in re.findall(r"(?:bit|int)<(\d+)>\s+(\w+);", body[1])]
    in_scapy = [(field.name, round(field.sz * 8) if field.sz else field.size) for field in MFS.fields_desc]
    assert in_p4 == [(name, abs(bits)) for name, bits in in_scapy]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x11" * (STAMP_BYTES - 1), "24 bytes long, the data only 23"),
        (b"\x21" + bytes(STAMP_BYTES - 1), "version 2 is not 1"),
        (b"\x19" + bytes(STAMP_BYTES - 1), "stage 9 does not exist"),
    ],
)
def test_a_bad_stamp_is_refused_with_the_reason(data: bytes, message: str) -> None:
    with pytest.raises(StampError, match=message):
        Stamp.unpack(data)


def test_a_value_that_does_not_fit_is_refused() -> None:
    with pytest.raises(StampError, match="does not fit"):
        Stamp(flow=1 << 16).pack()


def test_unit_conversions_round_up_and_saturate() -> None:
    assert [units_of(count) for count in (0, 1, 256, 257, 1 << 50)] == [0, 1, 1, 2, REMAINING_MAX_UNITS]
    assert [clamp_slack_us(us) for us in (-(1 << 40), -5, 1 << 40)] == [SLACK_MIN_US, -5, SLACK_MAX_US]
