"""``mfs bench carriers``: what the carriers of the stamp cost TCP, over a veth pair on one machine. Needs root.

Three states of the same link take turns, all offloads on at first: ``untouched``, without an agent; ``option`` and
``shim``, with an agent at both ends, and the connection stamped. In each turn every state carries one bulk connection,
and requests with responses of several sizes over another one. Ratios are taken within a turn, so that other load on the
machine affects all states alike; the order of the states alternates. Each end has a cgroup of its own, as a machine of
its own would: at their root both agents would look at the sockets of both ends.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import platform
import resource
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click

from host_agent.command_line import Positive, logging_options
from host_agent.daemon import hooks
from host_agent.daemon.options import InterfaceOptions
from host_agent.daemon.sockets import cgroup_root
from host_agent.ebpf.bpf import Program, enable_statistics
from host_agent.ebpf.flows import FlowTable, monotonic_after
from host_agent.protocol.flow_request import FlowRequest, Match
from host_agent.protocol.stamp import Stage
from mfs_eval import options
from mfs_eval.bench.agent import ADDRESSES, INTERFACE, NAMES, RATE_BPS, attached, linked
from mfs_eval.errors import EvaluationError
from mfs_eval.live.tcp_counters import read_tcp_counters
from mfs_eval.results.markdown import table
from mfs_eval.results.output import write_atomically, writing
from topologies.namespaces import inside

_LOG = logging.getLogger(__name__)

STATES = ("untouched", "option", "shim")
CARRIERS = STATES[1:]
MESSAGE_KIB = (1, 4, 16, 64)
_BLOCK_BYTES = 1 << 20
_WARM_UP = 20


@dataclass(slots=True)
class State:
    """What one state gave: one element per turn, round trips of all turns.

    Attributes:
        gbps: throughput of the bulk connection.
        cpu_s_per_gb: CPU seconds of sender and receiver for 10^9 bytes.
        retransmitted: segments sent again.
        round_trips_us: by size of request and response in KiB.
        ns: run time of each program per run, in nanoseconds, by name.
    """

    gbps: list[float] = field(default_factory=list)
    cpu_s_per_gb: list[float] = field(default_factory=list)
    retransmitted: list[int] = field(default_factory=list)
    round_trips_us: dict[int, list[float]] = field(default_factory=lambda: {size: [] for size in MESSAGE_KIB})
    ns: dict[str, float] = field(default_factory=dict)


Opened = Callable[[socket.socket], None]
"""Called with a connection before its first byte."""


def bulk(seconds: float, opened: Opened) -> tuple[float, float]:
    """Send over one connection; return Gb/s, and CPU seconds of both ends per 10^9 bytes."""
    near, child = _connected(_discard, opened)
    data = bytes(_BLOCK_BYTES)
    cpu_s, sent, start = _cpu_s(resource.getrusage(resource.RUSAGE_SELF)), 0, time.monotonic()
    while (took := time.monotonic() - start) < seconds:
        sent += near.send(data)
    near.close()
    _, _, usage = os.wait4(child, 0)
    cpu_s = _cpu_s(resource.getrusage(resource.RUSAGE_SELF)) - cpu_s + _cpu_s(usage)
    return sent * 8 / took / 1e9, cpu_s / (sent / 1e9)


def round_trips(kibibytes: int, count: int, opened: Opened) -> list[float]:
    """Exchange ``count`` requests and responses of this size; return the times in microseconds."""
    size = kibibytes << 10
    near, child = _connected(lambda far: _answer(far, size), opened)
    near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    data, found = bytes(size), []
    for _ in range(count + _WARM_UP):
        start = time.monotonic_ns()
        near.sendall(data)
        _receive(near, size)
        found.append((time.monotonic_ns() - start) / 1e3)
    near.close()
    os.waitpid(child, 0)
    return found[_WARM_UP:]


def _connected(serve: Callable[[socket.socket], None], opened: Opened) -> tuple[socket.socket, int]:
    """Return a connection to a child process that serves its other end, and the child's id."""
    with _member(1):
        server = inside(NAMES[1], lambda: socket.create_server((ADDRESSES[1], 0)))
    child = os.fork()
    if child == 0:
        far, _ = server.accept()
        with contextlib.suppress(OSError):
            serve(far)
        os._exit(0)
    with _member(0):
        near = inside(NAMES[0], lambda: socket.create_connection(server.getsockname()))
    server.close()
    opened(near)
    return near, child


def _cgroups() -> list[Path]:
    """Return the directories of both ends' cgroups.

    Raises:
        EvaluationError: version-2 cgroups are not mounted.
    """
    root = cgroup_root()
    if root is None:
        raise EvaluationError("version-2 cgroups are not mounted: mount -t cgroup2 none DIRECTORY")
    return [Path(root) / name for name in NAMES]


@contextlib.contextmanager
def _member(end: int) -> Iterator[None]:
    """Let sockets that this process makes belong to the cgroup of an end."""
    place = _cgroups()[end]
    (place / "cgroup.procs").write_text(str(os.getpid()), "ascii")
    try:
        yield
    finally:
        (place.parent / "cgroup.procs").write_text(str(os.getpid()), "ascii")


def _discard(far: socket.socket) -> None:
    block = bytearray(_BLOCK_BYTES)
    # MSG_TRUNC discards the bytes in the kernel, so that the network takes more of the time.
    while far.recv_into(block, _BLOCK_BYTES, socket.MSG_TRUNC):
        pass


def _answer(far: socket.socket, size: int) -> None:
    far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    data = bytes(size)
    while _receive(far, size):
        far.sendall(data)


def _receive(end: socket.socket, size: int) -> bool:
    while size:
        part = len(end.recv(size))
        if not part:
            return False
        size -= part
    return True


