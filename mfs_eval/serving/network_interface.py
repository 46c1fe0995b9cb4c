"""What the serving model asks of a network, be it packets through a switch or an idealisation."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, Protocol

from host_agent.protocol.flow_spec import FlowSpec

__all__ = ["FlowSpec", "Network"]


class Network(Protocol):
    """A network of hosts with a clock. All callbacks run on the network's own event loop, never within the call."""

    @property
    def now_ns(self) -> int:
        """The time, nanoseconds."""
        ...

    def call_at(self, time_ns: int, function: Callable[..., None], *args: Any) -> None:
        """Call ``function(*args)`` at ``time_ns``, not before now."""
        ...

    def start_flow(self, source_host: int, spec: FlowSpec, on_complete: Callable[[int], None]) -> None:
        """Send a flow from ``source_host``; call ``on_complete(now_ns)`` when all its bytes are at its destination."""
        ...

    def advance(self, hosts: Iterable[int], batch: int, layer: int) -> None:
        """Tell the agents of ``hosts`` that ``batch`` now computes ``layer``; the number of layers says it is over."""
        ...

    def prune(self, requests: Collection[int]) -> None:
        """Tell all agents that ``requests``, and no others, are given up from now on."""
        ...


class PassingNetwork:
    """A network that passes all on to another one; what changes something on the way derives from it."""

    def __init__(self, network: Network) -> None:
        self._network = network

    @property
    def now_ns(self) -> int:
        """The time, nanoseconds."""
        return self._network.now_ns

    def call_at(self, time_ns: int, function: Callable[..., None], *args: Any) -> None:
        """As the network does."""
        self._network.call_at(time_ns, function, *args)

    def start_flow(self, source_host: int, spec: FlowSpec, on_complete: Callable[[int], None]) -> None:
        """As the network does."""
        self._network.start_flow(source_host, spec, on_complete)

    def advance(self, hosts: Iterable[int], batch: int, layer: int) -> None:
        """As the network does."""
        self._network.advance(hosts, batch, layer)

    def prune(self, requests: Collection[int]) -> None:
        """As the network does."""
        self._network.prune(requests)
