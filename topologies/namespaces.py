"""Topologies as Linux network namespaces: one per server, a veth pair per link, the switches' ends where this runs.

Names begin with a prefix, by which everything is found again, also what a crash left. Links have room for the stamp
beside packets of 1,500 bytes: the devices' MTU is larger, and routes say 1,500. Neighbours are static, since the switch
answers no ARP; servers that have several interfaces reach the n-th of another server over their own n-th.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path
from types import FrameType
from typing import TypeVar

from pyroute2 import IPRoute, NetlinkError, netns

from soft_switch.realtime import offloads
from topologies.catalogue import CATALOGUE, switches
from topologies.errors import TopologyError
from topologies.topology import LINK_MTU, PAYLOAD_MTU, Host, Neighbour, Topology, cables, neighbours

T = TypeVar("T")

DEFAULT_PREFIX = "mfs"
"""All prefixes of this project's own begin like this."""
LONGEST_PREFIX = 8
"""Names of interfaces have 15 characters at most, and ``-s200n8`` takes seven."""
MANAGEMENT_NETWORK = IPv4Network("172.31.240.0/22")
"""Of management links, four addresses each: room for 200 servers."""
_PREFIX = re.compile(rf"[A-Za-z][A-Za-z0-9]{{0,{LONGEST_PREFIX - 1}}}")


@dataclass(frozen=True, slots=True)
class Realised:
    """What stands.

    Attributes:
        namespaces: by server, the name of its network namespace.
        interfaces: by host id, the name of its interface within its server's namespace.
        ports: for each topology, in order: by port, the name of the switch's interface.
        management: by server, the address of this machine on its management link, where there is one.
    """

    prefix: str
    namespaces: Mapping[int, str] = field(default_factory=dict)
    interfaces: Mapping[int, str] = field(default_factory=dict)
    ports: tuple[Mapping[int, str], ...] = ()
    management: Mapping[int, str] = field(default_factory=dict)

    def switch_options(self, topology: Topology, number: int = 0) -> list[str]:
        """Arguments of ``mfs switch`` that put its ports on the interfaces of the ``number``-th topology."""
        rates = topology.rates
        return [
            word
            for port, interface in sorted(self.ports[number].items())
            for word in ("-i", f"{port}@{interface}@{rates[port]}")
        ]


def up(topologies: Sequence[Topology], prefix: str = DEFAULT_PREFIX, management: bool = False) -> Realised:
    """Set ``topologies`` up, one or several that are joined. They stay until :func:`clean`.

    With ``management``, servers have a link to this machine that no switch knows of: the way to the controller.

    Raises:
        TopologyError: no root, something with this prefix stands already, or the kernel refuses; nothing is left then.
    """
    _check_prefix(prefix)
    _check_rights()
    if standing := [*_namespaces(prefix), *_links(prefix)]:
        raise TopologyError(
            f"{', '.join(standing)} stand already; take another prefix, or: mfs clean --prefix {prefix}"
        )
    try:
        return _build(topologies, prefix, management)
    except (NetlinkError, OSError) as error:
        clean(prefix)
        reason = error.args[-1] if error.args else error
        raise TopologyError(f"the kernel refuses to set up the topology: {reason}") from error
    except BaseException:
        clean(prefix)
        raise


@contextlib.contextmanager
def standing(
    topologies: Sequence[Topology], prefix: str = DEFAULT_PREFIX, management: bool = False
) -> Iterator[Realised]:
    """:func:`up`, and :func:`clean` at the end, however it comes; for SIGTERM see :func:`unwinding_on_sigterm`.

    Raises:
        TopologyError: as :func:`up`.
    """
    realised = up(topologies, prefix, management)
    try:
        yield realised
    finally:
        clean(prefix)


