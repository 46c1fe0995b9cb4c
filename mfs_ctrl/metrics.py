"""Metrics of a controller, and of the MFS program's counters in its switch (``docs/reference/metrics.md``). Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

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


def controller_metrics(
    loops: Sequence[ControlLoop], agents: Collection[AgentIdentity], version: str
) -> Iterator[Metric]:
    """Yield the metrics of a running controller, by switch, and of the agents that it hears."""
    info = InfoMetricFamily("mfs_controller", "Version, address of the switch, and policy.", labels=["switch"])
    for loop in loops:
        policy = loop.controller.policy.name
        info.add_metric([loop.name], {"version": version, "address": loop.address, "policy": policy})
    yield info

    def gauge(name: str, text: str, value: Callable[[ControlLoop], float]) -> Metric:
        family = GaugeMetricFamily(f"mfs_controller_{name}", text, labels=["switch"])
        for loop in loops:
            family.add_metric([loop.name], value(loop))
        return family

    def counter(name: str, text: str, value: Callable[[ControlLoop], float]) -> Metric:
        family = CounterMetricFamily(f"mfs_controller_{name}", text, labels=["switch"])
        for loop in loops:
            family.add_metric([loop.name], value(loop))
        return family

    yield gauge("connected", "Whether the switch answers.", lambda loop: loop.connected)
    yield gauge(
        "primary",
        "Whether this controller writes to the switch.",
        lambda loop: loop.connected and loop.controller.primary,
    )
    yield counter("takeovers", "How often this controller became primary.", lambda loop: loop.takeovers)
    yield counter("switch_losses", "How often the switch was lost.", lambda loop: loop.losses)
    yield counter("ticks", "Ticks as primary.", lambda loop: loop.ticks)
    yield gauge("tick_duration_seconds", "What the last tick took.", lambda loop: loop.tick_s)
    yield gauge(
        "last_tick_timestamp_seconds",
        "When the last tick ended, since 1970; 0 before the first.",
        lambda loop: loop.last_tick_s,
    )
    written = CounterMetricFamily("mfs_controller_entries_written", "Updates written.", labels=["switch", "operation"])
    conditions = GaugeMetricFamily(
        "mfs_controller_condition",
        "1 while something is wrong; the log says what to do.",
        labels=["switch", "condition"],
    )
    bias = GaugeMetricFamily("mfs_controller_port_bias_code", "Bias code of each port.", labels=["switch", "port"])
    rate = GaugeMetricFamily(
        "mfs_controller_port_bytes_per_second", "Rate of each port, as assumed.", labels=["switch", "port"]
    )
    load = GaugeMetricFamily("mfs_controller_port_load_ratio", "Smoothed load of each port.", labels=["switch", "port"])
    threshold = GaugeMetricFamily(
        "mfs_controller_threshold_code",
        "Threshold of the policy, as a code (8 steps an octave).",
        labels=["switch", "threshold"],
    )
    for loop in loops:
        for operation in ("insert", "modify", "delete"):
            written.add_metric([loop.name, operation], loop.written[operation])
        for name in loop.CONDITIONS:
            conditions.add_metric([loop.name, name], name in loop.conditions)
        biases = loop.controller.biases
        for port, rate_bps in loop.controller.topology.rates.items():
            # Both may be replaced by others in between.
            if port in biases:
                bias.add_metric([loop.name, str(port)], biases[port])
            rate.add_metric([loop.name, str(port)], rate_bps / 8)
        last = loop.last
        for port, value in (last.loads if last is not None else {}).items():
            load.add_metric([loop.name, str(port)], value)
        for name, code in ((last.thresholds if last is not None else None) or {}).items():
            threshold.add_metric([loop.name, name], code)
    yield from (written, conditions, bias, rate, load, threshold)
    heard = GaugeMetricFamily("mfs_controller_agents", "Agents heard lately, by carrier.", labels=["carrier"])
    carriers = Counter(agent.carrier for agent in agents)
    for carrier in ("option", "shim"):
        heard.add_metric([carrier], carriers[carrier])
    yield heard


def switch_metrics(cells_of: Mapping[str, Cells | None]) -> Iterator[Metric]:
    """Yield the metrics of the program's counters by switch; with None, that the switch does not tell them."""
    up = GaugeMetricFamily("mfs_switch_up", "Whether the switch told its counters.", labels=["switch"])
    for switch, cells in cells_of.items():
        up.add_metric([switch], float(cells is not None))
    yield up
    told = {switch: cells for switch, cells in cells_of.items() if cells is not None}
    if not told:
        return
    for unit in ("packets", "bytes"):
        sent = CounterMetricFamily(
            f"mfs_switch_{unit}", f"{unit.capitalize()} sent.", labels=["switch", "port", "level"]
        )
        for switch, cells in told.items():
            for index, count in cells.get(PORT_LEVEL, {}).items():
                if count.packets:
                    cell = PortLevel.of(index)
                    sent.add_metric([switch, str(cell.port), str(cell.level)], getattr(count, unit))
        yield sent
    yield from _by_stage(told)
    discarded = CounterMetricFamily("mfs_switch_discarded_packets", "Packets discarded.", labels=["switch", "reason"])
    reasons = {DISCARDED: dict(enumerate(DISCARD_REASONS)), REGISTRATION: REGISTRATION_REFUSALS}
    for switch, cells in told.items():
        for name, texts in reasons.items():
            for index, reason in texts.items():
                if index in cells.get(name, {}):
                    discarded.add_metric([switch, reason], cells[name][index].packets)
    yield discarded


def _by_stage(told: Mapping[str, Cells]) -> Iterator[Metric]:
    packets = CounterMetricFamily(
        "mfs_switch_stamped_packets", "Stamped packets sent.", labels=["switch", "stage", "level"]
    )
    flows = CounterMetricFamily(
        "mfs_switch_completed_flows", "Flows whose last packet left.", labels=["switch", "stage", "level", "in_time"]
    )
    for switch, cells in told.items():
        stamped: Counter[tuple[str, int]] = Counter()
        for index, count in cells.get(LAXITY, {}).items():
            laxity = LaxityCell.of(index)
            stamped[laxity.stage.name, laxity.level] += count.packets
        for (stage, level), number in stamped.items():
            packets.add_metric([switch, stage, str(level)], number)
        completed: Counter[tuple[str, int, bool]] = Counter()
        for index, count in cells.get(COMPLETION, {}).items():
            cell = CompletionCell.of(index)
            completed[cell.stage.name, cell.level, cell.late] += count.packets
        for (stage, level, late), number in completed.items():
            flows.add_metric([switch, stage, str(level), "false" if late else "true"], number)
    yield packets
    yield flows
    for late, name, text in (
        (False, "completion_slack", "Slack that flows in time had left at their last packet."),
        (True, "completion_overdue", "Time past the deadline of late flows at their last packet."),
    ):
        histogram = HistogramMetricFamily(f"mfs_switch_{name}_seconds", text, labels=["switch", "stage"])
        for switch, cells in told.items():
            for stage_ in Stage:
                if stage_:
                    buckets = _buckets(cells.get(COMPLETION, {}), stage_, late)
                    histogram.add_metric([switch, stage_.name], buckets, None)
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
