"""A scenario's rack: virtual hosts, the embedded switch with the compiled program, its controller over gRPC."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from evaluation.packet_network import PacketNetwork
from evaluation.scenario import Scenario
from evaluation.virtual_host import SEGMENT_BYTES
from host_agent.arbiter import GUARANTEED_SHARE
from host_agent.flow import FlowSpec
from host_agent.load import NS_PER_S
from host_agent.stamp import LEVELS
from mfs_ctrl import policy
from mfs_ctrl.controller import Controller
from mfs_ctrl.desired import SwitchParameters
from mfs_ctrl.policy import Policy
from mfs_ctrl.session import Session
from p4src import artifact
from soft_switch.events import VirtualClock
from soft_switch.network import Link
from soft_switch.p4runtime.server import P4RuntimeServer
from soft_switch.switch import Switch
from soft_switch.traffic_manager import QueueConfig

ORDERS = ("both", "hosts", "switch")


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
        queue_bytes: what a queue of the switch holds: enough that a burst of all windows is not lost.
        guaranteed_share: of a port's rate, for each level.
        tune_thresholds: whether the controller moves thresholds.
        tune_bias: whether the controller keeps biases at the measured load.
        prune: whether requests are given up so that the others make it (:mod:`mfs_ctrl.coordinator`).
        drop_budget: share of the requests that may be given up, 0 to 1.
        drop_hopeless: whether requests that cannot be in time any more are computed after all others.
        order: who orders by the policy, one of :data:`ORDERS`; where it is not followed, there is one queue.
    """

    tick_ns: int = NS_PER_S
    sample_ns: int = NS_PER_S // 20
    rerank_ns: int = 5_000_000
    window: int = 8
    message_bytes: int = SEGMENT_BYTES
    queue_bytes: int = 1024 * 1024
    guaranteed_share: Fraction = GUARANTEED_SHARE
    tune_thresholds: bool = True
    tune_bias: bool = True
    prune: bool = False
    drop_budget: float = 0.1
    drop_hopeless: bool = False
    order: str = "both"

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise ValueError(f"order is one of {', '.join(ORDERS)}, not {self.order!r}")
        if not 0 <= self.drop_budget <= 1:
            raise ValueError(f"drop_budget is a share of 0..1, not {self.drop_budget}")


class RackNetwork:
    """The packet network, as the serving model asks for it."""

    def __init__(self, network: PacketNetwork, message_bytes: int) -> None:
        self._network = network
        self._message_bytes = message_bytes

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
        self._network.start_flow(source_host, spec, on_complete, self._message_bytes)

    def advance(self, hosts: Iterable[int], batch: int, layer: int) -> None:
        """Tell the agents of ``hosts`` how far ``batch`` is."""
        for host in hosts:
            self._network.advance(host, batch, layer)

    def prune(self, requests: Collection[int]) -> None:
        """Tell all agents which requests are given up."""
        self._network.prune(requests)


@dataclass(frozen=True, slots=True)
class Rack:
    """A rack in operation; ``network`` is what carries packets, ``serving_network`` the same for the serving model."""

    network: PacketNetwork
    serving_network: RackNetwork
    controller: Controller


@contextmanager
def rack(scenario: Scenario, chosen: Policy, settings: RunSettings) -> Iterator[Rack]:
    """The rack of ``scenario`` under the policy ``chosen``, written by a controller over P4Runtime.

    Raises:
        p4src.artifact.ArtifactError: there is no compiled program, or it is stale.
        mfs_ctrl.errors.SessionError: the switch refused something.
    """
    program = artifact.load()
    switch = Switch()
    network = _network(scenario, settings, VirtualClock(), switch)

    def tell_hosts(in_force: Policy, _biases: Mapping[int, int]) -> None:
        network.set_policy({"both": in_force, "hosts": chosen, "switch": policy.fifo()}[settings.order].rules)

    server = P4RuntimeServer(switch)
    controller = Controller(
        Session(f"127.0.0.1:{server.port}"),
        program,
        scenario.topology,
        policy.fifo() if settings.order == "hosts" else chosen,
        SwitchParameters(queue_bytes=settings.queue_bytes, guaranteed_share=float(settings.guaranteed_share)),
        on_policy=tell_hosts,
        tune_thresholds=settings.tune_thresholds,
        tune_bias=settings.tune_bias,
    )
    server.start()
    try:
        controller.start()
        yield Rack(network, RackNetwork(network, settings.message_bytes), controller)
    finally:
        controller.stop()
        server.stop(0)


def _network(scenario: Scenario, settings: RunSettings, clock: VirtualClock, switch: Switch) -> PacketNetwork:
    topology = scenario.topology
    return PacketNetwork(
        clock,
        switch,
        {host.id: host.port for host in topology.hosts},
        {host.id: (host.mac, host.ipv4.packed) for host in topology.hosts},
        Link(topology.rate_bps, topology.propagation_ns),
        queues=[QueueConfig(settings.guaranteed_share, settings.queue_bytes)] * LEVELS,
        window=settings.window,
        rerank_interval_ns=settings.rerank_ns,
    )
