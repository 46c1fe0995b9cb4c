"""``mfs bench interfaces``: how precisely the embedded switch paces its ports on real interfaces. Needs root.

Every server sends stamped packets to the next one through the switch, at ``load`` times the rate of a port. The
kernel's receive timestamps show how well the ports keep their rate. At a load below 1 nothing may be lost; above 1 the
ports must be full, and the queues drop the rest.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from host_agent.command_line import BitRate, Positive
from host_agent.protocol.stamp import ETHERTYPE_MFS, Stage, Stamp, units_of
from mfs_eval.errors import EvaluationError
from mfs_eval.packet_level.hosts.frames import IP_UDP_BYTES, ip_udp_header
from soft_switch.queues.traffic_manager import wire_bytes
from soft_switch.realtime.packet_socket import PacketSocket
from soft_switch.realtime.serving import NICENESS
from topologies import namespaces
from topologies.processes import Process, free_address, mfs, unwinding_on_sigterm
from topologies.topology import Host, Topology, tor

PREFIX = "mfsbench"
RING_FRAMES = 8192
SLEEP_S = 0.5e-3
"""Time that the senders sleep between bursts of the packets that are due."""
SETTLING_S = 0.5


@dataclass(frozen=True, slots=True)
class PortResult:
    """Result of one port. Times in nanoseconds, rates in bits per second of wire bytes."""

    sent: int
    received: int
    rate_bps: float
    gap_errors_ns: tuple[int, ...]

    def gap_error_ns(self, share: float) -> int:
        """Return the quantile ``share`` of the deviation of gaps between frames from a frame's transmission time."""
        return self.gap_errors_ns[min(len(self.gap_errors_ns) - 1, int(share * len(self.gap_errors_ns)))]


@click.command(short_help="Pacing of ports on real interfaces (root).")
@click.option("--ports", type=click.IntRange(2, 64), default=8, show_default=True, help="Ports, one per server.")
@click.option("--rate", type=BitRate(), default="20M", show_default=True, help="Rate of each port, e.g. 20M.")
@click.option("--load", type=Positive(0.01, 10), default=1.2, show_default=True, help="Offered load over the rate.")
@click.option("--bytes", "size", type=click.IntRange(64, 1500), default=1500, show_default=True, help="Packet size.")
@click.option("--seconds", type=Positive(0.2, 600), default=5.0, show_default=True, help="Duration.")
def interfaces(ports: int, rate: int, load: float, size: int, seconds: float) -> None:
    """Offer traffic to every port of the switch on real interfaces, and show how well they keep their rates."""
    click.echo(f"load average before: {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores")
    with contextlib.suppress(OSError):
        # The senders must not be at a disadvantage against the switch.
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    topology = tor(ports, 1, rate)
    with (
        unwinding_on_sigterm(),
        namespaces.standing([topology], PREFIX) as realised,
        contextlib.ExitStack() as stack,
    ):
        address = free_address()
        options = ("--address", address, *realised.switch_options(topology))
        switch = stack.enter_context(Process([*mfs(), "switch", *options], lambda out: "ports: " in out))
        servers = ("--servers", str(ports), "--nics", "1", "--rate", str(rate))
        stack.enter_context(Process([*mfs(), "ctrl", "--address", address, *servers], lambda out: "in force" in out))
        before_s = cpu_seconds(switch.pid)
        results = measure(topology, realised, size, load, seconds)
        share = (cpu_seconds(switch.pid) - before_s) / (seconds + SETTLING_S)
        _report(results, rate, load, share)
        for line in switch.finish().splitlines()[2:]:
            click.echo(line)


