"""Changes that the agent makes to an interface, and their restoration, also by another process after a crash.

The earlier settings are in the state file before the first change (:mod:`host_agent.daemon.state`).
"""

from __future__ import annotations

import logging
import secrets
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from host_agent.daemon import classes, routes
from host_agent.daemon.netlink import features, ignoring_absence, link, refused, set_features
from host_agent.daemon.options import InterfaceOptions
from host_agent.daemon.state import InterfaceBackup, StateFile, interfaces
from host_agent.ebpf.bpf import EGRESS, TC_INGRESS, XDP_INGRESS, Map, Program, Programs
from host_agent.ebpf.errors import InterfaceError, KernelError
from host_agent.ebpf.flows import FlowTable
from host_agent.ebpf.layout import CLASS_MAJOR, Config
from host_agent.ebpf.object import load
from host_agent.protocol.paths import RUN_DIRECTORY
from host_agent.protocol.stamp import STAMP_BYTES
from host_agent.protocol.units import ETHERNET_HEADER_BYTES

EGRESS_PREFERENCE = 49_000
INGRESS_PREFERENCE = 1
"""First filter on ingress, last on egress: filters of other programs see packets without stamps."""
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
        table: flows of the interface.
        rate_bps: rate of the link in bits on the wire per second.
        taken_over: whether the programs were running already.
    """

    egress: Program
    ingress: Program | None
    table: FlowTable
    rate_bps: int
    taken_over: bool


def link_rate_bps(interface: str) -> int | None:
    """Return the rate that the interface reports for its link, in bits per second; None if it reports none."""
    try:
        megabits = int(Path(f"/sys/class/net/{interface}/speed").read_text("ascii"))
    except (OSError, ValueError):
        return None
    return megabits * 1_000_000 if megabits > 0 else None


def unwanted_features(options: InterfaceOptions) -> tuple[str, ...]:
    """Return the offloads, as named by ``ethtool -k``, that few interfaces support behind a shim."""
    if options.segmentation == "interface":
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
        # Nothing has been changed so far.
        backup = InterfaceBackup(options.interface, asdict(options), clsact=True)
        try:
            config = _prepare(route, found, options, rate_bps, backup, state)
            table = FlowTable(programs.maps, config)
            table.set_policy((), 0)
            _hook(route, found, options, programs, backup, state)
        except Exception:
            restore(backup)
            state.remove()
            programs.close()
            raise
        ingress = {"xdp": programs.xdp_ingress, "filter": programs.tc_ingress}.get(backup.hook)
        return Attached(programs.egress, ingress, table, rate_bps, taken_over=False)


def _running(
    route: IPRoute, found: Any, left: InterfaceBackup, options: InterfaceOptions, ours: Programs
) -> tuple[Program, Program | None] | None:
    """Return the programs that an agent with the same options left behind, if all are present and unchanged."""
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
    route: IPRoute,
    found: Any,
    options: InterfaceOptions,
    rate_bps: int,
    backup: InterfaceBackup,
    state: StateFile,
) -> Config:
    name, index = options.interface, found["index"]
    backup.clsact = any(qdisc.get_attr("TCA_KIND") == "clsact" for qdisc in route.get_qdiscs(index=index))
    mtu = int(found.get_attr("IFLA_MTU"))
    link_mtu = options.link_mtu or mtu
    if options.order:
        if kind := classes.root_qdisc(route, index):
            raise InterfaceError(f"{name} has a root qdisc already ({kind}); remove it, or use --no-order")
        backup.order = True
    if options.hold and options.ingress == "off":
        raise InterfaceError("--hold needs the ingress program, which --ingress off leaves out")
    if options.ingress == "xdp" and _xdp(found):
        raise InterfaceError(f"{name} has an XDP program already; remove it, or use --ingress filter")
    if options.segmentation == "each":
        backup.gso_max_segs = int(found.get_attr("IFLA_GSO_MAX_SEGS"))
    backup.features = features(name, unwanted_features(options))
    payload = link_mtu - STAMP_BYTES
    shorter = mtu > payload
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
        classes.install(route, index, classes.shaped_bps(rate_bps, frame) if share else rate_bps)
    # Unknown to others: whoever knows it can make frames look as if they had been received.
    kick_mark = secrets.randbelow(0x7FFFFFFF) + 1 if options.hold else 0
    return Config(0, link_mtu + ETHERNET_HEADER_BYTES, CLASS_MAJOR if options.order else 0, share, kick_mark)


def _hook(
    route: IPRoute,
    found: Any,
    options: InterfaceOptions,
    programs: Programs,
    backup: InterfaceBackup,
    state: StateFile,
) -> None:
    name, index = options.interface, found["index"]
    with refused(f"cannot add a clsact qdisc to {name} (kernel option CONFIG_NET_SCH_INGRESS)"):
        if not backup.clsact:
            route.tc("add", "clsact", index)
    hook = options.ingress
    if hook in ("auto", "xdp") and _hook_xdp(route, found, programs.xdp_ingress, hook == "xdp"):
        backup.hook, backup.ingress = "xdp", programs.xdp_ingress.info().number
        state.write(backup)
    elif hook in ("auto", "filter"):
        backup.hook, backup.ingress = "filter", programs.tc_ingress.info().number
        state.write(backup)
        _hook_filter(route, index, programs.tc_ingress, TC_INGRESS, _CLSACT_INGRESS, INGRESS_PREFERENCE)
    backup.egress = programs.egress.info().number
    state.write(backup)
    _hook_filter(route, index, programs.egress, EGRESS, _CLSACT_EGRESS, EGRESS_PREFERENCE)


def _hook_filter(route: IPRoute, index: int, program: Program, name: str, hook: int, preference: int) -> None:
    words = {"fd": program.descriptor, "name": name, "classid": 1, "direct_action": True}
    with refused(f"cannot add an eBPF filter of preference {preference} (kernel option CONFIG_NET_CLS_BPF)"):
        route.tc("add-filter", "bpf", index, 1, parent=hook, prio=preference, **words)


def _hook_xdp(route: IPRoute, found: Any, program: Program, required: bool) -> bool:
    """Attach the program to the driver's hook; unless ``required``, only where this is fast and possible.

    Returns:
        Whether the program is attached.
    """
    information = found.get_attr("IFLA_LINKINFO")
    kind = information.get_attr("IFLA_INFO_KIND") if information is not None else None
    # A veth pair copies each packet for XDP.
    if not required and (kind == "veth" or _xdp(found)):
        return False
    try:
        _set_xdp(route, found["index"], program.descriptor, _XDP_IN_DRIVER | _XDP_ONLY_IF_NONE)
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


def has_filter(route: IPRoute, index: int) -> bool:
    """Return whether the agent's filter is on the interface's egress hook."""
    return EGRESS_PREFERENCE in _preferences(route, index, _CLSACT_EGRESS)


def restore(backup: InterfaceBackup) -> None:
    """Restore the interface. Things that no longer exist are skipped, even the interface itself."""
    name = backup.interface
    with IPRoute() as route:
        try:
            found = link(route, name)
        except InterfaceError:
            return
        index = found["index"]
        if backup.hook == "xdp" and _xdp(found) == backup.ingress:
            with ignoring_absence():
                _set_xdp(route, index, _REMOVE, _XDP_IN_DRIVER)
        with ignoring_absence():
            route.tc("del-filter", "bpf", index, 1, parent=_CLSACT_EGRESS, prio=EGRESS_PREFERENCE)
        if backup.hook == "filter":
            with ignoring_absence():
                route.tc("del-filter", "bpf", index, 1, parent=_CLSACT_INGRESS, prio=INGRESS_PREFERENCE)
        if not backup.clsact:
            with ignoring_absence():
                route.tc("del", "clsact", index)
        if backup.order:
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
    if not has_filter(route, index):
        return left if left.ingress else None
    on_ingress, on_egress = (_preferences(route, index, hook) for hook in (_CLSACT_INGRESS, _CLSACT_EGRESS))
    left.clsact = on_egress != {EGRESS_PREFERENCE} or not on_ingress <= {INGRESS_PREFERENCE}
    if left.hook == "off" and INGRESS_PREFERENCE in on_ingress:
        left.hook = "filter"
    left.order = classes.root_qdisc(route, index) == "htb"
    return left
