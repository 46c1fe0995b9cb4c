"""Two hosts on one link, each in its own network namespace, and agents on them."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from host_agent import AgentClient
from host_agent.daemon.hooks import detach
from host_agent.ebpf.bpf import Programs
from host_agent.ebpf.errors import InterfaceError, KernelError
from host_agent.ebpf.object import load
from host_agent.protocol.stamp import ETHERTYPE_MFS, STAMP_BYTES, Stamp

T = TypeVar("T")
MAIN = "from mfs_ctrl.cli import main; main()"
COMMAND = (sys.executable, "-c", MAIN)
ANOTHER_BUILD = """
from dataclasses import replace
from host_agent.ebpf import object
NOTHING = bytes([0xB7, 0, 0, 0, 0, 0, 0, 0])  # r0 = 0
def longer(program):
    return replace(program, instructions=NOTHING + program.instructions, maps=[(at + 8, m) for at, m in program.maps])
def load(load=object.load):
    found = load()
    return replace(found, programs={name: longer(program) for name, program in found.programs.items()})
object.load = load
"""
"""Makes the kernel's programs others, as those of another version are."""
SECONDS = 60
INTERFACE = "v0"
ADDRESSES = ("10.77.0.1", "10.77.0.2")
_PACKET_OUTGOING = 4
_NOBODY = 65534
_numbers = itertools.count()


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=SECONDS).stdout