@contextlib.contextmanager
def unwinding_on_sigterm() -> Iterator[None]:
    """Within, SIGTERM raises SystemExit, so that what is set up is taken down again. For the main thread."""

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def clean(prefix: str = DEFAULT_PREFIX) -> list[str]:
    """Remove all namespaces and interfaces whose name begins with ``prefix`` and a dash; the names of what was there.

    Processes that run in a namespace live on, without a network.

    Raises:
        TopologyError: no root.
    """
    _check_prefix(prefix)
    _check_rights()
    # With one end a veth pair goes at once; with a namespace alone, some time later.
    removed = _remove_links(_links(prefix))
    for name in _namespaces(prefix):
        netns.remove(name)
        removed.append(name)
    return removed


def prefixes() -> list[str]:
    """Prefixes under which something stands or is left: those that begin with :data:`DEFAULT_PREFIX`."""
    names = [*netns.listnetns(), *_interfaces()]
    found = {name.partition("-")[0] for name in names if name.startswith(DEFAULT_PREFIX) and "-" in name}
    return sorted(prefix for prefix in found if _PREFIX.fullmatch(prefix))


def clean_all() -> list[str]:
    """Remove what stands or is left under any of :func:`prefixes`; the names of what was there.

    Raises:
        TopologyError: no root.
    """
    _check_rights()
    return [name for prefix in prefixes() for name in clean(prefix)]


def clean_mininet() -> list[str]:
    """Remove links that a killed Mininet left of the catalogue's switches, such as ``leaf1-eth3``; their names.

    Raises:
        TopologyError: no root.
    """
    _check_rights()
    nodes = "|".join(node for name in CATALOGUE for node in switches(name))
    left = [name for name in _interfaces() if re.fullmatch(rf"({nodes})-eth\d+", name)]
    return _remove_links(left)


