"""What the agent changes on an interface, and how it takes all of it back, be it in another process after a crash.

Before the first change, what there was is in the state file (:mod:`host_agent.daemon.state`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from host_agent.daemon import classes, route_mtu
from host_agent.daemon.netlink import features, gone_is_fine, link, refused, set_features
from host_agent.daemon.state import DIRECTORY, Before, StateFile, interfaces
from host_agent.ebpf.bpf import EGRESS, TC_INGRESS, XDP_INGRESS, Map, Program, Programs
from host_agent.ebpf.errors import InterfaceError, KernelError
from host_agent.ebpf.flows import FlowTable
from host_agent.ebpf.layout import CLASS_MAJOR, Config
from host_agent.ebpf.object import load
from host_agent.protocol.stamp import STAMP_BYTES

ETHERNET_BYTES = 14
EGRESS_PREFERENCE = 49_000
INGRESS_PREFERENCE = 1
"""The first filter on ingress, the last on egress: those of others should see packets without stamps."""
_CLSACT_INGRESS, _CLSACT_EGRESS = 0xFFFFFFF2, 0xFFFFFFF3
_XDP_ONLY_IF_NONE = 1 << 0
_XDP_IN_DRIVER = 1 << 2
_REMOVE = -1

_SEGMENTATION = (
    "tx-tcp-segmentation",
    "tx-tcp-ecn-segmentation",
    "tx-tcp-mangleid-segmentation",
    "tx-tcp6-segmentation",
    "tx-udp-segmentation",
)
_CHECKSUM = ("tx-checksum-ip-generic", "tx-checksum-ipv4", "tx-checksum-ipv6")

INGRESS_HOOKS = ("auto", "xdp", "filter", "off")
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
        ingress: where stamps are taken off what comes in: ``xdp`` in the driver, ``filter`` above it, ``auto`` the
            first of both that the driver does well, ``off`` nowhere.
        segmentation: who cuts the packets that TCP makes. ``kernel``: the kernel, after the stamp, so that the segments
            of a packet share it. ``each``: TCP itself, so that each segment has a stamp of its own. ``interface``: the
            interface, after the stamp; few can.
        keep_checksum: leave transmit checksum offload on: for interfaces that find the checksum by its offset.
    """

    interface: str
    rate_bps: int | None = None
    link_mtu: int | None = None
    order: bool = True
    ingress: str = "auto"
    segmentation: str = "kernel"
    keep_checksum: bool = False


@dataclass(frozen=True, slots=True)
class Attached:
    """An interface in use.

    Attributes:
        egress, ingress: the programs on it; no ingress program where stamps are left on.
        table: its flows.
        rate_bps: of the link, in bits on the wire per second.
        taken_over: whether the programs were there already.
    """

    egress: Program
    ingress: Program | None
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


def unwanted_features(options: Options) -> tuple[str, ...]:
    """The offloads, as ``ethtool -k`` names them, that few interfaces can do behind a shim."""
    if options.segmentation == "interface":
        return ()
    return _SEGMENTATION if options.keep_checksum else _SEGMENTATION + _CHECKSUM


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
            running = _running(route, found, left, options, programs)
            if running is not None:
                egress, ingress = running
                table = FlowTable.of_maps(_maps_of(egress, ingress))
                programs.close()
                return Attached(egress, ingress, table, rate_bps, taken_over=True)
            restore(left)
            found = link(route, options.interface)
        # As yet there is nothing to take back.
        before = Before(options.interface, asdict(options), clsact=True)
        try:
            config = _prepare(route, found, options, rate_bps, before, state, say)
            table = FlowTable(programs.maps, config)
            table.set_policy((), 0)
            _hook(route, found, options, programs, before, state)
        except Exception:
            restore(before)
            state.remove()
            programs.close()
            raise
        ingress = {"xdp": programs.xdp_ingress, "filter": programs.tc_ingress}.get(before.hook)
        return Attached(programs.egress, ingress, table, rate_bps, taken_over=False)


def _running(
    route: IPRoute, found: Any, left: Before, options: Options, ours: Programs
) -> tuple[Program, Program | None] | None:
    """The programs that an agent with the same options left on the interface, if they are ours and all there."""
    index = found["index"]
    hooked = {
        "xdp": _xdp(found) == left.ingress,
        "filter": INGRESS_PREFERENCE in _preferences(route, index, _CLSACT_INGRESS),
        "off": True,
    }
    if left.options != asdict(options) or not has_filter(route, index) or not hooked[left.hook]:
        return None
    try:
        egress = Program.of_id(left.egress)
        ingress = Program.of_id(left.ingress) if left.ingress else None
    except KernelError:
        return None
    same = {program.info().tag for program in (egress, ingress) if program is not None} <= ours.tags
    return (egress, ingress) if same else None


