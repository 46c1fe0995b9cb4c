"""The interface between the serving model and a network, whether packets through a switch or an idealisation."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, Protocol

from host_agent.protocol.flow_spec import FlowSpec

__all__ = ["FlowSpec", "Network"]


class Network(Protocol):
    """A network of hosts with a clock. Callbacks run on the network's event loop, never within a call."""

    @property
    def now_ns(self) -> int:
        """The time in nanoseconds."""
        ...

    def call_at(self, time_ns: int, function: Callable[..., None], *args: Any) -> None:
        """Call ``function(*args)`` at ``time_ns``, which must not be in the past."""
        ...

    def start_flow(self, source_host: int, spec: FlowSpec, on_complete: Callable[[int], None]) -> None:
        """Send a flow from ``source_host``. Call ``on_complete(now_ns)`` when all its bytes have arrived."""
        ...

    def advance(self, hosts: Iterable[int], batch: int, layer: int) -> None:
        """Tell ``hosts`` that ``batch`` now computes ``layer``; the number of layers means that it is computed."""
        ...

    def prune(self, requests: Collection[int]) -> None:
        """Tell all hosts that ``requests`` and no others are given up from now on."""
        ...


class PassingNetwork:
    """Base of networks that pass calls on to another network and change some of them."""

    def __init__(self, network: Network) -> None:
        self._network = network

    @property
    def now_ns(self) -> int:
        """The time in nanoseconds."""
        return self._network.now_ns

    def call_at(self, time_ns: int, function: Callable[..., None], *args: Any) -> None:
        """Pass the call on."""
        self._network.call_at(time_ns, function, *args)

    def start_flow(self, source_host: int, spec: FlowSpec, on_complete: Callable[[int], None]) -> None:
        """Pass the call on."""
        self._network.start_flow(source_host, spec, on_complete)

    def advance(self, hosts: Iterable[int], batch: int, layer: int) -> None:
        """Pass the call on."""
        self._network.advance(hosts, batch, layer)

    def prune(self, requests: Collection[int]) -> None:
        """Pass the call on."""
        self._network.prune(requests)
