"""The flow-level network: flows share links as fluids and are ranked by a policy's rules.

:class:`~mfs_eval.flow_level.settings.FlowSettings` says who ranks, and what they know: hosts at their NICs, switches at
every further link. The level of a flow at a link is that of :func:`host_agent.protocol.level.decide` over the policy's
rules, ratcheted as in hosts and switches. It is decided when a flow starts, when its batch advances, and every
``rerank_interval_ns``.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import numpy as np

from host_agent.protocol.flow_spec import FlowSpec
from host_agent.protocol.level import ANY, LevelRule, decide
from host_agent.protocol.stamp import Stage
from host_agent.protocol.units import NS_PER_S, WIRE_OVERHEAD_BYTES
from mfs_eval.errors import ServingError
from mfs_eval.flow_level import allocation, progress, ranking
from mfs_eval.flow_level.fabric import Fabric
from mfs_eval.flow_level.port_loads import PortLoads
from mfs_eval.flow_level.settings import SWITCHES, FlowSettings
from mfs_eval.flow_level.shares import HEAP, MAX_HOPS, NONE, QUEUED, TOUCHED, UNSETTLED, Ints, grown, shares
from mfs_eval.packet_level.hosts.frames import SEGMENT_BYTES
from soft_switch.sim.events import VirtualClock
from topologies.topology import FULL_FRAME_BYTES

WIRE_PACKET_BYTES = FULL_FRAME_BYTES + WIRE_OVERHEAD_BYTES
HEADER_BYTES = WIRE_PACKET_BYTES - SEGMENT_BYTES
DEFAULT_LEVEL = 1
"""Level of all flows at places that do not rank."""
FIRST_CAPACITY = 1024
"""Flows that the arrays hold at first; they double when they are full."""


class FlowNetwork:
    """A :class:`~mfs_eval.serving.network_interface.Network` of fluids.

    Attributes:
        now_ns: the time in nanoseconds.
        flows: number of flows started so far.
        rounds: number of times that shares were settled.

    Raises:
        ServingError: the fabric has no links, or a link without a rate.
    """

    def __init__(self, fabric: Fabric, rules: Sequence[LevelRule], settings: FlowSettings | None = None) -> None:
        self.now_ns = 0
        self.flows = 0
        self.rounds = 0
        self._fabric = fabric
        self._rules = tuple(rules)
        self._settings = settings or FlowSettings()
        rates_bps = np.array(fabric.rates_bps, np.float64)
        if len(rates_bps) == 0 or rates_bps.min() <= 0:
            raise ServingError("a network needs at least one link, and all rates must be above 0")
        self._ns_per_byte = 8 * NS_PER_S / rates_bps
        self._state = shares(rates_bps / (8 * NS_PER_S), FIRST_CAPACITY)
        # The uplinks of hosts have even numbers, below those of all links between switches.
        self._state.in_order[:] = self._settings.deep_queues
        self._state.in_order[: 2 * fabric.hosts : 2] = False
        self._marks = ranking.marks(FIRST_CAPACITY)
        self._reserve(FIRST_CAPACITY)
        self._free = list(range(FIRST_CAPACITY - 1, -1, -1))
        self._on_complete: list[Callable[[int], None]] = [_nothing] * FIRST_CAPACITY
        self._latency_ns = np.zeros(FIRST_CAPACITY, np.int64)
        self._clock = VirtualClock()
        self._new: list[tuple[int, int, FlowSpec]] = []
        self._to_rank: list[Ints] = []
        self._rank_all = False
        self._ticking = False
        self._decided: dict[int, int] = {}
        self._progress = progress.Progress()
        self._pruned: frozenset[int] = frozenset()
        self._ranks = self._settings.hosts_rank or self._settings.switches != "share"
        self._by_progress = self._ranks and any(rule.rli != ANY for rule in rules)
        self._moving = self._ranks and any(
            (rule.late, rule.urgency, rule.slack_code, rule.remaining_code) != ((0, 1), ANY, ANY, ANY) for rule in rules
        )
        self._by_load = any(rule.urgency != ANY for rule in rules)
        self._loads = PortLoads(fabric.rates_bps, self._settings.load_error)

    # --- the interface of the serving model ----------------------------------------------------------------------

    def call_at(self, time_ns: int, function: Callable[..., None], *args: Any) -> None:
        """Call ``function(*args)`` at ``time_ns``; calls for the same time run in the order of scheduling.

        Raises:
            ClockError: ``time_ns`` is in the past.
        """
        self._clock.call_at(time_ns, function, *args)

    def start_flow(self, source_host: int, spec: FlowSpec, on_complete: Callable[[int], None]) -> None:
        """Send a flow. Data for the same host cross no link and arrive at once."""
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
        """Note that ``batch`` is at ``layer``: its ``hosts`` know it now, others and switches after their delays."""
        if not self._by_progress:
            return
        settings = self._settings
        column = self._progress.column(batch)
        self._progress.set_hosts(batch, hosts)
        knowing = {
            progress.OWN: 0,
            progress.OTHERS: settings.progress_delay_ns,
            progress.SWITCHES: settings.switch_delay_ns,
        }
        at_once = [who for who, delay in knowing.items() if delay == 0]
        self._learn(at_once, column, layer)
        for who, delay in knowing.items():
            if delay:
                self.call_at(self.now_ns + delay, self._learn, [who], column, layer)

    def prune(self, requests: Collection[int]) -> None:
        """Give up ``requests`` and no others: their flows count as late."""
        before, self._pruned = self._pruned, frozenset(requests)
        if before != self._pruned and self._ranks:
            active = self._active()
            of_flows = self._marks.request[active]
            self._marks.pruned[active] = np.isin(of_flows, list(self._pruned))
            self._to_rank.append(active[np.isin(of_flows, list(before ^ self._pruned))])

    def run(self, until_ns: int | None = None) -> None:
        """Run all events (up to and including ``until_ns``)."""
        limit = math.inf if until_ns is None else until_ns
        clock = self._clock
        while True:
            self._settle()
            finish = allocation.next_finish(self._state)
            finish_ns = math.ceil(finish) if finish < math.inf else math.inf
            event_ns = math.inf if clock.next_ns is None else clock.next_ns
            next_ns = min(finish_ns, event_ns)
            if next_ns > limit or next_ns == math.inf:
                break
            self.now_ns = max(self.now_ns, int(next_ns))
            if finish_ns <= event_ns:
                self._finish()
            clock.run(self.now_ns)
        if until_ns is not None:
            self.now_ns = max(self.now_ns, until_ns)
            clock.run(self.now_ns)

    # --- results --------------------------------------------------------------------------------------------------

    @property
    def unsettled(self) -> int:
        """Number of times that places that disagree on levels found no consistent shares."""
        return int(self._state.counts[UNSETTLED])

    def level(self, flow: int, position: int) -> int:
        """Return the level of an active flow at the link at ``position`` of its path."""
        return int(self._state.level[flow * MAX_HOPS + position])

    # --- internals ------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        if self._new:
            self._open()
        if self._ranks and (self._to_rank or self._rank_all):
            self._rank()
        counts = self._state.counts
        if counts[QUEUED] or counts[TOUCHED]:
            allocation.settle(self._state, float(self.now_ns))
            self.rounds += 1

    def _open(self) -> None:
        new, self._new = self._new, []
        flows = np.array([flow for flow, _, _ in new])
        sources = np.array([source for _, source, _ in new])
        # Many flows share few specifications: those of a collective, or of a request that several NICs send.
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
                    self._progress.column(spec.batch) if self._by_progress else 0,
                )
                for spec in distinct
            ]
        )[which].T
        destinations, stages, deadlines, totals, beyond, targets, batches, requests, columns = fields
        # Different requests or batches use different connections, and so perhaps different paths.
        whose = np.where(requests == NONE, batches, requests)
        draws = _hashed(sources, destinations, stages, targets, whose)
        paths = self._fabric.paths(sources, destinations, draws)
        wire = totals + -(-totals // SEGMENT_BYTES) * HEADER_BYTES
        # Every further link stores and forwards.
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
            known.batch[flows] = columns
            known.key[flows[:, None] * MAX_HOPS + np.arange(MAX_HOPS)] = NONE
            if self._by_progress and self._settings.progress_delay_ns:
                known.foreign[flows] = [
                    spec.stage == Stage.KV_REUSE and not self._progress.is_own(source, spec.batch)
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
            self._loads.bias,
            self._progress.layers,
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
        if self._by_load:
            self._loads.measure(self._state, self._marks, flows, self.now_ns)
        self._rank_all = True
        # Flows that start later restart it.
        self._ticking = len(flows) > 0
        if self._ticking:
            self.call_at(self.now_ns + self._settings.rerank_interval_ns, self._tick)

    def _active(self) -> Ints:
        return self._state.heap[: self._state.counts[HEAP]].copy()

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

    def _learn(self, who: Iterable[int], column: int, layer: int) -> None:
        self._progress.learn(who, column, layer)
        active = self._active()
        self._to_rank.append(active[self._marks.batch[active] == column])

    def _grow(self) -> None:
        old = len(self._on_complete)
        capacity = 2 * old
        self._state = grown(self._state, capacity)
        self._marks = ranking.grown(self._marks, capacity)
        self._reserve(capacity)
        self._on_complete.extend([_nothing] * old)
        self._latency_ns = np.concatenate([self._latency_ns, np.zeros_like(self._latency_ns)])
        self._free.extend(range(capacity - 1, old - 1, -1))

    def _reserve(self, flows: int) -> None:
        self._hops = np.empty(flows * MAX_HOPS, np.int64)
        self._keys = np.empty(flows * MAX_HOPS, np.int64)
        self._ended = np.empty(flows, np.int64)


def _nothing(now_ns: int) -> None:
    """Placeholder for the callback of a flow that does not exist."""


def _hashed(*values: Ints) -> Ints:
    """Return a non-negative hash per row of ``values``: the finalizer of splitmix64, value after value."""
    mixed = np.zeros(len(values[0]), np.uint64)
    for value in values:
        mixed = (mixed ^ value.astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ mixed >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ mixed >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(1)).astype(np.int64)
