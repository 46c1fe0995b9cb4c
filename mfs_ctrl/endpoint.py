"""What a controller serves over HTTP: the policy for agents, its status, health, and metrics."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from email.message import Message
from typing import TYPE_CHECKING, Any

from host_agent.http_endpoint import Reply, Route, ServerTls, health_routes
from host_agent.metrics_route import PATH as METRICS
from host_agent.metrics_route import metrics_route
from host_agent.version import installed_version
from mfs_ctrl.agents import Agents
from mfs_ctrl.control_loop import ControlLoop
from mfs_ctrl.counters import Cells
from mfs_ctrl.policy_server import PATH, PolicyServer

if TYPE_CHECKING:
    from prometheus_client import Metric

_LOG = logging.getLogger(__name__)
STATUS = "/status"

ReadCounters = Callable[[], Cells | None]
"""Returns the switch's counters that are exported; None if it does not tell them."""


@dataclass(frozen=True, slots=True)
class Listen:
    """Where a controller serves HTTP: HOST:PORT, or PORT alone for the loopback interface; without ``tls`` in plain."""

    address: str
    tls: ServerTls | None = None


@contextlib.contextmanager
def serving(listen: Listen | None, loop: ControlLoop, read_counters: ReadCounters) -> Iterator[None]:
    """Serve within the block, if ``listen`` is given, and make the loop tell its policy and know its agents.

    Raises:
        EndpointError: nothing can be served there.
    """
    if listen is None:
        yield
        return
    with PolicyServer(listen.address, tls=listen.tls) as server:
        server.routes.update(routes(loop, server.agents, read_counters))
        loop.controller.on_policy = server.publish
        loop.agents = server.agents
        _LOG.info("serving the policy at %s%s", server.url, PATH)
        yield


def routes(loop: ControlLoop, agents: Agents, read_counters: ReadCounters) -> dict[str, Route]:
    """Return the routes beside the policy's."""
    version = installed_version()

    def collect() -> Iterator[Metric]:
        from mfs_ctrl.metrics import controller_metrics, switch_metrics

        yield from controller_metrics(loop, agents.alive(), version)
        yield from switch_metrics(read_counters())

    def status(_headers: Message) -> Reply:
        return Reply(json.dumps(status_document(loop, agents)) + "\n", content_type="application/json")

    return {STATUS: status, METRICS: metrics_route(collect), **health_routes(lambda: unready(loop))}


def unready(loop: ControlLoop) -> str:
    """Return why the controller does not do its work; empty if it is in touch with the switch, be it as backup."""
    return "" if loop.connected else loop.conditions.get("switch", "not connected to the switch yet")


def status_document(loop: ControlLoop, agents: Agents) -> dict[str, Any]:
    """Return the controller's status as JSON has it."""
    controller, last = loop.controller, loop.last
    return {
        "version": installed_version(),
        "switch": loop.address,
        "connected": loop.connected,
        "primary": loop.connected and controller.primary,
        "policy": controller.policy.name,
        "thresholds": dict((last.thresholds if last is not None else None) or {}),
        "ports": {
            str(port): {
                "rate_bps": rate_bps,
                "bias": controller.biases[port],
                "load": None if last is None else last.loads.get(port),
            }
            for port, rate_bps in controller.topology.rates.items()
        },
        "ticks": loop.ticks,
        "tick_s": loop.tick_s,
        "last_tick_s": loop.last_tick_s,
        "written": dict(loop.written),
        "discards": dict(loop.discards),
        "conditions": dict(loop.conditions),
        "agents": [asdict(agent) for agent in agents.alive()],
    }
