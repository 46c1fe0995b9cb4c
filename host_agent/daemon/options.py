"""Options of the agent's process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from host_agent.protocol.stamp import LEVELS

if TYPE_CHECKING:
    from host_agent.ebpf.policy import ClientTls

Ingress = Literal["auto", "xdp", "filter", "off"]
Segmentation = Literal["kernel", "each", "interface"]
Carrier = Literal["auto", "option", "shim"]
INGRESS_MODES: tuple[Ingress, ...] = get_args(Ingress)
CARRIERS: tuple[Carrier, ...] = get_args(Carrier)
SEGMENTATIONS: tuple[Segmentation, ...] = get_args(Segmentation)


@dataclass(frozen=True, slots=True)
class InterfaceOptions:
    """Options of an interface.

    Attributes:
        interface: name of the interface.
        rate_bps: rate of the link in bits on the wire per second; None takes the rate that the interface reports.
        link_mtu: longest payload of an Ethernet frame on the link in bytes, shim included; None takes the interface's
            MTU. Where it leaves no room for the shim, routes get a smaller MTU.
        order: whether the interface gets the eight traffic classes.
        ingress: where stamps are removed from received packets: ``xdp`` in the driver, ``filter`` above it, ``auto``
            the first of both that the driver does well, ``off`` nowhere.
        segmentation: who segments the packets that TCP makes. ``kernel``: the kernel after the stamp, so that the
            segments of a packet share it. ``each``: TCP itself, so that each segment has its own stamp. ``interface``:
            the interface after the stamp; few can.
        keep_checksum: leave transmit checksum offload on, for interfaces that find the checksum by its offset.
        rto_min_ms: shortest retransmission timeout of TCP on the interface's IPv4 routes, in milliseconds; None leaves
            it as it is. A deferred packet is not lost, and a timeout would send it again.
        hold: hold flows that cannot be served yet at their source.
        carrier: what carries the stamp. ``option``: a TCP option; offloads, MTU and received packets are left alone.
            ``shim``: a header before IP. ``auto``: the option where the kernel can.
        cgroup: version-2 cgroup whose sockets may be stamped by option; None takes the root, thus every socket.
    """

    interface: str
    rate_bps: int | None = None
    link_mtu: int | None = None
    order: bool = True
    ingress: Ingress = "auto"
    segmentation: Segmentation = "kernel"
    keep_checksum: bool = False
    rto_min_ms: int | None = None
    hold: bool = False
    carrier: Carrier = "shim"
    cgroup: str | None = None


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """Options of the process.

    Attributes:
        policy_url: URL of the controller, ``http://HOST:PORT`` or ``https://HOST:PORT``.
        socket: path of the Unix socket; those who may write to the file may open flows.
        mode, group: permissions and group of that file; None for ``group`` leaves the group of the process.
        state_directory: directory of the interface's state and the last policy.
        interval_s: seconds between requests for the policy.
        grace_s: seconds that the clients of flows left by an earlier process have to come back.
        statistics: have the kernel measure the programs' run time.
        hold_below: flows at this level or above are never held.
        policy_tls: files for a policy URL with https; None trusts the authorities of this machine.
        metrics_listen: address of an HTTP server of metrics and health; None for none.
        gate_bytes: bytes of messages in flight that the gate permits; None takes what the link sends in a millisecond.
    """

    policy_url: str
    socket: Path
    mode: int
    group: str | None
    state_directory: Path
    interval_s: float
    grace_s: float
    statistics: bool
    hold_below: int = LEVELS
    gate_bytes: int | None = None
    policy_tls: ClientTls | None = None
    metrics_listen: str | None = None
