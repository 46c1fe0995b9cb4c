"""Hosts whose transport is the simulated TCP, around a switch: delivery, the host's own queue, kept connections."""

from __future__ import annotations

import pytest

from host_agent.protocol.flow_spec import FlowSpec
from host_agent.protocol.level import LevelRule
from host_agent.protocol.stamp import Stage
from mfs_eval.packet_level.hosts.tcp.header import TCP_SEGMENT_BYTES
from mfs_eval.packet_level.hosts.tcp.host import QUEUED_SEGMENTS, TcpHost
from mfs_eval.packet_level.hosts.tcp.sender import TcpSender
from mfs_eval.packet_level.packet_network import PacketNetwork
from mfs_eval.setup.run_settings import HostSettings, TcpSettings
from soft_switch.queues.traffic_manager import QueueConfig
from soft_switch.sim.events import VirtualClock
from soft_switch.sim.network import Link
from soft_switch.switch import Switch
from tests.support.forwarding import Forwarding

MS = 1_000_000
LINK = Link(rate_bps=100_000_000, propagation_ns=1_000)
ADDRESSES = {i: (bytes([2, 0, 0, 0, 0, i + 1]), bytes([10, 0, 0, i + 1])) for i in range(4)}
RULES = [LevelRule(Stage.NONE, 7), LevelRule(Stage.KV_REUSE, 5, rli=(0, 0)), LevelRule(Stage.KV_REUSE, 3)]
STAMPED_LAYER = 25


def build(tcp: TcpSettings, queue_bytes: int = 1 << 20) -> tuple[VirtualClock, PacketNetwork]:
    clock = VirtualClock()
    switch = Switch()
    switch.install(Forwarding())  # type: ignore[arg-type]
    ports = {i: i + 1 for i in ADDRESSES}
    queues = [QueueConfig(0, queue_bytes)] * 8
    network = PacketNetwork(clock, switch, ports, ADDRESSES, LINK, queues=queues, tcp=tcp)
    network.set_policy(RULES)
    return clock, network


def spec(byte_count: int, layer: int = 0, batch: int = 1) -> FlowSpec:
    return FlowSpec(3, batch, Stage.KV_REUSE, 10**10, byte_count, layer)


def test_flows_that_overflow_a_queue_are_delivered() -> None:
    clock, network = build(TcpSettings(), queue_bytes=40_000)
    done: list[int] = []
    for source in range(3):
        network.start_flow(source, spec(500_000), done.append, 10_000)
    clock.run()
    totals = network.totals()
    assert len(done) == 3
    assert totals.dropped > 0
    assert totals.retransmitted >= totals.dropped
    assert not any(host.agent.flows for host in network.hosts.values())
    # 1.5 MB at 100 Mb/s take 120 ms.
    assert 120 * MS < max(done) < 1000 * MS


def test_an_idle_network_needs_no_retransmission_and_gives_the_whole_rate() -> None:
    for timestamps in (True, False):
        clock, network = build(TcpSettings(timestamps=timestamps))
        done: list[int] = []
        network.start_flow(0, spec(1_000_000), done.append)
        clock.run()
        assert network.totals().retransmitted == network.totals().timeouts == 0
        assert 80 * MS < done[0] < 95 * MS


def test_a_segment_in_the_hosts_queue_keeps_its_level_when_its_flow_is_promoted() -> None:
    clock, network = build(TcpSettings())
    host = network.hosts[0]
    assert isinstance(host, TcpHost)
    blocking = network.start_flow(0, spec(300_000, 0, batch=2))
    waiting = network.start_flow(0, spec(300_000, 4), None, TCP_SEGMENT_BYTES)
    assert blocking is not None
    assert waiting is not None
    assert isinstance(waiting.sender, TcpSender)
    assert [entry.ring for entry in host._order] == [5] * QUEUED_SEGMENTS + [3] * QUEUED_SEGMENTS
    network.advance(0, 1, 4)
    assert [entry.ring for entry in host._order] == [5] * QUEUED_SEGMENTS + [3] * QUEUED_SEGMENTS
    assert waiting.sender.queued == QUEUED_SEGMENTS
    clock.run()
    assert waiting.sender.done
    assert waiting.level == 5


def test_the_next_flow_takes_the_connection_with_its_window() -> None:
    clock, network = build(TcpSettings())
    first = network.start_flow(0, spec(500_000))
    clock.run()
    second = network.start_flow(0, spec(10_000))
    assert first is not None
    assert second is not None
    assert isinstance(first.sender, TcpSender)
    assert isinstance(second.sender, TcpSender)
    assert second.sender.connection is first.sender.connection
    assert second.sender.connection.cubic.cwnd > TcpSettings().initial_window
    clock.run()
    assert second.sender.done


def test_the_windowed_transport_is_the_default() -> None:
    assert HostSettings().transport == "windowed"
    with pytest.raises(ValueError, match="windowed, tcp or rocev2, not 'quic'"):
        HostSettings(transport="quic")  # type: ignore[arg-type]
    stretched = TcpSettings().stretched(5)
    assert (stretched.rto_min_ns, stretched.tick_ns) == (40 * MS, MS // 5)
