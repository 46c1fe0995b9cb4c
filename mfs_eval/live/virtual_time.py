"""A run of ``mfs live`` again in virtual time, over a simulated TCP.

Scenario, scale, window of the trace, arrivals, policy, queues and TCP's constants are those of the run. What differs:
sending processes and host agents take no time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mfs_ctrl import policies as built_in
from mfs_eval.errors import EvaluationError
from mfs_eval.live.live import CLUSTERS, DEFERRAL_S, MESSAGE_BYTES, LiveSettings, prepared
from mfs_eval.live.live_rows import Row
from mfs_eval.packet_level.experiment import run
from mfs_eval.packet_level.flight_recorder import FlightRecorder
from mfs_eval.packet_level.hosts.frames import SEGMENT_BYTES
from mfs_eval.packet_level.packet_network import PacketNetwork
from mfs_eval.results.provenance import digest
from mfs_eval.results.rows import read_rows
from mfs_eval.results.schema import Run
from mfs_eval.serving.trace import SAMPLE_PATH, TRACE_PATH
from mfs_eval.setup.run_settings import ControlSettings, HostSettings, PortSettings, RunSettings, TcpSettings
from topologies import receive_offload

Transport = Literal["tcp", "windowed"]
_MERGING = "-option"
SIMULATED_HOSTS = tuple(
    f"{hosts}{carrier}"
    for carrier in ("", _MERGING)
    for hosts in ("order", "order-kernel-tcp", "no-order", "no-order-kernel-tcp")
)
"""Hosts that the simulation has; it does not hold flows."""


@dataclass(frozen=True, slots=True)
class LiveRun:
    """What a run of ``mfs live`` is started with, by default as there; a :class:`Row` has it too."""

    cluster: str
    request_rate: float
    policy: str
    seed: int
    requests_per_run: int
    trace_digest: str
    hosts: str = LiveSettings().hosts
    queue_bytes: int = LiveSettings().queue_bytes
    rate_bps: int = LiveSettings().rate_bps
    stretch: float = LiveSettings().stretch


def read(path: Path) -> list[Row]:
    """Return the rows of ``path``, a file of ``mfs live --out``, that can be simulated.

    Raises:
        EvaluationError: the file holds something else, or no such rows.
        OSError: it cannot be read.
    """
    found = [row for row in read_rows(path, Row) if row.hosts in SIMULATED_HOSTS and row.switch == "embedded"]
    if not found:
        raise EvaluationError(
            f"{path}: no row can be simulated: those of the embedded switch and {', '.join(SIMULATED_HOSTS)}; "
            "run mfs live --out without --hold, --bmv2 and --no-stamps"
        )
    return found


def run_settings(live: Row | LiveRun, transport: Transport, order: str | None = None) -> RunSettings:
    """Return the settings of the simulated run of ``live``; ``order`` None is that of its hosts."""
    kernel_tcp = "kernel-tcp" in live.hosts
    tcp = TcpSettings(timestamps=kernel_tcp)
    if live.hosts.endswith(_MERGING):
        tcp = replace(tcp, merged_segments=receive_offload.FRAMES, merge_ns=receive_offload.hold_ns(live.rate_bps))
    if not kernel_tcp:
        tcp = replace(tcp, rto_min_ns=round(DEFERRAL_S * live.stretch * 1e9))
    return RunSettings(
        hosts=HostSettings(
            message_segments=max(1, MESSAGE_BYTES // SEGMENT_BYTES),
            transport=transport,
            tcp=tcp.stretched(live.stretch),
        ),
        ports=PortSettings(queue_bytes=live.queue_bytes),
        control=ControlSettings(order=order or ("switch" if live.hosts.startswith("no-order") else "both")),
    )


def trace_of(live: Row | LiveRun) -> Path:
    """Return the bundled trace that ``live`` was a run of.

    Raises:
        EvaluationError: it was another one.
    """
    for path in (TRACE_PATH, SAMPLE_PATH):
        if digest(path.read_bytes()) == live.trace_digest:
            return path
    raise EvaluationError(
        f"the trace {live.trace_digest} is none of those that come with mfs; run mfs live without --trace"
    )


def settings_of(live: Row | LiveRun) -> LiveSettings:
    """Return the scaling of the run of ``live``."""
    return LiveSettings(live.rate_bps, live.stretch, cluster=CLUSTERS[live.cluster])


def play(
    live: Row | LiveRun,
    transport: Transport = "tcp",
    order: str | None = None,
    on_end: Callable[[PacketNetwork], None] | None = None,
    recorder: FlightRecorder | None = None,
) -> Run:
    """Play the run of ``live``; for the last two see :func:`mfs_eval.packet_level.experiment.run`."""
    settings = settings_of(live)
    work = prepared(settings, live.requests_per_run, trace_of(live), live.seed - 1)
    # As the controller of mfs live loads it, not fitted to the scenario.
    policy = built_in.load(live.policy)
    own = run_settings(live, transport, order)
    return run(settings.scenario, work, policy, live.request_rate, live.seed, own, on_end, recorder)
