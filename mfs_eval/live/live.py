"""``mfs live``: the serving model's flows as TCP connections between network namespaces, in real time.

Servers are namespaces with host agents, the switch is the embedded one on the ends of their links, and a controller
tunes it over P4Runtime. Everything is as on real machines but for the GPUs, which wait instead of computing, and for
the payload, which is zeros.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from host_agent.client import AgentClient, OpenFlow
from host_agent.protocol.flow_spec import FlowSpec
from mfs_eval.errors import EvaluationError
from mfs_eval.live.live_network import LiveNetwork, NoStamps, Place, Stamper
from mfs_eval.packet_level.experiment import WARM_UP_SHARE, alone_on_the_rack
from mfs_eval.serving.cluster import Cluster
from mfs_eval.serving.engine import Serving
from mfs_eval.serving.metrics import Summary, summarise
from mfs_eval.serving.objectives import low_load_records, objectives
from mfs_eval.serving.placement import place
from mfs_eval.serving.trace import SAMPLE_PATH, Request, load_trace, with_poisson_arrivals
from mfs_eval.setup.scenario import Scenario
from mfs_eval.setup.workload import Workload, select
from soft_switch.realtime.serving import NICENESS
from topologies import bmv2, namespaces, port_classes
from topologies.namespaces import Realised
from topologies.processes import Process, free_port, listening, mfs
from topologies.topology import Host, Topology, tor

PREFIX = "mfslive"
CLUSTER = Cluster(8, 1, 4, units=((0, 1), (2, 3), (4, 5)), decode_servers=(6,))
"""As in the scenario ``incast``, with one interface each; the eighth server runs on without work."""
LAYERS_PER_STEP = 8
MESSAGE_BYTES = 16 * 1024
"""Where a level may rise: of real bytes, each of which stands for some thousands."""
WARM_CONNECTIONS = 6
STALLED_S = 60.0
"""A run in which no request ends for so long does not end."""
SAY_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class LiveSettings:
    """How the model is scaled down.

    Attributes:
        rate_bps: of each link.
        stretch: real time over the model's.
        stamps: whether host agents run; without, packets are not stamped, and all policies are alike.
        cluster: servers of one interface each, and what they do.
        bmv2: whether the switch is ``simple_switch_grpc``, with the kernel's links behind its ports.
    """

    rate_bps: int = 20_000_000
    stretch: float = 5.0
    stamps: bool = True
    cluster: Cluster = CLUSTER
    bmv2: bool = False

    @property
    def scenario(self) -> Scenario:
        """What is served. Its scale makes a 100 Gb/s link one of ``rate_bps``, in the model's time.

        Raises:
            EvaluationError: rate and stretch together leave less than a byte of what 100 Gb/s carry.
        """
        scale = round(self.cluster.nic_bits_per_second / (self.rate_bps * self.stretch))
        if scale < 1:
            raise EvaluationError(f"{self.rate_bps} b/s for {self.stretch:g} times as long is more than is modelled")
        return Scenario("live", self.cluster, (), scale=scale, layers_per_step=LAYERS_PER_STEP)

    @property
    def topology(self) -> Topology:
        """The cluster's servers around one switch."""
        return tor(self.cluster.servers, self.cluster.nics_per_server, self.rate_bps)


@dataclass(frozen=True, slots=True)
class LiveResult:
    """One run.

    Attributes:
        summary: in the model's time.
        flows, connections: how many there were.
        elapsed_s: real time of the run.
        worst_delay_s: how late this process was at worst, in real time: what is much less than a TTFT does not matter.
    """

    policy: str
    summary: Summary
    flows: int
    connections: int
    elapsed_s: float
    worst_delay_s: float


class AgentStamper:
    """Tells the hosts' agents, through their Unix sockets, what connections carry."""

    def __init__(self, agents: Mapping[int, AgentClient]) -> None:
        self._agents = agents
        self._flows: dict[socket.socket, OpenFlow] = {}

    def open(self, host: int, connection: socket.socket, spec: FlowSpec, number: int, deadline_ns: int) -> None:
        """See :class:`~mfs_eval.live.live_network.Stamper`. The flow that the connection carried before is closed."""
        agent = self._agents[host]
        if (before := self._flows.get(connection)) is not None:
            # The agent ends it itself when the same socket is opened again.
            agent.forget(before)
        self._flows[connection] = agent.open(
            connection,
            batch=spec.batch,
            stage=spec.stage,
            total_bytes=spec.total_bytes,
            deadline_ns=max(0, deadline_ns),
            target_layer=spec.target_layer,
            beyond_bytes=spec.beyond_bytes,
            message_bytes=MESSAGE_BYTES,
            number=number,
        )

    def advance(self, host: int, batch: int, layer: int) -> None:
        """See :class:`~mfs_eval.live.live_network.Stamper`."""
        self._agents[host].advance(batch, layer)


