"""What ``mfs doctor`` finds on a server: what is fine, and what to do about the rest. Judgements are pure."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from host_agent.protocol.errors import MfsError
from host_agent.protocol.stamp import STAMP_BYTES
from host_agent.protocol.units import bit_rate_text

Grade = Literal["ok", "note", "fail"]
SHIM_KERNEL, OPTION_KERNEL = (5, 8), (5, 15)
"""The oldest kernels on which each carrier works (``docs/reference/host-agent.md``)."""
CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_BPF": 39}
"""What an agent needs, with their bits (capability.h)."""
_STATUS = Path("/proc/self/status")
_INTERFACES = Path("/sys/class/net")


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding. ``note``: works, but read it. ``fail``: does not work, and the text says what to do."""

    grade: Grade
    subject: str
    text: str

    def __str__(self) -> str:
        return f"{self.grade:4} {self.subject:12} {self.text}"


def kernel(release: str, machine: str) -> Finding:
    """Judge the kernel by its release, such as ``6.1.0-18-amd64``."""
    matched = re.match(r"(\d+)\.(\d+)", release)
    found = (int(matched[1]), int(matched[2])) if matched else (0, 0)
    if machine not in ("x86_64", "aarch64"):
        return Finding("fail", "kernel", f"{machine} is not supported; agents run on x86_64 and aarch64")
    if found < SHIM_KERNEL:
        return Finding("fail", "kernel", f"Linux {release} is too old; an agent needs 5.8, and 5.15 for the TCP option")
    if found < OPTION_KERNEL:
        return Finding("note", "kernel", f"Linux {release}: stamps travel in a shim; the TCP option needs 5.15")
    return Finding("ok", "kernel", f"Linux {release}: stamps can travel in a TCP option")


def permissions(status: str) -> Finding:
    """Judge what this process may do, by the text of /proc/self/status."""
    matched = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.M)
    held = int(matched[1], 16) if matched else 0
    missing = [name for name, bit in CAPABILITIES.items() if not held >> bit & 1]
    if missing:
        return Finding("fail", "permissions", f"this user lacks {', '.join(missing)}; run as root, as an agent must")
    return Finding("ok", "permissions", "all capabilities of an agent")


def time_stamps(on: bool) -> Finding:
    """Judge the setting of TCP time stamps."""
    if on:
        text = "TCP time stamps are on, and receivers drop what a promotion overtook; on all servers: "
        return Finding("note", "tcp", f"{text}sysctl -w net.ipv4.tcp_timestamps=0")
    return Finding("ok", "tcp", "TCP time stamps are off")


def link(interface: str, rate_bps: int | None, mtu: int, up: bool) -> Iterator[Finding]:
    """Judge an interface by its rate (None: not reported), its MTU in bytes, and whether it is up."""
    if not up:
        yield Finding("fail", "interface", f"{interface} is down; run: ip link set {interface} up")
    if rate_bps is None:
        yield Finding("note", "rate", f"{interface} does not report its rate; give it to the agent: --rate 100G")
    else:
        text = f"{interface} reports {bit_rate_text(rate_bps)}; if that is not the link's rate, give the agent --rate"
        yield Finding("ok", "rate", text)
    option = f"{interface} has {mtu}; the TCP option changes nothing, with a shim routes get {mtu - STAMP_BYTES}"
    yield Finding("ok", "mtu", f"{option} unless the link carries {STAMP_BYTES} bytes more (--link-mtu)")


def offloads(interface: str, on: list[str]) -> Finding:
    """Judge which of the offloads that a shim excludes are on."""
    if not on:
        return Finding("ok", "offloads", f"{interface} has none that an agent would change")
    text = (
        f"{interface} has {', '.join(on)} on; with the TCP option they stay on, with --carrier shim an agent turns them"
    )
    return Finding("ok", "offloads", f"{text} off")


def server(interface: str | None) -> Iterator[Finding]:
    """Look at this server, and at ``interface`` if given."""
    yield kernel(platform.release(), platform.machine())
    allowed = permissions(_STATUS.read_text("ascii") if _STATUS.exists() else "")
    yield allowed
    try:
        from host_agent.daemon import hooks, host_tcp, netlink, sockets
        from host_agent.daemon.options import InterfaceOptions
    except ModuleNotFoundError as error:
        yield Finding("fail", "packages", f"{error}; install it with: pip install '.[net]'")
        return
    yield time_stamps(host_tcp.time_stamps())
    if allowed.grade == "ok":
        yield _programs()
        try:
            with sockets.opened(None):
                yield Finding("ok", "cgroup", "version 2, for the TCP option")
        except MfsError as error:
            yield Finding("note", "cgroup", str(error))
    if interface is None:
        return
    if not (_INTERFACES / interface).exists():
        yield Finding("fail", "interface", f"there is no interface {interface!r}; `ip link` lists them")
        return
    yield from link(interface, netlink.link_rate_bps(interface), _number(interface, "mtu"), _is_up(interface))
    yield offloads(interface, netlink.features(interface, hooks.unwanted_features(InterfaceOptions(interface))))


def _programs() -> Finding:
    from host_agent.ebpf.bpf import Programs
    from host_agent.ebpf.object import load

    try:
        Programs.load(load()).close()
    except MfsError as error:
        return Finding("fail", "programs", str(error))
    return Finding("ok", "programs", "the kernel accepts the agent's programs")


def socket_of(path: Path) -> Finding:
    """Look at the agent's socket."""
    from host_agent.client import AgentClient

    if not path.exists():
        return Finding("note", "agent", f"no agent serves {path}; start one: mfs agent run")
    if not os.access(path, os.W_OK):
        return Finding("fail", "agent", f"this user may not use {path}; see --group and --mode of mfs agent run")
    try:
        with AgentClient(path) as client:
            status = client.status()
    except MfsError as error:
        return Finding("fail", "agent", f"{error}")
    policy = status["policy"]["name"]
    if policy is None:
        return Finding("fail", "agent", f"{path} has no policy yet; controller: {status['policy']['controller']}")
    return Finding("ok", "agent", f"{path}: {status['interface']}, policy {policy}, stamps by {status['carrier']}")


def _number(interface: str, name: str) -> int:
    with contextlib.suppress(OSError, ValueError):
        return int((_INTERFACES / interface / name).read_text("ascii"))
    return 0


def _is_up(interface: str) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return bool(int((_INTERFACES / interface / "flags").read_text("ascii"), 16) & 1)
    return False
