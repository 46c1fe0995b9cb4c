"""The RoCEv2 flows of a host: which registration is sent when. Frames and clock are passed in."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from host_agent.ebpf.layout import FLOWS_MAX
from host_agent.protocol.errors import RequestError
from host_agent.protocol.flow_request import FlowRequest, FlowUpdate
from host_agent.protocol.flow_spec import FLOW_NUMBERS, LAYER_MAX
from host_agent.protocol.registration import LIFETIME_US, QueuePair
from host_agent.protocol.stamp import Flags, Stamp, clamp_slack_us, units_of

RENEW_S = LIFETIME_US / 3e6
"""Time between registrations of an open flow, in seconds: two of three may be lost."""

Send = Callable[[QueuePair, Stamp, bool], None]
"""Sends the registration of a queue pair; the last argument is whether the frame travels against its packets."""


@dataclass(slots=True)
class RdmaFlow:
    """An open flow of RoCEv2.

    Attributes:
        request: the flow as opened and updated.
        done_bytes: payload whose completion the client reported.
        in_flight: payload that was permitted and is not complete.
        gated: whether the client reports messages, so that ``in_flight`` says what is on its way.
    """

    request: FlowRequest
    done_bytes: int = 0
    in_flight: int = 0
    gated: bool = False

    @property
    def pair(self) -> QueuePair:
        """The packets of the flow."""
        assert self.request.match.rdma is not None
        return self.request.match.rdma

    @property
    def left_bytes(self) -> int:
        """Payload still to be sent, with what follows the flow."""
        return max(0, self.request.total_bytes - self.done_bytes) + self.request.beyond_bytes


@dataclass(slots=True)
class _Registered:
    """A queue pair with its open flows, the one with whose deadline it is registered, and the frames' direction."""

    reverse: bool
    flows: list[int] = field(default_factory=list)
    told: int | None = None


