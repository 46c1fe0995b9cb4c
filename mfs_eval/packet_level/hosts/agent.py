"""The agent of a simulated host: opens, ranks and stamps flows. It sends nothing itself.

``now_ns`` is the time on the caller's clock, with any origin. Deadlines are on the same clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from host_agent.protocol.flow_spec import FLOW_NUMBERS, LAYER_MAX, PROGRESS_BATCHES, FlowError, FlowSpec
from host_agent.protocol.level import LevelRule, decide, level_key, log2_code
from host_agent.protocol.stamp import SCAVENGER, Flags, Stage, clamp_slack_us, units_of
from mfs_eval.packet_level.hosts.segment_header import FIN
from mfs_eval.packet_level.hosts.send_order import NOT_WAITING
from mfs_eval.packet_level.hosts.sender import Segment, Sender
from mfs_eval.packet_level.hosts.sending_end import SendingEnd
from mfs_eval.packet_level.hosts.stamp_template import StampTemplate
from mfs_eval.packet_level.hosts.transport import DEFAULT_RTO_NS, DEFAULT_WINDOW, TransportCounters

_FIRST = int(Flags.FIRST)
_BOUNDARY = int(Flags.BOUNDARY)
_LAST = int(Flags.LAST)


class Flow:
    """One open flow, created by :meth:`Agent.open`.

    Attributes:
        number: number of the flow within its batch.
        kind: the stage as a plain integer, because enumerations are slow to hash.
        connection: number of the connection between the two hosts.
        sender: state of the transport.
        level: level of its last packet; None before the first.
        slack_us, remaining: values at the last ranking; ``remaining`` in stamp units.
        ring: the ring of the interface in which it waits.
        template: its stamps.
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

    def __init__(self, agent: Agent, spec: FlowSpec, number: int, connection: int, sender: SendingEnd) -> None:
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
        """Append a message (a layer, for instance) of ``byte_count`` bytes; the level may rise where it starts.

        Raises:
            FlowError: the flow would exceed its ``total_bytes``.
            TransportError: the flow is closed, or the message is empty.
        """
        if self.written + byte_count > self.spec.total_bytes:
            raise FlowError(
                f"{byte_count} bytes do not fit: {self.written} of {self.spec.total_bytes} are written; "
                "open the flow with the sum of its messages as total_bytes"
            )
        self.sender.write(byte_count)
        self.written += byte_count
        if self.written == self.spec.total_bytes:
            self.sender.close()
        if self._agent.on_ready is not None:
            self._agent.on_ready(self)

    def close(self) -> None:
        """End the flow before ``total_bytes`` are written. Once all are written, it ends automatically."""
        self.sender.close()
        if self._agent.on_ready is not None:
            self._agent.on_ready(self)


