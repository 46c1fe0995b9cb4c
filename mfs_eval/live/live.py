"""``mfs live``: the serving model's flows as TCP connections between network namespaces, in real time.

Servers are namespaces with host agents, the embedded switch is at the other end of their links, and a controller tunes
it over P4Runtime. Everything is as on real machines except the GPUs, which wait instead of computing, and the payload,
which is zeros.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import socket
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from host_agent.client import AgentClient
from host_agent.protocol.flow_spec import FlowSpec
from mfs_ctrl.policy import load
from mfs_eval.errors import EvaluationError
from mfs_eval.live import flow_log
from mfs_eval.live.flow_log import FlowLog, Sighting
from mfs_eval.live.link_meter import FlowTime, LinkMeter, Stalls
from mfs_eval.live.live_network import LiveNetwork, NoStamps, Place, Stamper
from mfs_eval.live.live_record import LiveFlow, LiveRecord, SeenLevel
from mfs_eval.live.tcp_counters import TcpCounters
from mfs_eval.packet_level.experiment import WARM_UP_SHARE, uncontended_network
from mfs_eval.serving.cluster import Cluster
from mfs_eval.serving.engine import Serving
from mfs_eval.serving.metrics import Summary, after_warm_up, summarise
from mfs_eval.serving.objectives import low_load_records, objectives
from mfs_eval.serving.placement import place
from mfs_eval.serving.trace import TRACE_PATH, Request, load_trace, with_poisson_arrivals
from mfs_eval.setup import windows
from mfs_eval.setup.scenario import Scenario
from mfs_eval.setup.workload import Workload
from soft_switch.realtime.serving import NICENESS
from topologies import bmv2, namespaces, port_classes, receive_offload
from topologies.namespaces import Realised
from topologies.processes import Process, free_port, listening, mfs, unwinding_on_sigterm
from topologies.topology import Host, Topology, tor

_LOG = logging.getLogger(__name__)

PREFIX = "mfslive"
CLUSTERS = {
    "testbed": Cluster(8, 1, 4, units=((0, 1), (2, 3)), decode_servers=(4, 5, 6, 7)),
    "incast": Cluster(8, 1, 4, units=((0, 1), (2, 3), (4, 5)), decode_servers=(6,)),
}
"""As in the scenarios of these names, with one interface per server; in ``incast`` the eighth server is idle."""
CLUSTER = CLUSTERS["testbed"]
QUEUE_BYTES = 2 * 1024 * 1024
"""Room for the windows of all flows that wait at one level of a port: a packet lost from a queue that is not served
stays lost until the timeout."""
BMV2_QUEUE_BYTES = port_classes.QUEUE_BYTES
"""All that the send buffer of bmv2's sockets has room for."""
DEFERRAL_S = 1.0
"""Shortest retransmission timeout in the model's time: as long as a flow may be deferred."""
LAYERS_PER_STEP = 8
MESSAGE_BYTES = 16 * 1024
"""A flow may be promoted after this many real bytes, each of which represents some thousands."""
WARM_CONNECTIONS = 16
"""Kept for each pair of servers. Handshakes carry no stamp, so under load they wait behind what is stamped."""
ADOPT_S = 30.0
STALLED_S = 60.0
"""A run in which no request ends for this long is aborted."""
LOG_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class LiveSettings:
    """Scaling of the model.

    Attributes:
        rate_bps: rate of each link.
        stretch: real time over the model's time.
        stamps: whether host agents run. Without them packets are not stamped, and all policies are alike.
        cluster: servers with one interface each, and their roles.
        bmv2: whether the switch is ``simple_switch_grpc``, with links of the kernel behind its ports.
        order: whether agents order what leaves their hosts; otherwise a host's link has one queue.
        kernel_tcp: leave TCP as Linux has it: with time stamps, and with timeouts of 200 ms.
        queue_bytes: capacity of each queue of the switch.
        hold: whether host agents hold flows at their source.
        carrier: what carries the stamps of host agents: ``option``, with which receivers merge frames as NICs do, or
            ``shim``, which they cannot merge.
    """

    rate_bps: int = 20_000_000
    stretch: float = 5.0
    stamps: bool = True
    cluster: Cluster = CLUSTER
    bmv2: bool = False
    order: bool = True
    kernel_tcp: bool = False
    queue_bytes: int = QUEUE_BYTES
    hold: bool = False
    carrier: str = "option"

    @property
    def hosts(self) -> str:
        """What is particular to the hosts; see :class:`~mfs_eval.live.live_rows.Row`."""
        if not self.stamps:
            return "no-stamps"
        parts = ["order" if self.order else "no-order"]
        parts += ["kernel-tcp"] * self.kernel_tcp + ["hold"] * self.hold + ["option"] * (self.carrier == "option")
        return "-".join(parts)

    @property
    def switch(self) -> str:
        """Name of the switch."""
        return "bmv2" if self.bmv2 else "embedded"

    @property
    def scenario(self) -> Scenario:
        """The scenario that is served. Its scale maps a 100 Gb/s link to ``rate_bps``, in the model's time.

        Raises:
            EvaluationError: rate and stretch together exceed the modelled 100 Gb/s.
        """
        scale = round(self.cluster.nic_bits_per_second / (self.rate_bps * self.stretch))
        if scale < 1:
            raise EvaluationError(
                f"{self.rate_bps} b/s stretched {self.stretch:g} times exceed the modelled 100 Gb/s; "
                "lower --rate or --stretch"
            )
        return Scenario("live", self.cluster, (), scale=scale, layers_per_step=LAYERS_PER_STEP)

    @property
    def topology(self) -> Topology:
        """The cluster's servers around one switch."""
        return tor(self.cluster.servers, self.cluster.nics_per_server, self.rate_bps)


