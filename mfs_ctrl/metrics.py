"""Metrics of a controller, and of the MFS program's counters in its switch (``docs/reference/metrics.md``). Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping

from prometheus_client import Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)

from host_agent.protocol.agent_header import AgentIdentity
from host_agent.protocol.stamp import Stage
from mfs_ctrl.control_loop import ControlLoop
from mfs_ctrl.counters import (
    COMPLETION,
    DISCARD_REASONS,
    DISCARDED,
    LAXITY,
    OCTAVES,
    PORT_LEVEL,
    REGISTRATION,
    REGISTRATION_REFUSALS,
    Cells,
    CompletionCell,
    Count,
    LaxityCell,
    PortLevel,
)


def controller_metrics(loop: ControlLoop, agents: Collection[AgentIdentity], version: str) -> Iterator[Metric]:
    """Yield the metrics of a running controller and of the agents that it hears."""
    controller, last = loop.controller, loop.last
    info = InfoMetricFamily("mfs_controller", "Version, switch, and policy.")
    info.add_metric([], {"version": version, "switch": loop.address, "policy": controller.policy.name})
    yield info

    def gauge(name: str, text: str, value: float) -> Metric:
        return GaugeMetricFamily(f"mfs_controller_{name}", text, value)

    def counter(name: str, text: str, value: float) -> Metric:
        return CounterMetricFamily(f"mfs_controller_{name}", text, value)

    yield gauge("connected", "Whether the switch answers.", loop.connected)
    yield gauge("primary", "Whether this controller writes to the switch.", loop.connected and controller.primary)
    yield counter("takeovers", "How often this controller became primary.", loop.takeovers)
    yield counter("switch_losses", "How often the switch was lost.", loop.losses)
    yield counter("ticks", "Ticks as primary.", loop.ticks)
    yield gauge("tick_duration_seconds", "What the last tick took.", loop.tick_s)
    yield gauge(
        "last_tick_timestamp_seconds", "When the last tick ended, since 1970; 0 before the first.", loop.last_tick_s
    )
    written = CounterMetricFamily("mfs_controller_entries_written", "Updates written.", labels=["operation"])
    for operation in ("insert", "modify", "delete"):
        written.add_metric([operation], loop.written[operation])
    yield written
    conditions = GaugeMetricFamily(
        "mfs_controller_condition", "1 while something is wrong; the log says what to do.", labels=["condition"]
    )
    for name in loop.CONDITIONS:
        conditions.add_metric([name], name in loop.conditions)
    yield conditions
    bias = GaugeMetricFamily("mfs_controller_port_bias_code", "Bias code of each port.", labels=["port"])
    rate = GaugeMetricFamily("mfs_controller_port_bytes_per_second", "Rate of each port, as assumed.", labels=["port"])
    for port, rate_bps in controller.topology.rates.items():
        bias.add_metric([str(port)], controller.biases[port])
        rate.add_metric([str(port)], rate_bps / 8)
    yield bias
    yield rate
    load = GaugeMetricFamily("mfs_controller_port_load_ratio", "Smoothed load of each port.", labels=["port"])
    threshold = GaugeMetricFamily(
        "mfs_controller_threshold_code", "Threshold of the policy, as a code (8 steps an octave).", labels=["threshold"]
    )
    for port, value in (last.loads if last is not None else {}).items():
        load.add_metric([str(port)], value)
    for name, code in ((last.thresholds if last is not None else None) or {}).items():
        threshold.add_metric([name], code)
    yield load
    yield threshold
    heard = GaugeMetricFamily("mfs_controller_agents", "Agents heard lately, by carrier.", labels=["carrier"])
    carriers = Counter(agent.carrier for agent in agents)
    for carrier in ("option", "shim"):
        heard.add_metric([carrier], carriers[carrier])
    yield heard


def switch_metrics(cells: Cells | None) -> Iterator[Metric]:
    """Yield the metrics of the program's counters; with None, that the switch does not tell them."""
    yield GaugeMetricFamily("mfs_switch_up", "Whether the switch told its counters.", float(cells is not None))
    if cells is None:
        return
    for unit in ("packets", "bytes"):
        sent = CounterMetricFamily(f"mfs_switch_{unit}", f"{unit.capitalize()} sent.", labels=["port", "level"])
        for index, count in cells.get(PORT_LEVEL, {}).items():
            if count.packets:
                cell = PortLevel.of(index)
                sent.add_metric([str(cell.port), str(cell.level)], getattr(count, unit))
        yield sent
    yield from _by_stage(cells)
    discarded = CounterMetricFamily("mfs_switch_discarded_packets", "Packets discarded.", labels=["reason"])
    reasons = {DISCARDED: dict(enumerate(DISCARD_REASONS)), REGISTRATION: REGISTRATION_REFUSALS}
    for name, texts in reasons.items():
        for index, reason in texts.items():
            if index in cells.get(name, {}):
                discarded.add_metric([reason], cells[name][index].packets)
    yield discarded


def _by_stage(cells: Cells) -> Iterator[Metric]:
    stamped: Counter[tuple[str, int]] = Counter()
    for index, count in cells.get(LAXITY, {}).items():
        laxity = LaxityCell.of(index)
        stamped[laxity.stage.name, laxity.level] += count.packets
    packets = CounterMetricFamily("mfs_switch_stamped_packets", "Stamped packets sent.", labels=["stage", "level"])
    for (stage, level), number in stamped.items():
        packets.add_metric([stage, str(level)], number)
    yield packets
    completed: Counter[tuple[str, int, bool]] = Counter()
    for index, count in cells.get(COMPLETION, {}).items():
        cell = CompletionCell.of(index)
        completed[cell.stage.name, cell.level, cell.late] += count.packets
    flows = CounterMetricFamily(
        "mfs_switch_completed_flows", "Flows whose last packet left.", labels=["stage", "level", "in_time"]
    )
    for (stage, level, late), number in completed.items():
        flows.add_metric([stage, str(level), "false" if late else "true"], number)
    yield flows
    for late, name, text in (
        (False, "completion_slack", "Slack that flows in time had left at their last packet."),
        (True, "completion_overdue", "Time past the deadline of late flows at their last packet."),
    ):
        histogram = HistogramMetricFamily(f"mfs_switch_{name}_seconds", text, labels=["stage"])
        for stage_ in Stage:
            if stage_:
                histogram.add_metric([stage_.name], _buckets(cells.get(COMPLETION, {}), stage_, late), None)
        yield histogram


def _buckets(cells: Mapping[int, Count], stage: Stage, late: bool) -> list[tuple[str, float]]:
    """Return the cumulated buckets of a histogram: octaves of microseconds, as seconds."""
    octaves: Counter[int] = Counter()
    for index, count in cells.items():
        cell = CompletionCell.of(index)
        if cell.stage == stage and cell.late == late:
            octaves[cell.octave] += count.packets
    buckets, total = [], 0
    for octave in range(OCTAVES):
        total += octaves[octave]
        buckets.append((repr((2 << octave) / 1e6), float(total)))
    return [*buckets, ("+Inf", float(total))]
