"""The scheduling example of the paper: three flows on one link that meet their deadlines in one order only.

The link has unit rate and all flows are ready at time 0. Flow: size, remaining compute after it, deadline. A: 2, 9, 18.
B: 4, 6, 12. C (last stage): 3, 0, 7. Only the order B, C, A is in time (they end at 4, 7, 9). Fair sharing misses B and
C, shortest first misses B, and earliest deadline first misses B.
"""

from __future__ import annotations

from collections.abc import Callable

from host_agent.protocol.scapy_layer import MFS
from host_agent.protocol.stamp import Flags, Stage, units_of

FLOWS = {"A": (2, 9, 18, Stage.KV_REUSE), "B": (4, 6, 12, Stage.KV_REUSE), "C": (3, 0, 7, Stage.P2D)}
"""Size, remaining compute and deadline in units, and stage."""
UNIT_US = 90_000
FILLED = 0.9
"""Share of the link's rate that a unit of data takes, as the only order that is in time has no slack to spare."""


def played(rate_bps: int, batch: int, level: Callable[[MFS], int]) -> tuple[list[dict[str, int]], dict[str, int]]:
    """Play the example on a link of ``rate_bps`` whose levels a switch chooses.

    At each unit of time each flow that is not over asks with a packet for its ``level``, and the highest one gets the
    unit. Flows are those of ``batch`` and the two batches after it. Returns the levels at each unit of time, and when
    each flow ended.
    """
    unit_bytes = round(FILLED * UNIT_US * rate_bps / 8_000_000)
    left = {name: size for name, (size, *_) in FLOWS.items()}
    levels: list[dict[str, int]] = []
    ends: dict[str, int] = {}
    while any(left.values()):
        now = len(levels)
        chosen = {}
        for number, (name, (_, _, deadline, stage)) in enumerate(FLOWS.items()):
            if left[name]:
                chosen[name] = level(
                    MFS(
                        stage=int(stage),
                        flags=Flags.FIRST if now == 0 else Flags.BOUNDARY,
                        batch=batch + number,
                        flow=number,
                        slack=(deadline - now) * UNIT_US,
                        remaining=units_of(left[name] * unit_bytes),
                    )
                )
        levels.append(chosen)
        served = max(chosen, key=lambda name: chosen[name])
        left[served] -= 1
        if not left[served]:
            ends[served] = now + 1
    return levels, ends
