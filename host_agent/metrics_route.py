"""``/metrics`` for Prometheus, in its text format or in OpenMetrics, by prometheus_client.

Metrics are made when they are asked for, from what a process counts anyway. The library is imported then, since the
base install does not have it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from email.message import Message
from http import HTTPStatus
from typing import TYPE_CHECKING

from host_agent.http_endpoint import Reply, Route

if TYPE_CHECKING:
    from prometheus_client import Metric

Collect = Callable[[], Iterable["Metric"]]
"""Returns the metrics of now."""
PATH = "/metrics"


def metrics_route(collect: Collect) -> Route:
    """Return the route that serves what ``collect`` returns, and the process's CPU time, memory and descriptors."""

    class Collector:
        def collect(self) -> Iterable[Metric]:
            return collect()

    def serve(headers: Message) -> Reply:
        try:
            from prometheus_client import CollectorRegistry, ProcessCollector
            from prometheus_client.exposition import choose_encoder
        except ModuleNotFoundError:
            return Reply("install it with: pip install prometheus-client\n", HTTPStatus.NOT_IMPLEMENTED)
        registry = CollectorRegistry()
        registry.register(Collector())
        ProcessCollector(registry=registry)
        encode, content_type = choose_encoder(headers.get("Accept", ""))
        return Reply(encode(registry).decode(), content_type=content_type)

    return serve
