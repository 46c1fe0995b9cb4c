"""A scenario's racks: virtual hosts, embedded switches with the compiled program, a controller for each over gRPC."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from host_agent.protocol.flow_spec import FlowSpec
from host_agent.protocol.level import GUARANTEED_SHARE
from host_agent.protocol.stamp import LEVELS
from host_agent.protocol.units import NS_PER_S
from mfs_ctrl import policies
from mfs_ctrl.controller import Controller
from mfs_ctrl.desired import SwitchParameters
from mfs_ctrl.p4rt.session import Session
from mfs_ctrl.policy.policy import Policy
from mfs_eval.packet_level import policing
from mfs_eval.packet_level.adversary import CheatingAgent, Flooder
from mfs_eval.packet_level.hosts.virtual_host import SEGMENT_BYTES, VirtualHost
from mfs_eval.packet_level.packet_network import PacketNetwork
from mfs_eval.packet_level.rotating_port import RotatingPort
from mfs_eval.serving.cluster import Cluster
from mfs_eval.setup.scenario import Scenario
from p4src import artifact
from p4src.artifact import Artifact
from soft_switch.p4runtime.server import P4RuntimeServer
from soft_switch.queues.traffic_manager import QueueConfig
from soft_switch.sim.events import VirtualClock
from soft_switch.sim.network import HostPort, Link
from soft_switch.switch import NewPort, Switch
from topologies.topology import Topology, cables

ORDERS = ("both", "hosts", "switch")
PATIENCE_S = 600.0
"""How long the controller waits for the switch beside it, which answers late only on a machine that is busy."""


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What is the same for every policy.

    Attributes:
        tick_ns: time between steps of the controller.
        sample_ns: time between samples of the queues.
        rerank_ns: how often hosts rank waiting flows anew.
        window: packets that a flow may have under way.
        message_bytes: where a message ends and the next may rise. Scaled down, a packet stands for several megabytes,
            more than a KV block or a collective's chunk; so by default each packet is a message.
        promote_within: whether flows may rise within a message too.
        queue_bytes: what a queue of the switch holds: enough that a burst of all windows is not lost.
        guaranteed_share: of a switch port's rate, for each level.
        rotate_ns: period of ports whose queues rotate (``mfs_eval.packet_level.rotating_port``); None: they do not.
        ecn_frames: see :class:`~mfs_ctrl.desired.SwitchParameters`.
        tune_thresholds: whether the controller moves thresholds.
        tune_bias: whether the controller keeps biases at the measured load.
        progress_delay_ns: None: stamps carry the progress of batches, and the switch keeps track of it and writes what
            is newer into those that pass. Else stamps show no batch, and hosts that are not the batch's own hear of its
            progress from a control plane, after this time.
        cheating_hosts: hosts that stamp all as most urgent (:mod:`mfs_eval.packet_level.adversary`).
        flood_share: of their links' rate, at which cheating hosts also send to the decode servers, unasked.
        police: whether ports are metered, each for the part that its server plays
        (:mod:`mfs_eval.packet_level.policing`). untrusted_hosts: hosts whose stamps the switch does not honour.
        bystanders_of: None, or a server: only requests that it has no part in count
        (:mod:`mfs_eval.packet_level.unaffected`). prune: whether requests are given up so that the others make it
        (:mod:`mfs_ctrl.policy.coordinator`). drop_budget: share of the requests that may be given up, 0 to 1.
        drop_hopeless: whether requests that cannot be in time any more are computed after all others.
        order: who orders by the policy, one of :data:`ORDERS`; where it is not followed, there is one queue.
    """

    tick_ns: int = NS_PER_S
    sample_ns: int = NS_PER_S // 20
    rerank_ns: int = 5_000_000
    window: int = 16
    message_bytes: int = SEGMENT_BYTES
    promote_within: bool = False
    queue_bytes: int = 1024 * 1024
    guaranteed_share: Fraction = GUARANTEED_SHARE
    rotate_ns: int | None = None
    ecn_frames: tuple[int | None, ...] = (None,) * LEVELS
    tune_thresholds: bool = True
    tune_bias: bool = True
    progress_delay_ns: int | None = None
    cheating_hosts: tuple[int, ...] = ()
    flood_share: float = 0.0
    police: bool = False
    untrusted_hosts: tuple[int, ...] = ()
    bystanders_of: int | None = None
    prune: bool = False
    drop_budget: float = 0.1
    drop_hopeless: bool = False
    order: str = "both"

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise ValueError(f"order is one of {', '.join(ORDERS)}, not {self.order!r}")
        if not 0 <= self.flood_share <= 1:
            raise ValueError(f"flood_share is a share of 0..1, not {self.flood_share}")
        if self.progress_delay_ns is not None and self.progress_delay_ns < 0:
            raise ValueError(f"progress_delay_ns must not be negative, it is {self.progress_delay_ns}")
        if not 0 <= self.drop_budget <= 1:
            raise ValueError(f"drop_budget is a share of 0..1, not {self.drop_budget}")