def inside(namespace: str, function: Callable[[], T]) -> T:
    """What ``function`` returns, run in a thread of its own within ``namespace``; its exceptions are raised here.

    Sockets that it opens stay in the namespace.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            netns.setns(namespace)
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _build(topologies: Sequence[Topology], prefix: str, management: bool) -> Realised:
    hosts = [host for topology in topologies for host in topology.hosts]
    namespaces = {server: f"{prefix}-s{server + 1}" for server in sorted({host.server for host in hosts})}
    for name in namespaces.values():
        netns.create(name)
        inside(name, _quiet_namespace)
    interfaces = {host.id: f"nic{host.nic + 1}" for host in hosts}
    ports: list[dict[int, str]] = [{} for _ in topologies]
    with IPRoute() as ip:
        for topology, of_switch in zip(topologies, ports, strict=True):
            for host in topology.hosts:
                of_switch[host.port] = name = f"{prefix}-{host.name}"
                peer = {
                    "ifname": interfaces[host.id],
                    "net_ns_fd": namespaces[host.server],
                    "address": _mac(host.mac),
                    "mtu": LINK_MTU,
                }
                ip.link("add", ifname=name, kind="veth", mtu=LINK_MTU, peer=peer)
                _start_switch_end(ip, name)
        _join_switches(ip, topologies, ports, prefix)
        managed = {
            server: _manage(ip, f"{prefix}-m{server + 1}", name, server)
            for server, name in (namespaces if management else {}).items()
        }
    known = neighbours(topologies)
    for server, namespace in namespaces.items():
        own = [host for host in hosts if host.server == server]
        inside(namespace, lambda own=own: _start_hosts(own, known))  # type: ignore[misc]
    return Realised(prefix, namespaces, interfaces, tuple(ports), managed)


def _join_switches(ip: IPRoute, topologies: Sequence[Topology], ports: Sequence[dict[int, str]], prefix: str) -> None:
    for number, (near, far) in enumerate(cables(topologies), 1):
        names = f"{prefix}-u{number}a", f"{prefix}-u{number}b"
        ip.link("add", ifname=names[0], kind="veth", mtu=LINK_MTU, peer={"ifname": names[1], "mtu": LINK_MTU})
        for end, name in zip((near, far), names, strict=True):
            _start_switch_end(ip, name)
            ports[end.switch][end.port] = name


def _manage(ip: IPRoute, name: str, namespace: str, server: int) -> str:
    """A link of its own between this machine and a server; the address of this end."""
    network = MANAGEMENT_NETWORK[server * 4]
    near, far = network + 1, network + 2
    ip.link("add", ifname=name, kind="veth", peer={"ifname": "mgmt", "net_ns_fd": namespace})
    index = ip.link_lookup(ifname=name)[0]
    ip.addr("add", index=index, address=str(near), prefixlen=30)
    ip.link("set", index=index, state="up")

    def start_far_end() -> None:
        with IPRoute() as inner:
            index = inner.link_lookup(ifname="mgmt")[0]
            inner.addr("add", index=index, address=str(far), prefixlen=30)
            inner.link("set", index=index, state="up")

    inside(namespace, start_far_end)
    return str(near)


def _start_switch_end(ip: IPRoute, name: str) -> None:
    # The switch is no host: its interfaces have no addresses and send nothing by themselves.
    _write_sysctl(f"ipv6/conf/{name}/disable_ipv6", 1)
    offloads.turn_off(name)
    ip.link("set", index=ip.link_lookup(ifname=name)[0], state="up")


def _quiet_namespace() -> None:
    # As operators set it where connections are kept and used now and then.
    _write_sysctl("ipv4/tcp_slow_start_after_idle", 0)
    for name in ("all", "default"):
        _write_sysctl(f"ipv6/conf/{name}/accept_dad", 0)
        _write_sysctl(f"ipv6/conf/{name}/accept_ra", 0)
        _write_sysctl(f"ipv6/conf/{name}/router_solicitations", 0)
        _write_sysctl(f"ipv4/conf/{name}/rp_filter", 0)
    with IPRoute() as ip:
        ip.link("set", index=ip.link_lookup(ifname="lo")[0], state="up")


def _start_hosts(own: Sequence[Host], known: Sequence[Neighbour]) -> None:
    with IPRoute() as ip:
        for host in own:
            name = f"nic{host.nic + 1}"
            index = ip.link_lookup(ifname=name)[0]
            offloads.turn_off(name)
            ip.addr("add", index=index, address=str(host.ipv4), prefixlen=32)
            ip.addr("add", index=index, address=str(host.ipv6), prefixlen=128)
            ip.link("set", index=index, state="up")
            for neighbour in known:
                if neighbour.host == host:
                    address, length = str(neighbour.address), neighbour.address.max_prefixlen
                    mac = _mac(neighbour.mac)
                    where = {"scope": "link", "prefsrc": str(neighbour.own)} if neighbour.address.version == 4 else {}
                    ip.neigh("add", dst=address, lladdr=mac, ifindex=index, state="permanent")
                    ip.route("add", dst=f"{address}/{length}", oif=index, metrics={"mtu": PAYLOAD_MTU}, **where)


def _namespaces(prefix: str) -> list[str]:
    return sorted(name for name in netns.listnetns() if name.startswith(f"{prefix}-"))


def _links(prefix: str) -> list[str]:
    return [name for name in _interfaces() if name.startswith(f"{prefix}-")]


def _remove_links(names: Sequence[str]) -> list[str]:
    removed = []
    with IPRoute() as ip:
        for name in names:
            # The other end of one that is gone is gone too.
            with contextlib.suppress(NetlinkError, IndexError):
                ip.link("del", index=ip.link_lookup(ifname=name)[0])
                removed.append(name)
    return removed


def _interfaces() -> list[str]:
    return sorted(name for _, name in socket.if_nameindex())


def _check_prefix(prefix: str) -> None:
    if not _PREFIX.fullmatch(prefix):
        raise TopologyError(f"a prefix is a letter, then letters and digits, {LONGEST_PREFIX} at most; not {prefix!r}")


def _check_rights() -> None:
    if os.geteuid() != 0:
        raise TopologyError("network namespaces take root; try sudo")


def _write_sysctl(name: str, value: int) -> None:
    # A kernel without IPv6 has nothing to say about it.
    with contextlib.suppress(FileNotFoundError):
        Path("/proc/sys/net", name).write_text(str(value))


def _mac(address: bytes) -> str:
    return address.hex(":")
