"""bmv2 (``simple_switch_grpc``) between files: packets go in from pipes in pcap format, and out into files."""

from __future__ import annotations

import contextlib
import os
import struct
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from topologies import bmv2
from topologies.processes import Process, free_port, listening

GLOBAL_HEADER = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
_RECORD = struct.Struct("<IIII")
AT_A_TIME = 24
"""Number of packets to send before waiting for the earlier ones; a queue of bmv2 holds 64."""
QUIET_S = 2.0
"""After this long without a packet, no more are expected."""

Queue = tuple[int, ...]
"""A port, and the level if it is known."""
Arrivals = Sequence[tuple[int, bytes]]
"""Packets in order, each with the port at which it arrives."""


class Bmv2:
    """The switch with ``ports``, started and without a program; see :func:`running`."""

    def __init__(self, folder: Path, ports: Sequence[int]) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self._folder = folder
        self._ports = ports
        self._pipes: dict[int, int] = {}
        self._outputs: dict[int, _Output] = {}
        self._clock_us = 1_000_000
        for port in ports:
            os.mkfifo(folder / f"p{port}_in.pcap")
        words = bmv2.command(self.address, {port: str(folder / f"p{port}") for port in ports}, 1, free_port())
        self._process = Process([words[0], "--use-files", "0", *words[1:]], lambda _: listening(self.address))

    def __enter__(self) -> Bmv2:
        # bmv2 opens the pipes in the order of the ports, and waits at each for its header.
        for port in self._ports:
            self._pipes[port] = os.open(self._folder / f"p{port}_in.pcap", os.O_RDWR)
            os.write(self._pipes[port], GLOBAL_HEADER)
        self._process.wait_ready()
        self._outputs = {port: _Output(self._folder / f"p{port}_out.pcap") for port in self._ports}
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in self._pipes.values():
            with contextlib.suppress(OSError):
                os.close(pipe)
        for output in self._outputs.values():
            output.close()
        self._process.stop()

    def send(self, arrivals: Arrivals, leaving: Sequence[int]) -> dict[int, list[bytes]]:
        """Send packets, and return what leaves by each port, in order.

        ``leaving`` says how many packets are expected to leave for each that arrives. A few are sent at a time, so that
        no queue of bmv2 overflows; if fewer leave than expected, the rest are sent after :data:`QUIET_S`.
        """
        expected = 0
        for port in self._ports:
            if all(port != arrival[0] for arrival in arrivals):
                os.close(self._pipes.pop(port))
        for start in range(0, len(arrivals), AT_A_TIME):
            for port, data in arrivals[start : start + AT_A_TIME]:
                self._clock_us += 1
                record = _RECORD.pack(*divmod(self._clock_us, 1_000_000), len(data), len(data))
                os.write(self._pipes[port], record + data)
            # bmv2 takes the earliest packet once it has the next of every port: the last few wait for more.
            self._await(expected)
            expected += sum(leaving[start : start + AT_A_TIME])
        for pipe in self._pipes.values():
            os.close(pipe)
        self._pipes.clear()
        self._await(expected)
        return {port: out.packets for port, out in self._outputs.items()}

    def _await(self, expected: int) -> None:
        seen, quiet_since = -1, time.monotonic()
        while True:
            count = sum(len(out.read()) for out in self._outputs.values())
            if count != seen:
                seen, quiet_since = count, time.monotonic()
            if count >= expected or time.monotonic() - quiet_since > QUIET_S:
                return
            time.sleep(0.002)


class _Output:
    """A file in pcap format that grows."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._rest = b""
        self._begun = False
        self.packets: list[bytes] = []

    def read(self) -> list[bytes]:
        """All packets so far."""
        data = self._rest + self._file.read()
        position = 0 if self._begun else len(GLOBAL_HEADER)
        if len(data) >= position:
            self._begun = True
            while position + _RECORD.size <= len(data):
                end = position + _RECORD.size + _RECORD.unpack_from(data, position)[2]
                if end > len(data):
                    break
                self.packets.append(data[position + _RECORD.size : end])
                position = end
            data = data[position:]
        self._rest = data
        return self.packets

    def close(self) -> None:
        self._file.close()


@contextlib.contextmanager
def running(ports: Sequence[int]) -> Iterator[Bmv2]:
    """A switch that runs inside the ``with`` block, and its files."""
    with tempfile.TemporaryDirectory(prefix="mfsdf") as folder, Bmv2(Path(folder), ports) as switch:
        yield switch


def differences(one: Mapping[Queue, list[bytes]], other: Mapping[Queue, list[bytes]]) -> list[str]:
    """Describe where two switches differ: for each port (and level), the first packet that is not the same."""
    result = []
    for place in sorted(one.keys() | other.keys()):
        mine, theirs = one.get(place, []), other.get(place, [])
        for number, (a, b) in enumerate(zip(mine, theirs, strict=False)):
            if a != b:
                result.append(f"{place}, packet {number}: {a.hex()} and {b.hex()}")
                break
        if len(mine) != len(theirs):
            result.append(f"{place}: {len(mine)} and {len(theirs)} packets")
    return result
