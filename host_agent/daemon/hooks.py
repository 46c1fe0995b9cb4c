"""Changes that the agent makes to an interface, and their restoration, also by another process after a crash.

The earlier settings are in the state file before the first change (:mod:`host_agent.daemon.state`).
"""

from __future__ import annotations

import logging
import secrets
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from host_agent.daemon import classes, routes, sockets
from host_agent.daemon.netlink import features, ignoring_absence, link, link_rate_bps, refused, set_features
from host_agent.daemon.options import Ingress, InterfaceOptions
from host_agent.daemon.state import InterfaceBackup, StateFile, interfaces
from host_agent.ebpf.bpf import EGRESS, TC_INGRESS, TC_STRIP, XDP_INGRESS, Map, Program, Programs
from host_agent.ebpf.errors import InterfaceError, KernelError
from host_agent.ebpf.flows import FlowTable
from host_agent.ebpf.layout import CLASS_MAJOR, Config
from host_agent.ebpf.object import load
from host_agent.protocol.paths import RUN_DIRECTORY
from host_agent.protocol.stamp import ETHERTYPE_MFS, STAMP_BYTES
from host_agent.protocol.units import ETHERNET_HEADER_BYTES

_ETH_P_ALL = 0x0003
EGRESS_PREFERENCE = 49_000
INGRESS_PREFERENCE, STRIP_PREFERENCE = 1, 2
"""First filters on ingress, last on egress: filters of other programs see packets without stamps."""
_FILTERS = {"filter": (INGRESS_PREFERENCE, _ETH_P_ALL), "strip": (STRIP_PREFERENCE, ETHERTYPE_MFS)}
"""Preference and EtherType of the filters on ingress, by hook as :class:`InterfaceBackup` names them."""
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

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Attached:
    """An interface in use.

    Attributes:
        egress: program on the egress hook.
        ingress: program on the ingress hook; None where stamps are not removed.
        sock_ops: program for sockets; None where stamps travel in the shim.
        table: flows of the interface.
        rate_bps: rate of the link in bits on the wire per second.
        taken_over: whether the programs were running already.
    """

    egress: Program
    ingress: Program | None
    sock_ops: Program | None
    table: FlowTable
    rate_bps: int
    taken_over: bool

    @property
    def carrier(self) -> str:
        """What carries the stamps: ``option`` or ``shim``."""
        return "option" if self.table.config.option else "shim"


def unwanted_features(options: InterfaceOptions) -> tuple[str, ...]:
    """Return the offloads, as named by ``ethtool -k``, that few interfaces support behind a shim."""
    if options.segmentation == "interface" or options.carrier == "option":
        return ()
    return _SEGMENTATION if options.keep_checksum else _SEGMENTATION + _CHECKSUM


def attach(options: InterfaceOptions, state: StateFile) -> Attached:
    """Attach the programs to the interface's hooks; running programs of a killed agent are taken over.

    Raises:
        InterfaceError: the interface does not exist, has a foreign qdisc or XDP program, or refuses a change.
        KernelError: the kernel lacks a feature, or the process lacks rights.
        ObjectError: the compiled programs are missing or stale.
    """
    with IPRoute() as route:
        found = link(route, options.interface)
        rate_bps = options.rate_bps or link_rate_bps(options.interface)
        if rate_bps is None:
            raise InterfaceError(f"{options.interface} does not report the rate of its link; set it with --rate")
        programs = Programs.load(load())
        options = _settled(options, programs)
        left = state.read()
        if left is None and not has_filter(route, found["index"]):
            # What an agent with another state directory left for received packets.
            left = _reconstructed(route, found)
        if left is not None:
            running = _running(route, found, left, options, programs)
            if running is not None:
                table = FlowTable.of_maps(_maps_of(*running))
                programs.close()
                return Attached(*running, table, rate_bps, taken_over=True)
            # What removes stamps from received packets stays until something else does, and so do the classes.
            keep_order = options.order and left.order and classes.is_installed(route, found["index"])
            left = restore(left, keep_ingress=True, keep_order=keep_order)
            found = link(route, options.interface)
        # Nothing has been changed so far.
        backup = InterfaceBackup(options.interface, asdict(options), clsact=True)
        try:
            config = _prepare(route, found, options, rate_bps, backup, state, left)
            table = FlowTable(programs.maps, config)
            table.set_policy((), 0)
            _hook(route, found, options, programs, backup, state, left)
        except Exception:
            state.put(restore(backup, keep_ingress=left is not None and left.hook != "off"))
            programs.close()
            raise
        by_hook = {"xdp": programs.xdp_ingress, "filter": programs.tc_ingress, "strip": programs.tc_strip}
        ingress = by_hook.get(backup.hook)
        sock_ops = programs.sock_ops if backup.sock_ops else None
        return Attached(programs.egress, ingress, sock_ops, table, rate_bps, taken_over=False)


