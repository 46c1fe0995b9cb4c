"""Stage 2: the connections over which the ranks of an engine exchange activations (gloo, NCCL over sockets).

A connection of a process group carries all its collectives, one after the other. Each step of the engine begins a new
flow on it, with the tightest deadline of the step's requests, in place of the last step's.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import methodcaller

from host_agent.client import OpenFlow
from host_agent.engines.flows import Announcer
from host_agent.protocol.flow_request import FlowRequest, Match
from host_agent.protocol.stamp import Stage


@dataclass(frozen=True, slots=True)
class CollectiveStep:
    """What a step of the engine exchanges.

    Attributes:
        deadline_ns: the tightest of the step's requests, on CLOCK_MONOTONIC.
        total_bytes: at most this much goes over a connection.
        message_bytes: of one collective.
    """

    deadline_ns: int
    total_bytes: int
    message_bytes: int


class Collectives:
    """The flows of a rank's collectives. :meth:`step` only queues, and may be called from the engine's step."""

    def __init__(
        self, announcer: Announcer, hosts: Sequence[str], more: Callable[[], Sequence[Match]] = lambda: ()
    ) -> None:
        """Find the connections, which must exist already; those made later are of others, such as KV transfers.

        Args:
            announcer: the way to the agent, which must be there.
            hosts: IP addresses of the other ranks; over memory of the same host nothing is stamped.
            more: returns connections that are known otherwise, in each step.
        """
        self._announcer = announcer
        self._more = more
        self.matches: list[Match] = []
        for host in hosts:
            self.matches += announcer.ask(methodcaller("connections", host)) or ()
        self._steps: queue.SimpleQueue[CollectiveStep | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="mfs-collectives", daemon=True)
        self._thread.start()

    def step(self, step: CollectiveStep) -> None:
        """A step begins."""
        self._steps.put(step)

    def stop(self) -> None:
        """End the flows, and the thread."""
        self._steps.put(None)
        self._thread.join()

    def _run(self) -> None:
        flows: Sequence[OpenFlow] = ()
        while (step := self._steps.get()) is not None:
            # A step that is over needs no flow.
            with contextlib.suppress(queue.Empty):
                while (newer := self._steps.get_nowait()) is not None:
                    step = newer
                self._steps.put(None)
            # Batch 0 and layer 0: it is always the current layer's collective that is under way.
            requests = [
                FlowRequest(
                    match,
                    0,
                    Stage.COLLECTIVE,
                    step.deadline_ns,
                    max(1, step.total_bytes),
                    message_bytes=step.message_bytes,
                )
                for match in dict.fromkeys([*self.matches, *self._more()])
            ]
            flows = self._announcer.ask(methodcaller("open_all", requests)) or ()
        if flows:
            self._announcer.ask(methodcaller("close_all", flows))