def _maps_of(*programs: Program | None) -> dict[str, Map]:
    numbers = {number for program in programs if program is not None for number in program.info().maps}
    return {held.spec.name: held for held in map(Map.of_id, numbers)}


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
    if options.ingress == "xdp" and _xdp(found):
        raise InterfaceError(f"{name} has an XDP program already; remove it, or use --ingress filter")
    if options.segmentation == "each":
        before.gso_max_segs = int(found.get_attr("IFLA_GSO_MAX_SEGS"))
    before.features = features(name, unwanted_features(options))
    payload = link_mtu - STAMP_BYTES
    if mtu > payload:
        before.routes, special = route_mtu.routes_of(route, index)
        before.mtu6 = route_mtu.mtu6(name)
        for destination in special:
            say(f"the route to {destination} keeps its MTU: what is longer than {payload} bytes goes unstamped")
    state.write(before)
    if mtu > payload:
        route_mtu.lower(route, before.routes, payload)
        if before.mtu6 is not None:
            route_mtu.set_mtu6(name, min(before.mtu6, payload))
    set_features(name, before.features, on=False)
    if stuck := features(name, before.features):
        raise InterfaceError(
            f"{name} keeps {', '.join(stuck)} on, and may not know the shim; see --segmentation interface"
        )
    share = options.segmentation != "each"
    if not share:
        with refused(f"setting gso_max_segs of {name}"):
            route.link("set", index=index, gso_max_segs=1)
    if options.order:
        frame = min(mtu, link_mtu) + ETHERNET_BYTES
        classes.install(route, index, classes.shaped_bps(rate_bps, frame) if share else rate_bps)
    return Config(0, link_mtu + ETHERNET_BYTES, CLASS_MAJOR if options.order else 0, share)


def _hook(route: IPRoute, found: Any, options: Options, programs: Programs, before: Before, state: StateFile) -> None:
    name, index = options.interface, found["index"]
    with refused(f"no clsact qdisc on {name} (CONFIG_NET_SCH_INGRESS)"):
        if not before.clsact:
            route.tc("add", "clsact", index)
    hook = options.ingress
    if hook in ("auto", "xdp") and _hook_xdp(route, found, programs.xdp_ingress, hook == "xdp"):
        before.hook, before.ingress = "xdp", programs.xdp_ingress.info().number
        state.write(before)
    elif hook in ("auto", "filter"):
        before.hook, before.ingress = "filter", programs.tc_ingress.info().number
        state.write(before)
        _hook_filter(route, index, programs.tc_ingress, TC_INGRESS, _CLSACT_INGRESS, INGRESS_PREFERENCE)
    before.egress = programs.egress.info().number
    state.write(before)
    _hook_filter(route, index, programs.egress, EGRESS, _CLSACT_EGRESS, EGRESS_PREFERENCE)


def _hook_filter(route: IPRoute, index: int, program: Program, name: str, hook: int, preference: int) -> None:
    words = {"fd": program.descriptor, "name": name, "classid": 1, "direct_action": True}
    with refused(f"no eBPF filter of preference {preference} (CONFIG_NET_CLS_BPF)"):
        route.tc("add-filter", "bpf", index, 1, parent=hook, prio=preference, **words)


def _hook_xdp(route: IPRoute, found: Any, program: Program, asked: bool) -> bool:
    """Put the program on the driver's hook; whether it is there. Unless ``asked``, not where that is no good."""
    information = found.get_attr("IFLA_LINKINFO")
    kind = information.get_attr("IFLA_INFO_KIND") if information is not None else None
    # A veth pair copies each packet for XDP.
    if not asked and (kind == "veth" or _xdp(found)):
        return False
    try:
        _set_xdp(route, found["index"], program.descriptor, _XDP_IN_DRIVER | _XDP_ONLY_IF_NONE)
    except NetlinkError as error:
        if asked:
            raise InterfaceError(f"no XDP in the driver: {error.args[-1]}; --ingress filter does without") from None
        return False
    return True


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
    return EGRESS_PREFERENCE in _preferences(route, index, _CLSACT_EGRESS)


def restore(before: Before) -> None:
    """Take everything back. What is gone already is no error: the interface itself may be."""
    name = before.interface
    with IPRoute() as route:
        try:
            found = link(route, name)
        except InterfaceError:
            return
        index = found["index"]
        if before.hook == "xdp" and _xdp(found) == before.ingress:
            with gone_is_fine():
                _set_xdp(route, index, _REMOVE, _XDP_IN_DRIVER)
        with gone_is_fine():
            route.tc("del-filter", "bpf", index, 1, parent=_CLSACT_EGRESS, prio=EGRESS_PREFERENCE)
        if before.hook == "filter":
            with gone_is_fine():
                route.tc("del-filter", "bpf", index, 1, parent=_CLSACT_INGRESS, prio=INGRESS_PREFERENCE)
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
        route_mtu.restore(route, before.routes)
        if before.mtu6 is not None:
            route_mtu.set_mtu6(name, before.mtu6)


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


def clean(directory: Path = DIRECTORY) -> list[str]:
    """Take back what killed agents left on interfaces of this network namespace; running ones are left alone.

    Returns:
        the interfaces.
    """
    cleaned = []
    for interface in interfaces(directory):
        with suppress(InterfaceError):
            if detach(interface, directory):
                cleaned.append(interface)
    return cleaned


def _guessed(route: IPRoute, found: Any) -> Before | None:
    """What there is of ours on the interface, when nothing says what was there before."""
    index = found["index"]
    left = Before(found.get_attr("IFLA_IFNAME"), {}, clsact=True)
    if number := _xdp(found):
        program = Program.of_id(number)
        if program.info().name == XDP_INGRESS:
            left.hook, left.ingress = "xdp", number
        program.close()
    if not has_filter(route, index):
        return left if left.ingress else None
    on_ingress, on_egress = (_preferences(route, index, hook) for hook in (_CLSACT_INGRESS, _CLSACT_EGRESS))
    left.clsact = on_egress != {EGRESS_PREFERENCE} or not on_ingress <= {INGRESS_PREFERENCE}
    if left.hook == "off" and INGRESS_PREFERENCE in on_ingress:
        left.hook = "filter"
    left.order = classes.root_qdisc(route, index) == "htb"
    return left
