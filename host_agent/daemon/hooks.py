"""What the agent changes on an interface, and how it takes all of it back, be it in another process after a crash.

Before the first change, what there was is in the state file (:mod:`host_agent.daemon.state`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from host_agent.daemon import classes, room
from host_agent.daemon.netlink import features, gone_is_fine, link, refused, set_features
from host_agent.daemon.state import Before, StateFile
from host_agent.ebpf.bpf import EGRESS, INGRESS, Program, Programs
from host_agent.ebpf.errors import InterfaceError, KernelError
from host_agent.ebpf.flows import FlowTable
from host_agent.ebpf.layout import CLASS_MAJOR, Config
from host_agent.ebpf.object import load
from host_agent.stamp import STAMP_BYTES

ETHERNET_BYTES = 14
PREFERENCE = 49_000
"""After the filters of others: those should see packets as the host sends them."""
_CLSACT_INGRESS, _CLSACT_EGRESS = 0xFFFFFFF2, 0xFFFFFFF3
_XDP_FLAGS = {"generic": 1 << 1, "native": 1 << 2}
_ONLY_IF_NONE = 1 << 0
_REMOVE = -1

_SEGMENTATION = (
    "tx-tcp-segmentation",
    "tx-tcp-ecn-segmentation",
    "tx-tcp-mangleid-segmentation",
    "tx-tcp6-segmentation",
    "tx-udp-segmentation",
)
_CHECKSUM = ("tx-checksum-ip-generic", "tx-checksum-ipv4", "tx-checksum-ipv6")

XDP_MODES = ("auto", "native", "generic", "off")
SEGMENTATIONS = ("kernel", "each", "interface")

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """How to use an interface.

    Attributes:
        interface: its name.
        rate_bps: of the link, in bits on the wire per second; None takes the interface's word for it.
        link_mtu: longest payload of an Ethernet frame that the link takes, in bytes, shim included; None: the
            interface's MTU. Where it leaves no room for the shim, routes get a smaller MTU.
        order: whether the eight classes are put on the interface.
        xdp: how stamps are taken off what comes in: ``native`` in the driver, ``generic`` above it, ``auto`` the first
            of both that works, ``off`` not at all.
        segmentation: who cuts the packets that TCP makes. ``kernel``: the kernel, after the stamp, so that the segments
            of a packet share it. ``each``: TCP itself, so that each segment has a stamp of its own. ``interface``: the
            interface, after the stamp; few can.
        keep_checksum: leave transmit checksum offload on: for interfaces that find the checksum by its offset.
    """

    interface: str
    rate_bps: int | None = None
    link_mtu: int | None = None
    order: bool = True
    xdp: str = "auto"
    segmentation: str = "kernel"
    keep_checksum: bool = False


@dataclass(frozen=True, slots=True)
class Attached:
    """An interface in use: its programs, its flows, the link's rate in bits/s, and whether it was taken over."""

    programs: Programs
    table: FlowTable
    rate_bps: int
    taken_over: bool


def link_rate_bps(interface: str) -> int | None:
    """What the interface says its link does, in bits per second; None if it does not."""
    try:
        megabits = int(Path(f"/sys/class/net/{interface}/speed").read_text("ascii"))
    except (OSError, ValueError):
        return None
    return megabits * 1_000_000 if megabits > 0 else None


def attach(options: Options, state: StateFile, say: Say) -> Attached:
    """Put the programs on the interface's hooks; those of an agent that was killed are taken over as they run.

    Raises:
        InterfaceError: it is not there, has a qdisc or an XDP program of somebody else, or refuses something.
        KernelError: the kernel lacks something, or not permitted.
        ObjectError: the compiled programs are not there.
    """
    with IPRoute() as route:
        found = link(route, options.interface)
        rate_bps = options.rate_bps or link_rate_bps(options.interface)
        if rate_bps is None:
            raise InterfaceError(f"{options.interface} does not say how fast its link is; say it with --rate")
        programs = Programs.load(load())
        left = state.read()
        if left is not None:
            held = _running(route, found, left, options, programs)
            if held is not None:
                programs.close()
                return Attached(held, FlowTable.of_maps(held.maps), rate_bps, taken_over=True)
            restore(left)
            found = link(route, options.interface)
        # As yet there is nothing to take back.
        before = Before(options.interface, asdict(options), clsact=True)
        try:
            config = _prepare(route, found, options, rate_bps, before, state, say)
            table = FlowTable(programs.maps, config)
            table.set_policy((), 0)
            _hook(route, found["index"], options, programs, before, state)
        except Exception:
            restore(before)
            state.remove()
            programs.close()
            raise
        return Attached(programs, table, rate_bps, taken_over=False)


