"""The virtual network and its hosts: exact timing, determinism, order at the sender, stamps, end-to-end reliability."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host_agent.protocol.flow_spec import FlowError, FlowSpec
from host_agent.protocol.level import GUARANTEED_SHARE, LevelRule
from host_agent.protocol.stamp import Flags, Stage, Stamp
from mfs_eval.packet_level.hosts import segment_header
from mfs_eval.packet_level.hosts.agent import Agent
from mfs_eval.packet_level.hosts.frames import SEGMENT_BYTES
from mfs_eval.packet_level.hosts.stamp_template import StampTemplate, progress_in
from mfs_eval.packet_level.packet_network import PacketNetwork
from soft_switch.errors import SwitchError
from soft_switch.queues.traffic_manager import QueueConfig, wire_bytes
from soft_switch.sim.events import ClockError, VirtualClock
from soft_switch.sim.network import Link, VirtualNetwork
from soft_switch.switch import PortError, Switch
from tests.support.forwarding import Forwarding
from topologies.topology import FULL_FRAME_BYTES

SECOND_NS = 1_000_000_000
LINK = Link(rate_bps=1_000_000_000, propagation_ns=1_234)
ADDRESSES = {i: (bytes([2, 0, 0, 0, 0, i + 1]), bytes([10, 0, 0, i + 1])) for i in range(4)}
SHIM = slice(14, 38)
HEADER = 66  # offset of the transport header in a frame with a shim

# Stage 3 low, stage 1 by relative layer index (RLI), stage 2 high, late stage 3 at the scavenger level.
RULES = [
    LevelRule(Stage.NONE, 7),
    LevelRule(Stage.P2D, 0, late=(1, 1)),
    LevelRule(Stage.P2D, 1),
    LevelRule(Stage.KV_REUSE, 5, rli=(0, 0)),
    LevelRule(Stage.KV_REUSE, 3),
    LevelRule(Stage.COLLECTIVE, 6),
]


def build(pipeline: Forwarding | None = None, **options: object) -> tuple[VirtualClock, PacketNetwork]:
    clock = VirtualClock()
    switch = Switch()
    switch.install(pipeline or Forwarding())  # type: ignore[arg-type]
    link = options.pop("link", LINK)
    network = PacketNetwork(clock, switch, {i: i + 1 for i in ADDRESSES}, ADDRESSES, link, **options)  # type: ignore[arg-type]
    network.set_policy(RULES)
    return clock, network


def spec(destination: int = 1, byte_count: int = 100_000, stage: Stage = Stage.P2D, **fields: int) -> FlowSpec:
    values = {"batch": 1, "deadline_ns": 10 * SECOND_NS, **fields}
    return FlowSpec(destination, stage=stage, total_bytes=byte_count, **values)


def collect(network: PacketNetwork, place: str) -> list[tuple[int, bytes]]:
    frames: list[tuple[int, bytes]] = []
    network.network.trace = lambda now_ns, where, data: frames.append((now_ns, data)) if where == place else None
    return frames


class Talker:
    """A host that sends given frames and records the received ones."""

    def __init__(self, frames: Iterable[bytes] = ()) -> None:
        self.frames = iter(frames)
        self.got: list[tuple[int, bytes]] = []

    def pull(self, now_ns: int) -> bytes | None:
        del now_ns
        return next(self.frames, None)

    def receive(self, data: bytes, now_ns: int) -> None:
        self.got.append((now_ns, data))


def frame(length: int, port: int) -> bytes:
    return bytes(57) + bytes([port]) + bytes(length - 58)


# --- the clock ---------------------------------------------------------------------------------------------------


def test_calls_run_in_order_of_time_then_of_scheduling() -> None:
    clock = VirtualClock()
    seen: list[tuple[str, int]] = []

    def note(name: str) -> None:
        seen.append((name, clock.now_ns))
        if name == "b":
            clock.call_after(0, note, "b again")

    for time_ns, name in [(5, "b"), (3, "a"), (5, "c"), (9, "d")]:
        clock.call_at(time_ns, note, name)
    assert clock.run(until_ns=5) == 4
    assert seen == [("a", 3), ("b", 5), ("c", 5), ("b again", 5)]
    assert clock.run(until_ns=7) == 0
    assert clock.now_ns == 7
    with pytest.raises(ClockError, match="already 7 ns"):
        clock.call_at(6, note, "late")
    assert clock.run() == 1
    assert (clock.now_ns, clock.pending) == (9, 0)


# --- links and switches ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate_bps", [999_999_937, 100_000_000_000, 3])
def test_link_rate_and_propagation_are_exact(rate_bps: int) -> None:
    clock = VirtualClock()
    network = VirtualNetwork(clock)
    switch = Switch()
    switch.install(Forwarding(cut=24))  # type: ignore[arg-type]
    link = Link(rate_bps, 777)
    lengths = [1538, 60, 500, 1538, 64] * 20
    talker, listener = Talker(iter([frame(length, 2) for length in lengths])), Talker()
    attachment = network.attach_host(switch, 1, talker, link)
    network.attach_host(switch, 2, listener, link)
    attachment.wake()
    clock.run()
    assert [len(data) for _, data in listener.got] == [length - 24 for length in lengths]
    # The sender sends back to back, so frame i is in the switch after the time of all bits up to it. Departing frames
    # are smaller, so each starts at once.
    bits = 0
    for index, length in enumerate(lengths):
        bits += 8 * wire_bytes(length)
        into_switch_ns = -(-bits * SECOND_NS // rate_bps) + 777
        earliest_ns = into_switch_ns + 8 * wire_bytes(length - 24) * SECOND_NS // rate_bps + 777
        previous = listener.got[index - 1][0] if index else 0
        waited_ns = previous + 8 * wire_bytes(length - 24) * SECOND_NS // rate_bps
        assert 0 <= listener.got[index][0] - max(earliest_ns, waited_ns) <= 1


def test_incast_shares_one_egress_link_which_is_never_idle() -> None:
    clock = VirtualClock()
    network = VirtualNetwork(clock)
    switch = Switch()
    switch.install(Forwarding(level=lambda data: data[0]))  # type: ignore[arg-type]
    listener = Talker()
    network.attach_host(switch, 9, listener, LINK)
    for port in (1, 2, 3):
        talker = Talker(iter([bytes([port]) + frame(1500, 9)[1:]] * 40))
        network.attach_host(switch, port, talker, LINK).wake()
    samples: list[tuple[int, int]] = []
    for time_ns in range(0, 1_000_001, 100_000):
        clock.call_at(time_ns, lambda: samples.append((clock.now_ns, sum(switch.ports[9].occupancy()))))
    clock.run()
    times = [time_ns for time_ns, _ in listener.got]
    assert len(times) == 120
    assert {after - before for before, after in pairwise(times)} == {8 * wire_bytes(1500)}
    levels = [data[0] for _, data in listener.got]
    assert levels[:41] == [1] + [3] * 40  # the first arrived before all others
    assert levels[41:81].count(1) <= 1  # its guaranteed share
    assert samples[0] == (0, 0)
    assert max(size for _, size in samples) > 60_000
    assert samples[-1][0] == 1_000_000


def test_egress_drops_free_the_link_at_once() -> None:
    clock = VirtualClock()
    network = VirtualNetwork(clock)
    switch = Switch()
    switch.install(Forwarding(drop=lambda data: data[0] == 1))  # type: ignore[arg-type]
    listener = Talker()
    network.attach_host(switch, 2, listener, LINK)
    frames = [bytes([i % 2]) + frame(100, 2)[1:] for i in range(20)]
    for data in frames:
        switch.receive(1, data, 0)
    clock.run()
    assert [time_ns for time_ns, _ in listener.got] == [8 * 124 * (i + 1) + LINK.propagation_ns for i in range(10)]


def test_a_frame_crosses_two_switches() -> None:
    clock = VirtualClock()
    network = VirtualNetwork(clock)
    near, far = Switch(), Switch()
    for switch in (near, far):
        switch.install(Forwarding())  # type: ignore[arg-type]
    talker, listener = Talker(iter([frame(100, 5)])), Talker()
    attachment = network.attach_host(near, 1, talker, LINK)
    network.attach_switches(near, 5, far, 1, LINK)
    network.attach_host(far, 5, listener, LINK)
    attachment.wake()
    clock.run()
    assert listener.got == [(3 * (8 * 124 + LINK.propagation_ns), frame(100, 5))]


def test_the_cpu_port_is_not_a_link() -> None:
    switch = Switch(cpu_port=510 % 256)
    switch.install(Forwarding())  # type: ignore[arg-type]
    got: list[bytes] = []
    switch.on_packet_in = got.append
    switch.add_port(1, 10**9)
    switch.receive(1, frame(80, 254), 5)
    switch.packet_out(frame(70, 254))
    switch.packet_out(frame(60, 99))
    assert got == [frame(80, 254), frame(70, 254)]
    assert switch.undeliverable == 1
    with pytest.raises(PortError, match="254"):
        switch.add_port(254, 1)
    with pytest.raises(SwitchError, match="no CPU port"):
        Switch().packet_out(b"")


def test_packet_outs_from_another_thread_enter_between_events() -> None:
    """The thread that runs the clock processes them at the clock's time while the other thread sends."""
    clock = VirtualClock()
    network = VirtualNetwork(clock)
    switch = Switch(cpu_port=254)
    seen: list[tuple[int, int, int]] = []

    class Noting(Forwarding):
        def ingress(self, port: int, data: bytes, now_ns: int) -> object:
            if port == 254:
                seen.append((threading.get_ident(), now_ns, clock.now_ns))
            return super().ingress(port, data, now_ns)

    switch.install(Noting())  # type: ignore[arg-type]
    listener = Talker()
    network.attach_host(switch, 1, listener, LINK)
    sent = 200
    controller = threading.Thread(target=lambda: [switch.packet_out(frame(100, 1)) for _ in range(sent)])

    def tick() -> None:
        if len(listener.got) < sent:
            clock.call_after(100, tick)

    switch.packet_out(frame(100, 1))
    assert not seen, "the clock is not running"
    tick()
    clock.call_at(50, controller.start)
    clock.run()
    controller.join()
    clock.run()  # packets that arrived after the end of the first run
    assert len(listener.got) == sent + 1
    assert {thread for thread, _, _ in seen} == {threading.get_ident()}
    assert all(given_ns == now_ns for _, given_ns, now_ns in seen)
    times = [time_ns for time_ns, _ in listener.got]
    assert times[0] == 8 * 124 + LINK.propagation_ns
    assert all(after - before >= 8 * 124 for before, after in pairwise(times))


