"""The built-in policies as functions, and policies by name or from a file.

``policies.load("karuna")``, ``policies.load("mine.toml")``, ``policies.mfs(mlu=120)``, ``policies.sjf([40, 80])``.
The file of each policy in ``mfs_ctrl/policy/builtin/`` describes it. Boundaries of bands are ascending codes
(:func:`host_agent.protocol.level.log2_code`), by default those of the file. MLU is the minimal link utilisation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from host_agent.protocol.level import CODE_MAX, CODE_STEPS, URGENCY_ONE
from mfs_ctrl.policy import builtin_names, load
from mfs_ctrl.policy.policy import Policy, folded, giving_up

__all__ = [
    "builtin_names",
    "edf",
    "fifo",
    "folded",
    "giving_up",
    "load",
    "mfs",
    "paper",
    "sjf",
    "static",
]


def mfs(thresholds: Mapping[str, int] | None = None, /, **codes: int) -> Policy:
    """Return the MFS policy, with other thresholds than its file says.

    Raises:
        PolicyError: there is no threshold of that name, or a value is not a code.
    """
    return load("mfs").at(thresholds, **codes)


def paper(top: float = 0.5, ratio: float = 4.0, near_rli: int = 2) -> Policy:
    """Return the paper's policy with thresholds of MLU ``top * ratio**-i`` (the paper's U and E)."""
    codes = (max(1, min(CODE_MAX, round(URGENCY_ONE + CODE_STEPS * math.log2(top * ratio**-i)))) for i in range(3))
    return load("paper").at({f"mlu_{i}": code for i, code in enumerate(codes)}, near_rli=near_rli)


def static() -> Policy:
    """Return the policy with one class per stage: collectives over reuse over P2D (prefill to decode)."""
    return load("static")


def fifo() -> Policy:
    """Return the policy that puts everything in one queue."""
    return load("fifo")


def sjf(boundaries: Sequence[int]) -> Policy:
    """Return shortest remaining first; ``boundaries`` are codes of remaining bytes.

    Raises:
        PolicyError: boundaries do not rise, or are too many.
    """
    return load("sjf").with_bands(boundaries)


def edf(boundaries: Sequence[int]) -> Policy:
    """Return earliest deadline first; ``boundaries`` are codes of slack.

    Raises:
        PolicyError: boundaries do not rise, or are too many.
    """
    return load("edf").with_bands(boundaries)