class RackNetwork:
    """The packet network, as the serving model asks for it."""

    def __init__(self, network: PacketNetwork, settings: RunSettings) -> None:
        self._network = network
        self._settings = settings

    def run(self) -> None:
        """Run until nothing happens any more."""
        self._network.clock.run()

    @property
    def now_ns(self) -> int:
        """The time, nanoseconds."""
        return self._network.clock.now_ns

    def call_at(self, time_ns: int, function: Callable[..., None], *args: Any) -> None:
        """Call ``function(*args)`` at ``time_ns``."""
        self._network.clock.call_at(time_ns, function, *args)

    def start_flow(self, source_host: int, spec: FlowSpec, on_complete: Callable[[int], None]) -> None:
        """Send a flow as messages of the size that the settings say."""
        settings = self._settings
        self._network.start_flow(source_host, spec, on_complete, settings.message_bytes, settings.promote_within)

    def advance(self, hosts: Iterable[int], batch: int, layer: int) -> None:
        """Tell the agents of ``hosts``, the batch's own, how far ``batch`` is; others hear of it as settings say."""
        own = frozenset(hosts)
        self._tell(own, batch, layer)
        delay_ns = self._settings.progress_delay_ns
        if delay_ns is not None:
            others = self._network.hosts.keys() - own
            self._network.clock.call_after(delay_ns, self._tell, others, batch, layer)

    def _tell(self, hosts: Iterable[int], batch: int, layer: int) -> None:
        for host in sorted(hosts):  # an order of their own, so that a run can be repeated
            self._network.advance(host, batch, layer)

    def prune(self, requests: Collection[int]) -> None:
        """Tell all agents which requests are given up."""
        self._network.prune(requests)


@dataclass(frozen=True, slots=True)
class Rack:
    """Racks in operation; ``network`` is what carries packets, ``serving_network`` the same for the serving model.

    There is a controller for each switch, in the order of the scenario's ``tors``.
    """

    network: PacketNetwork
    serving_network: RackNetwork
    controllers: tuple[Controller, ...]


def rack(scenario: Scenario, chosen: Policy, settings: RunSettings) -> AbstractContextManager[Rack]:
    """The racks of ``scenario`` under the policy ``chosen``; raises as :func:`rack_of`."""
    return rack_of(scenario.tors, chosen, settings, cluster=scenario.cluster)


@contextmanager
def rack_of(
    tors: Sequence[Topology],
    chosen: Policy,
    settings: RunSettings,
    cluster: Cluster | None = None,
) -> Iterator[Rack]:
    """The hosts of ``tors`` around their switches, each of which a controller writes over P4Runtime.

    ``cluster`` says which servers prefill and which decode, which matters to policing and to hosts that flood.

    Raises:
        p4src.artifact.ArtifactError: there is no compiled program, or it is stale.
        mfs_ctrl.errors.SessionError: the switch refused something.
    """
    program = artifact.load()
    network = _network(tors, cluster, settings, VirtualClock())
    with ExitStack() as stack:
        controllers = tuple(
            stack.enter_context(_controlled(cluster, switch, tor, network, program, chosen, settings, device_id))
            for device_id, (switch, tor) in enumerate(zip(network.switches, tors, strict=True), 1)
        )
        yield Rack(network, RackNetwork(network, settings), controllers)