def prepared(settings: LiveSettings, count: int, trace: Path | None = None) -> Workload:
    """The first ``count`` requests of the trace, with objectives from their TTFT without contention.

    Raises:
        EvaluationError: the trace cannot be read or is too short.
    """
    scenario = settings.scenario
    requested = load_trace(trace or SAMPLE_PATH)
    requests = select(scenario, requested, count)
    placements = place(requests, len(settings.cluster.units), requested[: scenario.warm_requests])
    alone = low_load_records(scenario.serving, requests, placements, alone_on_the_rack(scenario))
    return Workload(tuple(requests), placements, objectives(alone))


def run_live(
    policies: Sequence[str],
    work: Workload,
    request_rate: float,
    seed: int,
    settings: LiveSettings,
    say: Callable[[str], None],
    prefix: str = PREFIX,
) -> list[LiveResult]:
    """Serve ``work`` under each policy, one after the other on the same switch, at the same arrival times.

    ``request_rate`` is in requests per second of the model's time.

    Raises:
        EvaluationError: a run stalls.
        TopologyError: no root, or something cannot be set up.
        AgentError: a host's agent is gone, or refuses a flow.
    """
    requests = with_poisson_arrivals(work.requests, request_rate, seed)
    with contextlib.suppress(OSError):
        # Hosts and agents, which are children of this process, are to be no worse off than the switch.
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    with live_rack(settings, prefix) as rack:
        results = []
        for policy in policies:
            with rack.controlled(policy) as controller, rack.stamping() as stamper:
                say(f"{policy}: {controller.output().strip().splitlines()[-1].partition(': ')[2]}")
                results.append(serve(policy, work, requests, rack, stamper, say))
        said = rack.switch.finish().splitlines()
        for line in () if settings.bmv2 else said[2:-1]:
            say(f"the switch: {line}")
    return results


@dataclass(frozen=True, slots=True)
class LiveRack:
    """Namespaces and the switch between them.

    Attributes:
        address: where the switch serves P4Runtime.
        policy_port: where the controller serves the policy to host agents.
        folder: for sockets and state of the agents.
    """

    settings: LiveSettings
    topology: Topology
    realised: Realised
    switch: Process
    address: str
    policy_port: int
    folder: Path

    def controlled(self, policy: str, *options: str) -> Process:
        """A controller that puts ``policy`` into force; a context manager."""
        settings = self.settings
        control = [
            *("--address", self.address, "--policy", policy, "--slack-factor", f"{settings.stretch:g}"),
            *("--servers", str(settings.cluster.servers), "--nics", str(settings.cluster.nics_per_server)),
            *("--rate", str(settings.rate_bps), "--policy-listen", f"0.0.0.0:{self.policy_port}"),
            *("--interval", f"{settings.stretch:g}"),
            *(("--dscp",) if settings.bmv2 else ()),
        ]
        # Unlike what moves packets it may wait, as long as others of no precedence.
        polite = ["nice", "-n", str(max(0, -os.getpriority(os.PRIO_PROCESS, 0)))]
        command = [*polite, *mfs(), "ctrl", *control, *options]
        return Process(command, lambda out: "in force" in out)

    @contextlib.contextmanager
    def stamping(self) -> Iterator[Stamper]:
        """A host agent in each namespace, and a way to tell them of flows."""
        if not self.settings.stamps:
            yield NoStamps()
            return
        with contextlib.ExitStack() as stack:
            agents = {host.id: self._agent(host) for host in self.topology.hosts}
            for process in agents.values():
                stack.callback(process.stop)
            clients = {}
            for host, process in agents.items():
                process.wait_ready()
                clients[host] = stack.enter_context(AgentClient(str(self._socket(host))))
            yield AgentStamper(clients)

    def _agent(self, host: Host) -> Process:
        options = [
            *("--interface", self.realised.interfaces[host.id], "--rate", str(self.settings.rate_bps)),
            *("--policy", f"http://{self.realised.management[host.server]}:{self.policy_port}", "--interval", "0.5"),
            *("--socket", str(self._socket(host.id)), "--state-dir", str(self.folder / host.name)),
        ]
        command = [*mfs(), "agent", "run", *options]
        return Process(command, lambda out: "serving " in out, self.realised.namespaces[host.server])

    def _socket(self, host: int) -> Path:
        return self.folder / f"{host}.sock"

    def network(self, stamper: Stamper) -> LiveNetwork:
        """Connections between the namespaces; a context manager."""
        places = {host.id: Place(self.realised.namespaces[host.server], str(host.ipv4)) for host in self.topology.hosts}
        return LiveNetwork(places, self.settings.stretch, stamper, random.getrandbits(31))


