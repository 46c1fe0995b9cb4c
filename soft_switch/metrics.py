"""Metrics of a switch on interfaces (``docs/reference/metrics.md``)."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from soft_switch.realtime.driver import Driver

_QUEUE_COUNTERS = ("enqueued", "dequeued", "dropped")


def switch_metrics(driver: Driver) -> Iterator[Metric]:
    """Yield the metrics of a running switch; counts of a busy one are half a second old at most."""
    ports = driver.switch.ports
    interfaces = driver.interfaces
    up = GaugeMetricFamily(
        "soft_switch_port_up", "Whether the interface is there and up.", labels=["port", "interface"]
    )
    rate = GaugeMetricFamily("soft_switch_port_bytes_per_second", "Rate of the port on the wire.", labels=["port"])
    for number, port in ports.items():
        up.add_metric([str(number), interfaces[number]], driver.conditions[number] == "up")
        rate.add_metric([str(number)], port.rate_bps / 8)
    yield up
    yield rate
    for unit in ("packets", "bytes"):
        sent = CounterMetricFamily(f"soft_switch_port_sent_{unit}", f"Sent {unit}.", labels=["port"])
        for number, port in ports.items():
            sent.add_metric([str(number)], port.sent_packets if unit == "packets" else port.sent_bytes)
        yield sent
        for what in _QUEUE_COUNTERS:
            family = CounterMetricFamily(
                f"soft_switch_queue_{what}_{unit}", f"{unit.capitalize()} {what} by queue.", labels=["port", "queue"]
            )
            for number, port in ports.items():
                for queue, counters in enumerate(port.counters):
                    family.add_metric([str(number), str(queue)], getattr(counters, f"{what}_{unit}"))
            yield family
    lost = CounterMetricFamily(
        "soft_switch_lost_frames", "Frames lost at the interface, by reason.", labels=["port", "reason"]
    )
    for number, reasons in driver.losses().items():
        for reason, count in reasons.items():
            lost.add_metric([str(number), reason], count)
    yield lost
    slipped = CounterMetricFamily(
        "soft_switch_slipped_seconds", "Link time lost because the process did not run in time."
    )
    slipped.add_metric([], driver.slipped_ns / 1e9)
    yield slipped
    undeliverable = CounterMetricFamily(
        "soft_switch_undeliverable_packets", "Packets to ports that do not exist, or received without a program."
    )
    undeliverable.add_metric([], driver.switch.undeliverable)
    yield undeliverable
    failed = CounterMetricFamily(
        "soft_switch_assertion_failures", "Packets for which an assertion of the program failed."
    )
    failed.add_metric([], driver.refused)
    yield failed
    running = GaugeMetricFamily("soft_switch_program_running", "Whether a program is loaded.")
    running.add_metric([], driver.switch.pipeline is not None)
    yield running
