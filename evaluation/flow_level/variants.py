"""What the flow-level engine compares, as data: a policy's rules, who follows them, and what they know.

Names that :mod:`evaluation.variants` has too mean the same there.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from evaluation.errors import EvaluationError
from evaluation.flow_level.network import FlowSettings
from evaluation.policies import CEILING, EDF_EXPLICIT, KARUNA, KARUNA_PACED, LLF, STATIC_REUSE, WITHOUT_RED
from evaluation.variants import FLOOR, FULL, STALE_NS
from mfs_ctrl import policy
from mfs_ctrl.policy import Policy

PACED_SHARE = 0.9
NEAR_RLI = 4
"""As many layers as a step has, so that the next step is near."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One row of a comparison.

    Attributes:
        name: as on the command line.
        policy: as in :func:`~evaluation.policies.policy_for`, or the ceiling.
        why: what it stands for, in one line.
        settings: who ranks, and what they know.
        rules: the policy itself, where it is none that has a name.
    """

    name: str
    policy: str
    why: str
    settings: FlowSettings = field(default_factory=FlowSettings)
    rules: Policy | None = None


_HOSTS = FlowSettings(switches="share", progress_delay_ns=STALE_NS, switch_delay_ns=None)
_MARKS = FlowSettings(switches="obey", progress_delay_ns=STALE_NS, switch_delay_ns=None)


def _paper(name: str, why: str, settings: FlowSettings = _HOSTS, top: float = 0.5, ratio: float = 4.0) -> Variant:
    return Variant(name, "paper", why, settings, policy.paper(top, ratio, NEAR_RLI))


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant(FLOOR, "fifo", "max-min fair sharing"),
        Variant("sjf", "sjf", "shortest remaining first, in bands"),
        Variant("edf", "edf", "all flows by deadline: the request's, or the batch's RED"),
        Variant(EDF_EXPLICIT, EDF_EXPLICIT, "P2D, which has deadlines of its own, by EDF; the others fair below it"),
        Variant(KARUNA, KARUNA, "P2D waits until it needs the whole link, then goes first; the others by SJF"),
        Variant(
            KARUNA_PACED,
            KARUNA_PACED,
            "P2D first, at the least rate that meets its deadline; the others by SJF",
            FlowSettings(paced_share=PACED_SHARE),
        ),
        Variant("static", "static", "one class a stage: collectives over reuse over P2D"),
        Variant(STATIC_REUSE, STATIC_REUSE, "the same with reuse above collectives"),
        Variant(FULL, "mfs", "hosts and switches rank, progress and each port's load known at once"),
        Variant("hosts-only", "mfs", "hosts alone rank; progress known at once", FlowSettings(switches="share")),
        Variant(
            "mfs-hosts",
            "mfs",
            "hosts alone rank; remote senders hear of progress late",
            _HOSTS,
        ),
        Variant(
            "mfs-marks",
            "mfs",
            "the same, and switches go by the level that the sender marked (DSCP)",
            _MARKS,
        ),
        _paper("paper-hosts", "MFS by the letter of the paper (U = 0.5, E = 4): hosts alone, remote ones hear late"),
        _paper("paper-marks", "the same, and switches go by the level that the sender marked", _MARKS),
        _paper("paper-u-1", "the paper's rules with U = 1", top=1.0),
        _paper("paper-u-0.25", "the paper's rules with U = 0.25", top=0.25),
        _paper("paper-e-2", "the paper's rules with E = 2", ratio=2.0),
        _paper("paper-e-8", "the paper's rules with E = 8", ratio=8.0),
        Variant("load-low", "mfs", "load of ports taken for half of what it is", FlowSettings(load_error=0.5)),
        Variant(
            "load-high", "mfs", "load of ports taken for one and a half times what it is", FlowSettings(load_error=1.5)
        ),
        Variant("switch-only", "mfs", "switches alone rank", FlowSettings(hosts_rank=False)),
        Variant(
            "stale-progress",
            "mfs",
            "hosts and switches rank, both hear of progress late",
            FlowSettings(progress_delay_ns=STALE_NS, switch_delay_ns=None),
        ),
        Variant("without-red", WITHOUT_RED, "without the order between batches"),
        Variant("levels-2", "mfs-2-levels", "two queues"),
        Variant("levels-4", "mfs-4-levels", "four queues"),
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
        raise EvaluationError(f"there is no flow-level variant {name!r}; there are {', '.join(VARIANTS)}")
    return VARIANTS[name]
