"""Topologies as Linux network namespaces: one per server, a veth pair per link, the switches' ends in this namespace.

Names start with a prefix that identifies everything, including what a crash left. Links have room for the stamp and
packets of 1,500 bytes: the devices' MTU is larger, and routes have 1,500. Neighbours are static, because the switch
does not answer ARP; the n-th interface of a server reaches the n-th interfaces of the others.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import TypeVar

from pyroute2 import IPRoute, NetlinkError, netns

from soft_switch.realtime import offloads
from topologies.catalogue import CATALOGUE, switches
from topologies.errors import TopologyError
from topologies.topology import LINK_MTU, PAYLOAD_MTU, Host, Neighbour, Topology, cables, neighbours

T = TypeVar("T")
_LOG = logging.getLogger(__name__)

DEFAULT_PREFIX = "mfs"
"""Start of all prefixes of this project."""
LONGEST_PREFIX = 8
"""Interface names have 15 characters at most, and ``-s200n8`` takes seven."""
MANAGEMENT_NETWORK = IPv4Network("172.31.240.0/22")
"""Network of the management links, four addresses each: room for 256 servers of all topologies on this machine."""
CONGESTION_CONTROL = "cubic"
"""Of all servers: the kernel's default, whatever the machine has chosen, because results must not depend on that."""
_SYSCTL = Path("/proc/sys/net")
_PREFIX = re.compile(rf"[A-Za-z][A-Za-z0-9]{{0,{LONGEST_PREFIX - 1}}}")


@dataclass(frozen=True, slots=True)
class Realised:
    """Names of a topology that is up.

    Attributes:
        prefix: prefix of all names.
        namespaces: network namespace of each server.
        interfaces: interface of each host, by host id, within its server's namespace.
        ports: for each topology in order, the switch's interface of each port.
        management: this machine's address on the management link of each server, if there are such links.
    """

    prefix: str
    namespaces: Mapping[int, str] = field(default_factory=dict)
    interfaces: Mapping[int, str] = field(default_factory=dict)
    ports: tuple[Mapping[int, str], ...] = ()
    management: Mapping[int, str] = field(default_factory=dict)

    def switch_options(self, topology: Topology, number: int = 0) -> list[str]:
        """Return the arguments of ``mfs switch`` that connect its ports to the interfaces of topology ``number``."""
        rates = topology.rates
        return [
            word
            for port, interface in sorted(self.ports[number].items())
            for word in ("-i", f"{port}@{interface}@{rates[port]}")
        ]


def allow_congestion_control() -> None:
    """Let network namespaces use :data:`CONGESTION_CONTROL`: they may have only what the machine allows to all users.

    Only the machine's own namespace can change that, so call it before leaving that one.

    Raises:
        TopologyError: it is not allowed, and cannot be from here.
    """
    path = _SYSCTL / "ipv4/tcp_allowed_congestion_control"
    try:
        allowed = path.read_text("ascii").split()
        if CONGESTION_CONTROL not in allowed:
            path.write_text(" ".join([*allowed, CONGESTION_CONTROL]), "ascii")
            _LOG.info("%s is allowed to all users of this machine now: %s", CONGESTION_CONTROL, path)
    except OSError as error:
        raise TopologyError(
            f"the kernel does not let network namespaces use the congestion control {CONGESTION_CONTROL} "
            f"({error.strerror}); as root of the machine, modprobe tcp_{CONGESTION_CONTROL} and add it to {path}"
        ) from error


def up(
    topologies: Sequence[Topology],
    prefix: str = DEFAULT_PREFIX,
    management: bool = False,
    time_stamps: bool = False,
) -> Realised:
    """Set up one topology, or several connected ones. They stay until :func:`clean`.

    Args:
        topologies: one per switch.
        prefix: prefix of all names.
        management: add a link between each server and this machine that no switch knows, for the controller.
        time_stamps: whether TCP uses time stamps, as Linux does unless told otherwise; see
            :func:`host_agent.daemon.host_tcp.time_stamps` for why servers with an agent should not.

    Raises:
        TopologyError: not root, the prefix is in use, or the kernel refuses. Nothing is left behind then.
    """
    _check_prefix(prefix)
    _check_rights()
    if standing := [*_namespaces(prefix), *_links(prefix)]:
        raise TopologyError(
            f"{', '.join(standing)} already exist; use another prefix, or remove them: mfs clean --prefix {prefix}"
        )
    allow_congestion_control()
    try:
        return _build(topologies, prefix, management, time_stamps)
    except (NetlinkError, OSError) as error:
        clean(prefix)
        reason = error.args[-1] if error.args else error
        raise TopologyError(f"the kernel refuses to set up the topology: {reason}") from error
    except BaseException:
        clean(prefix)
        raise


@contextlib.contextmanager
def standing(
    topologies: Sequence[Topology],
    prefix: str = DEFAULT_PREFIX,
    management: bool = False,
    time_stamps: bool = False,
) -> Iterator[Realised]:
    """Call :func:`up`, and :func:`clean` at the end.

    On SIGTERM too, within :func:`~topologies.processes.unwinding_on_sigterm`.

    Raises:
        TopologyError: as for :func:`up`.
    """
    realised = up(topologies, prefix, management, time_stamps)
    try:
        yield realised
    finally:
        clean(prefix)


