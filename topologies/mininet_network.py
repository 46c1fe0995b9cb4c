"""Topologies in Mininet: hosts with static neighbours, switches (embedded or bmv2), and their controllers.

Mininet belongs to the system's Python, which has neither gRPC nor click. This module therefore uses only the standard
library and Mininet, and runs the switch and the controller as processes of ``mfs``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from host_agent.protocol.units import P4RUNTIME_PORT
from topologies import bmv2, catalogue
from topologies.errors import TopologyError
from topologies.processes import ROOT, Process, listening, mfs
from topologies.topology import LINK_MTU, PAYLOAD_MTU, Topology, cables, neighbours

SYSTEM_PACKAGES = "/usr/lib/python3/dist-packages"
"""Directory of Debian's Mininet package."""
_LOGGER_CLASS = logging.getLoggerClass()

try:
    import mininet
except ModuleNotFoundError:
    sys.path.append(SYSTEM_PACKAGES)
    try:
        import mininet  # noqa: F401
    except ModuleNotFoundError:
        raise TopologyError("Mininet is not installed; on Debian: apt-get install mininet") from None
    finally:
        # Mininet finds its other modules within the package; other system packages must not be used.
        sys.path.remove(SYSTEM_PACKAGES)

from mininet.net import Mininet  # noqa: E402
from mininet.node import Controller, Host, Node, Switch  # noqa: E402
from mininet.topo import Topo  # noqa: E402

# Mininet makes its own logger, a singleton, the class of all later loggers; other packages need the standard class.
logging.setLoggerClass(_LOGGER_CLASS)


class NamedTopology(Topo):  # type: ignore[misc]
    """A topology of the catalogue."""

    def build(
        self, name: str = "tor", servers: int = 8, nics: int = 1, rate: int = catalogue.DEFAULT_RATE_BPS, **_: Any
    ) -> None:
        """Add hosts, switches and links. Mininet calls this with the arguments of the constructor.

        Args:
            name: a key of the catalogue.
            servers: number of servers.
            nics: interfaces per server.
            rate: rate of each host's link in bits per second.

        Raises:
            TopologyError: there is no such topology, or it does not come in that size.
        """
        found = catalogue.switches(name, servers, nics, rate)
        command = ["--topology", name, "--servers", str(servers), "--nics", str(nics), "--rate", str(rate)]
        names = list(found)
        for number, (node, topology) in enumerate(found.items()):
            self.addSwitch(
                node, dpid=f"{number + 1:016x}", rates=topology.rates, control=[*command, *_node_of(node, names)]
            )
        topologies = list(found.values())
        for server, commands in host_commands(topologies).items():
            self.addHost(f"h{server + 1}", cls=MFSHost, ip=None, commands=commands)
        for node, topology in found.items():
            for host in topology.hosts:
                self.addLink(f"h{host.server + 1}", node, port1=host.nic, port2=host.port)
        for near, far in cables(topologies):
            self.addLink(names[near.switch], names[far.switch], port1=near.port, port2=far.port)


def host_commands(topologies: Sequence[Topology]) -> dict[int, list[str]]:
    """Return, for each server, the commands that set the addresses and neighbours of its interfaces."""
    commands: dict[int, list[str]] = {}
    for topology in topologies:
        for host in topology.hosts:
            device = f"dev h{host.server + 1}-eth{host.nic}"
            commands.setdefault(host.server, []).extend(
                [
                    f"ip link set {device} address {host.mac.hex(':')} mtu {LINK_MTU} up",
                    f"ip addr add {host.ipv4}/32 {device}",
                    f"ip addr add {host.ipv6}/128 {device} nodad",
                ]
            )
    for known in neighbours(topologies):
        device = f"dev h{known.host.server + 1}-eth{known.host.nic}"
        where = f" scope link src {known.own}" if known.address.version == 4 else ""
        commands[known.host.server] += [
            f"ip neigh replace {known.address} lladdr {known.mac.hex(':')} {device} nud permanent",
            f"ip -{known.address.version} route replace {known.address} {device} mtu {PAYLOAD_MTU}{where}",
        ]
    return commands


class MFSHost(Host):  # type: ignore[misc]
    """A server with the addresses, routes and neighbours of the topology."""

    def config(self, commands: Sequence[str] = (), **params: Any) -> Any:
        """See ``mininet.node.Node.config``."""
        result = super().config(**params)
        source = [
            f"import sys; sys.path.insert(0, {str(ROOT)!r})",
            "from soft_switch.realtime.offloads import turn_off",
            *(f"turn_off({name!r})" for name in self.intfNames()),
        ]
        _, errors, status = self.pexec([sys.executable, "-c", "\n".join(source)])
        if status:
            raise TopologyError(f"cannot turn off the offloads of {self.name}: {errors.strip().splitlines()[-1]}")
        for command in commands:
            if said := self.cmd(command).strip():
                raise TopologyError(f"{self.name}: {command}: {said}")
        for interface in self.intfList():
            # Mininet's own tests ask the host for its address.
            interface.updateIP()
        return result

    def setIP(self, *_: Any, **__: Any) -> None:
        """Do nothing: ``commands`` set the addresses."""


