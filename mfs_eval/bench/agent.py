"""``mfs bench agent``: what stamping in the kernel costs TCP, over a veth pair on one machine. Needs root.

Five states of the same link take turns, several times:

- ``untouched``: no agent; packets of up to 64 KiB cross the veth pair in one piece.
- ``prepared``: no programs, but the route MTU and the offloads as the agent sets them.
- ``sending``: agents at both ends without their ingress program, and no open flow: packets pass the egress
  program and the classes, and get no stamp.
- ``attached``: the same with the ingress program, which removes nothing.
- ``stamped``: the flow is open: stamped and scheduled at one end, its stamps removed at the other.

Ratios are taken within a turn, so that other load on the machine affects both states alike. Shown are the median and
the quartiles of all turns.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import platform
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from host_agent.command_line import Positive, logging_options
from host_agent.daemon import hooks
from host_agent.daemon import routes as interface_routes
from host_agent.daemon.netlink import features, link, set_features
from host_agent.daemon.options import SEGMENTATIONS, Ingress, InterfaceOptions, Segmentation
from host_agent.daemon.state import StateFile
from host_agent.ebpf.bpf import enable_statistics
from host_agent.ebpf.flows import FlowTable, monotonic_after
from host_agent.protocol.flow_request import FiveTuple, FlowRequest, Match
from host_agent.protocol.level import bias_code
from host_agent.protocol.stamp import STAMP_BYTES, Stage
from mfs_ctrl import policies
from mfs_eval import options
from mfs_eval.results.markdown import table
from mfs_eval.results.output import write_atomically, writing
from topologies.namespaces import inside

_LOG = logging.getLogger(__name__)

INTERFACE = "v0"
NAMES = ("agbench-a", "agbench-b")
ADDRESSES = ("10.76.0.1", "10.76.0.2")
STATES = ("untouched", "prepared", "sending", "attached", "stamped")
RATIOS = (("stamped", "attached"), ("attached", "sending"), ("sending", "prepared"), ("stamped", "untouched"))
RATE_BPS = 400_000_000_000
"""Rate of the classes: above what the machine can do, so that they schedule but do not limit."""
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Measured:
    """One configuration: Gb/s of each turn by state, and the mean run time of the programs in nanoseconds by name."""

    segmentation: str
    ingress: str
    order: bool
    gbps: dict[str, list[float]]
    ns: dict[str, float]
    frames_per_stamp: float

    def ratio(self, above: str, below: str) -> tuple[float, float, float]:
        """Return the median, the lower and the upper quartile of the ratio of two states within a turn."""
        within = [first / second for first, second in zip(self.gbps[above], self.gbps[below], strict=True)]
        low, middle, high = statistics.quantiles(within, n=4, method="inclusive")
        return middle, low, high


@contextlib.contextmanager
def linked() -> Iterator[None]:
    """Provide two hosts on a veth pair, which are removed on exit."""

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    try:
        for name in NAMES:
            ip("netns", "add", name)
        ip("-n", NAMES[0], "link", "add", INTERFACE, "type", "veth", "peer", "name", INTERFACE, "netns", NAMES[1])
        for name, address in zip(NAMES, ADDRESSES, strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", INTERFACE)
            ip("-n", name, "link", "set", INTERFACE, "up")
        yield
    finally:
        for name in NAMES:
            subprocess.run(["ip", "netns", "del", name], check=False)


def throughput(seconds: float, opened: Callable[[socket.socket], None]) -> float:
    """Return the Gb/s of one TCP connection; ``opened`` is called with it before its first byte."""
    server = inside(NAMES[1], lambda: socket.create_server((ADDRESSES[1], 0)))
    child = os.fork()
    if child == 0:
        far, _ = server.accept()
        block = bytearray(_BLOCK_BYTES)
        # MSG_TRUNC discards the bytes in the kernel, so that the network takes more of the time.
        while far.recv_into(block, _BLOCK_BYTES, socket.MSG_TRUNC):
            pass
        os._exit(0)
    near = inside(NAMES[0], lambda: socket.create_connection(server.getsockname()))
    server.close()
    opened(near)
    data = bytes(_BLOCK_BYTES)
    sent, start = 0, time.monotonic()
    while (took := time.monotonic() - start) < seconds:
        sent += near.send(data)
    near.close()
    os.waitpid(child, 0)
    return sent * 8 / took / 1e9


@contextlib.contextmanager
def prepared(options: InterfaceOptions) -> Iterator[None]:
    """Set both ends up as the agent does, without programs and classes, and restore them on exit."""
    from pyroute2 import IPRoute

    def change(name: str) -> Callable[[], None]:
        def at_end() -> None:
            with IPRoute() as route:
                found = link(route, INTERFACE)
                routes, _ = interface_routes.routes_of(route, found["index"])
                off = features(INTERFACE, hooks.unwanted_features(options))
                undo.append((name, routes, off, int(found.get_attr("IFLA_GSO_MAX_SEGS"))))
                interface_routes.adapt(route, routes, int(found.get_attr("IFLA_MTU")) - STAMP_BYTES)
                set_features(INTERFACE, off, on=False)
                if options.segmentation == "each":
                    route.link("set", index=found["index"], gso_max_segs=1)

        return at_end

    def back(routes: list[interface_routes.Route], off: list[str], segments: int) -> None:
        with IPRoute() as route:
            interface_routes.restore(route, routes)
            set_features(INTERFACE, off, on=True)
            route.link("set", index=link(route, INTERFACE)["index"], gso_max_segs=segments)

    undo: list[tuple[str, list[interface_routes.Route], list[str], int]] = []
    try:
        for name in NAMES:
            inside(name, change(name))
        yield
    finally:
        for name, *before in undo:
            inside(name, lambda before=before: back(*before))  # type: ignore[misc]


@contextlib.contextmanager
def attached(
    options: InterfaceOptions, folder: Path, cgroups: Sequence[Path] | None = None
) -> Iterator[list[hooks.Attached]]:
    """Attach an agent's programs, classes and settings at both ends, and restore them on exit.

    ``cgroups`` are those of the two ends, for stamps in a TCP option.
    """
    held: list[tuple[str, StateFile, hooks.Attached]] = []

    def attach(cgroup: Path | None) -> tuple[StateFile, hooks.Attached]:
        state = StateFile(folder, INTERFACE)
        mine = dataclasses.replace(options, cgroup=None if cgroup is None else str(cgroup))
        return state, hooks.attach(mine, state)

    def back(state: StateFile) -> None:
        before = state.read()
        assert before is not None
        hooks.restore(before)
        state.remove()
        state.close()

    try:
        for name, cgroup in zip(NAMES, cgroups or (None, None), strict=True):
            held.append((name, *inside(name, lambda cgroup=cgroup: attach(cgroup))))  # type: ignore[misc]
            held[-1][2].table.set_policy(policies.mfs().rules, bias_code(RATE_BPS))
        yield [each for _, _, each in held]
    finally:
        for name, state, _ in held:
            inside(name, lambda state=state: back(state))  # type: ignore[misc]


def open_flow(table: FlowTable, near: socket.socket) -> None:
    """Open a flow for the connection, so that its packets are stamped."""
    ends = FiveTuple("tcp", *near.getsockname()[:2], *near.getpeername()[:2])
    table.open(FlowRequest(Match(addresses=ends), 9, Stage.P2D, monotonic_after(3_600_000_000), 1 << 50))


def measure(segmentation: Segmentation, ingress: Ingress, order: bool, turns: int, seconds: float) -> Measured:
    """Measure all states in turn, ``turns`` times, ``seconds`` each."""
    options = InterfaceOptions(INTERFACE, RATE_BPS, order=order, ingress=ingress, segmentation=segmentation)
    gbps: dict[str, list[float]] = {state: [] for state in STATES}
    times: dict[str, list[int]] = {"egress": [0, 0], "ingress": [0, 0]}
    stamped = removed = 0
    with tempfile.TemporaryDirectory() as folder, linked():
        for turn in range(turns):
            gbps["untouched"].append(throughput(seconds, _ignore))
            with prepared(options):
                gbps["prepared"].append(throughput(seconds, _ignore))
            with attached(dataclasses.replace(options, ingress="off"), Path(folder)):
                gbps["sending"].append(throughput(seconds, _ignore))
            with attached(options, Path(folder)) as (near, far):
                table = near.table

                def opened(end: socket.socket, table: FlowTable = table) -> None:
                    open_flow(table, end)

                # Twice, the second time in reverse order, so that drift affects both states alike.
                rates = [throughput(seconds, call) for call in (_ignore, opened, opened, _ignore)]
                gbps["attached"].append((rates[0] + rates[3]) / 2)
                gbps["stamped"].append((rates[1] + rates[2]) / 2)
                # Separately from the throughput, which timing every run would reduce.
                counting = enable_statistics()
                throughput(seconds / 2, opened)
                os.close(counting)
                assert far.ingress is not None
                for name, program in (("egress", near.egress), ("ingress", far.ingress)):
                    info = program.info()
                    times[name][0] += info.run_time_ns
                    times[name][1] += info.runs
                stamped += near.table.counters().stamped
                removed += far.table.counters().removed
            _LOG.info("%s, %s, turn %d of %d: %s", segmentation, ingress, turn + 1, turns, describe_turn(gbps))
    ns = {name: total / max(1, runs) for name, (total, runs) in times.items()}
    return Measured(segmentation, ingress, order, gbps, ns, removed / max(1, stamped))


def _ignore(_near: socket.socket) -> None:
    """Open no flow for the connection."""


def describe_turn(gbps: dict[str, list[float]]) -> str:
    """Describe the last turn."""
    return ", ".join(f"{state} {values[-1]:.2f}" for state, values in gbps.items()) + " Gb/s"


def table_of(found: list[Measured]) -> str:
    """Return a table in Markdown: medians, ratios with quartiles, nanoseconds."""
    head = ["segmentation", "ingress", "classes", *STATES]
    head += [*(f"{above} / {below}" for above, below in RATIOS), "ns egress", "ns ingress", "frames per stamp"]
    lines = []
    for each in found:
        medians = [f"{statistics.median(each.gbps[state]):.2f}" for state in STATES]
        ratios = []
        for above, below in RATIOS:
            ratio, low, high = each.ratio(above, below)
            ratios.append(f"{ratio:.2f} ({low:.2f}-{high:.2f})")
        ns = [f"{each.ns[name]:.0f}" for name in ("egress", "ingress")]
        cells = [each.segmentation, each.ingress, "yes" if each.order else "no", *medians, *ratios, *ns]
        lines.append([*cells, f"{each.frames_per_stamp:.1f}"])
    return table(head, lines)


@click.command(short_help="What stamping costs TCP (root).")
@options.out_file()
@click.option("--turns", type=click.IntRange(min=2), default=15, show_default=True, help="Turns of all states per row.")
@click.option(
    "--seconds", type=Positive(0.1, 600), default=0.4, show_default=True, help="Duration of each state in a turn."
)
@click.option(
    "--segmentation",
    "segmentations",
    type=click.Choice(SEGMENTATIONS),
    multiple=True,
    default=SEGMENTATIONS,
    show_default=True,
    help="Where large packets are cut; may be repeated.",
)
@click.option(
    "--ingress",
    "ingresses",
    type=click.Choice(("filter", "xdp")),
    multiple=True,
    default=("filter", "xdp"),
    show_default=True,
    help="Where stamps are removed; may be repeated.",
)
@click.option("--order/--no-order", default=True, show_default=True, help="With or without the traffic classes.")
@logging_options
def agent(
    out: Path | None,
    turns: int,
    seconds: float,
    segmentations: tuple[Segmentation, ...],
    ingresses: tuple[Ingress, ...],
    order: bool,
) -> None:
    """Measure what stamping in the kernel costs TCP over a veth pair, and print a table in Markdown."""
    found = [
        measure(segmentation, ingress, order, turns, seconds) for segmentation in segmentations for ingress in ingresses
    ]
    machine = f"{platform.system()} {platform.release()}, {os.cpu_count()} processors"
    click.echo(f"{machine}; Gb/s, medians of {turns} turns of {seconds:g} s\n")
    click.echo(table_of(found), nl=False)
    if out is not None:
        with writing(out):
            write_atomically(out, json.dumps([asdict(each) for each in found], indent=1) + "\n")
