"""A testbed: virtual hosts, embedded switches that run the compiled program, and a controller per switch over gRPC."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from host_agent.protocol.flow_spec import FlowSpec
from host_agent.protocol.stamp import LEVELS
from mfs_ctrl import policies
from mfs_ctrl.controller import Controller
from mfs_ctrl.desired import SwitchParameters
from mfs_ctrl.p4rt.session import Session
from mfs_ctrl.policy.policy import Policy
from mfs_eval.errors import EvaluationError
from mfs_eval.packet_level import policing
from mfs_eval.packet_level.adversary import AdversarialAgent, Flooder
from mfs_eval.packet_level.flight_recorder import FlightRecorder
from mfs_eval.packet_level.hosts.frames import SEGMENT_BYTES
from mfs_eval.packet_level.hosts.rocev2.header import SEGMENT_BYTES as RDMA_SEGMENT_BYTES
from mfs_eval.packet_level.hosts.virtual_host import VirtualHost
from mfs_eval.packet_level.packet_network import PacketNetwork
from mfs_eval.packet_level.rotating_port import RotatingPort
from mfs_eval.serving.cluster import Cluster
from mfs_eval.setup.run_settings import RunSettings
from mfs_eval.setup.scenario import Scenario
from p4src import artifact
from p4src.artifact import Artifact
from soft_switch.backend import backend_of_environment
from soft_switch.p4runtime.server import P4RuntimeServer
from soft_switch.queues.traffic_manager import NewPort, QueueConfig
from soft_switch.sim.events import VirtualClock
from soft_switch.sim.network import HostPort, Link
from soft_switch.switch import Switch
from topologies.topology import Topology, cables

RESPONSE_TIMEOUT_S = 600.0
"""Timeout of the controller for the switch, which runs in the same process and is late only on a busy machine."""


class TestbedNetwork:
    """The packet network as the serving model's :class:`~mfs_eval.serving.network_interface.Network`."""

    def __init__(self, network: PacketNetwork, settings: RunSettings) -> None:
        self._network = network
        self._hosts = settings.hosts
        self._progress_delay_ns = settings.control.progress_delay_ns

    def run(self) -> None:
        """Run until no event is left."""
        self._network.clock.run()

    @property
    def now_ns(self) -> int:
        """The time in nanoseconds."""
        return self._network.clock.now_ns

    def call_at(self, time_ns: int, function: Callable[..., None], *args: Any) -> None:
        """Call ``function(*args)`` at ``time_ns``."""
        self._network.clock.call_at(time_ns, function, *args)

    def start_flow(self, source_host: int, spec: FlowSpec, on_complete: Callable[[int], None]) -> None:
        """Send a flow in messages of the configured size."""
        segment = RDMA_SEGMENT_BYTES if self._hosts.transport == "rocev2" else SEGMENT_BYTES
        message_bytes = self._hosts.message_segments * segment
        self._network.start_flow(source_host, spec, on_complete, message_bytes, self._hosts.promote_within)

    def advance(self, hosts: Iterable[int], batch: int, layer: int) -> None:
        """Tell ``hosts``, which compute ``batch``, its current layer; with a progress delay, tell the others later."""
        own = frozenset(hosts)
        self._tell(own, batch, layer)
        delay_ns = self._progress_delay_ns
        if delay_ns is not None:
            others = self._network.hosts.keys() - own
            self._network.clock.call_after(delay_ns, self._tell, others, batch, layer)

    def _tell(self, hosts: Iterable[int], batch: int, layer: int) -> None:
        for host in sorted(hosts):  # a fixed order keeps runs repeatable
            self._network.advance(host, batch, layer)

    def prune(self, requests: Collection[int]) -> None:
        """Tell all agents which requests are given up."""
        self._network.prune(requests)


@dataclass(frozen=True, slots=True)
class Testbed:
    """A testbed in operation.

    Attributes:
        network: carries the packets.
        serving_network: the same network, as the serving model sees it.
        controllers: one per switch, in the order of the scenario's ``tors``.
    """

    __test__ = False  # not a test class, despite its name

    network: PacketNetwork
    serving_network: TestbedNetwork
    controllers: tuple[Controller, ...]


def open_testbed(
    scenario: Scenario, chosen: Policy, settings: RunSettings, recorder: FlightRecorder | None = None
) -> AbstractContextManager[Testbed]:
    """Open the testbed of ``scenario`` under the policy ``chosen``; ``recorder`` records what happens to its flows.

    Raises:
        p4src.artifact.ArtifactError, mfs_ctrl.errors.SessionError: see :func:`open_testbed_on`.
    """
    return open_testbed_on(scenario.tors, chosen, settings, scenario.cluster, recorder)


