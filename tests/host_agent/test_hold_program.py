"""Windows that the ingress programs lower, packet by packet (BPF_PROG_TEST_RUN). Needs root and eBPF."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from host_agent.daemon.kicks import acknowledgement
from host_agent.ebpf.bpf import Programs
from host_agent.ebpf.flows import FlowTable
from host_agent.ebpf.holds import HoldTable
from host_agent.ebpf.layout import HEARD_SCALED, HEARD_UNSCALED, Config, GrantKind, Heard, grant_of
from host_agent.ebpf.object import load
from host_agent.protocol.flow_request import FiveTuple
from host_agent.protocol.stamp import Stage, Stamp
from tests.support.ebpf import loaded

CONTEXT_BYTES = 192
MARK_OFFSET = 8
REDIRECT, NEXT_FILTER = 7, 0xFFFFFFFF
MARK = 0xABCD1234
FLOW = 5
ENDS = {4: ("10.0.0.1", "10.0.0.2"), 6: ("fd00::1", "fd00::2")}
FOREVER = 1 << 62
TIMED = [("NOP", None), ("NOP", None), ("Timestamp", (77, 88))]


class Host:
    def __init__(self) -> None:
        self.programs = Programs.load(load())
        self.table = FlowTable(self.programs.maps, Config(0, 1514, 0, share=True, kick_mark=MARK))
        self.holds = HoldTable(self.programs.maps)

    def receive(self, frame: bytes, hook: str) -> bytes:
        """The frame as it leaves the ingress program."""
        if hook == "xdp":
            return self.programs.xdp_ingress.run(frame, b"")[1]
        verdict, out, _ = self.programs.tc_ingress.run(frame, bytes(CONTEXT_BYTES))
        if verdict == REDIRECT:
            verdict, out, _ = self.programs.tc_ingress.run(out, bytes(CONTEXT_BYTES))
        assert verdict == NEXT_FILTER
        return out


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with loaded(Host) as host:
        yield host


def addresses(version: int) -> FiveTuple:
    own, peer = ENDS[version]
    return FiveTuple("tcp", own, 7000, peer, 8000)


def reply(version: int, payload: bytes = b"", stamped: bool = False, **fields: object) -> bytes:
    own, peer = ENDS[version]
    network = IP(src=peer, dst=own) if version == 4 else IPv6(src=peer, dst=own)
    raw = bytes(Ether(src="02::1", dst="02::2") / network / TCP(sport=8000, dport=7000, **fields) / payload)
    if not stamped:
        return raw
    stamp = Stamp(Stage.NONE, batch=9, next_type=int.from_bytes(raw[12:14], "big")).pack()
    return raw[:12] + b"\x88\xb5" + stamp + raw[14:]


def tcp_of(frame: bytes) -> TCP:
    """The TCP header of a frame, after a check of its checksum."""
    parsed: Packet = Ether(frame)
    found = parsed[TCP].chksum
    del parsed[TCP].chksum
    assert Ether(bytes(parsed))[TCP].chksum == found
    return Ether(frame)[TCP]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    hook=st.sampled_from(["xdp", "tc"]),
    version=st.sampled_from([4, 6]),
    stamped=st.booleans(),
    scale=st.integers(0, 14),
    window=st.integers(0, 0xFFFF),
    kind=st.sampled_from([GrantKind.WINDOW, GrantKind.UP_TO]),
    allowed=st.one_of(st.integers(0, 100_000), st.integers(0, 0xFFFFFFFF)),
    ack=st.integers(0, 0xFFFFFFFF),
    seq=st.integers(0, 0xFFFFFFFF),
    payload=st.binary(max_size=50),
    timed=st.booleans(),
)
def test_windows_are_lowered_to_the_grant_and_checksums_stay_valid(
    host: Host,
    hook: str,
    version: int,
    stamped: bool,
    scale: int,
    window: int,
    kind: GrantKind,
    allowed: int,
    ack: int,
    seq: int,
    payload: bytes,
    timed: bool,
) -> None:
    fields = {"ack": ack, "seq": seq, "window": window, "flags": "A", "options": TIMED if timed else []}
    frame = reply(version, payload, **fields)
    # Forget the connection's earlier acknowledgements.
    host.receive(reply(version, flags="S"), hook)
    host.holds.tie(FLOW, addresses(version), scale)
    if kind is GrantKind.UP_TO:
        allowed %= 1 << 31
    limit = allowed if kind is GrantKind.WINDOW else (ack + allowed) % (1 << 32)
    host.holds.grant(FLOW, grant_of(kind, limit), FOREVER)
    out = host.receive(reply(version, payload, stamped=stamped, **fields), hook)
    unit = 1 << scale
    expected = min(window, -(-allowed // unit))
    assert tcp_of(out).window == expected
    # Nothing else changes.
    assert len(out) == len(frame)
    at = 14 + (20 if version == 4 else 40)
    assert out[: at + 14] + out[at + 18 :] == frame[: at + 14] + frame[at + 18 :]
    heard = host.holds.heard(FLOW)
    times = (77, 88, 1) if timed else (0, 0, 0)
    following = (seq + len(payload)) % (1 << 32)
    assert heard == Heard(ack, following, *times[:2], window, HEARD_SCALED, times[2])
    host.holds.untie(FLOW, addresses(version))
    assert host.receive(reply(version, payload, stamped=stamped, **fields), hook) == frame


@pytest.mark.parametrize("hook", ["xdp", "tc"])
def test_only_held_connections_in_time_are_limited(host: Host, hook: str) -> None:
    host.receive(reply(4, flags="SA", ack=100, seq=6, window=5000), hook)
    host.holds.tie(FLOW, addresses(4), 2)
    assert host.holds.heard(FLOW) == Heard(100, 7, 0, 0, 5000, HEARD_UNSCALED, 0)
    none = grant_of(GrantKind.WINDOW, 0)
    host.holds.grant(FLOW, none, time.monotonic_ns() - 1)
    frame = reply(4, flags="A", ack=100, seq=7, window=5000)
    assert host.receive(frame, hook) == frame
    host.holds.grant(FLOW, none, FOREVER)
    assert tcp_of(host.receive(frame, hook)).window == 0
    other = reply(6, flags="A", ack=100, seq=7, window=5000)
    assert host.receive(other, hook) == other
    for flags in ("SA", "R"):
        frame = reply(4, flags=flags, ack=100, seq=7, window=5000)
        assert host.receive(frame, hook) == frame
    # An acknowledgement that was overtaken is not remembered, but is limited.
    host.receive(reply(4, flags="A", ack=300, seq=7, window=4000), hook)
    assert tcp_of(host.receive(reply(4, flags="A", ack=200, seq=7, window=5000), hook)).window == 0
    assert host.holds.heard(FLOW).acknowledged == 300
    host.holds.untie(FLOW, addresses(4))


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("timed", [0, 1])
def test_a_kick_repeats_the_last_acknowledgement_and_turns_back_at_egress(host: Host, version: int, timed: int) -> None:
    heard = Heard(1000, 2000, 77 * timed, 88 * timed, 500, HEARD_SCALED, timed)
    frame = acknowledgement(addresses(version), heard, 321, bytes(6))
    options = {"options": TIMED} if timed else {}
    known = Ether(reply(version, ack=1000, seq=2000, window=321, flags="A", **options))
    found = tcp_of(frame)
    assert (found.ack, found.seq, found.window, found.flags) == (1000, 2000, 321, "A")
    assert found.options == known[TCP].options
    network = IP if version == 4 else IPv6
    assert (Ether(frame)[network].src, Ether(frame)[network].dst) == ENDS[version][::-1]
    if version == 4:
        assert Ether(frame)[IP].chksum == Ether(bytes(Ether(frame) / b""))[IP].chksum
    context = bytearray(CONTEXT_BYTES)
    assert host.programs.egress.run(frame, bytes(context))[0] != REDIRECT
    struct.pack_into("<I", context, MARK_OFFSET, MARK)
    verdict, out, _ = host.programs.egress.run(frame, bytes(context))
    assert (verdict, out) == (REDIRECT, frame)
    # It is not taken for what the peer said.
    host.receive(reply(version, flags="SA", ack=1000, seq=1999, window=9), "tc")
    host.programs.tc_ingress.run(frame, bytes(context))
    host.holds.tie(FLOW, addresses(version), 0)
    assert host.holds.heard(FLOW).window == 9
    host.holds.untie(FLOW, addresses(version))
