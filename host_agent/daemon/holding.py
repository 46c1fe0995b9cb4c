"""Holds flows at their source: decides in short turns which open flows may send, and tells their TCP.

:mod:`host_agent.daemon.permits` divides the budget, the ingress program lowers windows to what is granted
(``host_agent/ebpf/hold.h``), and :mod:`host_agent.daemon.kicks` tells a sender at once that its window opens or closes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from host_agent.daemon import socket_diag
from host_agent.daemon.permits import Pending, Permit, allocate, budget_bytes
from host_agent.ebpf.flows import FlowTable
from host_agent.ebpf.holds import HoldTable
from host_agent.ebpf.layout import GrantKind, Heard, grant_of
from host_agent.protocol.flow_request import Connection, FiveTuple, FlowRequest
from host_agent.protocol.level import UNTAGGED_LEVEL, LevelKey, LevelRule, decide, level_key
from host_agent.protocol.stamp import LEVELS, SCAVENGER, SLACK_MAX_US, SLACK_MIN_US, STAMP_BYTES, units_of
from host_agent.protocol.units import ETHERNET_HEADER_BYTES

TICK_S = 0.003
"""Time between turns, in seconds."""
LEASE_NS = 250_000_000
"""A grant that is not renewed ends after this time: a killed agent holds nothing for long."""
QUIET_NS = 8_000_000
"""A flow that may send and does not has no data: after this time others get what it leaves."""
_TCP_IP_BYTES = 40
_LAYERS_EVERY = 5
_UNITS_MAX = 0xFFFFFFFF
_SEQUENCES = 1 << 32
_WINDOW_MAX = 0xFFFF


class Kicks(Protocol):
    """What a :class:`~host_agent.daemon.kicks.Kicker` does."""

    kicks: int

    def kick(self, addresses: FiveTuple, heard: Heard, window: int) -> None:
        """Repeat the peer's last acknowledgement with this window field."""
        ...