class Host:
    """One end of the link."""

    def __init__(self, name: str, address: str, interface: str = INTERFACE) -> None:
        self.name = name
        self.address = address
        self.interface = interface

    def inside(self, call: Callable[[], T]) -> T:
        """Call ``call`` in this host's network namespace and return its result."""
        from topologies.namespaces import inside

        return inside(self.name, call)

    def mfs(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``mfs`` on this host and wait for its end."""
        words = ["ip", "netns", "exec", self.name, *COMMAND, *arguments]
        return subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, check=False)

    def settings(self) -> str:
        """Everything that an agent may change on this host, as text."""
        tools = [
            ["ip", "-d", "link", "show", "dev", self.interface],
            ["ip", "-4", "route", "show", "table", "all"],
            ["tc", "qdisc", "show", "dev", self.interface],
            ["tc", "filter", "show", "dev", self.interface, "egress"],
            ["ethtool", "-k", self.interface],
            ["cat", f"/proc/sys/net/ipv6/conf/{self.interface}/mtu"],
        ]
        run = ["ip", "netns", "exec", self.name]
        outs = [subprocess.run([*run, *words], capture_output=True, text=True, timeout=SECONDS) for words in tools]
        # Without counters.
        return re.sub(r"direct_packets_stat \d+", "", "\n".join(out.stdout for out in outs))

    def ingress(self) -> str:
        """The filters of received packets."""
        words = ["ip", "netns", "exec", self.name, "tc", "filter", "show", "dev", self.interface, "ingress"]
        return subprocess.run(words, capture_output=True, text=True, timeout=SECONDS).stdout

    def capture(self, outgoing: bool = True) -> Capture:
        """Capture the frames that leave this host from now on, or those that arrive, as on the wire."""
        raw = self.inside(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
        return Capture(raw, outgoing, self.interface)


class Capture:
    """Frames that leave an interface, or those that arrive."""

    def __init__(self, packets: socket.socket, outgoing: bool, interface: str) -> None:
        self._packets = packets
        self._outgoing = outgoing
        packets.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
        packets.bind((interface, 3))
        packets.setblocking(False)

    def frames(self) -> list[bytes]:
        """The frames since the last call."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, where = self._packets.recvfrom(1 << 17)
                if (where[2] == _PACKET_OUTGOING) is self._outgoing:
                    found.append(frame)
        return found

    def stamps(self) -> list[tuple[Stamp, bytes]]:
        """The stamps of stamped frames since the last call, each with the bytes that follow it."""
        stamped = [frame for frame in self.frames() if frame[12:14] == ETHERTYPE_MFS.to_bytes(2, "big")]
        return [(Stamp.unpack(frame[14:]), frame[14 + STAMP_BYTES :]) for frame in stamped]

    def close(self) -> None:
        self._packets.close()


@contextlib.contextmanager
def linked() -> Iterator[tuple[Host, Host]]:
    """Two hosts on a veth pair; skips the test where this is not possible."""
    if os.geteuid():
        pytest.skip("network namespaces and eBPF need root")
    for tool in ("ip", "tc", "ethtool"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool} on the PATH")
    pytest.importorskip("pyroute2")
    try:
        Programs.load(load()).close()
    except KernelError as error:
        pytest.skip(str(error))
    names = [f"ag{os.getpid()}-{next(_numbers)}{end}" for end in "ab"]
    try:
        for name in names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", names[0], "link", "add", INTERFACE, "type", "veth", "peer", "name", INTERFACE, "netns", names[1])
        for name, address in zip(names, ADDRESSES, strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", INTERFACE)
            ip("-n", name, "link", "set", INTERFACE, "up")
        for kind in (("clsact",), ("root", "handle", "1:", "htb")):
            words = ["ip", "netns", "exec", names[0], "tc", "qdisc"]
            if subprocess.run([*words, "add", "dev", INTERFACE, *kind], capture_output=True, check=False).returncode:
                pytest.skip(f"the kernel has no {kind[-1]}")
            subprocess.run([*words, "del", "dev", INTERFACE, *kind], capture_output=True, check=True)
        yield Host(names[0], ADDRESSES[0]), Host(names[1], ADDRESSES[1])
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


class Agent:
    """``mfs agent run`` on a host."""

    def __init__(
        self,
        host: Host,
        folder: Path,
        *arguments: str,
        policy_url: str = "http://127.0.0.1:1",
        carrier: str = "shim",
        build: str = "",
        lives_s: float = 3 * SECONDS,
    ) -> None:
        self.host = host
        self.folder = folder
        self.socket = folder / f"{host.name}.sock"
        options = ("--interface", host.interface, "--policy-url", policy_url, "--socket", str(self.socket))
        options += ("--carrier", carrier)
        self.process = subprocess.Popen(
            [
                *("ip", "netns", "exec", host.name, sys.executable, "-c", build + MAIN, "agent", "run"),
                *(*options, *self._state, *arguments),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
        )
        self._watchdog = threading.Timer(lives_s, self.process.kill)
        self._watchdog.start()
        self.said = self.until("serving")

    @property
    def _state(self) -> tuple[str, str]:
        return "--state-dir", str(self.folder / "state")

    def until(self, words: str) -> str:
        """Wait for a line of its output with ``words``, and return the output up to it."""
        assert self.process.stdout is not None
        said = ""
        for line in self.process.stdout:
            said += line
            if words in line:
                return said
        raise AssertionError(f"the agent ended without {words!r}: {said}")

    def client(self) -> AgentClient:
        return AgentClient(str(self.socket))

    def kill(self) -> None:
        """Kill it, so that it cannot restore anything."""
        self.process.kill()
        self.process.wait()
        self._watchdog.cancel()

    def detach(self) -> subprocess.CompletedProcess[str]:
        return self.host.mfs("agent", "detach", "--interface", self.host.interface, *self._state)

    def end(self) -> str:
        """Send SIGTERM and return the rest of its output."""
        self.process.send_signal(signal.SIGTERM)
        out, _ = self.process.communicate()
        self._watchdog.cancel()
        return out


@contextlib.contextmanager
def running(
    host: Host,
    folder: Path,
    *arguments: str,
    policy_url: str = "http://127.0.0.1:1",
    carrier: str = "shim",
    lives_s: float = 3 * SECONDS,
) -> Iterator[Agent]:
    agent = Agent(host, folder, *arguments, policy_url=policy_url, carrier=carrier, lives_s=lives_s)
    try:
        yield agent
    finally:
        agent.end()
        # What still removes stamps from received packets.
        with contextlib.suppress(InterfaceError):  # the test has removed the interface
            host.inside(lambda: detach(host.interface, folder / "state"))


def connected(sender: Host, receiver: Host, family: int = 4) -> tuple[socket.socket, socket.socket]:
    """Both ends of a TCP connection between two hosts."""
    place, kind = (receiver.address, socket.AF_INET) if family == 4 else ("::", socket.AF_INET6)
    with receiver.inside(lambda: socket.create_server((place, 0), family=kind)) as server:
        # The address of a host ends with the same digit in both families.
        address = server.getsockname() if family == 4 else (f"fd77::{receiver.address[-1]}", server.getsockname()[1])
        near = sender.inside(lambda: socket.create_connection(address, timeout=SECONDS))
        far, _ = server.accept()
    far.settimeout(SECONDS)
    return near, far


def received(far: socket.socket, count: int) -> bytes:
    parts = []
    while count and (part := far.recv(min(count, 1 << 20))):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


@contextlib.contextmanager
def cgroup() -> Iterator[Path]:
    """A new version-2 cgroup."""
    with open("/proc/mounts", encoding="utf-8") as mounts:
        roots = [Path(words[1]) for words in map(str.split, mounts) if words[2] == "cgroup2"]
    if not roots:
        pytest.skip("no cgroup file system of version 2 is mounted")
    path = roots[0] / f"ag{os.getpid()}"
    path.mkdir()
    try:
        yield path
    finally:
        path.rmdir()


def transferred(near: socket.socket, far: socket.socket, data: bytes) -> bytes:
    """Send ``data`` and return what arrives."""
    thread = threading.Thread(target=near.sendall, args=(data,))
    thread.start()
    try:
        return received(far, len(data))
    finally:
        thread.join()


def as_nobody(call: Callable[[], object]) -> str:
    """The result of ``call`` or the message of its error, run as a user without any rights."""

    def without_rights() -> object:
        os.setgroups([])
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)
        return call()

    return in_child(without_rights)


def in_child(call: Callable[[], object]) -> str:
    """The result of ``call`` or the message of its error, in a child process."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.write(write, str(call()).encode())
        except BaseException as error:
            os.write(write, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read, encoding="utf-8") as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return text
