"""The variants that ``mfs ablate`` compares: the full scheduler, the scheduler without one part, and baselines."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from mfs_eval.errors import EvaluationError
from mfs_eval.setup.policies import CEILING, FOLDS, KARUNA, LLF, STATIC_BANDS, STATIC_REUSE, WITHOUT_RED
from mfs_eval.setup.run_settings import (
    DROP_BUDGET,
    AdversarySettings,
    ControlSettings,
    PruningSettings,
    RunSettings,
)

FULL = "mfs"
FLOOR = "fifo"
FLOOR_GIVING_UP = "fifo-giving-up"
UNAFFECTED = "bystanders"
"""The honest run that the runs with an adversary are compared with."""
ADVERSARY_SERVER = 7
ADVERSARY_HOSTS = (14, 15)
HONEST = AdversarySettings(unaffected_by=ADVERSARY_SERVER)
ADVERSARY = replace(HONEST, hosts=ADVERSARY_HOSTS, flood_share=0.5)
"""The hosts of the eighth server stamp everything as most urgent and flood the decode servers at half their link rate.
Only requests that this server takes no part in count."""
STALE_NS = 20_000_000
"""About two steps of a batch: what a control message between serving engines may take under load."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One row of the comparison.

    Attributes:
        name: as on the command line.
        policy: a name for :func:`~mfs_eval.setup.policies.policy_for`, or the ceiling.
        why: what its difference from the full scheduler shows, in one line.
        settings: the settings of its runs.
        against: the variant that it is compared with; a variant that others are compared with names itself.
    """

    name: str
    policy: str
    why: str
    settings: RunSettings = field(default_factory=RunSettings)
    against: str = FULL


def _control(**settings: Any) -> RunSettings:
    return RunSettings(control=ControlSettings(**settings))


_BASES = (
    Variant("static", "static", "one class per stage: what an operator sets up in an afternoon"),
    Variant(STATIC_REUSE, STATIC_REUSE, "static, with reuse above collectives"),
    Variant(STATIC_BANDS, STATIC_BANDS, "static-reuse, with P2D in three fixed bands of slack"),
    Variant(FLOOR, "fifo", "fair sharing: the floor of the gap"),
    Variant("sjf", "sjf", "shortest remaining first"),
    Variant("edf", "edf", "earliest deadline first"),
    Variant("karuna", KARUNA, "flows with deadlines get the least rate that meets them, the others go by size"),
)

VARIANTS = {
    variant.name: variant
    for variant in (
        Variant(FULL, "mfs", "hosts and switch, thresholds and biases tuned, nothing pruned"),
        Variant("hosts-only", "mfs", "what the switch earns", _control(order="hosts")),
        Variant("switch-only", "mfs", "what scheduling at the senders earns", _control(order="switch")),
        Variant("stale-progress", "mfs", "what fresh progress earns", _control(progress_delay_ns=STALE_NS)),
        Variant("without-bias", "mfs", "what the measured load of ports earns", _control(tune_bias=False)),
        Variant("fixed-thresholds", "mfs", "what tuning thresholds earns", _control(tune_thresholds=False)),
        Variant(
            "without-red",
            WITHOUT_RED,
            "what the order between batches (robust effective deadline) earns; thresholds fixed",
        ),
        *(
            Variant(f"levels-{levels}", name, f"{levels} queues instead of eight; thresholds fixed")
            for name, levels in FOLDS.items()
        ),
        Variant(
            "honest-policed",
            "mfs",
            "what policing costs without an adversary",
            RunSettings(adversary=AdversarySettings(police=True)),
        ),
        Variant(
            UNAFFECTED,
            "mfs",
            "no adversary; only requests that the eighth server takes no part in",
            RunSettings(adversary=HONEST),
            UNAFFECTED,
        ),
        *(
            Variant(name, "mfs", why, RunSettings(adversary=adversary), UNAFFECTED)
            for name, why, adversary in (
                ("without-policing", "what an adversarial server costs the others", ADVERSARY),
                ("policing", "how much of that remains with policing", replace(ADVERSARY, police=True)),
                (
                    "untrusted",
                    "how much of that remains if the switch ignores its stamps",
                    replace(ADVERSARY, untrusted_hosts=ADVERSARY_HOSTS),
                ),
            )
        ),
        *_BASES,
        Variant(
            FLOOR_GIVING_UP,
            "fifo",
            "fair sharing that gives up late flows, as all others do",
            RunSettings(pruning=PruningSettings(give_up_late=True)),
        ),
        *(
            Variant(
                f"{base.name}-pruning",
                base.policy,
                f"{base.name}; requests that cannot be in time are given up",
                RunSettings(pruning=PruningSettings(drop_budget=DROP_BUDGET)),
            )
            for base in (Variant(FULL, "mfs", ""), *_BASES)
        ),
        Variant("llf", LLF, "clairvoyant EDF: knows what must follow each flow"),
        Variant(CEILING, CEILING, "each flow alone on its path: an upper bound for every schedule"),
    )
}


def variant_named(name: str) -> Variant:
    """Return the variant ``name``.

    Raises:
        EvaluationError: there is no such variant; the message lists all of them.
    """
    if name not in VARIANTS:
        raise EvaluationError(f"there is no variant {name!r}; there are {', '.join(VARIANTS)}")
    return VARIANTS[name]