def _running(route: IPRoute, found: Any, left: Before, options: Options, ours: Programs) -> Programs | None:
    """The programs that an agent with the same options left on the interface, if they are ours and all there."""
    hooked = has_filter(route, found["index"]) and (not left.xdp or bool(_xdp(found)))
    if left.options != asdict(options) or not left.ingress or not hooked:
        return None
    try:
        held = Programs.of_ids(left.egress, left.ingress)
    except KernelError:
        return None
    return held if held.same_as(ours) else None


def _prepare(
    route: IPRoute, found: Any, options: Options, rate_bps: int, before: Before, state: StateFile, say: Say
) -> Config:
    name, index = options.interface, found["index"]
    before.clsact = any(qdisc.get_attr("TCA_KIND") == "clsact" for qdisc in route.get_qdiscs(index=index))
    mtu = int(found.get_attr("IFLA_MTU"))
    link_mtu = options.link_mtu or mtu
    if options.order:
        if kind := classes.root_qdisc(route, index):
            raise InterfaceError(f"{name} has a root qdisc already ({kind}); remove it, or use --no-order")
        before.order = True
    if options.xdp != "off" and _xdp(found):
        raise InterfaceError(f"{name} has an XDP program already; remove it, or use --xdp off")
    if options.segmentation == "each":
        before.gso_max_segs = int(found.get_attr("IFLA_GSO_MAX_SEGS"))
    unwanted: tuple[str, ...] = () if options.segmentation == "interface" else _SEGMENTATION
    unwanted += () if options.keep_checksum or options.segmentation == "interface" else _CHECKSUM
    before.features = features(name, unwanted)
    payload = link_mtu - STAMP_BYTES
    if mtu > payload:
        before.routes, special = room.routes_of(route, index)
        before.mtu6 = room.mtu6(name)
        for destination in special:
            say(f"the route to {destination} keeps its MTU: what is longer than {payload} bytes goes unstamped")
    state.write(before)
    if mtu > payload:
        room.lower(route, before.routes, payload)
        if before.mtu6 is not None:
            room.set_mtu6(name, min(before.mtu6, payload))
    set_features(name, before.features, on=False)
    share = options.segmentation != "each"
    if not share:
        with refused(f"setting gso_max_segs of {name}"):
            route.link("set", index=index, gso_max_segs=1)
    if options.order:
        frame = min(mtu, link_mtu) + ETHERNET_BYTES
        classes.install(route, index, classes.shaped_bps(rate_bps, frame) if share else rate_bps)
    return Config(0, link_mtu + ETHERNET_BYTES, CLASS_MAJOR if options.order else 0, share)


def _hook(route: IPRoute, index: int, options: Options, programs: Programs, before: Before, state: StateFile) -> None:
    name = options.interface
    before.egress, before.ingress = (program.info().number for program in (programs.egress, programs.ingress))
    if options.xdp != "off":
        before.xdp = _hook_xdp(route, index, options.xdp, programs.ingress, name)
    state.write(before)
    with refused(f"no clsact qdisc on {name} (CONFIG_NET_SCH_INGRESS)"):
        if not before.clsact:
            route.tc("add", "clsact", index)
    with refused(f"no eBPF filter on {name} (CONFIG_NET_CLS_BPF)"):
        words = {"fd": programs.egress.descriptor, "name": EGRESS, "classid": 1, "direct_action": True}
        route.tc("add-filter", "bpf", index, 1, parent=_CLSACT_EGRESS, prio=PREFERENCE, **words)