class Levels:
    """Levels of flows by the policy in force; equal keys are decided once."""

    def __init__(self, bias: int) -> None:
        """Set the bias of the link (:func:`host_agent.protocol.level.bias_code`)."""
        self._bias = bias
        self._rules: Sequence[LevelRule] = ()
        self._known: dict[LevelKey, int] = {}

    def set_rules(self, rules: Sequence[LevelRule]) -> None:
        """Put a policy into force."""
        self._rules = rules
        self._known = {}

    def level(self, request: FlowRequest, sent_bytes: int, layer: int, now_ns: int) -> int:
        """Return the level of a flow that has sent this much, when its batch computes ``layer``."""
        slack_us = max(SLACK_MIN_US, min(SLACK_MAX_US, (request.deadline_ns - now_ns) // 1000))
        if request.pruned:
            slack_us = min(slack_us, 0)
        left = max(0, request.total_bytes + request.beyond_bytes - sent_bytes)
        rli = max(0, request.target_layer - layer)
        key = level_key(request.stage, rli, slack_us, min(_UNITS_MAX, units_of(left)), self._bias)
        if (level := self._known.get(key)) is None:
            level = self._known[key] = decide(self._rules, key, UNTAGGED_LEVEL)
        return level


@dataclass(slots=True)
class _Held:
    """A flow that can be held.

    ``edge`` is the sequence number up to which its sender believes that it may send, ``acknowledged`` the last
    acknowledgement that this considers.
    """

    connection: Connection
    grant: int = 0
    level: int | None = None
    edge: int | None = None
    acknowledged: int | None = None
    sent_bytes: int = 0
    moved_ns: int = 0
    repeat_ns: int = QUIET_NS
    waits: bool = False


@dataclass(slots=True)
class HoldCounts:
    """Counters of the holder: openings without a TCP connection that it knows."""

    without_scale: int = 0
    turns: int = 0


@dataclass(slots=True)
class _Turn:
    """What a turn knows of a flow."""

    held: _Held
    heard: Heard
    in_flight: int


@dataclass(frozen=True, slots=True)
class HoldOptions:
    """How flows are held.

    Attributes:
        rate_bps: rate of the link in bits per second.
        max_frame: longest frame of the link in bytes, Ethernet header and shim included.
        below: flows at this level or above are never held.
    """

    rate_bps: int
    max_frame: int
    below: int = LEVELS

    @property
    def segment_bytes(self) -> int:
        """Payload of a full segment."""
        return self.max_frame - ETHERNET_HEADER_BYTES - STAMP_BYTES - _TCP_IP_BYTES


@dataclass(slots=True)
class Holder:
    """Holds the open flows of an interface. :meth:`turn` is to be called every :data:`TICK_S` while :attr:`busy`.

    ``clock`` returns the time on CLOCK_MONOTONIC in nanoseconds; ``wake`` is called when turns are needed again.
    """

    table: FlowTable
    holds: HoldTable
    kicker: Kicks
    levels: Levels
    options: HoldOptions
    clock: Callable[[], int] = time.monotonic_ns
    wake: Callable[[], None] = lambda: None
    counts: HoldCounts = field(default_factory=HoldCounts)
    _tied: dict[int, _Held] = field(default_factory=dict)
    _active: dict[int, _Held] = field(default_factory=dict)
    _layers: dict[int, int] = field(default_factory=dict)

    def adopt(self) -> None:
        """Take over the flows that another process held."""
        known = set(self.table.handles())
        for flow, addresses, scale in self.holds.ties():
            if flow not in known:
                self.holds.untie(flow, addresses)
                continue
            # Any grant but none, and no edge: its sender is told what holds now.
            held = _Held(Connection(addresses, scale), grant=grant_of(GrantKind.WINDOW))
            self._tied[flow] = self._active[flow] = held

    @property
    def busy(self) -> bool:
        """Whether any flow needs turns."""
        return bool(self._active)

    def opened(self, flow: int) -> None:
        """Hold an open flow from now on, if it may not send yet; also one that is resumed."""
        request = self.table.request(flow)
        if flow not in self._tied:
            connection = _connection(request)
            if connection is None:
                self.counts.without_scale += 1
                return
            self.holds.tie(flow, connection.addresses, connection.window_scale)
            self._tied[flow] = _Held(connection, moved_ns=self.clock())
        self._active[flow] = self._tied[flow]
        self._layers.pop(request.batch, None)
        self.turn()
        self.wake()

    def advanced(self, batch: int) -> None:
        """Note that a batch computes another layer."""
        self._layers.pop(batch, None)

    def closed(self, flow: int) -> None:
        """Stop holding a flow that is about to end."""
        if (held := self._tied.pop(flow, None)) is None:
            return
        self._active.pop(flow, None)
        self._free(flow, held, self.holds.heard(flow))
        self.holds.untie(flow, held.connection.addresses)

    def lift(self) -> None:
        """Stop holding any flow, before the programs are removed."""
        for flow in list(self._tied):
            self.closed(flow)

    def status(self) -> dict[str, int]:
        """Return the counters for the status: flows that wait now, and totals."""
        waiting = sum(held.waits for held in self._active.values())
        return {"held": waiting, "kicks": self.kicker.kicks, "without_scale": self.counts.without_scale}

    def turn(self) -> None:
        """Decide levels, divide the budget, and tell the senders whose window changes."""
        now_ns = self.clock()
        self.counts.turns += 1
        if self.counts.turns % _LAYERS_EVERY == 0:
            # Layers may also be learned from received stamps.
            self._layers.clear()
        turns: dict[int, _Turn] = {}
        pending = []
        for flow, held in list(self._active.items()):
            flow_now = self._pending(flow, held, now_ns, turns)
            if flow_now is not None:
                pending.append(flow_now)
        segment = self.options.segment_bytes
        permits = allocate(pending, budget_bytes(self.options.rate_bps, segment, TICK_S), segment)
        for flow, permit in permits.items():
            self._apply(flow, turns[flow], permit, now_ns)

    def _pending(self, flow: int, held: _Held, now_ns: int, turns: dict[int, _Turn]) -> Pending | None:
        """Return a flow that takes part in this turn, or let it send as it likes."""
        request, heard = self.table.request(flow), self.holds.heard(flow)
        sent_bytes, following = self.holds.sent(flow)
        # Without an acknowledgement, it is unknown what it has in flight, and there is no window to change.
        if not heard.known:
            return None
        in_flight = 0 if following is None else _ahead(following, heard.acknowledged)
        unsent = max(0, request.total_bytes - sent_bytes)
        if not unsent:
            # Its tail is not counted: it may wait long in a low queue, and would block the others.
            self._free(flow, held, heard)
            del self._active[flow]
            return None
        held.level = self._ratcheted(held.level, request, sent_bytes, now_ns)
        if held.level >= self.options.below:
            self._free(flow, held, heard)
            return None
        if sent_bytes != held.sent_bytes or in_flight > 0 or held.waits:
            held.sent_bytes, held.moved_ns, held.repeat_ns = sent_bytes, now_ns, QUIET_NS
        elif now_ns - held.moved_ns >= QUIET_NS:
            # Enough to show that it has data.
            unsent = min(unsent, 2 * self.options.segment_bytes)
        turns[flow] = _Turn(held, heard, max(0, in_flight))
        destination = held.connection.addresses.destination
        return Pending(flow, destination, held.level, request.deadline_ns, max(0, in_flight), unsent)

    def _ratcheted(self, before: int | None, request: FlowRequest, sent_bytes: int, now_ns: int) -> int:
        """Return the level, which falls only to the scavenger."""
        if (layer := self._layers.get(request.batch)) is None:
            layer = self._layers[request.batch] = self.table.current_layer(request.batch) if request.batch else 0
        level = self.levels.level(request, sent_bytes, layer, now_ns)
        return level if before is None or level == SCAVENGER else max(level, before)

    def _apply(self, flow: int, turn: _Turn, permit: Permit, now_ns: int) -> None:
        held, heard, in_flight = turn.held, turn.heard, turn.in_flight
        window = permit.window
        self._follow(held, heard)
        held.waits = not window
        if permit.sustained:
            held.grant = grant_of(GrantKind.WINDOW, window)
        else:
            # Acknowledgements must not let it send more.
            held.grant = grant_of(GrantKind.UP_TO, (heard.acknowledged + window) % _SEQUENCES)
        self.holds.grant(flow, held.grant, now_ns + LEASE_NS)
        told = min(window, heard.window_bytes(held.connection.window_scale))
        edge = (heard.acknowledged + told) % _SEQUENCES
        rise = told if held.edge is None else _ahead(edge, held.edge)
        opens = rise >= self.options.segment_bytes or (rise > 0 and not in_flight)
        closes = not told and not in_flight and (held.edge is None or rise < 0)
        repeats = not held.waits and now_ns - held.moved_ns >= held.repeat_ns
        if repeats:
            # A kick may be lost; without data this one changes nothing.
            held.repeat_ns *= 2
        if opens or closes or repeats:
            self._kick(held, heard, told)
        if opens or closes or held.edge is None:
            held.edge = edge

    def _follow(self, held: _Held, heard: Heard) -> None:
        """Note up to where acknowledgements have let the sender send since the last turn."""
        if heard.acknowledged == held.acknowledged:
            return
        first = held.acknowledged is None and held.grant
        held.acknowledged = heard.acknowledged
        if first:
            return
        window = heard.window_bytes(held.connection.window_scale)
        kind, limit = GrantKind(held.grant >> 32), held.grant % _SEQUENCES
        if kind is GrantKind.WINDOW:
            window = min(window, limit)
        elif kind is GrantKind.UP_TO:
            window = min(window, max(0, _ahead(limit, heard.acknowledged)))
        held.edge = (heard.acknowledged + window) % _SEQUENCES

    def _free(self, flow: int, held: _Held, heard: Heard) -> None:
        """Let a flow send as its peer allows."""
        held.waits = False
        if not held.grant:
            return
        self._follow(held, heard)
        self.holds.grant(flow, grant_of(GrantKind.FREE), 0)
        held.grant = 0
        if not heard.known:
            return
        window = heard.window_bytes(held.connection.window_scale)
        edge = (heard.acknowledged + window) % _SEQUENCES
        if held.edge is None or _ahead(edge, held.edge) > 0:
            self._kick(held, heard, window)
        held.edge = edge

    def _kick(self, held: _Held, heard: Heard, window: int) -> None:
        scale = held.connection.window_scale
        self.kicker.kick(held.connection.addresses, heard, min(_WINDOW_MAX, -(-window >> scale)))


def _ahead(sequence: int, other: int) -> int:
    """Return by how much a sequence number is ahead of another, negative if behind."""
    return (sequence - other + _SEQUENCES // 2) % _SEQUENCES - _SEQUENCES // 2


def _connection(request: FlowRequest) -> Connection | None:
    if request.connection is not None:
        return request.connection
    match = request.match
    if match.addresses is not None and match.addresses.protocol == "tcp":
        return socket_diag.connection_at(match.addresses)
    return socket_diag.connection_of(match.cookie) if match.cookie is not None else None