@contextmanager
def open_testbed_on(
    tors: Sequence[Topology],
    chosen: Policy,
    settings: RunSettings,
    cluster: Cluster | None = None,
    recorder: FlightRecorder | None = None,
) -> Iterator[Testbed]:
    """Open a testbed: the hosts of ``tors`` around their switches, each programmed by a controller over P4Runtime.

    ``cluster`` says which servers prefill and which decode. Only policing and flooding hosts depend on it.

    Raises:
        p4src.artifact.ArtifactError: there is no compiled program, or it is stale.
        mfs_ctrl.errors.SessionError: the switch rejected a request.
    """
    program = artifact.load()
    clock = VirtualClock() if recorder is None else recorder.clock
    network = _network(tors, cluster, settings, clock, recorder)
    with ExitStack() as stack:
        controllers = tuple(
            stack.enter_context(_controlled(cluster, switch, tor, network, program, chosen, settings, device_id))
            for device_id, (switch, tor) in enumerate(zip(network.switches, tors, strict=True), 1)
        )
        yield Testbed(network, TestbedNetwork(network, settings), controllers)


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
    """Provide a controller of ``switch`` that also passes its policy on to the hosts of ``tor``."""
    hosts = [host.id for host in tor.hosts]

    def tell_hosts(in_force: Policy, _biases: Mapping[int, int]) -> None:
        followed = {"both": in_force, "hosts": chosen, "switch": policies.fifo()}[settings.control.order]
        network.set_policy(followed.rules, hosts)

    server = P4RuntimeServer(switch, device_id=device_id, backend=backend_of_environment())
    controller = Controller(
        Session(f"127.0.0.1:{server.port}", device_id, timeout_s=RESPONSE_TIMEOUT_S),
        program,
        tor,
        policies.fifo() if settings.control.order == "hosts" else chosen,
        _parameters(cluster, tor, settings),
        on_policy=tell_hosts,
        tune_thresholds=settings.control.tune_thresholds,
        tune_bias=settings.control.tune_bias,
    )
    server.start()
    try:
        controller.start()
        yield controller
    finally:
        controller.stop()
        server.stop(0)


def _parameters(cluster: Cluster | None, topology: Topology, settings: RunSettings) -> SwitchParameters:
    ports, adversary = settings.ports, settings.adversary
    parameters = SwitchParameters(
        untrusted_ports=frozenset(host.port for host in topology.hosts if host.id in adversary.untrusted_hosts),
        queue_bytes=ports.queue_bytes,
        guaranteed_share=float(ports.guaranteed_share),
        ecn_frames=ports.ecn_frames,
    )
    if settings.hosts.transport == "rocev2":
        rdma = settings.hosts.rdma
        if rdma.carrier == "dscp":
            parameters = replace(parameters, stage_dscp=rdma.stage_dscp)
    if not adversary.police or cluster is None:
        return parameters
    return replace(
        parameters,
        police_floor=policing.FLOOR,
        police_level=policing.LEVEL,
        police_shares=policing.shares(topology, cluster),
        police_burst_us=policing.BURST_US,
    )


def _new_port(period_ns: int | None, recorder: FlightRecorder | None, switch: int) -> NewPort | None:
    if recorder is not None:
        return recorder.new_port(switch)
    if period_ns is None:
        return None
    return lambda _number, rate_bps, queues: RotatingPort(rate_bps, queues, period_ns=period_ns)


def _network(
    tors: Sequence[Topology],
    cluster: Cluster | None,
    settings: RunSettings,
    clock: VirtualClock,
    recorder: FlightRecorder | None,
) -> PacketNetwork:
    first, adversary = tors[0], settings.adversary
    queue, period_ns = (
        QueueConfig(settings.ports.guaranteed_share, settings.ports.queue_bytes),
        settings.ports.rotation_period_ns,
    )
    ports = [{host.id: host.port for host in tor.hosts} for tor in tors]
    if recorder is not None and (period_ns is not None or settings.hosts.transport == "rocev2"):
        raise EvaluationError("only runs without rotating queues and RoCEv2 can be recorded")
    switches = [Switch(new_port=_new_port(period_ns, recorder, index)) for index in range(len(tors))]
    addresses = {host.id: (host.mac, host.ipv4.packed) for tor in tors for host in tor.hosts}

    def interface(host: VirtualHost) -> HostPort:
        if recorder is not None:
            return recorder.interface(host, first.rate_bps)
        if host.identity not in adversary.hosts or not adversary.flood_share or cluster is None:
            return host
        targets = [addresses[target] for target in _decode_hosts(cluster, host.identity)]
        if not targets:
            return host
        return Flooder(host, clock, (addresses[host.identity], targets), first.rate_bps, adversary.flood_share)

    network = PacketNetwork(
        clock,
        switches[0],
        ports[0],
        addresses,
        Link(first.rate_bps, first.propagation_ns),
        queues=[queue] * LEVELS,
        window=settings.hosts.window,
        stale_progress=settings.control.progress_delay_ns is not None,
        rerank_interval_ns=settings.hosts.rerank_interval_ns,
        tcp=settings.hosts.tcp if settings.hosts.transport == "tcp" else None,
        rdma=settings.hosts.rdma if settings.hosts.transport == "rocev2" else None,
        agents=dict.fromkeys(adversary.hosts, AdversarialAgent),
        interface=interface,
    )
    for switch, of_hosts in zip(switches[1:], ports[1:], strict=True):
        network.add_switch(switch, of_hosts)
    if recorder is not None:
        recorder.attach(network)
    for near, far in cables(tors):
        link = Link(tors[near.switch].rates[near.port], first.propagation_ns)
        network.connect(switches[near.switch], near.port, switches[far.switch], far.port, link)
    return network


def _decode_hosts(cluster: Cluster, host: int) -> list[int]:
    """Return the hosts of decode servers on the rail of ``host``, except its own server's."""
    server, nic = divmod(host, cluster.nics_per_server)
    return [cluster.host(decode, nic) for decode in cluster.decode_servers if decode != server]