class Agent:
    """The flows of one host, its knowledge of batches' progress, and the policy that ranks the flows.

    Attributes:
        flows: unfinished flows, by connection.
        on_ready: called with a flow that has new data to send.
        on_progress: called with a batch when its progress becomes known.
        counters: counters of all its connections, as sender and as receiver.
        new_sender: makes the sending half of a flow; by default a
            :class:`~mfs_eval.packet_level.hosts.sender.Sender`.
        shows_progress: whether stamps carry progress. If not, they carry batch 0, whose progress nobody tracks, only
            :meth:`advance` reports progress, and switches distinguish flows by number and source.
    """

    def __init__(
        self,
        segment_bytes: int,
        window: int = DEFAULT_WINDOW,
        rto_ns: int = DEFAULT_RTO_NS,
        first_connection: int = 0,
        shows_progress: bool = True,
    ) -> None:
        """Create an agent. For the first three arguments see :class:`~mfs_eval.packet_level.hosts.sender.Sender`."""
        self.flows: dict[int, Flow] = {}
        self.on_ready: Callable[[Flow], None] | None = None
        self.on_progress: Callable[[int], None] | None = None
        self.new_sender: Callable[[FlowSpec], SendingEnd] = self._windowed
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
        # Cache of the levels decided under this policy.
        self._decided: dict[tuple[int, int, bool, int, int], int] = {}

    def set_policy(self, rules: Sequence[LevelRule]) -> None:
        """Rank flows by ``rules`` from now on."""
        self._rules = tuple(rules)
        self._decided.clear()

    def set_bias(self, bias: int) -> None:
        """Set the bandwidth of the interface, as a code (:func:`~host_agent.protocol.level.bias_code`)."""
        if bias != self._bias:
            self._bias = bias
            self._decided.clear()

    def open(self, spec: FlowSpec, number: int | None = None) -> Flow:
        """Open a flow. ``number`` should be unique among the batch's flows, those of other hosts included."""
        connection = self._next_connection
        self._next_connection += 1
        sender = self.new_sender(spec)
        flow = Flow(self, spec, (connection if number is None else number) % FLOW_NUMBERS, connection, sender)
        self.flows[connection] = flow
        return flow

    def _windowed(self, _spec: FlowSpec) -> Sender:
        return Sender(self._segment_bytes, self._window, self._rto_ns, self.counters)

    def forget(self, flow: Flow) -> None:
        """Forget ``flow``, which is done."""
        self.flows.pop(flow.connection, None)

    def prune(self, requests: Iterable[int]) -> None:
        """Give up ``requests`` and no others from now on: their flows, later ones included, are stamped as late.

        Every policy that gives up late flows then sends them at the scavenger level, here and in the switch, without a
        table entry for it. The flows of a request that is no longer given up rise where their next message starts.
        """
        self._pruned = frozenset(requests)

    def advance(self, batch: int, layer: int) -> None:
        """Note that ``batch`` computes ``layer``, from 0; the number of layers means that it is computed.

        Raises:
            FlowError: the layer does not fit a stamp.
        """
        if not 0 <= layer <= LAYER_MAX:
            raise FlowError(f"a layer must be from 0 to {LAYER_MAX}, not {layer}")
        if batch == 0 or layer <= self._progress.get(batch, -1):
            return
        if batch not in self._progress and len(self._progress) >= PROGRESS_BATCHES:
            del self._progress[next(iter(self._progress))]
        self._progress[batch] = layer
        if self.on_progress is not None:
            self.on_progress(batch)

    def learn(self, batch: int, layer: int) -> None:
        """Note that a received stamp says that ``batch`` is at ``layer``."""
        if self.shows_progress and layer > self._progress.get(batch, 0):
            self.advance(batch, layer)

    def current_layer(self, batch: int) -> int:
        """Return the highest known layer of ``batch``; 0 if the batch is unknown."""
        return self._progress.get(batch, 0)

    def level(self, flow: Flow, now_ns: int) -> int:
        """Return the level at which ``flow`` would send now, ratcheted as in the switch.

        It rises only where a message starts and falls only to the scavenger. Flows without a stage are not ratcheted.
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
        """If ``flow`` has sent everything, resend what is stranded in queues below its present rank."""
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
        """Return the policy's level, without the ratchet.

        ``rli`` is the relative layer index (RLI), which may be negative here; ``remaining`` is in stamp units.
        """
        if rli < 0:
            rli = 0
        # Everything that the rules can see, so that equal cases are decided once.
        key = (stage, rli, slack_us > 0, log2_code(abs(slack_us)), log2_code(remaining))
        level = self._decided.get(key)
        if level is None:
            level = self._decided[key] = decide(
                self._rules, level_key(Stage(stage), rli, slack_us, remaining, self._bias)
            )
        return level

    def stamp(self, flow: Flow, segment: Segment) -> bytes:
        """Return the stamp of ``segment``, which leaves now. The flow must just have been ranked by :meth:`level`."""
        layer = self._progress.get(flow.spec.batch, 0)
        return flow.template.stamp(flags_of(segment), layer, flow.slack_us, flow.remaining)


def flags_of(segment: Segment) -> int:
    """Return the flags of the stamp of ``segment``.

    A retransmission does not begin a flow or a message again, but a retransmitted last packet is still the last one, so
    a switch may count a completion twice.
    """
    flags = _LAST if segment.flags & FIN else 0
    if segment.starts_message:
        flags |= _BOUNDARY if segment.sequence else _FIRST | _BOUNDARY
    return flags
