"""Settings of a packet-level run: what stays the same whichever policy is compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Literal

from host_agent.protocol.level import GUARANTEED_SHARE
from host_agent.protocol.stamp import LEVELS, Stage
from host_agent.protocol.units import NS_PER_S

ORDERS = ("both", "hosts", "switch")
"""Who schedules by the policy: hosts and switch, the hosts alone, or the switch alone."""
DROP_BUDGET = 0.1
"""Share of the requests that may be given up where a run prunes without its own budget."""


@dataclass(frozen=True, slots=True)
class TcpSettings:
    """Settings of the simulated TCP (:mod:`mfs_eval.packet_level.hosts.tcp`). Times are virtual; see :meth:`stretched`.

    Attributes:
        rto_min_ns: least retransmission timeout above the round trip; Linux has 200 ms.
        receive_window_bytes: bytes that may be in flight. Linux announces more for the receive buffer of 128 KiB that
            `mfs live` sets, 159,000 bytes. An acknowledgement reports 64 segments one by one, so more than 92 KB are
            not reported in full.
        timestamps: whether segments carry time stamps. Without them neither stale segments are dropped (PAWS) nor
            mistaken retransmissions found by the echo (RFC 4015).
        initial_window: segments that a new connection may have in flight.
        merged_segments: segments that receive offload merges at most, and acknowledges at once; 1 without it.
        merge_ns: longest time that it holds a segment.
        tick_ns: a millisecond of the hosts' clocks: ticks of time stamps, and the unit of all constants of TCP.

    Raises:
        ValueError: a value is not positive.
    """

    rto_min_ns: int = 200_000_000
    receive_window_bytes: int = 64 * 1024
    timestamps: bool = True
    initial_window: int = 10
    merged_segments: int = 1
    merge_ns: int = 1_000_000
    tick_ns: int = 1_000_000

    def __post_init__(self) -> None:
        numbers = self.rto_min_ns, self.receive_window_bytes, self.initial_window, self.merged_segments, self.merge_ns
        if min(*numbers, self.tick_ns) < 1:
            raise ValueError(f"all numbers of the TCP settings must be positive: {self}")

    def stretched(self, stretch: float) -> TcpSettings:
        """Return the settings for a run of which a second stands for ``stretch`` seconds of real time."""
        times = self.rto_min_ns, self.merge_ns, self.tick_ns
        rto_min_ns, merge_ns, tick_ns = (round(time / stretch) for time in times)
        return replace(self, rto_min_ns=rto_min_ns, merge_ns=merge_ns, tick_ns=tick_ns)


CARRIERS = ("stamp", "registration", "dscp")
RISES = ("at once", "drained", "paused")


@dataclass(frozen=True, slots=True)
class RdmaSettings:
    """Settings of the simulated RoCEv2 (:mod:`mfs_eval.packet_level.hosts.rocev2`).

    Attributes:
        carrier: what tells the switch of a flow: a stamp in each packet, as if NICs could; a registration; or the DSCP,
            with the level that the policy gives the stage at first.
        rise: with registrations, when a queue pair rises in the switch. ``at once``: at any message, as if its NIC
            placed data out of order, although it goes back N. ``drained``: when nothing of it is on its way by chance.
            ``paused``: the host waits until nothing is, as with the agent's gate.
        registration_delay_ns: how long a registration comes after the flow begins.
        stage_dscp: the DSCP of each stage.

    Raises:
        ValueError: a value is out of range.
    """

    carrier: Literal["stamp", "registration", "dscp"] = "registration"
    rise: Literal["at once", "drained", "paused"] = "drained"
    registration_delay_ns: int = 0
    stage_dscp: Mapping[Stage, int] = field(
        default_factory=lambda: {Stage.KV_REUSE: 26, Stage.COLLECTIVE: 34, Stage.P2D: 10}
    )

    def __post_init__(self) -> None:
        if self.carrier not in CARRIERS or self.rise not in RISES or self.registration_delay_ns < 0:
            raise ValueError(f"a carrier is one of {CARRIERS}, a rise one of {RISES}, a delay 0 or more: {self}")


@dataclass(frozen=True, slots=True)
class HostSettings:
    """Settings of hosts.

    Attributes:
        window: packets that a flow may have in flight.
        rerank_interval_ns: time between two rankings of the waiting flows.
        message_segments: full segments in a message. A flow may be promoted only where a message begins. In a scaled
            run one packet represents several megabytes, more than a KV block or a chunk of a collective, so by default
            each packet is a message.
        promote_within: whether a flow may also be promoted within a message.
        transport: the windowed transport of :mod:`mfs_eval.packet_level.hosts.transport`, or a TCP like Linux's.
            ``rocev2`` is a reliable transport that goes back N.
        tcp: settings of TCP.
        rdma: settings of RoCEv2.

    Raises:
        ValueError: there is no such transport.
    """

    window: int = 16
    rerank_interval_ns: int = 5_000_000
    message_segments: int = 1
    promote_within: bool = False
    transport: Literal["windowed", "tcp", "rocev2"] = "windowed"
    tcp: TcpSettings = field(default_factory=TcpSettings)
    rdma: RdmaSettings = field(default_factory=RdmaSettings)

    def __post_init__(self) -> None:
        if self.transport not in ("windowed", "tcp", "rocev2"):
            raise ValueError(f"transport must be windowed, tcp or rocev2, not {self.transport!r}")


@dataclass(frozen=True, slots=True)
class PortSettings:
    """Queues of the switch's ports.

    Attributes:
        queue_bytes: capacity of each queue. The default holds a burst of all senders' windows without loss.
        guaranteed_share: share of the port's rate that each level gets in any case.
        rotation_period_ns: period of rotating queues (:mod:`mfs_eval.packet_level.rotating_port`); None for queues that
            do not rotate.
        ecn_frames: see :class:`~mfs_ctrl.desired.SwitchParameters`.
    """

    queue_bytes: int = 1024 * 1024
    guaranteed_share: Fraction = GUARANTEED_SHARE
    rotation_period_ns: int | None = None
    ecn_frames: tuple[int | None, ...] = (None,) * LEVELS


@dataclass(frozen=True, slots=True)
class ControlSettings:
    """Settings of the controller, its followers, and the propagation of progress.

    Attributes:
        tick_ns: time between two steps of the controller.
        sample_ns: time between two samples of the queues.
        tune_thresholds: whether the controller tunes the thresholds.
        tune_bias: whether the controller keeps the biases at the measured load.
        order: who schedules by the policy, one of :data:`ORDERS`; the others have a single queue.
        progress_delay_ns: None if stamps carry the progress of batches, which the switch tracks and refreshes in the
            packets that pass. Otherwise stamps carry no batch, and hosts outside the batch's unit learn its progress
            from a control plane after this delay.

    Raises:
        ValueError: a value is out of range.
    """

    tick_ns: int = NS_PER_S
    sample_ns: int = NS_PER_S // 20
    tune_thresholds: bool = True
    tune_bias: bool = True
    order: str = "both"
    progress_delay_ns: int | None = None

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise ValueError(f"order must be one of {', '.join(ORDERS)}, not {self.order!r}")
        if self.progress_delay_ns is not None and self.progress_delay_ns < 0:
            raise ValueError(f"progress_delay_ns must not be negative, it is {self.progress_delay_ns}")


@dataclass(frozen=True, slots=True)
class AdversarySettings:
    """Hosts that claim more than they need, and the defences against them.

    Attributes:
        hosts: hosts that stamp everything as most urgent (:mod:`mfs_eval.packet_level.adversary`).
        flood_share: share of their link rate at which these hosts also flood the decode servers.
        police: whether ports are metered according to the role of their server
            (:mod:`mfs_eval.packet_level.policing`).
        untrusted_hosts: hosts whose stamps the switch ignores.
        unaffected_by: a server; only requests that it takes no part in count
            (:mod:`mfs_eval.packet_level.unaffected`). None counts all requests.

    Raises:
        ValueError: a value is out of range.
    """

    hosts: tuple[int, ...] = ()
    flood_share: float = 0.0
    police: bool = False
    untrusted_hosts: tuple[int, ...] = ()
    unaffected_by: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.flood_share <= 1:
            raise ValueError(f"flood_share must be a share from 0 to 1, not {self.flood_share}")


@dataclass(frozen=True, slots=True)
class PruningSettings:
    """Treatment of requests that cannot, or should not, meet their deadline.

    Attributes:
        drop_budget: share of the requests, 0 to 1, that may be given up so that the others meet their deadlines
            (:mod:`mfs_ctrl.policy.coordinator`). None switches pruning off.
        defer_infeasible: whether requests that can no longer be in time are computed after all others
            (:mod:`mfs_eval.serving.admission`).
        give_up_late: whether late last-stage flows are given up under policies without an order, too.

    Raises:
        ValueError: a value is out of range.
    """

    drop_budget: float | None = None
    defer_infeasible: bool = False
    give_up_late: bool = False

    def __post_init__(self) -> None:
        if self.drop_budget is not None and not 0 <= self.drop_budget <= 1:
            raise ValueError(f"drop_budget must be a share from 0 to 1, not {self.drop_budget}")


@dataclass(frozen=True, slots=True)
class RunSettings:
    """Settings of a run, by the part of the system that they concern."""

    hosts: HostSettings = field(default_factory=HostSettings)
    ports: PortSettings = field(default_factory=PortSettings)
    control: ControlSettings = field(default_factory=ControlSettings)
    adversary: AdversarySettings = field(default_factory=AdversarySettings)
    pruning: PruningSettings = field(default_factory=PruningSettings)