class Registrations:
    """Open RoCEv2 flows by handle. What the switches must know is sent at once, and all of it by :meth:`renew` in time.

    Several flows may share a queue pair: it is registered with the deadline of the most urgent one, and with what all
    of them have left, because a queue pair sends in order.
    """

    def __init__(
        self, own: Callable[[], Sequence[str]], layer: Callable[[int], int], send: Send, clock: Callable[[], int]
    ) -> None:
        """Set what the class does not know itself.

        Args:
            own: returns the addresses of the interface.
            layer: returns the highest known layer of a batch.
            send: sends a registration.
            clock: returns the time on CLOCK_MONOTONIC in nanoseconds.
        """
        self._own = own
        self._layer = layer
        self._send = send
        self._clock = clock
        self._flows: dict[int, RdmaFlow] = {}
        self._pairs: dict[QueuePair, _Registered] = {}
        self._next_handle = itertools.count(FLOWS_MAX)
        self._next_number = itertools.count()

    def __contains__(self, flow: object) -> bool:
        return flow in self._flows

    def handles(self) -> list[int]:
        """Return the handles of the open flows. They differ from those of flows that the kernel stamps."""
        return list(self._flows)

    def flow(self, handle: int) -> RdmaFlow:
        """Return an open flow.

        Raises:
            RequestError: there is no such flow.
        """
        try:
            return self._flows[handle]
        except KeyError:
            raise RequestError(f"no flow {handle!r} is open") from None

    def open(self, request: FlowRequest, resume: bool = False) -> int:
        """Register a flow, and return its handle.

        With ``resume``, an open flow with the same match, batch, stage and number continues under ``request``.

        Raises:
            RequestError: neither end of the flow is this interface, or too many flows are open.
        """
        pair = request.match.rdma
        assert pair is not None
        own = self._own()
        source, destination, _ = map(str, pair.key)
        if source not in own and destination not in own:
            raise RequestError(f"{pair}: neither address is of this interface, which has {', '.join(own) or 'none'}")
        if resume:
            same = (request.match, request.batch, request.stage, request.number)
            for handle, held in self._flows.items():
                if same == (held.request.match, held.request.batch, held.request.stage, held.request.number):
                    held.request = request
                    self._tell(pair)
                    return handle
        if len(self._flows) >= FLOWS_MAX:
            raise RequestError(f"all {FLOWS_MAX} flows of RDMA are in use; close some")
        if request.number is None:
            request = replace(request, number=next(self._next_number) % FLOW_NUMBERS)
        if any(other.key == pair.key and other != pair for other in self._pairs):
            raise RequestError(f"{pair} is open with other options; open all of its flows alike")
        handle = next(self._next_handle)
        registered = self._pairs.setdefault(pair, _Registered(reverse=source not in own))
        drained = self._drained(registered)
        self._flows[handle] = RdmaFlow(request)
        registered.flows.append(handle)
        self._tell(pair, drained=drained)
        return handle

    def update(self, handle: int, update: FlowUpdate) -> None:
        """Change an open flow.

        Raises:
            RequestError: there is no such flow, or a value is invalid.
        """
        flow = self.flow(handle)
        before = flow.left_bytes
        flow.request = update.applied_to(flow.request)
        # A switch lowers what remains by itself, and takes more only of another flow.
        self._tell(flow.pair, grown=flow.left_bytes > before)

    def close(self, handle: int) -> None:
        """End a flow.

        Raises:
            RequestError: there is no such flow.
        """
        flow = self.flow(handle)
        registered = self._pairs[flow.pair]
        registered.flows.remove(handle)
        if registered.flows:
            self._tell(flow.pair)
        else:
            self._emit(flow.pair, flow, Flags.LAST)
            del self._pairs[flow.pair]
        del self._flows[handle]

    def advanced(self, batch: int) -> None:
        """Tell the switches that a batch computes another layer: one registration for each way that its flows take."""
        ways: dict[tuple[str, bool], QueuePair] = {}
        for flow in self._flows.values():
            if flow.request.batch == batch:
                reverse = self._pairs[flow.pair].reverse
                ways[flow.pair.source if reverse else flow.pair.destination, reverse] = flow.pair
        for pair in ways.values():
            self._tell(pair)

    def submitted(self, handle: int, size: int) -> None:
        """Note that a message is permitted, ``size`` bytes long."""
        flow = self.flow(handle)
        flow.gated = True
        flow.in_flight += size

    def completed(self, handle: int, size: int) -> None:
        """Note that the receiver has a message."""
        flow = self.flow(handle)
        flow.in_flight = max(0, flow.in_flight - size)
        flow.done_bytes += size
        self._tell(flow.pair)

    def renew(self) -> None:
        """Register everything again; to be called every :data:`RENEW_S` seconds."""
        for pair in self._pairs:
            self._tell(pair)

    def _drained(self, registered: _Registered) -> bool:
        """Return whether nothing of a queue pair is on its way: no flow is open, or all are gated and complete."""
        flows = [self._flows[handle] for handle in registered.flows]
        return all(flow.gated and not flow.in_flight for flow in flows)

    def _tell(self, pair: QueuePair, drained: bool | None = None, grown: bool = False) -> None:
        """Register a queue pair for its most urgent flow.

        Args:
            drained: for another flow, whether nothing of the queue pair is on its way; otherwise None.
            grown: whether more is left than was told.
        """
        registered = self._pairs[pair]
        urgent = min(registered.flows, key=self._rank)
        flags = Flags.NONE
        if urgent != registered.told:
            now_drained = self._drained(registered) if drained is None else drained
            flags = Flags.FIRST if now_drained else Flags.BOUNDARY
        elif drained is not None or grown:
            # What another flow adds to what is left.
            flags = Flags.BOUNDARY
        registered.told = urgent
        self._emit(pair, self._flows[urgent], flags)

    def _rank(self, handle: int) -> tuple[bool, int, int]:
        request = self._flows[handle].request
        return request.pruned, request.deadline_ns, handle

    def _emit(self, pair: QueuePair, flow: RdmaFlow, flags: Flags) -> None:
        request, registered = flow.request, self._pairs[pair]
        slack_us = clamp_slack_us((request.deadline_ns - self._clock()) // 1000)
        stamp = Stamp(
            request.stage,
            flags,
            batch=request.batch,
            flow=request.number or 0,
            target_layer=request.target_layer,
            current_layer=min(LAYER_MAX, self._layer(request.batch)) if request.batch else 0,
            slack_us=min(slack_us, 0) if request.pruned else slack_us,
            remaining=units_of(sum(self._flows[handle].left_bytes for handle in registered.flows)),
        )
        self._send(pair, stamp, registered.reverse)
