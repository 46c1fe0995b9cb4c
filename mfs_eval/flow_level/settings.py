"""Settings of the flow-level network: who ranks flows, and what they know."""

from __future__ import annotations

from dataclasses import dataclass

from mfs_eval.errors import ServingError
from mfs_eval.flow_level import ranking

SWITCHES = {"share": ranking.SHARE, "obey": ranking.OBEY, "rank": ranking.RANK}


@dataclass(frozen=True, slots=True)
class FlowSettings:
    """Ranking of flows: by whom, and with what knowledge.

    Attributes:
        hosts_rank: whether hosts rank the flows at their NICs by the policy; otherwise flows share alike there.
        switches: what happens at all other links. "rank": flows are ranked by what the switch knows. "obey": flows keep
            the level that their sender marked (a DSCP, for instance). "share": flows share alike.
        progress_delay_ns: delay after which hosts outside a batch's unit learn its progress.
        switch_delay_ns: delay after which switches learn it; None if they know only what the stamps of a flow's sender
            carry.
        deep_queues: whether switches serve the flows of a level one after the other, like queues that hold whole flows;
            otherwise the flows share alike.
        rerank_interval_ns: time between two rankings of all flows.
        load_error: factor between the true load of links and the load that urgencies are computed with.
        paced_share: if set, a last-stage flow is sent at the least rate that delivers its request after this share of
            its slack (Karuna's minimal rate; a little below 1, so that rounding does not make it late).

    Raises:
        ServingError: a value is out of range.
    """

    hosts_rank: bool = True
    switches: str = "rank"
    progress_delay_ns: int = 0
    switch_delay_ns: int | None = 0
    deep_queues: bool = False
    rerank_interval_ns: int = 1_000_000
    load_error: float = 1.0
    paced_share: float | None = None

    def __post_init__(self) -> None:
        if self.rerank_interval_ns < 1 or min(self.progress_delay_ns, self.switch_delay_ns or 0) < 0:
            raise ServingError("rerank_interval_ns must be above 0, and delays of progress must not be negative")
        if self.switches not in SWITCHES:
            raise ServingError(f"switches must be one of {', '.join(SWITCHES)}, not {self.switches!r}")
        if self.load_error < 0 or not 0 < (self.paced_share or 1) <= 1:
            raise ServingError("load_error must not be negative, and paced_share must be above 0 and at most 1")
