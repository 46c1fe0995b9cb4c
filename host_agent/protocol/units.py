"""Units and constants that hosts, switch and controller share."""

from __future__ import annotations

import re

P4RUNTIME_PORT = 9559
"""TCP port that IANA assigned to P4Runtime."""
DEFAULT_P4RUNTIME_ADDRESS = f"127.0.0.1:{P4RUNTIME_PORT}"
ETHERNET_HEADER_BYTES = 14
ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_IPV6 = 0x86DD
ETHERTYPE_VLAN = 0x8100
NS_PER_S = 1_000_000_000
WIRE_OVERHEAD_BYTES = 24
"""Link time of a frame beyond its own bytes: FCS (4), preamble (8) and interframe gap (12), IEEE 802.3."""
LOAD_LIMIT = 0.9
"""Upper bound of the load that calculations use: higher-priority traffic never starves the rest permanently."""
_FACTORS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9}
LOWEST_BPS = 8_000
"""The kernel's HTB divides by bytes per second, and a full frame takes more than a second below."""
HIGHEST_BPS = 10**12


def parse_bit_rate(text: str) -> int | None:
    """Parse a rate such as 500k, 20M or 100G.

    Returns:
        Bits per second, or None if ``text`` is not a rate from 8k to 1000G.
    """
    matched = re.fullmatch(r"(\d+(?:\.\d+)?)([kKMG]?)", text)
    rate = 0 if matched is None else round(float(matched[1]) * _FACTORS[matched[2]])
    return rate if LOWEST_BPS <= rate <= HIGHEST_BPS else None


def bit_rate_text(rate_bps: float) -> str:
    """Return a rate for people: ``20 Mb/s``."""
    for factor, unit in ((10**9, "Gb/s"), (10**6, "Mb/s"), (10**3, "kb/s")):
        if rate_bps >= factor:
            return f"{rate_bps / factor:g} {unit}"
    return f"{rate_bps:g} b/s"
