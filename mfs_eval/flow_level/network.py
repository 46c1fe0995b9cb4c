"""The flow-level network, as the serving model asks for one: flows share links as fluids, ranked by a policy's rules.

Who ranks, and what they know, is a setting: hosts order at their NICs, switches at every further link. The level of a
flow at a link is that of :func:`host_agent.protocol.level.decide` over the policy's rules, ratcheted as in hosts and
switches, and is decided anew where a flow starts, where its batch advances, and every ``rerank_interval_ns`` else.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from host_agent.protocol.level import ANY, LevelRule, bias_code, decide
from host_agent.protocol.stamp import Stage
from host_agent.protocol.units import LOAD_LIMIT, NS_PER_S, WIRE_OVERHEAD_BYTES
from mfs_eval.errors import ServingError
from mfs_eval.flow_level import allocation, ranking
from mfs_eval.flow_level.allocation import MAX_HOPS, NONE, SERVED, UNSETTLED, Ints
from mfs_eval.flow_level.fabric import Fabric
from mfs_eval.packet_level.hosts.frames import FRAME_BYTES, SEGMENT_BYTES
from mfs_eval.serving.network_interface import FlowSpec

WIRE_PACKET_BYTES = FRAME_BYTES + WIRE_OVERHEAD_BYTES
HEADER_BYTES = WIRE_PACKET_BYTES - SEGMENT_BYTES
LOAD_STEPS = 256
"""Loads are told apart in so many steps."""
LOAD_MEMORY_NS = 90_000_000
"""Loads are smoothed over about this time, as :class:`host_agent.protocol.units.LoadMeter` does."""
SWITCHES = {"share": ranking.SHARE, "obey": ranking.OBEY, "rank": ranking.RANK}
DEFAULT_LEVEL = 1
"""Of all flows at places that do not rank."""
FIRST_ROOM = 1024


@dataclass(frozen=True, slots=True)
class FlowSettings:
    """Who ranks, and what they know.

    Attributes:
        hosts_rank: hosts order their NICs' flows by the policy; else all share alike there.
        switches: at all other links flows are ranked by what switches know ("rank"), go by the level that their sender
            gave them ("obey": a mark such as DSCP), or share alike ("share").
        progress_delay_ns: after this time hosts that are not a batch's own hear of its progress.
        switch_delay_ns: after this time switches do; None: they know what the stamps of a flow's sender tell, no more.
        deep_queues: switches serve flows of a level one after the other, as queues do that hold whole flows; else their
            flows share alike.
        rerank_interval_ns: time between rankings of all flows.
        load_error: the load that urgencies are reckoned with is the true one times this.
        paced_share: None, or: last-stage flows are sent at the least rate that brings their request there after this
            share of their slack (Karuna's minimal rate; a little below 1 so that they are not late by rounding).
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
            raise ServingError("flows are ranked at intervals above 0, and news of progress takes no negative time")
        if self.switches not in SWITCHES:
            raise ServingError(f"switches do one of {', '.join(SWITCHES)}, not {self.switches!r}")
        if self.load_error < 0 or not 0 < (self.paced_share or 1) <= 1:
            raise ServingError("load_error must not be negative, and paced_share is above 0 and at most 1")


class FlowNetwork:
    """A :class:`~mfs_eval.serving.network_interface.Network` of fluids.

    Attributes:
        now_ns: the time.
        flows: flows started so far.
        rounds: times at which shares were settled.
    """

    def __init__(self, fabric: Fabric, rules: Sequence[LevelRule], settings: FlowSettings | None = None) -> None:
        self.now_ns = 0
        self.flows = 0
        self.rounds = 0
        self._fabric = fabric
        self._rules = tuple(rules)
        self._settings = settings or FlowSettings()
        self._rates_bps = np.array(fabric.rates_bps, np.float64)
        if len(self._rates_bps) == 0 or self._rates_bps.min() <= 0:
            raise ServingError("a network needs links, and their rates must be above 0")
        self._ns_per_byte = 8 * NS_PER_S / self._rates_bps
        self._state = allocation.shares(self._rates_bps / (8 * NS_PER_S), FIRST_ROOM)
        # The links of hosts' NICs have even numbers, before all links between switches.
        self._state.in_order[:] = self._settings.deep_queues
        self._state.in_order[: 2 * fabric.hosts : 2] = False
        self._marks = ranking.marks(FIRST_ROOM)
        self._room(FIRST_ROOM)
        self._free = list(range(FIRST_ROOM - 1, -1, -1))
        self._on_complete: list[Callable[[int], None]] = [_nothing] * FIRST_ROOM
        self._latency_ns = np.zeros(FIRST_ROOM, np.int64)
        self._events: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._scheduled = 0
        self._new: list[tuple[int, int, FlowSpec]] = []
        self._to_rank: list[Ints] = []
        self._rank_all = False
        self._ticking = False
        self._decided: dict[int, int] = {}
        # By batch: its row of progress, its own hosts.
        self._rows: dict[int, int] = {}
        self._own: dict[int, frozenset[int]] = {}
        self._progress = np.zeros((3, 1024), np.int64)
        self._pruned: frozenset[int] = frozenset()
        self._ranks = self._settings.hosts_rank or self._settings.switches != "share"
        self._by_progress = self._ranks and any(rule.rli != ANY for rule in rules)
        self._moving = self._ranks and any(
            (rule.late, rule.urgency, rule.slack_code, rule.remaining_code) != ((0, 1), ANY, ANY, ANY) for rule in rules
        )
        by_load = any(rule.urgency != ANY for rule in rules)
        self._loads = np.zeros(len(self._rates_bps)) if by_load else None
        self._loads_ns = 0
        self._bias_of = {
            rate: np.array([bias_code(rate, step / LOAD_STEPS) for step in range(LOAD_STEPS)])
            for rate in set(fabric.rates_bps)
        }
        self._bias = np.array([self._bias_of[rate][0] for rate in fabric.rates_bps])

    # --- the interface of the serving model ----------------------------------------------------------------------

    def call_at(self, time_ns: int, function: Callable[..., None], *args: Any) -> None:
        """Call ``function(*args)`` at ``time_ns``; calls for the same time run in the order they were asked for."""
        if time_ns < self.now_ns:
            raise ServingError(f"cannot schedule for {time_ns} ns, it is {self.now_ns} ns already")
        heapq.heappush(self._events, (time_ns, self._scheduled, function, args))
        self._scheduled += 1

    def start_flow(self, source_host: int, spec: FlowSpec, on_complete: Callable[[int], None]) -> None:
        """Send a flow; data for the very same host cross no link and are there at once."""
        self.flows += 1
        if source_host == spec.destination:
            self.call_at(self.now_ns, on_complete, self.now_ns)
            return
        if not self._free:
            self._grow()
        flow = self._free.pop()
        self._on_complete[flow] = on_complete
        self._new.append((flow, source_host, spec))

    def advance(self, hosts: Iterable[int], batch: int, layer: int) -> None:
        """``batch`` computes ``layer``: its own ``hosts`` know it now, others and switches as the settings say."""
        if not self._by_progress:
            return
        settings = self._settings
        row = self._row(batch)
        self._own.setdefault(batch, frozenset(hosts))
        knowing = {
            ranking.OWN: 0,
            ranking.OTHERS: settings.progress_delay_ns,
            ranking.SWITCHES: settings.switch_delay_ns,
        }
        at_once = [who for who, delay in knowing.items() if delay == 0]
        self._learn(at_once, row, layer)
        for who, delay in knowing.items():
            if delay:
                self.call_at(self.now_ns + delay, self._learn, [who], row, layer)

    def prune(self, requests: Collection[int]) -> None:
        """These requests, and no others, are given up: their flows count as late."""
        before, self._pruned = self._pruned, frozenset(requests)
        if before != self._pruned and self._ranks:
            active = self._active()
            requests = self._marks.request[active]
            self._marks.pruned[active] = np.isin(requests, list(self._pruned))
            self._to_rank.append(active[np.isin(requests, list(before ^ self._pruned))])

    def run(self, until_ns: int | None = None) -> None:
        """Run all events (up to and including ``until_ns``)."""
        limit = math.inf if until_ns is None else until_ns
        events = self._events
        while True:
            self._settle()
            finish = allocation.next_finish(self._state)
            finish_ns = math.ceil(finish) if finish < math.inf else math.inf
            event_ns = events[0][0] if events else math.inf
            next_ns = min(finish_ns, event_ns)
            if next_ns > limit or next_ns == math.inf:
                break
            self.now_ns = max(self.now_ns, int(next_ns))
            if finish_ns <= event_ns:
                self._finish()
            while events and events[0][0] == self.now_ns:
                _, _, function, args = heapq.heappop(events)
                function(*args)
        if until_ns is not None:
            self.now_ns = max(self.now_ns, until_ns)

    # --- what happened --------------------------------------------------------------------------------------------

    @property
    def served_links(self) -> int:
        """How many times a link's shares were made anew."""
        return int(self._state.counts[SERVED])

    @property
    def unsettled(self) -> int:
        """How many times places that disagree on levels found no common shares."""
        return int(self._state.counts[UNSETTLED])

    def level(self, flow: int, position: int) -> int:
        """The level of an active flow at the link at ``position`` of its path."""
        return int(self._state.level[flow * MAX_HOPS + position])

    # --- inside ---------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        if self._new:
            self._open()
        if self._ranks and (self._to_rank or self._rank_all):
            self._rank()
        counts = self._state.counts
        if counts[allocation.QUEUED] or counts[allocation.TOUCHED]:
            allocation.settle(self._state, float(self.now_ns))
            self.rounds += 1

    def _open(self) -> None:
        new, self._new = self._new, []
        flows = np.array([flow for flow, _, _ in new])
        sources = np.array([source for _, source, _ in new])
        # A collective's flows, a request's from several NICs: few specifications are for many flows.
        positions: dict[int, int] = {}
        distinct: list[FlowSpec] = []
        which = np.empty(len(new), np.int64)
        for index, (_, _, spec) in enumerate(new):
            position = positions.get(id(spec))
            if position is None:
                position = positions[id(spec)] = len(distinct)
                distinct.append(spec)
            which[index] = position
        fields = np.array(
            [
                (
                    spec.destination,
                    spec.stage,
                    spec.deadline_ns,
                    spec.total_bytes,
                    spec.beyond_bytes,
                    spec.target_layer,
                    spec.batch,
                    NONE if spec.request is None else spec.request,
                    self._row(spec.batch) if self._by_progress else 0,
                )
                for spec in distinct
            ]
        )[which].T
        destinations, stages, deadlines, totals, beyond, targets, batches, requests, rows = fields
        # Other requests, or batches, take other connections, and so perhaps other paths.
        whose = np.where(requests == NONE, batches, requests)
        draws = _hashed(sources, destinations, stages, targets, whose)
        paths = self._fabric.paths(sources, destinations, draws)
        wire = totals + -(-totals // SEGMENT_BYTES) * HEADER_BYTES
        # Every further link forwards a packet when it has it whole.
        ns_per_byte = np.where(paths >= 0, self._ns_per_byte[paths], 0.0)[:, 1:].sum(axis=1)
        packets = np.minimum(totals, SEGMENT_BYTES) + HEADER_BYTES
        self._latency_ns[flows] = (
            np.ceil(packets * ns_per_byte) + (paths >= 0).sum(axis=1) * self._fabric.propagation_ns
        )
        if self._ranks:
            known = self._marks
            known.stage[flows] = stages
            known.deadline_ns[flows] = deadlines
            known.beyond[flows] = beyond
            known.target[flows] = targets
            known.payload[flows] = totals / wire
            known.request[flows] = requests
            known.pruned[flows] = np.isin(requests, list(self._pruned)) if self._pruned else False
            known.batch[flows] = rows
            known.key[flows[:, None] * MAX_HOPS + np.arange(MAX_HOPS)] = NONE
            if self._by_progress and self._settings.progress_delay_ns:
                known.foreign[flows] = [
                    source not in self._own.get(spec.batch, frozenset()) if spec.stage == Stage.KV_REUSE else False
                    for _, source, spec in new
                ]
            self._to_rank.append(flows)
        allocation.add(
            self._state, flows, paths, np.full_like(paths, DEFAULT_LEVEL), wire.astype(np.float64), float(self.now_ns)
        )
        if self._moving and not self._ticking:
            self._ticking = True
            interval_ns = self._settings.rerank_interval_ns
            self.call_at((self.now_ns // interval_ns + 1) * interval_ns, self._tick)

    def _rank(self) -> None:
        settings, state, known = self._settings, self._state, self._marks
        flows = self._active() if self._rank_all else np.unique(np.concatenate(self._to_rank))
        self._rank_all = False
        self._to_rank.clear()
        count = ranking.changed_keys(
            state,
            known,
            flows,
            self.now_ns,
            self._bias,
            self._progress,
            settings.hosts_rank,
            SWITCHES[settings.switches],
            self._hops,
            self._keys,
        )
        if count:
            keys = self._keys[:count]
            distinct, inverse = np.unique(keys, return_inverse=True)
            levels = np.array([self._level_of(key) for key in distinct.tolist()])[inverse]
            ranking.apply_levels(state, known, self._hops[:count], keys, levels)
        if settings.paced_share is not None:
            ranking.pace(state, known, flows, self.now_ns, int(Stage.P2D), settings.paced_share)

    def _level_of(self, key: int) -> int:
        level = self._decided.get(key)
        if level is None:
            level = self._decided[key] = decide(self._rules, ranking.unpacked(key))
        return level

    def _tick(self) -> None:
        flows = self._active()
        if self._loads is not None:
            self._measure(flows)
        self._rank_all = True
        # Flows that start later set it again.
        self._ticking = len(flows) > 0
        if self._ticking:
            self.call_at(self.now_ns + self._settings.rerank_interval_ns, self._tick)

    def _measure(self, flows: Ints) -> None:
        assert self._loads is not None
        sample = np.empty_like(self._loads)
        ranking.early_load(self._state, self._marks, flows, sample)
        weight = 1 - math.exp(-(self.now_ns - self._loads_ns) / LOAD_MEMORY_NS)
        self._loads_ns = self.now_ns
        self._loads += weight * (sample - self._loads)
        steps = np.minimum(self._loads * self._settings.load_error, LOAD_LIMIT) * LOAD_STEPS
        for rate, biases in self._bias_of.items():
            here = self._rates_bps == rate
            self._bias[here] = biases[steps[here].astype(np.int64)]

    def _active(self) -> Ints:
        return self._state.heap[: self._state.counts[allocation.HEAP]].copy()

    def _finish(self) -> None:
        count = allocation.finished(self._state, float(self.now_ns), self._ended)
        by_latency: dict[int, list[Callable[[int], None]]] = defaultdict(list)
        ended = self._ended[:count]
        flows = ended.tolist()
        on_complete = self._on_complete
        for flow, latency_ns in zip(flows, self._latency_ns[ended].tolist(), strict=True):
            by_latency[latency_ns].append(on_complete[flow])
        self._free.extend(flows)
        for latency_ns, callbacks in by_latency.items():
            self.call_at(self.now_ns + latency_ns, self._completed, callbacks)

    def _completed(self, callbacks: Iterable[Callable[[int], None]]) -> None:
        for on_complete in callbacks:
            on_complete(self.now_ns)

    def _learn(self, who: Iterable[int], row: int, layer: int) -> None:
        for one in who:
            self._progress[one, row] = max(self._progress[one, row], layer)
        active = self._active()
        self._to_rank.append(active[self._marks.batch[active] == row])

    def _row(self, batch: int) -> int:
        row = self._rows.get(batch)
        if row is None:
            row = self._rows[batch] = len(self._rows)
            if row >= self._progress.shape[1]:
                self._progress = np.hstack([self._progress, np.zeros_like(self._progress)])
        return row

    def _grow(self) -> None:
        old = len(self._on_complete)
        room = 2 * old
        self._state = allocation.grown(self._state, room)
        self._marks = ranking.grown(self._marks, room)
        self._room(room)
        self._on_complete.extend([_nothing] * old)
        self._latency_ns = np.concatenate([self._latency_ns, np.zeros_like(self._latency_ns)])
        self._free.extend(range(room - 1, old - 1, -1))

    def _room(self, flows: int) -> None:
        self._hops = np.empty(flows * MAX_HOPS, np.int64)
        self._keys = np.empty(flows * MAX_HOPS, np.int64)
        self._ended = np.empty(flows, np.int64)


def _nothing(now_ns: int) -> None:
    """In place of a callback that nobody waits for any more."""


def _hashed(*values: Ints) -> Ints:
    """A hash of each row of ``values``, not negative: splitmix64's finalizer over them, one after the other."""
    mixed = np.zeros(len(values[0]), np.uint64)
    for value in values:
        mixed = (mixed ^ value.astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ mixed >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ mixed >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(1)).astype(np.int64)