def _settled(options: InterfaceOptions, programs: Programs) -> InterfaceOptions:
    """Return ``options`` with the carrier and the cgroup that they mean here.

    Raises:
        InterfaceError, KernelError: the option is asked for, and this machine cannot.
    """
    if options.carrier == "shim":
        return options
    try:
        if programs.sock_ops is None:
            raise KernelError(programs.no_option)
        with sockets.opened(options.cgroup):
            pass
    except (InterfaceError, KernelError) as error:
        if options.carrier == "option":
            raise
        _log.warning("stamps travel in a shim: %s", error)
        return replace(options, carrier="shim")
    # The driver would hand all packets to a program, and the filter looks at stamps in the shim alone.
    ingress: Ingress = "filter" if options.ingress == "auto" and not options.hold else options.ingress
    return replace(options, carrier="option", ingress=ingress, segmentation="interface")


def _running(
    route: IPRoute, found: Any, left: InterfaceBackup, options: InterfaceOptions, ours: Programs
) -> tuple[Program, Program | None, Program | None] | None:
    """Return the programs that an agent with the same options left behind, if all are present and unchanged."""
    index = found["index"]
    hooked = {
        "xdp": _xdp(found) == left.ingress,
        **{hook: number in _preferences(route, index, _CLSACT_INGRESS) for hook, (number, _) in _FILTERS.items()},
        "off": True,
    }
    if left.options != asdict(options) or not has_filter(route, index) or not hooked[left.hook]:
        return None
    if left.sock_ops and not sockets.is_attached(left.sock_ops, left.cgroup):
        return None
    try:
        egress = Program.of_id(left.egress)
        ingress = Program.of_id(left.ingress) if left.ingress else None
        sock_ops = Program.of_id(left.sock_ops) if left.sock_ops else None
    except KernelError:
        return None
    found_programs = (egress, ingress, sock_ops)
    same = {program.info().tag for program in found_programs if program is not None} <= ours.tags
    return found_programs if same else None


def _maps_of(*programs: Program | None) -> dict[str, Map]:
    numbers = {number for program in programs if program is not None for number in program.info().maps}
    return {held.spec.name: held for held in map(Map.of_id, numbers)}


