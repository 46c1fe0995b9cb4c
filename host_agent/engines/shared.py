"""Flows on connections that several transfers share, made by a library that does not show them.

The network orders flows, and a connection is one flow: of two transfers on one connection it can put neither first.
A connection is stamped with the deadline of its most urgent transfer, and with what all its transfers have left: an
urgent transfer, with everything that is queued before it, goes ahead of other connections.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import methodcaller

from host_agent.client import OpenFlow
from host_agent.engines.flows import Announcer
from host_agent.protocol.flow_request import FlowRequest, Match
from host_agent.protocol.stamp import Stage

LOOKS_S = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64)
"""After a change, the peer's connections are looked for at once and after each of these times: they are made late."""


@dataclass(frozen=True, slots=True)
class SharedTransfer:
    """A transfer of the whole KV of a request, after its prefill.

    Attributes:
        peer: IP address of the other end.
        deadline_ns: on CLOCK_MONOTONIC.
        total_bytes: what it moves.
    """

    peer: str
    deadline_ns: int
    total_bytes: int


@dataclass(slots=True)
class _Peer:
    transfers: dict[str, SharedTransfer] = field(default_factory=dict)
    flows: dict[Match, OpenFlow] = field(default_factory=dict)
    new_bytes: int = 0
    """Of transfers that the open flows do not count yet."""
    looks: int = 0
    look_at_s: float = 0.0


class SharedConnections:
    """The flows of this process's shared connections. Thread-safe: :meth:`begin` and :meth:`end` only queue."""

    def __init__(self, announcer: Announcer) -> None:
        self._announcer = announcer
        self._events: queue.SimpleQueue[tuple[str, SharedTransfer | None] | None] = queue.SimpleQueue()
        self._peers: dict[str, _Peer] = {}
        self._peer_of: dict[str, str] = {}
        self._thread = threading.Thread(target=self._run, name="mfs-shared", daemon=True)
        self._thread.start()

    def begin(self, name: str, transfer: SharedTransfer) -> None:
        """A transfer is about to begin."""
        self._events.put((name, transfer))

    def end(self, name: str) -> None:
        """A transfer has ended; others than those that began do not matter."""
        self._events.put((name, None))

    def stop(self) -> None:
        """End all flows, and the thread."""
        self._events.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                event = self._events.get(timeout=self._pause_s())
            except queue.Empty:
                pass
            else:
                if event is None:
                    for peer in self._peers.values():
                        self._close(list(peer.flows.values()))
                    return
                self._note(*event)
            now_s = time.monotonic()
            for address in [address for address, peer in self._peers.items() if peer.look_at_s <= now_s]:
                self._look(address, self._peers[address], now_s)

    def _pause_s(self) -> float | None:
        waits = [peer.look_at_s for peer in self._peers.values()]
        return max(0.0, min(waits) - time.monotonic()) if waits and min(waits) < float("inf") else None

    def _note(self, name: str, transfer: SharedTransfer | None) -> None:
        if transfer is not None:
            peer = self._peers.setdefault(transfer.peer, _Peer())
            peer.transfers[name] = transfer
            peer.new_bytes += transfer.total_bytes
            self._peer_of[name] = transfer.peer
        elif (address := self._peer_of.pop(name, None)) is not None:
            peer = self._peers[address]
            del peer.transfers[name]
        else:
            return
        peer.looks, peer.look_at_s = 0, 0.0

    def _look(self, address: str, peer: _Peer, now_s: float) -> None:
        """Bring the flows of a peer's connections up to date."""
        if not peer.transfers:
            self._close(list(peer.flows.values()))
            del self._peers[address]
            return
        peer.look_at_s = now_s + LOOKS_S[peer.looks] if peer.looks < len(LOOKS_S) else float("inf")
        peer.looks += 1
        found = self._announcer.ask(methodcaller("connections", address))
        if not found:
            return
        self._close([peer.flows.pop(match) for match in list(peer.flows) if match not in found])
        due_ns = min(transfer.deadline_ns for transfer in peer.transfers.values())
        self._update(peer, due_ns, peer.new_bytes // len(found))
        peer.new_bytes = 0
        left = sum(transfer.total_bytes for transfer in peer.transfers.values())
        self._open(peer, [match for match in found if match not in peer.flows], due_ns, max(1, left // len(found)))

    def _update(self, peer: _Peer, due_ns: int, more_bytes: int) -> None:
        """Set the deadline of the open flows, and add to what they have left."""
        groups: dict[int, list[OpenFlow]] = {}
        for flow in peer.flows.values():
            if more_bytes or flow.request.deadline_ns != due_ns:
                groups.setdefault(flow.request.beyond_bytes + more_bytes, []).append(flow)
        for count, flows in groups.items():
            self._announcer.ask(methodcaller("update_all", flows, deadline_ns=due_ns, beyond_bytes=count))

    def _open(self, peer: _Peer, matches: Sequence[Match], due_ns: int, total_bytes: int) -> None:
        if not matches:
            return
        # The prefill is over: batch 0 and layer 0 say that nothing is computed any more.
        requests = [FlowRequest(match, 0, Stage.P2D, due_ns, total_bytes) for match in matches]
        opened = self._announcer.ask(methodcaller("open_all", requests))
        peer.flows.update(zip(matches, opened or (), strict=False))

    def _close(self, flows: Sequence[OpenFlow]) -> None:
        if flows:
            self._announcer.ask(methodcaller("close_all", flows))