@contextlib.contextmanager
def live_rack(settings: LiveSettings, prefix: str = PREFIX) -> Iterator[LiveRack]:
    """Namespaces for the cluster's servers and the embedded switch, without entries as yet. For the main thread.

    Raises:
        TopologyError: no root, or something cannot be set up.
    """
    topology = settings.topology
    with (
        namespaces.unwinding_on_sigterm(),
        tempfile.TemporaryDirectory(prefix="mfs-live-") as folder,
        namespaces.standing([topology], prefix, management=True) as realised,
    ):
        address = f"127.0.0.1:{free_port()}"
        with _switch(settings, realised, address) as switch:
            yield LiveRack(settings, topology, realised, switch, address, free_port(), Path(folder))


@contextlib.contextmanager
def _switch(settings: LiveSettings, realised: Realised, address: str) -> Iterator[Process]:
    topology = settings.topology
    if not settings.bmv2:
        options = ["--empty", "--address", address, *realised.switch_options(topology)]
        with Process([*mfs(), "switch", *options], lambda out: "ports: " in out) as process:
            yield process
        return
    command = bmv2.command(address, realised.ports[0], device_id=1, thrift_port=free_port())
    with Process(command, lambda _: listening(address)) as process:
        for port, interface in realised.ports[0].items():
            port_classes.put_link(interface, topology.rates[port])
        yield process


def serve(
    policy: str,
    work: Workload,
    requests: Sequence[Request],
    rack: LiveRack,
    stamper: Stamper,
    say: Callable[[str], None],
) -> LiveResult:
    """Serve ``requests`` on a rack whose controller has put ``policy`` into force.

    Raises:
        EvaluationError: the run stalls.
        AgentError: as for :func:`run_live`.
    """
    with rack.network(stamper) as network:
        network.warm_up(WARM_CONNECTIONS)
        serving = Serving(rack.settings.scenario.serving, network, requests, work.slo_ns, work.placements)
        serving.start()
        began = time.monotonic()
        network.run(_Progress(serving, len(requests), policy, began, say).over)
        elapsed_s = time.monotonic() - began
    warm = round(WARM_UP_SHARE * len(serving.records))
    counted = sorted(serving.records, key=lambda record: record.arrival_ns)[warm:]
    summary = summarise(counted, serving.batches)
    return LiveResult(policy, summary, network.flows, network.connections, elapsed_s, network.worst_delay_ns / 1e9)


class _Progress:
    """Says now and then how far a run is, and whether it is over."""

    def __init__(self, serving: Serving, count: int, policy: str, began: float, say: Callable[[str], None]) -> None:
        self._serving = serving
        self._count = count
        self._policy = policy
        self._began = self._said = self._moved = began
        self._finished = 0
        self._say = say

    def over(self) -> bool:
        """Whether all requests are served.

        Raises:
            EvaluationError: none has been for long.
        """
        now, finished = time.monotonic(), len(self._serving.records)
        if finished != self._finished:
            self._finished, self._moved = finished, now
        if now - self._moved > STALLED_S:
            raise EvaluationError(
                f"{self._policy}: no request ended for {STALLED_S:g} s, {self._count - finished} of {self._count} are "
                f"left; is the controller connected, and the machine fast enough for this rate?"
            )
        if now - self._said >= SAY_EVERY_S:
            self._said = now
            self._say(f"{self._policy}: {finished} of {self._count} requests after {now - self._began:.0f} s")
        return not self._serving.unfinished
