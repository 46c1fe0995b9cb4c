"""The order in which an interface sends: eight HTB classes, ``1:1`` for level 0 to ``1:8`` for level 7.

Each has a small guaranteed rate and may borrow all of the link; what the link has left goes to the highest level first
(tc-htb(8): classes with the lowest ``prio`` are offered excess bandwidth first).
"""

from __future__ import annotations

from host_agent.arbiter import GUARANTEED_SHARE
from host_agent.ebpf.commands import call, listed, succeeds
from host_agent.ebpf.errors import InterfaceError
from host_agent.ebpf.layout import CLASS_MAJOR, UNSTAGED_LEVEL
from host_agent.load import WIRE_OVERHEAD_BYTES
from host_agent.stamp import LEVELS, STAMP_BYTES, TOP_LEVEL

HANDLE = f"{CLASS_MAJOR}:"
_LINK = f"{CLASS_MAJOR}:ff"
_BURST_S = 0.001
_BURST_BYTES_MIN = 3_200
_QUANTUM_BYTES = 3_200
"""Two packets in turn between classes of one level; there is only one, but HTB warns where it must guess."""


def class_of(level: int) -> str:
    """The class id of a level."""
    return f"{CLASS_MAJOR}:{level + 1}"


def root_qdisc(interface: str) -> str:
    """Kind of the root qdisc that somebody put there; empty where it is the kernel's default, whose handle is 0."""
    for qdisc in listed("tc", "-j", "qdisc", "show", "dev", interface):
        if qdisc.get("root") and qdisc["handle"] != "0:":
            return str(qdisc["kind"])
    return ""


def install(interface: str, rate_bps: int) -> None:
    """Put the eight classes on ``interface``, whose link takes ``rate_bps``, in bits on the wire per second.

    Raises:
        InterfaceError: the kernel refuses it, for instance because it has no HTB.
        KernelError: no iproute2.
    """
    # The link's time for a frame: the kernel weighs it before the shim is in, and without preamble, gap and FCS.
    overhead = ["overhead", str(WIRE_OVERHEAD_BYTES + STAMP_BYTES)]
    burst = str(max(_BURST_BYTES_MIN, round(rate_bps / 8 * _BURST_S)))
    least = max(8_000, int(rate_bps * GUARANTEED_SHARE))
    add = ("tc", "class", "add", "dev", interface)
    try:
        call(
            *("tc", "qdisc", "add", "dev", interface, "root", "handle", HANDLE, "htb"),
            *("default", f"{UNSTAGED_LEVEL + 1:x}"),
        )
    except InterfaceError as error:
        raise InterfaceError(
            f"{error}; does the kernel have HTB (CONFIG_NET_SCH_HTB)? --no-order goes without"
        ) from None
    link = ["rate", f"{rate_bps}bit", "ceil", f"{rate_bps}bit", "burst", burst, "cburst", burst]
    call(*add, "parent", HANDLE, "classid", _LINK, "htb", *link, *overhead)
    for level in range(LEVELS):
        share = ["rate", f"{least}bit", "ceil", f"{rate_bps}bit", "cburst", burst, "quantum", str(_QUANTUM_BYTES)]
        call(
            *(*add, "parent", _LINK, "classid", class_of(level), "htb", *share),
            *("prio", str(TOP_LEVEL - level), *overhead),
        )


def remove(interface: str) -> None:
    """Take the classes away; the kernel's default qdisc comes back."""
    succeeds("tc", "qdisc", "del", "dev", interface, "root", "handle", HANDLE)