def measure(
    topology: Topology, realised: namespaces.Realised, size: int, load: float, seconds: float
) -> list[PortResult]:
    """Send packets of ``size`` bytes from each host to the next for ``seconds``, at ``load`` times the ports' rate.

    Raises:
        EvaluationError: the receivers cannot keep up.
    """
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(
                contextlib.closing(
                    namespaces.inside(
                        realised.namespaces[host.server],
                        lambda name=realised.interfaces[host.id]: PacketSocket(name, RING_FRAMES),  # type: ignore[misc]
                    )
                )
            )
            for host in topology.hosts
        ]
        count = len(sockets)
        frames = [
            packet(host, topology.hosts[(index + 1) % count], topology, size)
            for index, host in enumerate(topology.hosts)
        ]
        wire = wire_bytes(len(frames[0]))
        interval_ns = wire * 8 * 1_000_000_000 / (topology.rate_bps * load)
        sent = [0] * count
        arrivals: list[list[int]] = [[] for _ in sockets]
        start_ns = time.monotonic_ns()
        settled_ns = start_ns + round(SETTLING_S * 1e9)
        end_ns = settled_ns + round(seconds * 1e9)
        skew_ns = time.time_ns() - time.monotonic_ns()
        while (now_ns := time.monotonic_ns()) < end_ns:
            due = int((now_ns - start_ns) / interval_ns)
            for index, of_socket in enumerate(sockets):
                while sent[index] < due:
                    of_socket.send(frames[index])
                    sent[index] += 1
                _collect(of_socket, arrivals[index])
            time.sleep(SLEEP_S)
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            for index, of_socket in enumerate(sockets):
                _collect(of_socket, arrivals[index])
            time.sleep(0.05)
        if any(of_socket.lost() for of_socket in sockets):
            raise EvaluationError(
                "the receivers lost frames: this machine is too busy; try fewer --ports or a lower --rate"
            )
    nominal_ns = wire * 8 * 1_000_000_000 // topology.rate_bps
    window = settled_ns + skew_ns, end_ns + skew_ns
    # The packets of host i arrive at host i + 1.
    return [_result(sent[index - 1], arrivals[index], window, wire, nominal_ns) for index in range(count)]


def packet(source: Host, target: Host, topology: Topology, size: int, stage: Stage = Stage.P2D) -> bytes:
    """Return a stamped UDP packet of ``size`` bytes, in a frame for the switch."""
    stamp = Stamp(stage, batch=source.id + 1, flow=1, slack_us=1_000_000, remaining=units_of(size))
    ethernet = topology.switch_mac + source.mac + ETHERTYPE_MFS.to_bytes(2, "big")
    payload = size - IP_UDP_BYTES
    return (
        ethernet + stamp.pack() + ip_udp_header(source.ipv4.packed, target.ipv4.packed, 0, payload, 0) + bytes(payload)
    )


def _result(sent: int, arrivals: Sequence[int], window: tuple[int, int], wire: int, nominal_ns: int) -> PortResult:
    inside = [time_ns for time_ns in arrivals if window[0] <= time_ns <= window[1]]
    if len(inside) < 2:
        return PortResult(sent, len(arrivals), 0.0, (0,))
    gaps = [later - earlier for earlier, later in itertools.pairwise(inside)]
    rate = (len(inside) - 1) * wire * 8e9 / (inside[-1] - inside[0])
    return PortResult(sent, len(arrivals), rate, tuple(sorted(abs(gap - nominal_ns) for gap in gaps)))


def _report(results: Sequence[PortResult], rate_bps: int, load: float, cpu_share: float) -> None:
    click.echo("port  sent  received  Mb/s    of rate   gap error, us: p50  p99    max")
    for number, result in enumerate(results, 1):
        errors = [result.gap_error_ns(share) / 1e3 for share in (0.5, 0.99, 1)]
        rate, share = result.rate_bps / 1e6, result.rate_bps / rate_bps
        click.echo(
            f"{number:4} {result.sent:6} {result.received:6}  {rate:7.3f}  {share:7.2%}"
            f"           {errors[0]:7.0f} {errors[1]:6.0f} {errors[2]:6.0f}"
        )
    lost = sum(result.sent - result.received for result in results)
    lost_share = lost / sum(result.sent for result in results)
    click.echo(f"offered load {load:g}; {lost} frames ({lost_share:.2%}) did not arrive")
    click.echo(f"the switch used {cpu_share:.0%} of a core; load average now {os.getloadavg()[0]:.2f}")


def _collect(of_socket: PacketSocket, arrivals: list[int]) -> None:
    while of_socket.take() is not None:
        arrivals.append(of_socket.arrival_ns)


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
