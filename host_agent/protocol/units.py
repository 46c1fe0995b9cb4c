"""Units and constants that hosts, switch and controller share."""

from __future__ import annotations

import re

DEFAULT_P4RUNTIME_ADDRESS = "127.0.0.1:9559"
"""The port that IANA assigned to P4Runtime."""
HIGHEST_PORT = 510
"""Highest number of a switch port: v1model's programs drop packets to port 511; device ports of Tofino are lower."""
NS_PER_S = 1_000_000_000
WIRE_OVERHEAD_BYTES = 24
"""Link time of a frame beyond its own bytes: FCS (4), preamble (8) and interframe gap (12), IEEE 802.3."""
LOAD_LIMIT = 0.9
"""Greatest load that is taken into account: what goes first never keeps the rest waiting for good."""
_FACTORS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9}
HIGHEST_BPS = 10**12


def parse_bit_rate(text: str) -> int | None:
    """Bits per second of a rate as people write it (500k, 20M, 100G); None where it is none of 1 b/s to 1000G."""
    matched = re.fullmatch(r"(\d+(?:\.\d+)?)([kKMG]?)", text)
    rate = 0 if matched is None else round(float(matched[1]) * _FACTORS[matched[2]])
    return rate if 1 <= rate <= HIGHEST_BPS else None
