"""What ``mfs ablate`` compares, as data: the whole scheduler, the same without a part, and what else there is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mfs_eval.errors import EvaluationError
from mfs_eval.packet_level.testbed import RunSettings
from mfs_eval.setup.policies import CEILING, FOLDS, KARUNA, LLF, STATIC_REUSE, WITHOUT_RED

FULL = "mfs"
FLOOR = "fifo"
HONEST = "bystanders"
CHEATING_SERVER = 7
CHEATING_HOSTS = (14, 15)
BYSTANDERS: Mapping[str, Any] = {"bystanders_of": CHEATING_SERVER}
CHEAT: Mapping[str, Any] = {**BYSTANDERS, "cheating_hosts": CHEATING_HOSTS, "flood_share": 0.5}
"""Where hosts cheat, it is those of the eighth server: they stamp all as most urgent, and flood the decode servers at
half the rate of their links besides. What counts is what becomes of the others."""
STALE_NS = 20_000_000
"""About two steps of a batch: what a control message between serving engines may take under load."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One row of the comparison.

    Attributes:
        name: as on the command line.
        policy: as in :func:`~mfs_eval.setup.policies.policy_for`, or the ceiling.
        why: what its difference to the full scheduler tells, in one line.
        changes: fields of :class:`~mfs_eval.packet_level.testbed.RunSettings` and their values.
        against: the variant that its difference is to; itself for those that others are measured by.
    """

    name: str
    policy: str
    why: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    against: str = FULL

    @property
    def settings(self) -> RunSettings:
        """The settings of its runs."""
        return replace(RunSettings(), **self.changes)


_BASES = (
    Variant("static", "static", "one class a stage: what an operator sets up in an afternoon"),
    Variant(STATIC_REUSE, STATIC_REUSE, "the same with reuse above collectives"),
    Variant(FLOOR, "fifo", "fair sharing: the floor of the gap"),
    Variant("sjf", "sjf", "shortest remaining first"),
    Variant("edf", "edf", "earliest deadline first"),
    Variant("karuna", KARUNA, "deadline flows get the least they need, the others go by size"),
)

VARIANTS = {
    variant.name: variant
    for variant in (
        Variant(FULL, "mfs", "hosts and switch, thresholds and biases tuned, nothing pruned"),
        Variant("hosts-only", "mfs", "what the switch earns", {"order": "hosts"}),
        Variant("switch-only", "mfs", "what order at the senders earns", {"order": "switch"}),
        Variant("stale-progress", "mfs", "what fresh progress earns", {"progress_delay_ns": STALE_NS}),
        Variant("without-bias", "mfs", "what the measured load of ports earns", {"tune_bias": False}),
        Variant("fixed-thresholds", "mfs", "what tuning thresholds earns", {"tune_thresholds": False}),
        Variant("without-red", WITHOUT_RED, "what the order between batches earns; thresholds fixed"),
        *(
            Variant(f"levels-{levels}", name, f"what {levels} queues are worth of eight; thresholds fixed")
            for name, levels in FOLDS.items()
        ),
        Variant("honest-policed", "mfs", "what policing costs where nobody cheats", {"police": True}),
        Variant(
            HONEST, "mfs", "nobody cheats; only requests that the eighth server has no part in", BYSTANDERS, HONEST
        ),
        *(
            Variant(name, "mfs", why, {**CHEAT, **changes}, HONEST)
            for name, why, changes in (
                ("without-policing", "what a cheating server costs the others", {}),
                ("policing", "what of that is left with policing", {"police": True}),
                ("untrusted", "and with its stamps not honoured", {"untrusted_hosts": CHEATING_HOSTS}),
            )
        ),
        *_BASES,
        *(
            Variant(f"{base.name}-pruning", base.policy, f"{base.name}, hopeless requests given up", {"prune": True})
            for base in (Variant(FULL, "mfs", ""), *_BASES)
        ),
        Variant("llf", LLF, "EDF by the deadlines of a clairvoyant, who knows what must follow each flow"),
        Variant(CEILING, CEILING, "each flow alone on its path: what no order can pass"),
    )
}


def variant_named(name: str) -> Variant:
    """The variant ``name``.

    Raises:
        EvaluationError: there is none of that name; the message lists them.
    """
    if name not in VARIANTS:
        raise EvaluationError(f"there is no variant {name!r}; there are {', '.join(VARIANTS)}")
    return VARIANTS[name]
