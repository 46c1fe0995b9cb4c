"""The level decision as a pure function of policy rules: the decision of the P4 table ``rmlq``, computed on a host.

The codes are those of ``p4src/shared/log2.p4`` and ``urgency.p4``; a test compares both sides cell by cell. A policy is
a list of :class:`LevelRule`; the first rule that matches gives the level. MLU is the minimal link utilisation (paper
section 4.1), RLI the relative layer index: target layer minus current layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from host_agent.protocol.stamp import LEVELS, REMAINING_UNIT_BYTES, Stage

GUARANTEED_SHARE = Fraction(1, 256)
"""Share of a link guaranteed to every level, in switch and host: enough to drain what a promotion left behind."""
CODE_STEPS = 8
"""Codes per octave of :func:`log2_code`."""
CODE_MAX = 255
PAYLOAD_SHARE = 0.93
"""Payload as a share of the wire bytes of 1,500-byte packets: the rest is headers, FCS, preamble and gap."""
URGENCY_ONE = 128
"""Urgency of a flow whose MLU is 1; a factor of 2 is :data:`CODE_STEPS` codes."""

Interval = tuple[int, int]
ANY: Interval = (0, CODE_MAX)
UNTAGGED_LEVEL = 1
"""Level of packets without a stamp, and of stamps that no rule matches, unless an operator configures another."""


def log2_code(value: int) -> int:
    """Return the 8-bit logarithmic code of ``value``, a 32-bit number: eight steps per octave, linear within an octave.

    The values 0 and 1 share code 0. The code is at most 1.7 steps below ``8 log2(value)`` (floor of a chord of the
    logarithm).
    """
    if value <= 1:
        return 0
    exponent = value.bit_length() - 1
    mantissa = (value << 3 >> exponent) & 7
    return exponent * CODE_STEPS + mantissa


def bias_code(rate_bps: float, load: float = 0.0) -> int:
    """Return the ``bias`` of a port: added to ``code(remaining) - code(slack)``, it gives the urgency behind this port.

    MLU = remaining / (slack B (1 - rho)) (paper section 4.1), remaining in stamp units, slack in microseconds. B is the
    payload rate of the top level, without the shares guaranteed to the other levels.

    Args:
        rate_bps: rate of the port in wire bits per second.
        load: rho, the share of the rate that higher-priority traffic takes.

    Returns:
        The bias, saturated at 0 and 511; this covers 1 kb/s to 1 Tb/s and beyond.
    """
    effective_bps = rate_bps * PAYLOAD_SHARE * float(1 - (LEVELS - 1) * GUARANTEED_SHARE) * (1 - load)
    bits_per_us = max(effective_bps, 1.0) / 1e6
    bias = URGENCY_ONE + CODE_STEPS * math.log2(REMAINING_UNIT_BYTES * 8 / bits_per_us)
    return max(0, min(511, round(bias)))


def urgency(remaining_code: int, slack_code: int, bias: int) -> int:
    """Return ``128 + 8 log2(MLU)``, saturated at 0 and 255."""
    return max(0, min(CODE_MAX, remaining_code + bias - slack_code))


@dataclass(frozen=True, slots=True)
class LevelRule:
    """One row of the table ``rmlq``: closed intervals of the codes, and the level that they give.

    ``late`` is an interval of the bit "slack is 0 or less".
    """

    stage: Stage
    level: int
    late: Interval = (0, 1)
    rli: Interval = ANY
    urgency: Interval = ANY
    slack_code: Interval = ANY
    remaining_code: Interval = ANY


@dataclass(frozen=True, slots=True)
class LevelKey:
    """Key of the level decision."""

    stage: Stage
    late: int
    rli: int
    urgency: int
    slack_code: int
    remaining_code: int


def level_key(stage: Stage, rli: int, slack_us: int, remaining: int, bias: int) -> LevelKey:
    """Return the key of a packet with these stamp values behind a port with ``bias``; ``remaining`` in stamp units."""
    late = int(slack_us <= 0)
    slack_code = 0 if late else log2_code(slack_us)
    remaining_code = log2_code(remaining)
    # The MLU of a late flow is unbounded.
    mlu_code = CODE_MAX if late else urgency(remaining_code, slack_code, bias)
    return LevelKey(stage, late, rli, mlu_code, slack_code, remaining_code)


def decide(rules: Sequence[LevelRule], key: LevelKey, default: int = 0) -> int:
    """Return the level of the first rule that matches ``key``, or ``default``."""
    for rule in rules:
        if (
            rule.stage == key.stage
            and rule.late[0] <= key.late <= rule.late[1]
            and rule.rli[0] <= key.rli <= rule.rli[1]
            and rule.urgency[0] <= key.urgency <= rule.urgency[1]
            and rule.slack_code[0] <= key.slack_code <= rule.slack_code[1]
            and rule.remaining_code[0] <= key.remaining_code <= rule.remaining_code[1]
        ):
            return rule.level
    return default
