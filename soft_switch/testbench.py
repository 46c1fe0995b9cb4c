"""A switch to experiment with: one program, ports of any rate, packets at given times, and a trace of every queue.

Time is virtual, so every run is exact and repeatable. See docs/guide/soft-switch.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, SupportsBytes

from soft_switch.backend import Backend
from soft_switch.errors import ArtifactError
from soft_switch.pipeline import Pipeline
from soft_switch.queues.queue_trace import QueueEvent, traced
from soft_switch.queues.traffic_manager import QueueConfig
from soft_switch.sim.events import VirtualClock
from soft_switch.sim.network import Link, VirtualNetwork
from soft_switch.switch import Switch
from soft_switch.tables.named_table import NamedTables


class Frame(NamedTuple):
    """A frame that left by a port; ``time_ns`` is when its last bit did."""

    time_ns: int
    port: int
    data: bytes


class Testbench:
    """A program between ports.

    Attributes:
        switch: the switch, for a :class:`soft_switch.p4runtime.server.P4RuntimeServer` that controls it.
        trace: what happened in the queues, in order of time.
        packet_ins: frames that left by the CPU port.
        clock: the virtual clock; give it to a P4Runtime server for its digests and idle timeouts.
    """

    __test__ = False  # pytest would collect it by its name.

    def __init__(self, pipeline: Pipeline, cpu_port: int | None = None) -> None:
        """Create a testbench; packets to ``cpu_port`` go to ``packet_ins`` instead of a link."""
        self.trace: list[QueueEvent] = []
        self.packet_ins: list[Frame] = []
        self._sent: list[Frame] = []
        self.clock = VirtualClock()
        self._network = VirtualNetwork(self.clock)
        self.switch = Switch(cpu_port, traced(lambda: self.clock.now_ns, self.trace.append))
        self.switch.install(pipeline)
        self.switch.on_packet_in = lambda data: self.packet_ins.append(Frame(self.clock.now_ns, cpu_port or 0, data))

    @classmethod
    def load(cls, program: Path | str, cpu_port: int | None = None, backend: Backend = "auto") -> Testbench:
        """Make a testbench for the JSON that ``p4c-bm2-ss`` wrote to the file ``program``.

        Raises:
            ArtifactError: the file cannot be read, or is not such a program.
            UnsupportedConstructError: the program uses a construct that this switch does not run.
            NativeError: ``backend`` is ``c``, and machine code is not possible.
        """
        try:
            text = Path(program).read_bytes()
        except OSError as error:
            raise ArtifactError(f"cannot read {program}: {error.strerror}") from error
        return cls(Pipeline.load(text, backend), cpu_port)

    @property
    def pipeline(self) -> Pipeline:
        """The program's tables, registers, counters, meters, value sets and replication."""
        pipeline = self.switch.pipeline
        assert pipeline is not None, "a testbench starts with a program, which only another replaces"
        return pipeline

    @property
    def tables(self) -> NamedTables:
        """The program's tables by name, as in P4Info or shortened where that is unambiguous."""
        return NamedTables(self.pipeline.tables, self.pipeline.actions)

    @property
    def now_ns(self) -> int:
        """The virtual time."""
        return self.clock.now_ns

    def add_port(self, number: int, rate_bps: int, queues: Sequence[QueueConfig] | None = None) -> None:
        """Add a port: eight queues (queue 0 first) and a link of ``rate_bps``, preamble, FCS and gap included.

        Raises:
            PortError: the number is in use.
            PortConfigError: the rate, a limit or a share is invalid.
        """
        self._network.attach_host(self.switch, number, _Receiver(self._sent, number), Link(rate_bps, 0), queues)

    def send(self, port: int, packet: SupportsBytes, at_ns: int | None = None) -> None:
        """Let ``packet`` (bytes or a Scapy packet) arrive at ``port`` at that time, by default now.

        Raises:
            ClockError: the time is in the past.
        """
        self.clock.call_at(self.now_ns if at_ns is None else at_ns, self._arrive, port, bytes(packet))

    def run(self, until_ns: int | None = None) -> list[Frame]:
        """Run until no packet is in flight, or until that time; return the frames that left."""
        self._sent.clear()
        self.clock.run(until_ns)
        return self._sent.copy()

    def _arrive(self, port: int, data: bytes) -> None:
        self.switch.receive(port, data, self.clock.now_ns)


class _Receiver:
    """A host that only receives."""

    def __init__(self, frames: list[Frame], port: int) -> None:
        self._frames = frames
        self._port = port

    def pull(self, _now_ns: int) -> bytes | None:
        return None

    def receive(self, data: bytes, now_ns: int) -> None:
        self._frames.append(Frame(now_ns, self._port, data))