def _prepare(
    route: IPRoute,
    found: Any,
    options: InterfaceOptions,
    rate_bps: int,
    backup: InterfaceBackup,
    state: StateFile,
    left: InterfaceBackup | None,
) -> Config:
    name, index = options.interface, found["index"]
    if left is not None:
        backup.hook, backup.ingress, backup.clsact = left.hook, left.ingress, left.clsact
        backup.order = left.order
    else:
        backup.clsact = any(qdisc.get_attr("TCA_KIND") == "clsact" for qdisc in route.get_qdiscs(index=index))
    mtu = int(found.get_attr("IFLA_MTU"))
    link_mtu = options.link_mtu or mtu
    if options.order:
        kind = classes.root_qdisc(route, index)
        if kind and not backup.order:
            raise InterfaceError(f"{name} has a root qdisc already ({kind}); remove it, or use --no-order")
        backup.order = True
    if options.hold and options.ingress == "off":
        raise InterfaceError("--hold needs the ingress program, which --ingress off leaves out")
    if options.ingress == "xdp" and _xdp(found) not in (0, backup.ingress):
        raise InterfaceError(f"{name} has an XDP program already; remove it, or use --ingress filter")
    if options.segmentation == "each":
        backup.gso_max_segs = int(found.get_attr("IFLA_GSO_MAX_SEGS"))
    backup.features = features(name, unwanted_features(options))
    option = options.carrier == "option"
    payload = link_mtu - STAMP_BYTES
    shorter = mtu > payload and not option
    if shorter or options.rto_min_ms is not None:
        backup.routes, special = routes.routes_of(route, index)
        for destination in special:
            _log.warning("the route to %s keeps its metrics", destination)
            if shorter:
                _log.warning("packets to %s longer than %d bytes are not stamped", destination, payload)
    if shorter:
        backup.mtu6 = routes.mtu6(name)
    state.write(backup)
    routes.adapt(route, backup.routes, payload if shorter else None, options.rto_min_ms)
    if backup.mtu6 is not None:
        routes.set_mtu6(name, min(backup.mtu6, payload))
    set_features(name, backup.features, on=False)
    if stuck := features(name, backup.features):
        raise InterfaceError(
            f"{name} keeps {', '.join(stuck)} on, which may not work behind a shim; if the interface supports it, use "
            "--segmentation interface"
        )
    share = options.segmentation != "each"
    if not share:
        with refused(f"cannot set gso_max_segs of {name}"):
            route.link("set", index=index, gso_max_segs=1)
    if options.order:
        frame = min(mtu, link_mtu) + ETHERNET_HEADER_BYTES
        shim_bytes = 0 if option else STAMP_BYTES
        shaped = classes.shaped_bps(rate_bps, frame, shim_bytes) if share else rate_bps
        classes.install(route, index, shaped, shim_bytes)
    # Unknown to others: whoever knows it can make frames look as if they had been received.
    kick_mark = secrets.randbelow(0x7FFFFFFF) + 1 if options.hold else 0
    major = CLASS_MAJOR if options.order else 0
    namespace = sockets.namespace_cookie() if option else 0
    return Config(0, link_mtu + ETHERNET_HEADER_BYTES, major, share, kick_mark, option, namespace, index)


def _hook(
    route: IPRoute,
    found: Any,
    options: InterfaceOptions,
    programs: Programs,
    backup: InterfaceBackup,
    state: StateFile,
    left: InterfaceBackup | None,
) -> None:
    name, index = options.interface, found["index"]
    with refused(f"cannot add a clsact qdisc to {name} (kernel option CONFIG_NET_SCH_INGRESS)"):
        if not backup.clsact and not (left is not None and left.hook in _FILTERS):
            route.tc("add", "clsact", index)
    hook, earlier = options.ingress, left.ingress if left is not None else 0
    if hook in ("auto", "xdp") and _hook_xdp(route, found, programs.xdp_ingress, hook == "xdp", earlier):
        backup.hook, backup.ingress = "xdp", programs.xdp_ingress.info().number
    elif hook in ("auto", "filter"):
        kind, program, words = ("strip", programs.tc_strip, TC_STRIP)
        if options.hold:
            kind, program, words = ("filter", programs.tc_ingress, TC_INGRESS)
        _hook_filter(route, index, program, words, _CLSACT_INGRESS, *_FILTERS[kind])
        backup.hook, backup.ingress = kind, program.info().number
    else:
        backup.hook, backup.ingress = "off", 0
    state.write(backup)
    if left is not None and left.hook != backup.hook:
        _unhook(route, found, left)
    backup.egress = programs.egress.info().number
    state.write(backup)
    _hook_filter(route, index, programs.egress, EGRESS, _CLSACT_EGRESS, EGRESS_PREFERENCE, _ETH_P_ALL)
    if options.carrier == "option":
        # Last: without the egress program nothing would be written into the room.
        assert programs.sock_ops is not None
        backup.sock_ops, backup.cgroup = programs.sock_ops.info().number, options.cgroup
        state.write(backup)
        sockets.attach(programs.sock_ops, options.cgroup)