class P4RuntimeSwitch(Switch):  # type: ignore[misc]
    """A switch process with a P4Runtime server; subclasses define its ``command``.

    Attributes:
        rates: rate of each port in bits per second.
        control: arguments of ``mfs ctrl`` for this switch.
        control_options: arguments of ``mfs ctrl`` for all switches of a class.
    """

    control_options: tuple[str, ...] = ()

    def __init__(
        self,
        name: str,
        rates: Mapping[int, int] | None = None,
        control: Sequence[str] = (),
        p4runtime_port: int | None = None,
        **params: Any,
    ) -> None:
        super().__init__(name, **params)
        self.rates = rates or {}
        self.control = list(control)
        self.device_id = int(self.dpid, 16)
        self.address = f"127.0.0.1:{p4runtime_port or P4RUNTIME_PORT - 1 + self.device_id}"
        self._process: Process | None = None

    def command(self, ports: Mapping[int, str]) -> list[str]:
        """Return the command that runs the switch with these interfaces by port."""
        raise NotImplementedError

    def ready(self, output: str) -> bool:
        """Return whether the switch is ready, judging by its output."""
        raise NotImplementedError

    def start(self, controllers: Sequence[Node]) -> None:
        """Start the process, and have each :class:`MFSController` start a controller for it."""
        ports = {port: str(interface) for port, interface in self.intfs.items() if port and str(interface) != "lo"}
        for interface in ports.values():
            self.cmd(f"ip link set dev {interface} mtu {LINK_MTU}")
            self.cmd(f"sysctl -qw net.ipv6.conf.{interface}.disable_ipv6=1")
        self._process = Process(self.command(ports), self.ready).wait_ready()
        for controller in controllers:
            if isinstance(controller, MFSController):
                controller.control(self)

    def stop(self, deleteIntfs: bool = True) -> None:
        """End the process, then remove what Mininet created."""
        if self._process is not None:
            self._process.stop()
        super().stop(deleteIntfs)


class EmbeddedSwitch(P4RuntimeSwitch):
    """``mfs switch``: ports with a constant bit rate."""

    def command(self, ports: Mapping[int, str]) -> list[str]:
        """See :meth:`P4RuntimeSwitch.command`."""
        options = [
            word
            for port, interface in ports.items()
            for word in ("-i", f"{port}@{interface}@{self.rates.get(port, catalogue.DEFAULT_RATE_BPS)}")
        ]
        return [*mfs(), "switch", "--address", self.address, "--device-id", str(self.device_id), *options]

    def ready(self, output: str) -> bool:
        """See :meth:`P4RuntimeSwitch.ready`."""
        return "ports: " in output


class Bmv2Switch(P4RuntimeSwitch):
    """``simple_switch_grpc`` with eight priority queues; the kernel is the link behind its ports."""

    control_options = ("--dscp",)

    def command(self, ports: Mapping[int, str]) -> list[str]:
        """See :meth:`P4RuntimeSwitch.command`.

        Raises:
            TopologyError: bmv2 is not installed.
        """
        return bmv2.command(self.address, ports, self.device_id, 9090 + self.device_id)

    def ready(self, output: str) -> bool:  # noqa: ARG002
        """See :meth:`P4RuntimeSwitch.ready`. bmv2 buffers its output, so its port is probed."""
        return listening(self.address)

    def start(self, controllers: Sequence[Node]) -> None:
        """Start the switch, then add a link with a traffic class for each level behind each port."""
        super().start(controllers)
        for port, interface in self.intfs.items():
            if port in self.rates:
                self.pexec([*mfs(), "topology", "link", str(interface), "--rate", str(self.rates[port])])


class MFSController(Controller):  # type: ignore[misc]
    """``mfs ctrl``, one process per switch, with one of its policies."""

    def __init__(self, name: str, policy: str = "mfs", **params: Any) -> None:
        self.policy = policy
        self._processes: list[Process] = []
        super().__init__(name, **params)

    def checkListening(self) -> None:
        """Do nothing: there is no OpenFlow port to check."""

    def start(self) -> None:
        """Do nothing: each switch starts its controller process."""

    def control(self, switch: P4RuntimeSwitch) -> None:
        """Start a controller for ``switch``, and wait until its entries are written."""
        identity = ["--address", switch.address, "--device-id", str(switch.device_id), "--policy", self.policy]
        identity += switch.control_options
        process = Process([*mfs(), "ctrl", *identity, *switch.control], lambda out: "in force" in out)
        self._processes.append(process.wait_ready())

    def stop(self, *args: Any, **params: Any) -> None:
        """End all controller processes."""
        for process in self._processes:
            process.stop()
        self._processes.clear()
        Node.stop(self, *args, **params)

    @classmethod
    def isAvailable(cls) -> bool:
        """Return True: the controller is part of the project."""
        return True


def network(
    name: str = "tor",
    servers: int = 8,
    nics: int = 1,
    rate_bps: int = catalogue.DEFAULT_RATE_BPS,
    switch: type[P4RuntimeSwitch] = EmbeddedSwitch,
    policy: str = "mfs",
    **switch_params: Any,
) -> Any:
    """Return a ``mininet.net.Mininet`` of the topology ``name``, not started.

    Args:
        name: a key of the catalogue.
        servers: number of servers.
        nics: interfaces per server.
        rate_bps: rate of each host's link in bits per second.
        switch: class of the switches.
        policy: policy of the controllers.
        switch_params: further arguments of ``switch``.

    Raises:
        TopologyError: not root, or there is no such topology.
    """
    if os.geteuid() != 0:
        raise TopologyError("Mininet needs root; use sudo")

    def make_switch(node: str, **params: Any) -> P4RuntimeSwitch:
        return switch(node, **params, **switch_params)

    return Mininet(
        topo=NamedTopology(name=name, servers=servers, nics=nics, rate=rate_bps),
        switch=make_switch,
        controller=lambda node, **params: MFSController(node, policy=policy, **params),
        waitConnected=False,
    )


@contextlib.contextmanager
def running(*args: Any, **params: Any) -> Iterator[Any]:
    """Provide a started :func:`network` with these arguments, stopped at the end.

    Raises:
        TopologyError: as for :func:`network`, or a process did not start.
    """
    made = network(*args, **params)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def _node_of(node: str, names: Sequence[str]) -> list[str]:
    return ["--node", node] if len(names) > 1 else []