def _cpu_s(usage: resource.struct_rusage) -> float:
    return usage.ru_utime + usage.ru_stime


@contextlib.contextmanager
def state(name: str, folder: Path, order: bool) -> Iterator[tuple[Opened, Sequence[hooks.Attached]]]:
    """Provide the state of the link by name: what opens a flow, and what is attached."""
    if name == "untouched":
        yield lambda _near: None, ()
        return
    settings = InterfaceOptions(INTERFACE, RATE_BPS, order=order, carrier="option" if name == "option" else "shim")
    with attached(settings, folder, _cgroups()) as ends:
        yield lambda near: _open_flow(ends[0].table, near), ends


def _open_flow(table: FlowTable, near: socket.socket) -> None:
    """Open a flow for the socket, as engines do."""
    table.open(FlowRequest(Match.of_socket(near), 9, Stage.P2D, monotonic_after(3_600_000_000), 1 << 50))


def measure(turns: int, seconds: float, messages: int, order: bool) -> dict[str, State]:
    """Measure all states in turn."""
    found = {name: State() for name in STATES}
    gc.disable()
    with tempfile.TemporaryDirectory() as folder, linked(), contextlib.ExitStack() as stack:
        for place in _cgroups():
            place.mkdir(exist_ok=True)
            stack.callback(place.rmdir)
        for turn in range(turns):
            for name in STATES if turn % 2 == 0 else STATES[::-1]:
                mine = found[name]
                with state(name, Path(folder), order) as (opened, ends):
                    before = inside(NAMES[0], read_tcp_counters)
                    gbps, cpu = bulk(seconds, opened)
                    mine.gbps.append(gbps)
                    mine.cpu_s_per_gb.append(cpu)
                    mine.retransmitted.append((inside(NAMES[0], read_tcp_counters) - before).retransmitted)
                    for size in MESSAGE_KIB:
                        mine.round_trips_us[size] += round_trips(size, messages, opened)
                    if turn == turns - 1 and ends:
                        mine.ns = _run_times(ends, seconds, opened)
            last = ", ".join(f"{name} {found[name].gbps[-1]:.2f}" for name in STATES)
            _LOG.info("turn %d of %d: %s Gb/s", turn + 1, turns, last)
    return found


def _run_times(ends: Sequence[hooks.Attached], seconds: float, opened: Opened) -> dict[str, float]:
    """Return the programs' run times, measured apart from the throughput, which that would reduce."""
    programs: dict[str, Program | None] = {
        "egress": ends[0].egress,
        "sockets": ends[0].sock_ops,
        "sockets, receiving": ends[1].sock_ops,
        "ingress, receiving": ends[1].ingress,
    }
    counting = enable_statistics()
    bulk(seconds, opened)
    os.close(counting)
    infos = {name: program.info() for name, program in programs.items() if program is not None}
    return {name: info.run_time_ns / info.runs for name, info in infos.items() if info.runs}


def _ratio(above: Sequence[float], below: Sequence[float]) -> str:
    """Describe the ratio within a turn: median and quartiles."""
    low, middle, high = statistics.quantiles(
        [a / b for a, b in zip(above, below, strict=True)], n=4, method="inclusive"
    )
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def tables(found: dict[str, State]) -> str:
    """Return the tables in Markdown."""
    plain = found["untouched"]
    lines = []
    for name, each in found.items():
        lines.append(
            [
                name,
                f"{statistics.median(each.gbps):.2f}",
                _ratio(each.gbps, plain.gbps),
                f"{statistics.median(each.cpu_s_per_gb):.3f}",
                _ratio(each.cpu_s_per_gb, plain.cpu_s_per_gb),
                str(sum(each.retransmitted)),
                ", ".join(f"{program} {ns:.0f}" for program, ns in each.ns.items()) or "-",
            ]
        )
    head = ("state", "Gb/s", "over untouched", "CPU s/GB", "over untouched", "sent again", "ns a run")
    latencies = []
    for size in MESSAGE_KIB:
        cells = [f"{size} KiB"]
        for each in found.values():
            cuts = statistics.quantiles(each.round_trips_us[size], n=100)
            cells.append(f"{cuts[49]:.0f} / {cuts[98]:.0f}")
        latencies.append(cells)
    return table(head, lines) + "\n" + table(("request and response, us p50 / p99", *found), latencies)


@click.command(short_help="What the carriers of the stamp cost TCP (root).")
@options.out_file()
@click.option("--turns", type=click.IntRange(min=2), default=11, show_default=True, help="Turns of all states.")
@click.option("--seconds", type=Positive(0.1, 600), default=1.0, show_default=True, help="Duration of a bulk transfer.")
@click.option(
    "--messages", type=click.IntRange(10), default=200, show_default=True, help="Round trips per size and turn."
)
@click.option("--order/--no-order", default=True, show_default=True, help="With or without the traffic classes.")
@logging_options
def carriers(out: Path | None, turns: int, seconds: float, messages: int, order: bool) -> None:
    """Measure what a stamp in a TCP option and in a shim costs TCP over a veth pair, and print tables in Markdown."""
    before = os.getloadavg()[0]
    found = measure(turns, seconds, messages, order)
    machine = f"{platform.system()} {platform.release()}, {os.cpu_count()} processors"
    machine += ", with traffic classes" if order else ", without traffic classes"
    click.echo(f"{machine}, load average {before:.1f} before; medians of {turns} turns of {seconds:g} s\n")
    click.echo(tables(found), nl=False)
    if out is not None:
        with writing(out):
            write_atomically(out, json.dumps({name: asdict(each) for name, each in found.items()}, indent=1) + "\n")
