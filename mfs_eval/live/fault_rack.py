"""Two servers under load behind a switch, whose parts can be made to fail, and what becomes of the traffic.

All is in a network namespace of its own, so that a lost network is lost for nobody else.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from host_agent.client import AgentClient
from host_agent.ebpf.policy import ANSWERS
from host_agent.protocol.errors import AgentError
from host_agent.protocol.stamp import Stage
from mfs_eval.errors import EvaluationError
from mfs_eval.live.live_network import Place
from mfs_eval.live.probe import Bulk, Probe
from mfs_eval.live.tcp_counters import read_tcp_counters
from topologies import namespaces
from topologies.namespaces import Realised
from topologies.processes import Process, free_address, free_port, mfs, unwinding_on_sigterm
from topologies.topology import tor

PREFIX = "mfsflt"
RATE_BPS = 20_000_000
TOPOLOGY = tor(2, 1, RATE_BPS)
BULK_BPS = RATE_BPS // 2
PARTS = ("switch", "controller", "agent")
RESTART_S = 1.0
"""After which a part that ended is started again, as by ``RestartSec`` of its unit."""
LASTS_S = 10.0
"""How long what passes by itself lasts."""
RIGHT_WITHIN_S = 60.0
"""What takes longer is an error."""
STEP_S = 3600.0
SLACK_US = 1_800_000_000
"""Half an hour: a stamp holds little more. Afterwards the flow is late, which takes nothing from it here."""
DISK_BYTES = 8 << 20
_CLONE_NEWNET = 0x40000000
_TOOK_OVER = re.compile(r"(?:in force|connected again|primary now)[^\n]*?(\d+) entries written")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the traffic.

    Attributes:
        packets: of the probes, from the fault until all was right.
        lost: of these.
        silence_s: longest time in which no packet arrived.
        sent_again: segments of the stamped connection that were sent again.
        right_s: seconds from the end of the cause until all was right; of a part that ended, from its end.
        entries: that controllers wrote when they took over or connected again.
    """

    packets: int
    lost: int
    silence_s: float
    sent_again: int
    right_s: float
    entries: int