def _hook_xdp(route: IPRoute, index: int, mode: str, program: Program, name: str) -> int:
    """Attach the ingress program; the flag of the mode that it is in."""
    if mode == "auto":
        try:
            _set_xdp(route, index, program.descriptor, _XDP_FLAGS["native"] | _ONLY_IF_NONE)
            return _XDP_FLAGS["native"]
        except NetlinkError:
            mode = "generic"
    with refused(f"no XDP program on {name}, {mode} (--xdp generic works above any driver)"):
        _set_xdp(route, index, program.descriptor, _XDP_FLAGS[mode] | _ONLY_IF_NONE)
    return _XDP_FLAGS[mode]


def _set_xdp(route: IPRoute, index: int, descriptor: int, flags: int) -> None:
    route.link("set", index=index, xdp={"attrs": [("IFLA_XDP_FD", descriptor), ("IFLA_XDP_FLAGS", flags)]})


def _xdp(found: Any) -> int:
    """Id of the XDP program of an interface; 0 if it has none."""
    held = found.get_attr("IFLA_XDP")
    return int(held.get_attr("IFLA_XDP_PROG_ID") or 0) if held is not None else 0


def _preferences(route: IPRoute, index: int, hook: int) -> set[int]:
    try:
        return {each["info"] >> 16 for each in route.get_filters(index=index, parent=hook)}
    except NetlinkError:
        return set()


def has_filter(route: IPRoute, index: int) -> bool:
    """Whether our filter is on the interface's egress hook."""
    return PREFERENCE in _preferences(route, index, _CLSACT_EGRESS)


def restore(before: Before) -> None:
    """Take everything back. What is gone already is no error: the interface itself may be."""
    name = before.interface
    with IPRoute() as route:
        try:
            found = link(route, name)
        except InterfaceError:
            return
        index = found["index"]
        if before.xdp and _xdp(found):
            with gone_is_fine():
                _set_xdp(route, index, _REMOVE, before.xdp)
        with gone_is_fine():
            route.tc("del-filter", "bpf", index, 1, parent=_CLSACT_EGRESS, prio=PREFERENCE)
        if not before.clsact:
            with gone_is_fine():
                route.tc("del", "clsact", index)
        if before.order:
            classes.remove(route, index)
        if before.gso_max_segs is not None:
            with gone_is_fine():
                route.link("set", index=index, gso_max_segs=before.gso_max_segs)
        if before.features:
            with gone_is_fine():
                set_features(name, before.features, on=True)
        room.restore(route, before.routes)
        if before.mtu6 is not None:
            room.set_mtu6(name, before.mtu6)


def detach(interface: str, directory: Path) -> bool:
    """Take back what an agent left on ``interface`` that was killed; whether there was anything.

    Where the state file is lost as well, programs and classes go, and what else was changed stays.

    Raises:
        InterfaceError: no such interface, or an agent is running on it.
    """
    with IPRoute() as route:
        found = link(route, interface)
        state = StateFile(directory, interface)
        try:
            left = state.read() or _guessed(route, found)
            if left is None:
                return False
            restore(left)
            state.remove()
            return True
        finally:
            state.close()


def _guessed(route: IPRoute, found: Any) -> Before | None:
    """What there is of ours on the interface, when nothing says what was there before."""
    left = Before(found.get_attr("IFLA_IFNAME"), {}, clsact=True)
    if number := _xdp(found):
        program = Program.of_id(number)
        if program.info().name == INGRESS:
            left.xdp = _XDP_FLAGS[
                "generic" if found.get_attr("IFLA_XDP").get_attr("IFLA_XDP_SKB_PROG_ID") else "native"
            ]
        program.close()
    if not has_filter(route, found["index"]):
        return left if left.xdp else None
    others = _preferences(route, found["index"], _CLSACT_INGRESS) | _preferences(route, found["index"], _CLSACT_EGRESS)
    left.clsact = others != {PREFERENCE}
    left.order = classes.root_qdisc(route, found["index"]) == "htb"
    return left
