"""Adversarial hosts: they stamp everything as most urgent and may also flood the decode servers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

from host_agent.protocol.flow_spec import FlowSpec
from host_agent.protocol.stamp import ETHERTYPE_MFS, TOP_LEVEL, Flags, Stage, Stamp
from host_agent.protocol.units import NS_PER_S, WIRE_OVERHEAD_BYTES
from mfs_eval.packet_level.hosts.agent import Agent, Flow
from mfs_eval.packet_level.hosts.frames import IP_UDP_BYTES, ip_udp_header
from mfs_eval.packet_level.hosts.stamp_template import StampTemplate
from mfs_eval.packet_level.hosts.virtual_host import VirtualHost
from soft_switch.sim.events import VirtualClock
from topologies.topology import FULL_FRAME_BYTES, PAYLOAD_MTU

CLAIMED_STAGE = Stage.NONE
"""The stage of acknowledgements, which nothing overtakes under any policy, whatever else their stamps say."""
DISCARD_PORT = 9
"""The UDP discard service (RFC 863), which does not acknowledge the flood."""


class AdversarialAgent(Agent):
    """An agent whose flows all claim the highest urgency; its interface is a single queue."""

    def open(self, spec: FlowSpec, number: int | None = None) -> Flow:
        """Open a flow as :meth:`Agent.open` does, with the stage that goes first."""
        flow = super().open(spec, number)
        flow.template = StampTemplate(CLAIMED_STAGE, spec.batch if self.shows_progress else 0, flow.number, 0)
        return flow

    def decide(self, stage: int, rli: int, slack_us: int, remaining: int) -> int:  # noqa: ARG002
        """Return the top level."""
        return TOP_LEVEL


class Flooder:
    """A :class:`~soft_switch.sim.network.HostPort` that sends full frames to ``targets`` besides its host's traffic.

    The flood keeps its rate whatever happens to its frames: they are not acknowledged, and nothing slows them down.
    """

    def __init__(
        self,
        host: VirtualHost,
        clock: VirtualClock,
        addresses: tuple[tuple[bytes, bytes], Sequence[tuple[bytes, bytes]]],
        rate_bps: int,
        load: float,
    ) -> None:
        """Create a flooder. ``addresses``: MAC and IPv4 of host and targets; ``load``: share of the link rate."""
        (mac, ip), targets = addresses
        self._host = host
        self._clock = clock
        self._interval_ns = round((FULL_FRAME_BYTES + WIRE_OVERHEAD_BYTES) * 8 * NS_PER_S / (rate_bps * load))
        self._due = False
        stamp = Stamp(CLAIMED_STAGE, Flags.NONE).pack()
        payload = bytes(PAYLOAD_MTU - IP_UDP_BYTES)
        ether_type = ETHERTYPE_MFS.to_bytes(2, "big")
        self._frames = cycle(
            to_mac + mac + ether_type + stamp + ip_udp_header(ip, to_ip, 0, len(payload), 0, DISCARD_PORT) + payload
            for to_mac, to_ip in targets
        )
        clock.call_after(self._interval_ns, self._tick)

    def pull(self, now_ns: int) -> bytes | None:
        """Return a frame of the flood if one is due, else the host's next frame."""
        if self._due:
            self._due = False
            return next(self._frames)
        return self._host.pull(now_ns)

    def receive(self, data: bytes, now_ns: int) -> None:
        """Hand every received frame to the host."""
        self._host.receive(data, now_ns)

    def _tick(self) -> None:
        self._due = True
        self._clock.call_after(self._interval_ns, self._tick)
        self._host.wake()