@dataclass(frozen=True, slots=True)
class LiveResult:
    """One run.

    Attributes:
        policy: name of the policy.
        seed: seed of the arrivals.
        requests: number of requests, including those of the warm-up.
        summary: results in the model's time.
        flows: number of flows.
        connections: number of TCP connections.
        elapsed_s: real time of the run.
        worst_delay_s: worst delay of this process in real time; it is negligible if it is much shorter than a TTFT.
        tcp: what the kernel's TCP counted.
        stalls: time in which flows waited for idle links, in real time.
        record: what became of each request and flow.
    """

    policy: str
    seed: int
    requests: int
    summary: Summary
    flows: int
    connections: int
    elapsed_s: float
    worst_delay_s: float
    tcp: TcpCounters
    stalls: Stalls
    record: LiveRecord


class AgentStamper:
    """Stamper that opens flows with the hosts' agents through their Unix sockets."""

    def __init__(self, agents: Mapping[int, AgentClient]) -> None:
        self.agents = agents

    def open(self, host: int, connection: socket.socket, spec: FlowSpec, number: int, deadline_ns: int) -> None:
        """See :class:`~mfs_eval.live.live_network.Stamper`. The flow that the connection carried before is closed."""
        self.agents[host].open(
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
        self.agents[host].advance(batch, layer)


def prepared(settings: LiveSettings, count: int, trace: Path | None = None, window: int = 0) -> Workload:
    """Return ``count`` requests of the trace, with objectives from their TTFT without contention.

    ``window`` numbers the groups of ``count`` requests; after the last group of the trace the first one follows.

    Raises:
        EvaluationError: the trace cannot be read or is too short.
    """
    scenario = settings.scenario
    requested = load_trace(trace or TRACE_PATH)
    requests = windows.numbered(scenario, requested, count, window).requests
    # Caches hold the first requests of the trace in every window, not those before it: earlier runs are like that.
    placements = place(requests, len(settings.cluster.units), requested[: scenario.warm_requests])
    alone = low_load_records(scenario.serving, requests, placements, uncontended_network(scenario))
    return Workload(requests, placements, objectives(alone))


def run_live(
    policies: Sequence[str],
    work: Workload,
    request_rate: float,
    seed: int,
    settings: LiveSettings,
    prefix: str = PREFIX,
    levels: bool = False,
) -> Iterator[LiveResult]:
    """Serve ``work`` under each policy in turn, on the same switch and at the same arrival times.

    Args:
        policies: names or files, as ``mfs ctrl --policy`` takes them.
        work: the requests.
        request_rate: requests per second of the model's time.
        seed: seed of the arrivals.
        settings: how the model is scaled down.
        prefix: prefix of namespaces and interfaces.
        levels: whether the agents are asked for the levels of their flows, ten times a second.

    Raises:
        EvaluationError: a run stalls.
        TopologyError: this is not root, or something cannot be set up.
        AgentError: a host's agent is gone, or refuses a flow.
        EvaluationError: a run stalls, or an agent does not get the policy.
    """
    with contextlib.suppress(OSError):
        # Hosts and agents, children of this process, must not be at a disadvantage against the switch.
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    with live_rack(settings, prefix) as rack:
        requests = with_poisson_arrivals(work.requests, request_rate, seed)
        for policy in policies:
            with rack.controlled(policy) as controller, rack.stamping() as stamper:
                if isinstance(stamper, AgentStamper):
                    adopt(stamper.agents, policy)
                _LOG.info("%s: %s", policy, controller.output().strip().splitlines()[-1].partition(": ")[2])
                yield serve(policy, seed, work, requests, rack, stamper, levels and settings.stamps)
        lines = rack.switch.finish().splitlines()
        for line in () if settings.bmv2 else lines[2:-1]:
            _LOG.info("the switch: %s", line)


def adopt(agents: Mapping[int, AgentClient], policy: str) -> None:
    """Wait until the agents of all hosts have the policy. Without it, they stamp nothing, or order as another one does.

    Raises:
        EvaluationError: one does not get it.
    """
    name = load(policy).name
    deadline = time.monotonic() + ADOPT_S
    for host, agent in agents.items():
        while (found := agent.status()["policy"])["name"] != name:
            if time.monotonic() > deadline:
                raise EvaluationError(
                    f"the agent of host {host} has not got the policy {name} in {ADOPT_S:g} s: {found['controller']}"
                )
            time.sleep(0.1)


@dataclass(frozen=True, slots=True)
class LiveRack:
    """Namespaces and the switch between them.

    Attributes:
        address: address of the switch's P4Runtime server.
        policy_port: port at which the controller serves the policy to host agents.
        folder: folder of the agents' sockets and state.
    """

    settings: LiveSettings
    topology: Topology
    realised: Realised
    switch: Process
    address: str
    policy_port: int
    folder: Path

    def controlled(self, policy: str, *options: str) -> Process:
        """Return a controller that puts ``policy`` into force; a context manager."""
        settings = self.settings
        control = [
            *("--address", self.address, "--policy", policy, "--slack-factor", f"{settings.stretch:g}"),
            *("--servers", str(settings.cluster.servers), "--nics", str(settings.cluster.nics_per_server)),
            *("--rate", str(settings.rate_bps), "--policy-listen", f"0.0.0.0:{self.policy_port}"),
            *("--interval", f"{settings.stretch:g}"),
            *(("--dscp",) if settings.bmv2 else ()),
        ]
        # Unlike the processes that move packets, it gets no precedence.
        polite = ["nice", "-n", str(max(0, -os.getpriority(os.PRIO_PROCESS, 0)))]
        command = [*polite, *mfs(), "ctrl", *control, *options]
        return Process(command, lambda out: "in force" in out)

    @contextlib.contextmanager
    def stamping(self) -> Iterator[Stamper]:
        """Run a host agent in each namespace, and provide what opens flows with them."""
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
                clients[host] = stack.enter_context(AgentClient(str(self.socket(host))))
            yield AgentStamper(clients)

    def _agent(self, host: Host) -> Process:
        options = [
            *("--interface", self.realised.interfaces[host.id], "--rate", str(self.settings.rate_bps)),
            *(
                "--policy-url",
                f"http://{self.realised.management[host.server]}:{self.policy_port}",
                "--interval",
                "0.5",
            ),
            *("--socket", str(self.socket(host.id)), "--state-dir", str(self.folder / host.name)),
            *(() if self.settings.order else ("--no-order",)),
            *(() if self.settings.kernel_tcp else ("--rto-min", f"{DEFERRAL_S * self.settings.stretch:g}")),
            "--hold" if self.settings.hold else "--no-hold",
            *("--carrier", self.settings.carrier),
        ]
        command = [*mfs(), "agent", "run", *options]
        return Process(command, lambda out: "serving " in out, self.realised.namespaces[host.server])

    def socket(self, host: int) -> Path:
        """Return the path of the Unix socket of a host's agent."""
        return self.folder / f"{host}.sock"

    def network(self, stamper: Stamper) -> LiveNetwork:
        """Return the connections between the namespaces; a context manager."""
        places = {host.id: Place(self.realised.namespaces[host.server], str(host.ipv4)) for host in self.topology.hosts}
        return LiveNetwork(places, self.settings.stretch, stamper, random.getrandbits(31))


@contextlib.contextmanager
def live_rack(settings: LiveSettings, prefix: str = PREFIX) -> Iterator[LiveRack]:
    """Set up namespaces for the cluster's servers and a switch without entries. For the main thread.

    Raises:
        TopologyError: this is not root, or something cannot be set up.
    """
    topology = settings.topology
    with (
        unwinding_on_sigterm(),
        tempfile.TemporaryDirectory(prefix="mfs-live-") as folder,
        namespaces.standing([topology], prefix, management=True, time_stamps=settings.kernel_tcp) as realised,
    ):
        if settings.carrier == "option":
            for host in topology.hosts:
                interface = realised.interfaces[host.id]
                receive_offload.turn_on(realised.namespaces[host.server], interface, settings.rate_bps)
        if not settings.order:
            for host in topology.hosts:
                link = partial(port_classes.add_link, realised.interfaces[host.id], settings.rate_bps, by_level=False)
                namespaces.inside(realised.namespaces[host.server], partial(link, settings.queue_bytes))
        address = f"127.0.0.1:{free_port()}"
        with _switch(settings, realised, address) as switch:
            yield LiveRack(settings, topology, realised, switch, address, free_port(), Path(folder))


@contextlib.contextmanager
def _switch(settings: LiveSettings, realised: Realised, address: str) -> Iterator[Process]:
    topology = settings.topology
    if not settings.bmv2:
        options = ["--empty", "--address", address, *realised.switch_options(topology)]
        options += ["--queue-bytes", str(settings.queue_bytes)]
        with Process([*mfs(), "switch", *options], lambda out: "ports: " in out) as process:
            yield process
        return
    command = bmv2.command(address, realised.ports[0], device_id=1, thrift_port=free_port())
    with Process(command, lambda _: listening(address)) as process:
        for port, interface in realised.ports[0].items():
            port_classes.add_link(interface, topology.rates[port], settings.queue_bytes)
        yield process


def serve(
    policy: str,
    seed: int,
    work: Workload,
    requests: Sequence[Request],
    rack: LiveRack,
    stamper: Stamper,
    levels: bool = False,
) -> LiveResult:
    """Serve ``requests`` on a rack whose controller has put ``policy`` into force; ``seed`` is that of their arrivals.

    ``levels``: whether the agents are asked for the levels of their flows.

    Raises:
        EvaluationError: the run stalls.
        AgentError: as for :func:`run_live`.
    """
    with rack.network(stamper) as network:
        network.warm_up(WARM_CONNECTIONS)
        serving = Serving(rack.settings.scenario.serving, network, requests, work.slo_ns, work.placements)
        serving.start()
        began, before = time.monotonic(), network.tcp_counters()
        seen = rack.folder / flow_log.FILE
        seen.unlink(missing_ok=True)
        sockets = {host.id: rack.socket(host.id) for host in rack.topology.hosts}
        log = FlowLog(sockets, seen) if levels else contextlib.nullcontext()
        with LinkMeter(rack.realised.ports[0], rack.topology.rates) as meter, log:
            network.run(_Progress(serving, len(requests), policy, began).over)
        elapsed_s = time.monotonic() - began
        tcp = network.tcp_counters() - before
    counted = after_warm_up(serving.records, round(WARM_UP_SHARE * len(requests)))
    summary = summarise(counted, serving.batches)
    ports = {host.id: host.port for host in rack.topology.hosts}
    times = [
        FlowTime(flow.started_ns / 1e9, flow.ended_ns / 1e9, ports[flow.source], ports[flow.spec.destination])
        for flow in network.history
    ]
    return LiveResult(
        policy,
        seed,
        len(requests),
        summary,
        network.flows,
        network.connections,
        elapsed_s,
        network.worst_delay_ns / 1e9,
        tcp,
        meter.stalls(times),
        _record(serving, network, flow_log.read(seen), rack.settings.stretch),
    )


def _record(serving: Serving, network: LiveNetwork, sightings: Sequence[Sighting], stretch: float) -> LiveRecord:
    """Return what became of each request and flow, flows with the levels that their agents gave them."""
    levels: dict[tuple[int, int, int], list[SeenLevel]] = defaultdict(list)
    for one in sightings:
        left = one.total_bytes - min(one.sent_bytes, one.total_bytes)
        slack_us = round(one.slack_us / stretch)
        seen = SeenLevel(network.model_ns(one.time_ns), one.level, max(0, one.layers_to_go), slack_us, left)
        levels[one.host, network.model_batch(one.batch), one.number].append(seen)
    flows = [
        LiveFlow(
            flow.source,
            flow.spec,
            network.model_ns(flow.started_ns),
            network.model_ns(flow.ended_ns),
            tuple(levels[flow.source, flow.spec.batch, flow.number]),
        )
        for flow in network.history
    ]
    return LiveRecord(list(serving.records), list(serving.batches), dict(network.advances), flows)


class _Progress:
    """Progress of a run, and whether it is over."""

    def __init__(self, serving: Serving, count: int, policy: str, began: float) -> None:
        self._serving = serving
        self._count = count
        self._policy = policy
        self._began = self._logged = self._moved = began
        self._finished = 0

    def over(self) -> bool:
        """Return whether all requests are served.

        Raises:
            EvaluationError: no request has ended for :data:`STALLED_S`.
        """
        now, finished = time.monotonic(), len(self._serving.records)
        if finished != self._finished:
            self._finished, self._moved = finished, now
        if now - self._moved > STALLED_S:
            raise EvaluationError(
                f"{self._policy}: no request has ended for {STALLED_S:g} s, {self._count - finished} of {self._count} "
                f"are left; check that the controller is connected, or try a lower --rate"
            )
        if now - self._logged >= LOG_EVERY_S:
            self._logged = now
            done = (self._policy, finished, self._count, now - self._began)
            _LOG.info("%s: %d of %d requests after %.0f s", *done)
        return not self._serving.unfinished
