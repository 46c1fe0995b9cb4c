"""Show the order that a policy gives: python examples/policy/show_order.py NAME|FILE.toml

Hosts and switch decide by the same function, so no switch is needed to see it.
"""

from __future__ import annotations

import sys

from host_agent.protocol.level import bias_code, decide, level_key
from host_agent.protocol.stamp import Stage, units_of
from mfs_ctrl import policies

RATE_BPS = 100_000_000_000
PACKETS = {
    "an acknowledgement": (Stage.NONE, 0, 1_000_000, 0),
    "reused KV for the next layer, 40 MB": (Stage.KV_REUSE, 0, 300_000, 40_000_000),
    "reused KV for 20 layers ahead, 40 MB": (Stage.KV_REUSE, 20, 300_000, 40_000_000),
    "a collective, 4 MB": (Stage.COLLECTIVE, 0, 300_000, 4_000_000),
    "new KV, 200 MB, 300 ms left": (Stage.P2D, 0, 300_000, 200_000_000),
    "new KV, 200 MB, 20 ms left": (Stage.P2D, 0, 20_000, 200_000_000),
    "new KV, 1 ms too late": (Stage.P2D, 0, -1_000, 200_000_000),
}
"""Stage, relative layer index, slack in microseconds, remaining bytes."""


def order(name: str) -> list[tuple[int, str]]:
    """The level of each of these packets under the policy, the most urgent first."""
    policy, bias = policies.load(name), bias_code(RATE_BPS)
    levels = {
        what: decide(policy.rules, level_key(stage, rli, slack_us, units_of(size), bias))
        for what, (stage, rli, slack_us, size) in PACKETS.items()
    }
    return sorted(((level, what) for what, level in levels.items()), key=lambda item: -item[0])


if __name__ == "__main__":
    for level, what in order(sys.argv[1]):
        print(level, what)