def _hook_filter(
    route: IPRoute, index: int, program: Program, name: str, hook: int, preference: int, ether_type: int
) -> None:
    """Add a filter, or replace what an earlier agent left in its place."""
    words = {"fd": program.descriptor, "name": name, "classid": 1, "direct_action": True, "protocol": ether_type}
    with refused(f"cannot add an eBPF filter of preference {preference} (kernel option CONFIG_NET_CLS_BPF)"):
        route.tc("replace-filter", "bpf", index, 1, parent=hook, prio=preference, **words)


def _unhook(route: IPRoute, found: Any, backup: InterfaceBackup) -> None:
    """Remove the ingress program, if it is still there."""
    with ignoring_absence():
        if backup.hook == "xdp" and _xdp(found) == backup.ingress:
            _set_xdp(route, found["index"], _REMOVE, _XDP_IN_DRIVER)
        elif backup.hook in _FILTERS:
            preference, ether_type = _FILTERS[backup.hook]
            words = {"parent": _CLSACT_INGRESS, "prio": preference, "protocol": ether_type}
            route.tc("del-filter", "bpf", found["index"], 1, **words)


def _is_hooked(route: IPRoute, found: Any, backup: InterfaceBackup) -> bool:
    """Return whether the ingress program is still there."""
    if backup.hook == "xdp":
        return _xdp(found) == backup.ingress
    return backup.hook in _FILTERS and _FILTERS[backup.hook][0] in _preferences(route, found["index"], _CLSACT_INGRESS)


def _hook_xdp(route: IPRoute, found: Any, program: Program, required: bool, earlier: int) -> bool:
    """Attach the program to the driver's hook; unless ``required``, only where this is fast and possible.

    The program with the id ``earlier`` is replaced.

    Returns:
        Whether the program is attached.
    """
    information = found.get_attr("IFLA_LINKINFO")
    kind = information.get_attr("IFLA_INFO_KIND") if information is not None else None
    # A veth pair copies each packet for XDP.
    if not required and (kind == "veth" or _xdp(found) not in (0, earlier)):
        return False
    only = 0 if _xdp(found) else _XDP_ONLY_IF_NONE
    try:
        _set_xdp(route, found["index"], program.descriptor, _XDP_IN_DRIVER | only)
    except NetlinkError as error:
        if required:
            raise InterfaceError(f"the driver does not take XDP: {error.args[-1]}; use --ingress filter") from None
        return False
    return True


def _set_xdp(route: IPRoute, index: int, descriptor: int, flags: int) -> None:
    route.link("set", index=index, xdp={"attrs": [("IFLA_XDP_FD", descriptor), ("IFLA_XDP_FLAGS", flags)]})


def _xdp(found: Any) -> int:
    """Return the id of the XDP program of an interface; 0 for none."""
    held = found.get_attr("IFLA_XDP")
    return int(held.get_attr("IFLA_XDP_PROG_ID") or 0) if held is not None else 0


def _preferences(route: IPRoute, index: int, hook: int) -> set[int]:
    try:
        return {each["info"] >> 16 for each in route.get_filters(index=index, parent=hook)}
    except NetlinkError:
        return set()


def _filters(route: IPRoute, index: int, hook: int) -> set[str]:
    """Return the names of the eBPF filters on a hook; other filters have the name ""."""
    try:
        options = [each.get_attr("TCA_OPTIONS") for each in route.get_filters(index=index, parent=hook)]
    except NetlinkError:
        return set()
    return {held.get_attr("TCA_BPF_NAME") or "" for held in options if held is not None}


def has_filter(route: IPRoute, index: int) -> bool:
    """Return whether the agent's filter is on the interface's egress hook."""
    return EGRESS_PREFERENCE in _preferences(route, index, _CLSACT_EGRESS)


