"""The variants that the flow-level engine compares: a policy's rules, who follows them, and what they know.

Names that also exist in :mod:`mfs_eval.setup.variants` mean the same there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from host_agent.protocol.level import CODE_STEPS, URGENCY_ONE
from host_agent.protocol.stamp import LEVELS
from mfs_ctrl import policies
from mfs_ctrl.policy.policy import Policy
from mfs_eval.errors import EvaluationError
from mfs_eval.flow_level.settings import FlowSettings
from mfs_eval.setup.policies import (
    CEILING,
    EDF_EXPLICIT,
    KARUNA,
    KARUNA_PACED,
    LLF,
    STATIC_BANDS,
    STATIC_REUSE,
    WITHOUT_RED,
)
from mfs_eval.setup.run_settings import DROP_BUDGET
from mfs_eval.setup.variants import FLOOR, FLOOR_GIVING_UP, FULL, STALE_NS

PACED_SHARE = 0.9
NEAR_RLI = 4
"""The number of layers per step, so that the next step counts as near."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One row of a comparison.

    Attributes:
        name: as on the command line.
        policy: a name for :func:`~mfs_eval.setup.policies.policy_for`, or the ceiling.
        why: its purpose, in one line.
        settings: who ranks, and what they know.
        rules: the policy itself, if it is not one of the named ones.
        drop_budget: share of the requests that may be given up (:mod:`mfs_ctrl.policy.coordinator`); None switches
            pruning off.
        compute_estimate: see :class:`~mfs_eval.serving.config.ServingConfig`.
    """

    name: str
    policy: str
    why: str
    settings: FlowSettings = field(default_factory=FlowSettings)
    rules: Policy | None = None
    drop_budget: float | None = None
    compute_estimate: float = 1.0


_HOSTS = FlowSettings(switches="share", progress_delay_ns=STALE_NS, switch_delay_ns=None)
_MARKS = FlowSettings(switches="obey", progress_delay_ns=STALE_NS, switch_delay_ns=None)


def _paper(
    name: str,
    why: str,
    settings: FlowSettings = _HOSTS,
    top: float = 0.5,
    ratio: float = 4.0,
    levels: int = LEVELS,
) -> Variant:
    rules = policies.paper(top, ratio, NEAR_RLI)
    return Variant(name, "paper", why, settings, rules if levels == LEVELS else policies.folded(rules, levels))


def _mfs_at(top: float) -> Policy:
    """Return the MFS policy that promotes at a minimal link utilisation (MLU) of ``top``."""
    mlu = URGENCY_ONE + round(CODE_STEPS * math.log2(top))
    return policies.mfs(mlu=mlu, near_rli=NEAR_RLI)


def _stale(milliseconds: int, name: str = "") -> Variant:
    delay_ns = milliseconds * 1_000_000
    return Variant(
        name or f"stale-{milliseconds}ms",
        "mfs",
        f"hosts and switches rank; both learn of progress {milliseconds} ms late",
        FlowSettings(progress_delay_ns=delay_ns, switch_delay_ns=None),
    )


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant(FLOOR, "fifo", "max-min fair sharing"),
        Variant(
            FLOOR_GIVING_UP,
            "fifo",
            "max-min fair sharing that gives up late flows",
            rules=policies.giving_up(policies.fifo()),
        ),
        Variant("sjf", "sjf", "shortest remaining first, in bands"),
        Variant("edf", "edf", "all flows by deadline: the request's, or the batch's robust effective deadline"),
        Variant(EDF_EXPLICIT, EDF_EXPLICIT, "P2D flows, which have own deadlines, by EDF; the others fair below them"),
        Variant(KARUNA, KARUNA, "P2D flows wait until they need the whole link, then go first; the others by SJF"),
        Variant(
            KARUNA_PACED,
            KARUNA_PACED,
            "P2D flows first, at the least rate that meets their deadline; the others by SJF",
            FlowSettings(paced_share=PACED_SHARE),
        ),
        Variant("static", "static", "one class per stage: collectives over reuse over P2D"),
        Variant(STATIC_REUSE, STATIC_REUSE, "static, with reuse above collectives"),
        Variant(STATIC_BANDS, STATIC_BANDS, "static-reuse, with P2D in three bands of slack"),
        Variant(FULL, "mfs", "hosts and switches rank; progress and the load of each port are known at once"),
        Variant("hosts-only", "mfs", "only hosts rank; progress is known at once", FlowSettings(switches="share")),
        Variant(
            "mfs-hosts",
            "mfs",
            "only hosts rank; remote senders learn of progress late",
            _HOSTS,
        ),
        Variant(
            "mfs-marks",
            "mfs",
            "mfs-hosts, with switches that obey the level that the sender marked (DSCP)",
            _MARKS,
        ),
        _paper("paper-hosts", "MFS exactly as in the paper (U = 0.5, E = 4): only hosts rank, remote ones learn late"),
        _paper("paper-marks", "paper-hosts, with switches that obey the level that the sender marked", _MARKS),
        _paper("paper-u-1", "the paper's rules with U = 1", top=1.0),
        _paper("paper-u-0.25", "the paper's rules with U = 0.25", top=0.25),
        _paper("paper-e-2", "the paper's rules with E = 2", ratio=2.0),
        _paper("paper-e-8", "the paper's rules with E = 8", ratio=8.0),
        _paper("paper-levels-2", "the paper's rules in two queues", levels=2),
        _paper("paper-levels-4", "the paper's rules in four queues", levels=4),
        _paper("paper-load-low", "the paper's rules; load underestimated by half", replace(_HOSTS, load_error=0.5)),
        _paper("paper-load-high", "the paper's rules; load overestimated by half", replace(_HOSTS, load_error=1.5)),
        Variant("mfs-u-0.5", "mfs", "promotes at MLU 0.5", rules=_mfs_at(0.5)),
        Variant("mfs-u-0.25", "mfs", "promotes at MLU 0.25", rules=_mfs_at(0.25)),
        *(
            Variant(
                f"{policy_name}-pruning{mark}",
                policy_name,
                f"requests that cannot be in time are given up{told}",
                drop_budget=DROP_BUDGET,
                compute_estimate=estimate,
            )
            for policy_name in ("mfs", "fifo")
            for mark, told, estimate in (
                ("", "", 1.0),
                ("-compute-low", "; compute time underestimated by half", 0.5),
                ("-compute-high", "; compute time overestimated by half", 1.5),
            )
        ),
        Variant("load-low", "mfs", "load of ports underestimated by half", FlowSettings(load_error=0.5)),
        Variant("load-high", "mfs", "load of ports overestimated by half", FlowSettings(load_error=1.5)),
        Variant("switch-only", "mfs", "only switches rank", FlowSettings(hosts_rank=False)),
        _stale(STALE_NS // 1_000_000, "stale-progress"),
        _stale(2),
        _stale(5),
        _stale(80),
        Variant("without-red", WITHOUT_RED, "without the order between batches (robust effective deadline)"),
        Variant("levels-2", "mfs-2-levels", "two queues"),
        Variant("levels-4", "mfs-4-levels", "four queues"),
        Variant("llf", LLF, "clairvoyant EDF: knows what must follow each flow"),
        Variant("llf-compute-low", LLF, "llf; compute time underestimated by half", compute_estimate=0.5),
        Variant("llf-compute-high", LLF, "llf; compute time overestimated by half", compute_estimate=1.5),
        Variant(CEILING, CEILING, "each flow alone on its path: an upper bound for every schedule"),
    )
}


def variant_named(name: str) -> Variant:
    """Return the variant ``name``.

    Raises:
        EvaluationError: there is no such variant; the message lists all of them.
    """
    if name not in VARIANTS:
        raise EvaluationError(f"there is no flow-level variant {name!r}; there are {', '.join(VARIANTS)}")
    return VARIANTS[name]