@contextmanager
def _controlled(
    cluster: Cluster | None,
    switch: Switch,
    tor: Topology,
    network: PacketNetwork,
    program: Artifact,
    chosen: Policy,
    settings: RunSettings,
    device_id: int,
) -> Iterator[Controller]:
    """A controller of ``switch``, which also tells its policy to the hosts of that rack."""
    hosts = [host.id for host in tor.hosts]

    def tell_hosts(in_force: Policy, _biases: Mapping[int, int]) -> None:
        followed = {"both": in_force, "hosts": chosen, "switch": policies.fifo()}[settings.order]
        network.set_policy(followed.rules, hosts)

    server = P4RuntimeServer(switch, device_id=device_id)
    controller = Controller(
        Session(f"127.0.0.1:{server.port}", device_id, timeout_s=PATIENCE_S),
        program,
        tor,
        policies.fifo() if settings.order == "hosts" else chosen,
        _parameters(cluster, tor, settings),
        on_policy=tell_hosts,
        tune_thresholds=settings.tune_thresholds,
        tune_bias=settings.tune_bias,
    )
    server.start()
    try:
        controller.start()
        yield controller
    finally:
        controller.stop()
        server.stop(0)


def _parameters(cluster: Cluster | None, topology: Topology, settings: RunSettings) -> SwitchParameters:
    parameters = SwitchParameters(
        untrusted_ports=frozenset(host.port for host in topology.hosts if host.id in settings.untrusted_hosts),
        queue_bytes=settings.queue_bytes,
        guaranteed_share=float(settings.guaranteed_share),
        ecn_frames=settings.ecn_frames,
    )
    if not settings.police or cluster is None:
        return parameters
    return replace(
        parameters,
        police_floor=policing.FLOOR,
        police_level=policing.LEVEL,
        police_shares=policing.shares(topology, cluster),
        police_burst_us=policing.BURST_US,
    )


def _rotating(period_ns: int) -> NewPort:
    return lambda _number, rate_bps, queues: RotatingPort(rate_bps, queues, period_ns=period_ns)


def _network(
    tors: Sequence[Topology], cluster: Cluster | None, settings: RunSettings, clock: VirtualClock
) -> PacketNetwork:
    first = tors[0]
    ports = [{host.id: host.port for host in tor.hosts} for tor in tors]
    switches = [Switch(new_port=None if settings.rotate_ns is None else _rotating(settings.rotate_ns)) for _ in tors]
    addresses = {host.id: (host.mac, host.ipv4.packed) for tor in tors for host in tor.hosts}

    def interface(host: VirtualHost) -> HostPort:
        if host.identity not in settings.cheating_hosts or not settings.flood_share or cluster is None:
            return host
        targets = [addresses[target] for target in _decode_hosts(cluster, host.identity)]
        if not targets:
            return host
        return Flooder(host, clock, (addresses[host.identity], targets), first.rate_bps, settings.flood_share)

    network = PacketNetwork(
        clock,
        switches[0],
        ports[0],
        addresses,
        Link(first.rate_bps, first.propagation_ns),
        queues=[QueueConfig(settings.guaranteed_share, settings.queue_bytes)] * LEVELS,
        window=settings.window,
        stale_progress=settings.progress_delay_ns is not None,
        rerank_interval_ns=settings.rerank_ns,
        agents=dict.fromkeys(settings.cheating_hosts, CheatingAgent),
        interface=interface,
    )
    for switch, of_hosts in zip(switches[1:], ports[1:], strict=True):
        network.add_switch(switch, of_hosts)
    for near, far in cables(tors):
        link = Link(tors[near.switch].rates[near.port], first.propagation_ns)
        network.connect(switches[near.switch], near.port, switches[far.switch], far.port, link)
    return network


def _decode_hosts(cluster: Cluster, host: int) -> list[int]:
    """The decode servers' hosts on the rail of ``host``, its own server's left out."""
    server, nic = divmod(host, cluster.nics_per_server)
    return [cluster.host(decode, nic) for decode in cluster.decode_servers if decode != server]
