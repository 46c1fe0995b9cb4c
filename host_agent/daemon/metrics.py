"""The agent's metrics, computed from its status (``docs/reference/metrics.md``). Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

from host_agent.ebpf.policy import ANSWERS
from host_agent.protocol.stamp import Stage

_UNSTAMPED = {
    "too_long": "frame too long",
    "segmented": "not yet segmented",
    "failed": "no room in the frame",
    "unready": "connection older than the agent, or flow just opened",
    "no_room": "other TCP options leave no room",
    "not_tcp": "not TCP",
}
"""Reasons by the name of their counter."""


def agent_metrics(status: Mapping[str, Any], version: str) -> Iterator[Metric]:
    """Yield the metrics of an agent, given its answer to a status request."""
    interface, counters, policy = status["interface"], status["counters"], status["policy"]
    info = InfoMetricFamily("mfs_agent", "Version, carrier of stamps, and policy in force.")
    info.add_metric([], {"version": version, "carrier": status["carrier"], "policy": policy["name"] or ""})
    yield info

    def gauge(name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"mfs_agent_{name}", text, labels=["interface"])
        family.add_metric([interface], value)
        return family

    def counter(name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(f"mfs_agent_{name}", text, labels=["interface"])
        family.add_metric([interface], value)
        return family

    yield gauge("uptime_seconds", "Time since the agent started.", status["up_s"])
    yield gauge("link_bytes_per_second", "Rate of the link that the agent assumes.", status["rate_bps"] / 8)
    yield gauge(
        "controller_reachable", "Whether the controller answered the last request.", policy["controller"] == ANSWERS
    )
    yield counter("stamped_packets", "Packets that left with a stamp.", counters["stamped"])
    unstamped = CounterMetricFamily(
        "mfs_agent_unstamped_packets", "Packets of flows that left without a stamp.", labels=["interface", "reason"]
    )
    for name, reason in _UNSTAMPED.items():
        unstamped.add_metric([interface, reason], counters[name])
    yield unstamped
    received = counters["read"] if status["carrier"] == "option" else counters["removed"]
    yield counter("received_stamps", "Stamps of received packets.", received)
    yield counter("malformed_stamps", "Received stamps of an unknown version or stage.", counters["malformed"])
    yield counter("learned_progress", "Received stamps with new progress.", counters["learnt"])
    for unit in ("packets", "bytes"):
        family = CounterMetricFamily(f"mfs_agent_level_{unit}", f"Sent {unit} by level.", labels=["interface", "level"])
        for level, value in enumerate(counters[f"level_{unit}"]):
            family.add_metric([interface, str(level)], value)
        yield family
    flows = GaugeMetricFamily("mfs_agent_flows", "Open flows by stage.", labels=["interface", "stage"])
    stages = Counter(flow["stage"] for flow in status["flows"])
    for stage in Stage:
        flows.add_metric([interface, stage.name], stages[stage.name])
    yield flows
    if hold := status["hold"]:
        yield gauge("held_flows", "Flows that wait at their source.", hold["held"])
    registrations = status["registrations"]
    yield counter("registrations_sent", "Registrations of RDMA flows that were sent.", registrations["sent"])
    yield counter(
        "registrations_unresolved",
        "Registrations not sent, since the next hop is unknown.",
        registrations["unresolved"],
    )
    yield gauge("gate_waiting_messages", "Messages that the gate has not permitted yet.", status["gate"]["waiting"])