def restore(backup: InterfaceBackup, keep_ingress: bool = False, keep_order: bool = False) -> InterfaceBackup | None:
    """Restore the interface. Things that no longer exist are skipped, even the interface itself.

    With ``keep_ingress``, the program that removes shims from received packets stays: without it they are lost. With
    ``keep_order``, the traffic classes stay: to remove them costs what waits in them.

    Returns:
        What is left to restore; None for nothing.
    """
    name = backup.interface
    if backup.sock_ops:
        sockets.detach(backup.sock_ops, backup.cgroup)
    with IPRoute() as route:
        try:
            found = link(route, name)
        except InterfaceError:
            return None
        index = found["index"]
        # An interface that was made again has nothing to keep.
        kept = keep_ingress and _is_hooked(route, found, backup)
        if not kept:
            _unhook(route, found, backup)
        with ignoring_absence():
            route.tc("del-filter", "bpf", index, 1, parent=_CLSACT_EGRESS, prio=EGRESS_PREFERENCE)
        if not backup.clsact and not (kept and backup.hook in _FILTERS):
            with ignoring_absence():
                route.tc("del", "clsact", index)
        if backup.order and not keep_order:
            classes.remove(route, index)
        if backup.gso_max_segs is not None:
            with ignoring_absence():
                route.link("set", index=index, gso_max_segs=backup.gso_max_segs)
        if backup.features:
            with ignoring_absence():
                set_features(name, backup.features, on=True)
        routes.restore(route, backup.routes)
        if backup.mtu6 is not None:
            routes.set_mtu6(name, backup.mtu6)
    if not kept and not keep_order:
        return None
    left = InterfaceBackup(name, {}, clsact=backup.clsact, order=keep_order)
    if kept:
        left.hook, left.ingress = backup.hook, backup.ingress
    return left


def detach(interface: str, directory: Path) -> bool:
    """Restore an interface on which a killed agent left its programs.

    Without the state file only programs and classes are removed; other changes remain.

    Returns:
        Whether there was anything to restore.

    Raises:
        InterfaceError: there is no such interface, or an agent is running on it.
    """
    with IPRoute() as route:
        found = link(route, interface)
        state = StateFile(directory, interface)
        try:
            left = state.read() or _reconstructed(route, found)
            if left is None:
                return False
            restore(left)
            state.remove()
            return True
        finally:
            state.close()


def clean(directory: Path = RUN_DIRECTORY) -> list[str]:
    """Restore the interfaces of this network namespace on which killed agents left their programs.

    Interfaces with a running agent are not touched.

    Returns:
        The names of the restored interfaces.
    """
    cleaned = []
    for interface in interfaces(directory):
        with suppress(InterfaceError):
            if detach(interface, directory):
                cleaned.append(interface)
    return cleaned


def _reconstructed(route: IPRoute, found: Any) -> InterfaceBackup | None:
    """Return a backup without the earlier settings, made from the agent's programs; None if there are none."""
    index = found["index"]
    left = InterfaceBackup(found.get_attr("IFLA_IFNAME"), {}, clsact=True)
    if number := _xdp(found):
        program = Program.of_id(number)
        if program.info().name == XDP_INGRESS:
            left.hook, left.ingress = "xdp", number
        program.close()
    on_ingress, on_egress = (_filters(route, index, hook) for hook in (_CLSACT_INGRESS, _CLSACT_EGRESS))
    for hook, name in (("filter", TC_INGRESS), ("strip", TC_STRIP)):
        if left.hook == "off" and name in on_ingress:
            left.hook = hook
    left.clsact = not on_egress <= {EGRESS} or not on_ingress <= {TC_INGRESS, TC_STRIP}
    if not has_filter(route, index):
        return left if left.hook != "off" else None
    left.sock_ops = sockets.left_behind(index)
    left.order = classes.root_qdisc(route, index) == "htb"
    return left