# --- hosts -------------------------------------------------------------------------------------------------------


def scenario(trace: Callable[[int, str, bytes], None]) -> list[int]:
    clock, network = build(
        Forwarding(level=lambda data: data[14] & 3), queues=[QueueConfig(limit_bytes=9_000)] * 8, rto_ns=10**6
    )
    network.network.trace = trace
    ends: list[int] = []
    for i in range(24):
        fields = {"batch": i // 4 + 1, "target_layer": i % 5}
        network.start_flow(
            i % 4, spec(0 if i % 4 == 3 else 3, 5_000 + 4_321 * i, Stage(1 + i % 3), **fields), ends.append
        )
    clock.call_at(300_000, network.advance, 0, 2, 4)
    clock.run()
    assert network.totals().dropped > 0
    return ends


def test_the_same_run_is_byte_for_byte_the_same() -> None:
    traces: list[list[tuple[int, str, bytes]]] = [[], []]
    ends = [scenario(lambda *event, to=trace: to.append(event)) for trace in traces]  # type: ignore[misc]
    assert traces[0] == traces[1]
    assert ends[0] == ends[1]
    assert len(ends[0]) == 24, "losses cause delay but nothing is missing"


def test_a_flow_completes_when_its_last_byte_arrives() -> None:
    clock, network = build(window=1000)
    ends: list[int] = []
    count = 50
    network.start_flow(0, spec(1, count * SEGMENT_BYTES), ends.append)
    clock.run()
    tx_ns = 8 * wire_bytes(FULL_FRAME_BYTES)
    assert ends == [(count + 1) * tx_ns + 2 * LINK.propagation_ns]
    assert network.totals().sent == network.totals().received == count


def test_flows_of_a_level_share_the_link_and_levels_do_not() -> None:
    clock, network = build(window=1000)
    frames = collect(network, "host 1 out")
    for destination, stage in [(1, Stage.P2D), (2, Stage.P2D), (3, Stage.COLLECTIVE)]:
        network.start_flow(0, spec(destination, 20 * SEGMENT_BYTES, stage))
    clock.run()
    destinations = [data[5] - 1 for _, data in frames]
    assert destinations[:21] == [1] + [3] * 20  # the first left before the others started
    assert destinations[21:31] == [2, 1] * 5 or destinations[21:31] == [1, 2] * 5


def test_lower_levels_of_an_interface_keep_their_guaranteed_share() -> None:
    clock, network = build(window=10_000)
    frames = collect(network, "host 1 out")
    network.start_flow(0, spec(2, 1000 * SEGMENT_BYTES, Stage.COLLECTIVE))
    network.start_flow(0, spec(3, 1000 * SEGMENT_BYTES, Stage.P2D))
    clock.run()
    low = [index for index, (_, data) in enumerate(frames[:900]) if data[5] - 1 == 3]
    turn = GUARANTEED_SHARE.denominator
    assert 2 <= len(low) <= 900 // turn + 1
    assert all(turn - 4 <= after - before <= turn + 4 for before, after in pairwise(low))


def test_stamps_carry_the_state_of_the_flow() -> None:
    clock, network = build(window=1000)
    frames = collect(network, "host 1 out")
    network.advance(0, 7, 2)
    total = 3 * SEGMENT_BYTES
    values = {"batch": 7, "deadline_ns": 5_000_000, "target_layer": 9, "beyond_bytes": 10_000}
    network.start_flow(0, spec(1, total, Stage.KV_REUSE, **values), message_bytes=2 * SEGMENT_BYTES)
    clock.run()
    stamps = [Stamp.unpack(data[SHIM]) for _, data in frames]
    assert [stamp.flags for stamp in stamps] == [Flags.FIRST | Flags.BOUNDARY, Flags.NONE, Flags.BOUNDARY | Flags.LAST]
    assert [stamp.slack_us for stamp in stamps] == [(5_000_000 - time_ns) // 1000 for time_ns, _ in frames]
    assert [stamp.remaining for stamp in stamps] == [-(-(total - i * SEGMENT_BYTES + 10_000) // 256) for i in range(3)]
    assert {(s.stage, s.batch, s.target_layer, s.current_layer) for s in stamps} == {(Stage.KV_REUSE, 7, 9, 2)}
    (header,) = {data[38:66] for _, data in frames}
    words = [int.from_bytes(header[i : i + 2], "big") for i in range(0, 20, 2)]
    assert sum(words) % 0xFFFF == 0, "the IPv4 checksum is correct"
    assert header[1] & 3 == 2, "data segments are ECN-capable"


def test_acknowledgements_are_stamped_with_the_batch_and_its_known_progress() -> None:
    clock, network = build()
    frames = collect(network, "host 2 out")
    network.advance(1, 7, 11)
    network.start_flow(0, spec(1, SEGMENT_BYTES, batch=7))
    clock.run()
    ((_, data),) = frames
    assert Stamp.unpack(data[SHIM]) == Stamp(batch=7, current_layer=11, remaining=1)
    acknowledgement = segment_header.unpack(data, HEADER)
    assert isinstance(acknowledgement, segment_header.Ack)
    assert acknowledgement.cumulative == 1


@pytest.mark.parametrize("stale", [False, True])
def test_progress_learned_from_a_received_stamp_promotes_at_the_next_message(stale: bool) -> None:
    clock, network = build(window=2, stale_progress=stale)
    flow = network.start_flow(0, spec(1, 40 * SEGMENT_BYTES, Stage.KV_REUSE, target_layer=3), None, 4 * SEGMENT_BYTES)
    assert flow is not None
    assert flow.level == 3
    network.advance(1, 1, 3)  # the requester knows and tells by its acknowledgements
    clock.run(until_ns=300_000)
    assert flow.sender.unsent_bytes > 0
    assert flow.level == (3 if stale else 5)
    clock.run()
    assert network.hosts[0].agent.current_layer(1) == (0 if stale else 3)
    assert network.totals().retransmitted == 0


def test_a_flow_held_up_at_a_low_level_continues_when_it_is_promoted() -> None:
    """Its window is full of segments that starve in the switch; the promotion alone lets it send."""
    clock, network = build(window=2, rto_ns=SECOND_NS)
    flow = network.start_flow(0, spec(1, 10 * SEGMENT_BYTES, Stage.KV_REUSE, target_layer=3), None, 2 * SEGMENT_BYTES)
    assert flow is not None
    network.switches[0].on_backlog = None  # the switch keeps everything
    clock.run(until_ns=1_000_000)
    assert flow.sender.in_flight == (0, 0, 0, 2, 0, 0, 0, 0)
    network.advance(0, 1, 3)
    clock.run(until_ns=2_000_000)
    assert flow.sender.in_flight == (0, 0, 0, 2, 0, 2, 0, 0)


def test_a_late_last_stage_flow_falls_to_the_scavenger_within_a_message() -> None:
    clock, network = build()
    flow = network.start_flow(0, spec(1, 200 * SEGMENT_BYTES, deadline_ns=500_000))
    assert flow is not None
    clock.run(until_ns=400_000)
    assert flow.level == 1
    clock.run(until_ns=600_000)
    assert flow.level == 0


def test_congestion_marks_are_echoed_to_the_sender() -> None:
    class Marking(Forwarding):
        def egress(self, packet: object, *rest: int) -> bytes | None:
            data = super().egress(packet, *rest)  # type: ignore[arg-type]
            assert data is not None
            return data[:39] + bytes([data[39] | 1 if data[39] else 0]) + data[40:]

    clock, network = build(Marking(), window=8)
    flow = network.start_flow(0, spec(1, 100 * SEGMENT_BYTES))
    assert flow is not None
    clock.run()
    assert flow.sender.window == 1
    assert network.totals().marked == 100


def test_shims_may_be_removed_on_the_way() -> None:
    class Removing(Forwarding):
        def egress(self, packet: object, *rest: int) -> bytes | None:
            data = super().egress(packet, *rest)  # type: ignore[arg-type]
            assert data is not None
            return data[:12] + data[16:18] + data[38:]

    clock, network = build(Removing())
    ends: list[int] = []
    network.start_flow(0, spec(1, 100_000), ends.append)
    clock.run()
    assert len(ends) == 1


def test_a_host_ignores_frames_that_are_not_for_it() -> None:
    clock, network = build()
    host = network.hosts[0]
    for data in (b"", bytes(20), bytes(12) + b"\x88\xb5" + bytes(30), bytes(12) + b"\x08\x00" + bytes(100)):
        host.receive(data, 0)
    assert host.ignored == 4
    clock.run()


def test_data_for_the_same_host_need_no_network_and_unknown_hosts_are_refused_by_name() -> None:
    clock, network = build()
    ends: list[int] = []
    assert network.start_flow(2, spec(2), ends.append) is None
    clock.run()
    assert ends == [0]
    with pytest.raises(FlowError, match=r"host 0 to 77.*\[0, 1, 2, 3\]"):
        network.start_flow(0, spec(77))


def test_impossible_flows_are_refused() -> None:
    flow = Agent(1000).open(spec(1, 10))
    with pytest.raises(FlowError, match="11 bytes do not fit: 0 of 10"):
        flow.write(11)
    with pytest.raises(FlowError, match="1 byte or more"):
        spec(1, 0)
    with pytest.raises(FlowError, match="256"):
        spec(1, 1, target_layer=256)
    with pytest.raises(FlowError, match="layer must be from 0 to 255, not 300"):
        Agent(1000).advance(1, 300)


@given(
    st.sampled_from(Stage), st.integers(0, 2**32 - 1), st.integers(0, 2**16 - 1), st.integers(0, 255),
    st.integers(0, 255), st.integers(0, 255), st.integers(-(2**31), 2**31 - 1), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_the_stamp_template_writes_what_the_codec_writes(
    stage: Stage, batch: int, flow: int, target: int, flags: int, current: int, slack_us: int, remaining: int
) -> None:
    fast = StampTemplate(stage, batch, flow, target).stamp(flags, current, slack_us, remaining)
    assert fast == Stamp(stage, Flags(flags), 0x0800, batch, flow, target, current, slack_us, remaining).pack()
    assert progress_in(b"abc" + fast, 3) == (stage, batch, current)
