"""The flows of a simulated host: opened, written, advanced and closed. It ranks and stamps them; it sends nothing.

``now_ns`` is the caller's clock, of any origin; deadlines are on the same clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from host_agent.protocol.flow_spec import FLOW_NUMBERS, LAYER_MAX, PROGRESS_BATCHES, FlowError, FlowSpec
from host_agent.protocol.level import LevelRule, decide, level_key, log2_code
from host_agent.protocol.stamp import SCAVENGER, Flags, Stage, clamp_slack_us, units_of
from mfs_eval.packet_level.hosts.segment_header import FIN
from mfs_eval.packet_level.hosts.send_order import NOT_WAITING
from mfs_eval.packet_level.hosts.stamp_template import StampTemplate
from mfs_eval.packet_level.hosts.transport import (
    DEFAULT_RTO_NS,
    DEFAULT_WINDOW,
    Segment,
    Sender,
    TransportCounters,
)

_FIRST = int(Flags.FIRST)
_BOUNDARY = int(Flags.BOUNDARY)
_LAST = int(Flags.LAST)


class Flow:
    """One open flow. Made by :meth:`Agent.open`.

    Attributes:
        number: of the flow within its batch.
        kind: the stage as a plain integer, since an enumeration is slow to hash.
        connection: identifies it between the two hosts.
        sender: the transport's state.
        level: at which its last packet left; None before the first.
        slack_us, remaining: as they were when it was ranked last; ``remaining`` in stamp units.
        ring: where it waits in the interface's order.
        written: bytes written so far.
    """

    __slots__ = (
        "_agent",
        "connection",
        "kind",
        "level",
        "number",
        "remaining",
        "ring",
        "sender",
        "slack_us",
        "spec",
        "template",
        "written",
    )

    def __init__(self, agent: Agent, spec: FlowSpec, number: int, connection: int, sender: Sender) -> None:
        self._agent = agent
        self.spec = spec
        self.kind = int(spec.stage)
        self.number = number
        self.connection = connection
        self.sender = sender
        batch = spec.batch if agent.shows_progress else 0
        self.template = StampTemplate(spec.stage, batch, number, spec.target_layer)
        self.level: int | None = None
        self.slack_us = 0
        self.remaining = 0
        self.ring = NOT_WAITING
        self.written = 0

    def write(self, byte_count: int) -> None:
        """Hand over a message (a layer, for instance) of ``byte_count`` bytes: where it starts, the level may rise.

        Raises:
            FlowError: more than ``total_bytes`` in all.
            TransportError: closed, or no bytes.
        """
        if self.written + byte_count > self.spec.total_bytes:
            raise FlowError(
                f"{byte_count} bytes do not fit: {self.written} of {self.spec.total_bytes} are written; "
                "open the flow with the sum of its messages"
            )
        self.sender.write(byte_count)
        self.written += byte_count
        if self.written == self.spec.total_bytes:
            self.sender.close()
        if self._agent.on_ready is not None:
            self._agent.on_ready(self)

    def close(self) -> None:
        """End the flow although less than ``total_bytes`` is written. With all of them it ends by itself."""
        self.sender.close()
        if self._agent.on_ready is not None:
            self._agent.on_ready(self)


class Agent:
    """The flows of one host, what it knows of batches' progress, and the policy that ranks them.

    Attributes:
        flows: those not yet done, by connection.
        on_ready: called with a flow that has got something to send.
        on_progress: called with a batch that is known to have advanced.
        counters: of all its connections, also where it receives.
        shows_progress: whether stamps carry progress. Without, they show batch 0, of which nobody keeps any, and only
            :meth:`advance` teaches it; what tells flows apart in a switch is then their number and source.
    """

    def __init__(
        self,
        segment_bytes: int,
        window: int = DEFAULT_WINDOW,
        rto_ns: int = DEFAULT_RTO_NS,
        first_connection: int = 0,
        shows_progress: bool = True,
    ) -> None:
        """``segment_bytes``, ``window`` and ``rto_ns`` as in :class:`~mfs_eval.packet_level.hosts.transport.Sender`."""
        self.flows: dict[int, Flow] = {}
        self.on_ready: Callable[[Flow], None] | None = None
        self.on_progress: Callable[[int], None] | None = None
        self.shows_progress = shows_progress
        self.counters = TransportCounters()
        self._segment_bytes = segment_bytes
        self._window = window
        self._rto_ns = rto_ns
        self._next_connection = first_connection
        self._progress: dict[int, int] = {}
        self._pruned: frozenset[int] = frozenset()
        self._rules: Sequence[LevelRule] = ()
        self._bias = 0
        # Levels already decided under this policy.
        self._decided: dict[tuple[int, int, bool, int, int], int] = {}

    def set_policy(self, rules: Sequence[LevelRule]) -> None:
        """Rank by ``rules`` from now on."""
        self._rules = tuple(rules)
        self._decided.clear()

    def set_bias(self, bias: int) -> None:
        """The bandwidth of the interface, as a code (:func:`~host_agent.protocol.level.bias_code`)."""
        if bias != self._bias:
            self._bias = bias
            self._decided.clear()

    def open(self, spec: FlowSpec, number: int | None = None) -> Flow:
        """Open a flow. ``number`` should be unlike that of the batch's other flows, also those of other hosts."""
        connection = self._next_connection
        self._next_connection += 1
        sender = Sender(self._segment_bytes, self._window, self._rto_ns, self.counters)
        flow = Flow(self, spec, (connection if number is None else number) % FLOW_NUMBERS, connection, sender)
        self.flows[connection] = flow
        return flow

    def forget(self, flow: Flow) -> None:
        """``flow`` is done."""
        self.flows.pop(flow.connection, None)

    def prune(self, requests: Iterable[int]) -> None:
        """``requests``, and no others, are given up from now on: their flows, also later ones, are stamped as late.

        So every policy that gives up late flows sends them at the scavenger level, here and in the switch, without a
        table entry for it. A request that is not among them any more rises again where its next message starts.
        """
        self._pruned = frozenset(requests)

    def advance(self, batch: int, layer: int) -> None:
        """``batch`` now computes ``layer`` (0 is the first); of stage 3's view, the number of layers when it is over.

        Raises:
            FlowError: no such layer fits a stamp.
        """
        if not 0 <= layer <= LAYER_MAX:
            raise FlowError(f"layer {layer} is not in 0..{LAYER_MAX}")
        if batch == 0 or layer <= self._progress.get(batch, -1):
            return
        if batch not in self._progress and len(self._progress) >= PROGRESS_BATCHES:
            del self._progress[next(iter(self._progress))]
        self._progress[batch] = layer
        if self.on_progress is not None:
            self.on_progress(batch)

    def learn(self, batch: int, layer: int) -> None:
        """A stamp of ``batch`` came in that says ``layer``."""
        if self.shows_progress and layer > self._progress.get(batch, 0):
            self.advance(batch, layer)

    def current_layer(self, batch: int) -> int:
        """The highest layer of ``batch`` that this agent has heard of; 0 for one it does not know."""
        return self._progress.get(batch, 0)

    def level(self, flow: Flow, now_ns: int) -> int:
        """The level at which ``flow`` would send now, ratcheted as in the switch.

        It rises where a message starts, and falls to the scavenger only; flows of no stage are not held.
        """
        spec = flow.spec
        sender = flow.sender
        flow.slack_us = slack_us = self._slack_us(spec, now_ns)
        flow.remaining = remaining = units_of(spec.total_bytes - flow.written + sender.unsent_bytes + spec.beyond_bytes)
        rli = spec.target_layer - self._progress.get(spec.batch, 0)
        decided = self.decide(flow.kind, rli, slack_us, remaining)
        held = flow.level
        if held is None or decided == held or not flow.kind:
            return decided
        if decided > held:
            return decided if sender.at_boundary else held
        return decided if decided == SCAVENGER else held

    def rescue(self, flow: Flow, now_ns: int) -> None:
        """If ``flow`` has sent all, send again what is stranded in queues lower than it ranks now."""
        sender = flow.sender
        if flow.level is None or not sender.waits_only:
            return
        spec = flow.spec
        rli = spec.target_layer - self._progress.get(spec.batch, 0)
        slack_us = self._slack_us(spec, now_ns)
        level = self.decide(flow.kind, rli, slack_us, units_of(sender.in_flight_bytes + spec.beyond_bytes))
        if level != SCAVENGER:
            sender.rescue(now_ns, max(level, flow.level))

    def _slack_us(self, spec: FlowSpec, now_ns: int) -> int:
        slack_us = clamp_slack_us((spec.deadline_ns - now_ns) // 1000)
        return min(slack_us, 0) if spec.request in self._pruned else slack_us

    def decide(self, stage: int, rli: int, slack_us: int, remaining: int) -> int:
        """The policy's level, without the ratchet. ``rli`` may be negative, ``remaining`` is in stamp units."""
        if rli < 0:
            rli = 0
        # All that the rules can see of it, so that equal ones are decided once.
        key = (stage, rli, slack_us > 0, log2_code(abs(slack_us)), log2_code(remaining))
        level = self._decided.get(key)
        if level is None:
            level = self._decided[key] = decide(
                self._rules, level_key(Stage(stage), rli, slack_us, remaining, self._bias)
            )
        return level

    def stamp(self, flow: Flow, segment: Segment) -> bytes:
        """The stamp of ``segment``, which leaves now; the flow was ranked (:meth:`level`) just before it was taken."""
        layer = self._progress.get(flow.spec.batch, 0)
        return flow.template.stamp(flags_of(segment), layer, flow.slack_us, flow.remaining)


def flags_of(segment: Segment) -> int:
    """The stamp's flags.

    A retransmission begins neither a flow nor a message again, but the last packet stays the last when it is sent
    again: a switch may count its completion twice.
    """
    flags = _LAST if segment.flags & FIN else 0
    if segment.starts_message:
        flags |= _BOUNDARY if segment.sequence else _FIRST | _BOUNDARY
    return flags
