"""Compares the rates of ports that the controller assumes with those that the switch tells. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from host_agent.protocol.level import CODE_STEPS, bias_code
from host_agent.protocol.units import bit_rate_text


def differences(assumed: Mapping[int, int], told: Mapping[int, int]) -> str:
    """Return what differs, in one line with the way out; empty if nothing does, or the switch tells no rates.

    Rates are in bits per second, by port.
    """
    if not told:
        return ""
    parts = []
    missing = sorted(assumed.keys() - told.keys())
    if missing:
        parts.append(f"the switch has no port {_numbers(missing)}; it has {_numbers(sorted(told))}")
    pairs: dict[tuple[int, int], list[int]] = {}
    for port in sorted(assumed.keys() & told.keys()):
        if assumed[port] != told[port]:
            pairs.setdefault((assumed[port], told[port]), []).append(port)
    for (here, there), ports in pairs.items():
        octaves = (bias_code(there) - bias_code(here)) / CODE_STEPS
        parts.append(
            f"port {_numbers(ports)}: the controller assumes {bit_rate_text(here)}, the switch sends at "
            f"{bit_rate_text(there)}; urgencies are {abs(octaves):.1f} octaves too {'low' if octaves > 0 else 'high'}"
        )
    if not parts:
        return ""
    return f"{'; '.join(parts)}; correct --rate, --servers and --nics, or the file given with --config"


def _numbers(ports: list[int]) -> str:
    """Return ascending numbers as text: ``1-4, 7``."""
    runs: list[list[int]] = []
    for port in ports:
        if runs and port == runs[-1][1] + 1:
            runs[-1][1] = port
        else:
            runs.append([port, port])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