class FaultRack:
    """The rack; made by :func:`fault_rack`."""

    def __init__(self, realised: Realised, disk: Path) -> None:
        self.disk = disk
        self.parts: dict[str, Process] = {}
        self._realised = realised
        self._stack = contextlib.ExitStack()
        self._probes: list[Probe] = []
        self._client: AgentClient | None = None
        self._address, self._policy_port = free_address(), free_port()
        self._socket = disk / "agent.sock"
        self._starts = 0
        self._stamped = 0
        self._logs: list[Path] = []

    def start(self, part: str, *prefix: str) -> None:
        """Start a part; ``prefix`` is put before its command."""
        namespace = None
        if part == "switch":
            words = ["switch", "--empty", "--address", self._address, *self._realised.switch_options(TOPOLOGY)]
            ready = "ports: "
        elif part == "controller":
            shape = ["--servers", "2", "--nics", "1", "--rate", str(RATE_BPS), "--interval", "0.5"]
            words = ["ctrl", "--address", self._address, *shape, "--policy-listen", f"0.0.0.0:{self._policy_port}"]
            ready = "in force"
        else:
            host = TOPOLOGY.hosts[part == "receiver"]
            where = self.disk / part
            url = f"http://{self._realised.management[host.server]}:{self._policy_port}"
            path = self._socket if part == "agent" else self.disk / "receiver.sock"
            words = ["agent", "run", "--interface", self._realised.interfaces[host.id], "--policy-url", url]
            words += ["--rate", str(RATE_BPS), "--interval", "0.5", "--socket", str(path), "--state-dir", str(where)]
            ready, namespace = "serving ", self._realised.namespaces[host.server]
        self._starts += 1
        log = self.disk / f"{self._starts}-{part}.log"
        if part == "controller":
            self._logs.append(log)
        self.parts[part] = Process([*prefix, *mfs(), *words, "-v"], lambda out: ready in out, namespace, log)

    def begin(self) -> None:
        """Start all parts and the traffic, and wait until all is right."""
        for part in ("switch", "controller", "agent", "receiver"):
            self.start(part)
            self.parts[part].wait_ready()
        near, far = (Place(self._realised.namespaces[host.server], str(host.ipv4)) for host in TOPOLOGY.hosts)
        self._probes = [self._stack.enter_context(Probe(*ends)) for ends in ((near, far), (far, near))]
        bulk = self._stack.enter_context(Bulk(near, far, BULK_BPS))
        self._client = self._stack.enter_context(AgentClient(self._socket))
        self._client.open(bulk.socket, batch=9, stage=Stage.P2D, slack_us=SLACK_US, total_bytes=1 << 50)
        self._until_right()

    def wrong(self) -> str:
        """Return what is wrong; empty if packets arrive, and the agent stamps and hears a controller that is ready."""
        if any(probe.silent_s > 0.2 for probe in self._probes):
            return "no packets arrive"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._policy_port}/readyz", timeout=0.5) as answer:
                answer.read()
            assert self._client is not None
            status = self._client.status()
        except (OSError, AgentError) as error:
            return str(error)
        before, self._stamped = self._stamped, int(status["counters"]["stamped"])
        if status["policy"]["controller"] != ANSWERS:
            return f"the agent says of the controller: {status['policy']['controller']}"
        return "" if self._stamped != before else "nothing is stamped"

    def _until_right(self) -> float:
        """Wait until all is right; return when it was, on the monotonic clock.

        Raises:
            EvaluationError: it is not within :data:`RIGHT_WITHIN_S`.
        """
        deadline_s = time.monotonic() + RIGHT_WITHIN_S
        wrong = self.wrong()
        while time.monotonic() < deadline_s:
            time.sleep(0.05)
            wrong = self.wrong()
            if not wrong:
                return time.monotonic()
        raise EvaluationError(f"not right again within {RIGHT_WITHIN_S:.0f} s: {wrong}")

    def measured(self, fault: Callable[[], float]) -> Outcome:
        """Let ``fault`` happen, and wait until all is right; it returns from when on that is to be expected."""
        passed, lost = sum(probe.passed for probe in self._probes), sum(probe.lost for probe in self._probes)
        for probe in self._probes:
            probe.longest_silence_s()
        again, written = self._sent_again(), self._entries()
        since_s = fault()
        right_s = self._until_right() - since_s
        time.sleep(1.0)
        silence_s = max(probe.longest_silence_s() for probe in self._probes)
        return Outcome(
            sum(probe.passed for probe in self._probes) - passed,
            sum(probe.lost for probe in self._probes) - lost,
            silence_s,
            self._sent_again() - again,
            right_s,
            self._entries() - written,
        )

    def _sent_again(self) -> int:
        namespace = self._realised.namespaces[TOPOLOGY.hosts[0].server]
        return namespaces.inside(namespace, lambda: read_tcp_counters().retransmitted)

    def _entries(self) -> int:
        logs = (log.read_text("utf-8", "replace") for log in self._logs)
        return sum(int(count) for log in logs for count in _TOOK_OVER.findall(log))

    # Faults: each returns the time from which on all should become right.

    def ended(self, part: str, number: signal.Signals) -> float:
        """Signal a part, so that it ends, and start it again after :data:`RESTART_S`."""
        since_s = time.monotonic()
        os.kill(self.parts[part].pid, number)
        self.parts[part].stop()
        time.sleep(max(0.0, since_s + RESTART_S - time.monotonic()))
        self.start(part)
        return since_s

    def stopped(self, part: str) -> float:
        """Stop a part with SIGSTOP for :data:`LASTS_S`."""
        os.kill(self.parts[part].pid, signal.SIGSTOP)
        time.sleep(LASTS_S)
        os.kill(self.parts[part].pid, signal.SIGCONT)
        return time.monotonic()

    def clock_stepped(self, _part: str) -> float:
        """Set the clock of a part an hour ahead, and back after :data:`LASTS_S`; it runs with :meth:`fake_time`."""
        self._set_clock(STEP_S)
        time.sleep(LASTS_S)
        self._set_clock(0)
        return time.monotonic()

    def fake_time(self, part: str) -> None:
        """Start a part again, with a clock that :meth:`clock_stepped` sets.

        Raises:
            EvaluationError: Debian's libfaketime is not installed.
        """
        library = fake_time_library()
        if library is None:
            raise EvaluationError("libfaketime is not installed (apt-get install libfaketime)")
        self._set_clock(0)
        self.parts[part].stop()
        self.start(
            part, "env", f"LD_PRELOAD={library}", f"FAKETIME_TIMESTAMP_FILE={self._clock}", "FAKETIME_CACHE_DURATION=1",
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
        )  # fmt: skip
        self._until_right()

    @property
    def _clock(self) -> Path:
        return self.disk / "clock"

    def _set_clock(self, ahead_s: float) -> None:
        new = self._clock.with_suffix(".new")
        new.write_text(f"{ahead_s:+.0f}", "ascii")
        os.replace(new, self._clock)

    def disk_full(self, _part: str) -> float:
        """Fill the disk of all logs, sockets and state for :data:`LASTS_S`."""
        filler = self.disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(4096)) == 4096:
                pass
        time.sleep(LASTS_S)
        filler.unlink()
        return time.monotonic()

    def network_lost(self, part: str) -> float:
        """Take down the management network of a part for :data:`LASTS_S`."""
        server = TOPOLOGY.hosts[0].server
        link = f"{PREFIX}-m{server + 1}" if part == "agent" else "lo"
        _ip("link", "set", link, "down")
        time.sleep(LASTS_S)
        _ip("link", "set", link, "up")
        return time.monotonic()

    def keep_logs(self, folder: Path) -> None:
        """Copy the logs of all parts to ``folder``.

        Raises:
            OSError: one cannot be copied.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for log in self.disk.glob("*.log"):
            shutil.copy(log, folder)

    def close(self) -> None:
        """End the traffic and all parts."""
        self._stack.close()
        for process in self.parts.values():
            process.stop()


def fake_time_library() -> str | None:
    """Return the path of Debian's libfaketime; None if it is not installed."""
    folders = Path("/usr/lib").glob("*/faketime")
    return next((str(path) for folder in folders if (path := folder / "libfaketime.so.1").exists()), None)


@contextlib.contextmanager
def fault_rack() -> Iterator[FaultRack]:
    """Set up the rack in a new network namespace, which this process stays in. For the main thread.

    Raises:
        TopologyError: this is not root, or something cannot be set up.
        EvaluationError: the namespace or the disk cannot be made.
    """
    if shutil.which("ip") is None:
        raise EvaluationError("there is no ip on the PATH; install iproute2")
    if os.geteuid() == 0:
        namespaces.allow_congestion_control()
    if ctypes.CDLL(None).unshare(_CLONE_NEWNET):
        raise EvaluationError("cannot make a network namespace; run as root")
    _ip("link", "set", "lo", "up")
    with (
        unwinding_on_sigterm(),
        tempfile.TemporaryDirectory(prefix="mfs-faults-") as folder,
        _small_disk(Path(folder)) as disk,
        namespaces.standing([TOPOLOGY], PREFIX, management=True) as realised,
    ):
        rack = FaultRack(realised, disk)
        try:
            rack.begin()
            yield rack
        finally:
            rack.close()


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[Path]:
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=755", "none", folder],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise EvaluationError(f"cannot mount a small disk: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=False, capture_output=True)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
