"""A closed loop for the tuner: one contended port, packets through the compiled program, the controller over gRPC.

Bursts of early-stage flows with tight deadlines share an egress port with batches of last-stage flows that have slack.
If the last stage is promoted too late, it misses its deadlines; if at once, the early stages miss theirs.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from host_agent.protocol.flow_spec import FlowSpec
from host_agent.protocol.stamp import Stage
from host_agent.protocol.units import NS_PER_S, WIRE_OVERHEAD_BYTES
from mfs_ctrl import Policy, policies
from mfs_ctrl.controller import TickRecord
from mfs_eval.packet_level.hosts.frames import SEGMENT_BYTES
from mfs_eval.packet_level.testbed import Testbed, open_testbed_on
from mfs_eval.setup.run_settings import ControlSettings, HostSettings, RunSettings
from topologies.topology import FULL_FRAME_BYTES, tor

RECEIVER = 0
"""The host whose switch port is contended."""
SENDERS = (1, 2, 3, 4)
RATE_BPS = 2_000_000
TICK_NS = 8 * NS_PER_S
FRAME_NS = (FULL_FRAME_BYTES + WIRE_OVERHEAD_BYTES) * 8 * NS_PER_S // RATE_BPS
"""Link time of a full frame."""
RUN_SETTINGS = RunSettings(
    HostSettings(window=2, rerank_interval_ns=20_000_000), control=ControlSettings(tick_ns=TICK_NS)
)


@dataclass(frozen=True, slots=True)
class Load:
    """Traffic offered to the contended port. Times are in units of a full frame's link time, :data:`FRAME_NS`.

    Attributes:
        early_share: load by early-stage flows, as a share of the port's rate.
        last_share: load by last-stage flows.
        burst_flows: early-stage flows in a burst; senders take turns.
        early_frames: size of each.
        early_budget: range of the slack of an early-stage flow when it starts, log-uniform.
        batch_flows: last-stage flows in a batch, all of which start at once.
        last_frames: size of each.
        last_budget: range of the slack of a batch of last-stage flows when it starts, log-uniform.
    """

    early_share: float = 0.5
    last_share: float = 0.25
    burst_flows: int = 28
    early_frames: int = 4
    early_budget: tuple[float, float] = (100, 260)
    batch_flows: int = 2
    last_frames: int = 8
    last_budget: tuple[float, float] = (75, 220)


FULL = Load()
BEST_FIRST = 108
"""Q_1 at which the last stage misses a twentieth more than the early stages under :data:`FULL` as the switch counts,
or a tenth more as the receivers see it; ``docs/studies/tuner.md`` has the results of other values."""
THRESHOLD = "mlu"
"""Q_1, the tuned threshold of the MFS policy."""
EARLY_STAGES = (Stage.KV_REUSE, Stage.COLLECTIVE)
LOOP_POLICY = policies.mfs().tuned_by({THRESHOLD: {"min_completions": 24}})
"""A tick sees about 40 last-stage flows under :data:`FULL`: nearly every tick has enough evidence."""


@dataclass(slots=True)
class Tally:
    """Flows that ended within one tick by stage, and how many of them were late, as the receivers see it."""

    ended: dict[Stage, int] = field(default_factory=lambda: dict.fromkeys(Stage, 0))
    late: dict[Stage, int] = field(default_factory=lambda: dict.fromkeys(Stage, 0))

    def late_share(self, *stages: Stage) -> float:
        """Return the share of late flows among those of ``stages`` that ended; 0 if none did."""
        ended = sum(self.ended[stage] for stage in stages)
        return sum(self.late[stage] for stage in stages) / ended if ended else 0.0


@dataclass(frozen=True, slots=True)
class LoopPoint:
    """One tick: what the controller did, and the shares of late flows as the receivers saw them."""

    record: TickRecord
    last_late: float
    early_late: float

    @property
    def first(self) -> int:
        """Q_1 in force after the tick, an urgency code."""
        assert self.record.thresholds is not None
        return self.record.thresholds[THRESHOLD]


class TunerLoop:
    """A running loop, made by :func:`tuner_loop`."""

    def __init__(self, built: Testbed, seed: int) -> None:
        self._testbed = built
        self._random = random.Random(seed)
        self._clock = built.network.clock
        self._tally = Tally()
        self._batch = 0
        self._epoch = 0

    def run(self, load: Load, ticks: int) -> list[LoopPoint]:
        """Offer ``load`` for a number of ticks of the controller. Flows in flight at the end continue."""
        self._epoch += 1
        if load.early_share:
            self._arrive(self._epoch, self._burst, load, load.burst_flows * load.early_frames / load.early_share)
        if load.last_share:
            self._arrive(self._epoch, self._hand_over, load, load.batch_flows * load.last_frames / load.last_share)
        points = []
        for _ in range(ticks):
            self._tally = Tally()
            self._clock.run(self._clock.now_ns + TICK_NS)
            record = self._testbed.controllers[0].tick(self._clock.now_ns)
            assert record is not None
            tally = self._tally
            points.append(LoopPoint(record, tally.late_share(Stage.P2D), tally.late_share(*EARLY_STAGES)))
        return points

    def _arrive(self, epoch: int, start: Callable[[Load], None], load: Load, interval_frames: float) -> None:
        """Call ``start`` repeatedly, after half to one and a half intervals each time, while this load is offered."""

        def arrived() -> None:
            if epoch == self._epoch:
                start(load)
                self._arrive(epoch, start, load, interval_frames)

        self._clock.call_after(round(self._random.uniform(0.5, 1.5) * interval_frames * FRAME_NS), arrived)

    def _burst(self, load: Load) -> None:
        self._batch += 1
        for number in range(load.burst_flows):
            stage = EARLY_STAGES[number % len(EARLY_STAGES)]
            self._start(SENDERS[number % len(SENDERS)], stage, load.early_frames, self._budget(load.early_budget))

    def _hand_over(self, load: Load) -> None:
        self._batch += 1
        budget_ns = self._budget(load.last_budget)
        for number in range(load.batch_flows):
            self._start(SENDERS[number % len(SENDERS)], Stage.P2D, load.last_frames, budget_ns)

    def _budget(self, frames: tuple[float, float]) -> int:
        low, high = frames
        return round(math.exp(self._random.uniform(math.log(low), math.log(high))) * FRAME_NS)

    def _start(self, source: int, stage: Stage, frames: int, budget_ns: int) -> None:
        deadline_ns = self._clock.now_ns + budget_ns

        def ended(now_ns: int) -> None:
            self._tally.ended[stage] += 1
            self._tally.late[stage] += now_ns > deadline_ns

        spec = FlowSpec(RECEIVER, self._batch, stage, deadline_ns, frames * SEGMENT_BYTES)
        self._testbed.network.start_flow(source, spec, ended, SEGMENT_BYTES)


@contextmanager
def tuner_loop(first: int, policy: Policy = LOOP_POLICY, seed: int = 1) -> Iterator[TunerLoop]:
    """Provide the loop with Q_1 set to ``first``, an urgency code.

    Raises:
        ArtifactError, SessionError: see :func:`~mfs_eval.packet_level.testbed.open_testbed_on`.
    """
    chosen = policy.at({THRESHOLD: first})
    topology = tor(servers=1 + len(SENDERS), nics=1, rate_bps=RATE_BPS)
    with open_testbed_on((topology,), chosen, RUN_SETTINGS) as built:
        yield TunerLoop(built, seed)
