"""Counters of the kernel's TCP in a network namespace."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from pathlib import Path

FOLDER = Path("/proc/thread-self/net")
"""The network namespace of the calling thread (proc(5))."""


@dataclass(frozen=True, slots=True)
class TcpCounters:
    """Counters of TCP, of one host or summed over several (RFC 4022; ``TcpExt`` of Linux).

    Attributes:
        segments: segments sent, retransmissions left out.
        retransmitted: segments sent again.
        timeouts: retransmission timeouts (RFC 6298).
        probes: tail loss probes (RFC 8985, section 7).
        too_old: segments dropped because their time stamp was older than one in order (RFC 7323, section 5).
    """

    segments: int = 0
    retransmitted: int = 0
    timeouts: int = 0
    probes: int = 0
    too_old: int = 0

    def __add__(self, other: TcpCounters) -> TcpCounters:
        return TcpCounters(*(mine + yours for mine, yours in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: TcpCounters) -> TcpCounters:
        return TcpCounters(*(mine - yours for mine, yours in zip(astuple(self), astuple(other), strict=True)))


def read_tcp_counters(folder: Path = FOLDER) -> TcpCounters:
    """Return the counters of the network namespace whose files are in ``folder``.

    Raises:
        OSError: the files cannot be read.
    """
    found: dict[str, int] = {}
    for name in ("snmp", "netstat"):
        lines = (folder / name).read_text("ascii").splitlines()
        for names, values in zip(lines[::2], lines[1::2], strict=True):
            prefix, *keys = names.split()
            found.update({prefix + key: int(value) for key, value in zip(keys, values.split()[1:], strict=True)})
    return TcpCounters(
        segments=found["Tcp:OutSegs"],
        retransmitted=found["Tcp:RetransSegs"],
        timeouts=found["TcpExt:TCPTimeouts"],
        probes=found["TcpExt:TCPLossProbes"],
        too_old=found["TcpExt:PAWSEstab"],
    )
