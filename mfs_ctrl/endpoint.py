"""What a controller serves over HTTP: the policy for agents, its status, health, and metrics."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from email.message import Message
from typing import TYPE_CHECKING, Any

from host_agent.http_endpoint import Listen, Reply, Route, health_routes
from host_agent.metrics_route import PATH as METRICS
from host_agent.metrics_route import metrics_route
from host_agent.version import installed_version
from mfs_ctrl.agents import Agents
from mfs_ctrl.control_loop import ControlLoop
from mfs_ctrl.fabric import Fabric
from mfs_ctrl.policy_server import PATH, PolicyServer

if TYPE_CHECKING:
    from prometheus_client import Metric

_LOG = logging.getLogger(__name__)
STATUS = "/status"

READERS = 8
"""Switches whose counters are read at a time."""


@contextlib.contextmanager
def serving(listen: Listen | None) -> Iterator[PolicyServer | None]:
    """Serve the policy within the block, if ``listen`` is given.

    Raises:
        EndpointError: nothing can be served there.
    """
    if listen is None:
        yield None
        return
    with PolicyServer(listen.address, tls=listen.tls) as server:
        _LOG.info("serving the policy at %s%s", server.url, PATH)
        yield server


def show(fabric: Fabric, server: PolicyServer) -> None:
    """Make ``server`` show the status of the fabric, and give each agent the policy of its switch."""
    server.switch_of = fabric.switch_of
    server.routes.update(routes(fabric, server.agents))


def routes(fabric: Fabric, agents: Agents) -> dict[str, Route]:
    """Return the routes beside the policy's."""
    version = installed_version()

    def collect() -> Iterator[Metric]:
        from mfs_ctrl.metrics import controller_metrics, switch_metrics

        controlled = fabric.controlled
        yield from controller_metrics([one.loop for one in controlled], agents.alive(), version)
        # Side by side, so that a switch that does not answer delays the answer once.
        with ThreadPoolExecutor(READERS) as pool:
            cells = pool.map(lambda one: one.read_counters(), controlled)
            yield from switch_metrics({one.loop.name: found for one, found in zip(controlled, cells, strict=True)})

    def status(_headers: Message) -> Reply:
        return Reply(json.dumps(status_document(fabric, agents)) + "\n", content_type="application/json")

    return {STATUS: status, METRICS: metrics_route(collect), **health_routes(lambda: unready(fabric))}


def unready(fabric: Fabric) -> str:
    """Return why the controller does not do its work; empty if it is in touch with all switches, be it as backup."""
    lost = [loop for one in fabric.controlled if not (loop := one.loop).connected]
    return "\n".join(f"{loop.name}: {loop.conditions.get('switch', 'not connected yet')}" for loop in lost)


def status_document(fabric: Fabric, agents: Agents) -> dict[str, Any]:
    """Return the controller's status as JSON has it."""
    return {
        "version": installed_version(),
        "conditions": dict(fabric.conditions),
        "switches": {one.loop.name: _status(one.loop) for one in fabric.controlled},
        "agents": [asdict(agent) for agent in agents.alive()],
    }


def _status(loop: ControlLoop) -> dict[str, Any]:
    controller, last = loop.controller, loop.last
    biases = controller.biases
    return {
        "address": loop.address,
        "device_id": controller.session.device_id,
        "connected": loop.connected,
        "primary": loop.connected and controller.primary,
        "policy": controller.policy.name,
        "thresholds": dict((last.thresholds if last is not None else None) or {}),
        "ports": {
            str(port): {
                "rate_bps": rate_bps,
                # Ports may be replaced by others in between.
                "bias": biases.get(port),
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
    }