def found(prefix: str | None = None) -> list[str]:
    """Return the names of what :func:`clean` would remove, by default for all :func:`prefixes`."""
    wanted = prefixes() if prefix is None else [prefix]
    return [name for one in wanted for name in (*_links(one), *_namespaces(one))]


def clean(prefix: str = DEFAULT_PREFIX) -> list[str]:
    """Remove all namespaces and interfaces whose names start with ``prefix`` and a dash, and return their names.

    Processes in a namespace keep running, without a network.

    Raises:
        TopologyError: not root.
    """
    _check_prefix(prefix)
    _check_rights()
    # Deleting one end removes a veth pair at once; deleting its namespace removes it some time later.
    removed = _remove_links(_links(prefix))
    for name in _namespaces(prefix):
        netns.remove(name)
        removed.append(name)
    return removed


def prefixes() -> list[str]:
    """Return the prefixes in use that start with :data:`DEFAULT_PREFIX`, including those that a crash left."""
    names = [*netns.listnetns(), *_interfaces()]
    found = {name.partition("-")[0] for name in names if name.startswith(DEFAULT_PREFIX) and "-" in name}
    return sorted(prefix for prefix in found if _PREFIX.fullmatch(prefix))


def clean_all() -> list[str]:
    """Call :func:`clean` for all :func:`prefixes`, and return the removed names.

    Raises:
        TopologyError: not root.
    """
    _check_rights()
    return [name for prefix in prefixes() for name in clean(prefix)]


def clean_mininet() -> list[str]:
    """Remove links of the catalogue's switches that a killed Mininet left, such as ``leaf1-eth3``; return their names.

    Raises:
        TopologyError: not root.
    """
    _check_rights()
    nodes = "|".join(node for name in CATALOGUE for node in switches(name))
    left = [name for name in _interfaces() if re.fullmatch(rf"({nodes})-eth\d+", name)]
    return _remove_links(left)


def inside(namespace: str, function: Callable[[], T]) -> T:
    """Call ``function`` in another thread within ``namespace``, and return its result or raise its exception.

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


def _build(topologies: Sequence[Topology], prefix: str, management: bool, time_stamps: bool) -> Realised:
    hosts = [host for topology in topologies for host in topology.hosts]
    namespaces = {server: f"{prefix}-s{server + 1}" for server in sorted({host.server for host in hosts})}
    for name in namespaces.values():
        netns.create(name)
        inside(name, lambda: _quiet_namespace(time_stamps))
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
        free = _free_management_networks(ip)
        managed = {
            server: _manage(ip, f"{prefix}-m{server + 1}", name, next(free))
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


def _free_management_networks(ip: IPRoute) -> Iterator[IPv4Network]:
    """Yield the parts of the management network that no other topology on this machine has."""
    taken = {IPv4Address(each.get_attr("IFA_ADDRESS")) for each in ip.get_addr(family=socket.AF_INET)}
    yield from (network for network in MANAGEMENT_NETWORK.subnets(new_prefix=30) if taken.isdisjoint(network))
    raise TopologyError(
        f"all of {MANAGEMENT_NETWORK} is taken by management links; `mfs clean` removes what a crash left"
    )


def _manage(ip: IPRoute, name: str, namespace: str, network: IPv4Network) -> str:
    """Add a management link between this machine and a server, and return the address of this end."""
    near, far = network.hosts()
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
    # The switch is not a host: its interfaces have no addresses and send nothing by themselves.
    _write_sysctl(f"ipv6/conf/{name}/disable_ipv6", 1)
    offloads.turn_off(name)
    ip.link("set", index=ip.link_lookup(ifname=name)[0], state="up")


def _quiet_namespace(time_stamps: bool) -> None:
    _write_sysctl("ipv4/tcp_timestamps", int(time_stamps))
    _write_sysctl("ipv4/tcp_congestion_control", CONGESTION_CONTROL)
    # The usual setting for long-lived connections with pauses.
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
            # Deleting one end of a veth pair deletes the other.
            with contextlib.suppress(NetlinkError, IndexError):
                ip.link("del", index=ip.link_lookup(ifname=name)[0])
                removed.append(name)
    return removed


def _interfaces() -> list[str]:
    return sorted(name for _, name in socket.if_nameindex())


def _check_prefix(prefix: str) -> None:
    if not _PREFIX.fullmatch(prefix):
        raise TopologyError(
            f"{prefix!r} is not a prefix; use a letter, then letters and digits, {LONGEST_PREFIX} in total at most"
        )


def _check_rights() -> None:
    if os.geteuid() != 0:
        raise TopologyError("network namespaces need root; use sudo")


def _write_sysctl(name: str, value: int | str) -> None:
    # A kernel without IPv6 does not have the file, and one without the congestion control refuses it with this error.
    with contextlib.suppress(FileNotFoundError):
        (_SYSCTL / name).write_text(str(value))


def _mac(address: bytes) -> str:
    return address.hex(":")
