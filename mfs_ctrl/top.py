"""What ``mfs top`` shows: counters of a switch between two reads, controller and agents, as text. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from host_agent.protocol.stamp import LEVELS, Stage
from mfs_ctrl.counters import Observation
from mfs_ctrl.status_command import role

STAGES = (Stage.KV_REUSE, Stage.COLLECTIVE, Stage.P2D)
SHARES = (0.1, 0.5)
"""Quantiles of the slack that flows in time have left."""
FIXED_LINES = 12
"""Lines beside those of ports."""


def screen(
    title: str,
    seen: Observation,
    rates: Mapping[int, int],
    controller: Mapping[str, Any],
    name: str,
    agents: Mapping[str, Mapping[str, Any]],
    height: int,
) -> RenderableType:
    """Return the view: ports by level, flows by stage, thresholds, agents.

    Args:
        title: the first line.
        seen: what was counted over a time that it knows.
        rates: bits per second of each port, where the switch tells them.
        controller: its status, or ``{"error": TEXT}``.
        name: what it calls the switch that is shown.
        agents: status of each agent of this machine by the path of its socket, or an error as above.
        height: lines there are; ports that do not fit are left out, the idlest first.
    """
    parts: list[RenderableType] = [Text(title, no_wrap=True), _controller(controller, name)]
    parts += [_ports(seen, rates, max(1, height - FIXED_LINES - len(agents))), Text(), _stages(seen)]
    if seen.discarded:
        parts.append(Text("discarded: " + ", ".join(f"{reason} {count}" for reason, count in seen.discarded.items())))
    return Group(*parts, *(_agent(path, agent) for path, agent in agents.items()))


def _controller(told: Mapping[str, Any], name: str) -> Text:
    if "error" in told:
        return Text(f"controller: {told['error']}", no_wrap=True, overflow="ellipsis")
    shown = told["switches"].get(name)
    if shown is None:
        return Text("controller: of other switches", no_wrap=True, overflow="ellipsis")
    amiss = "".join(f"; wrong: {condition}" for condition in shown["conditions"])
    codes = "  ".join(f"{name} {code}" for name, code in shown["thresholds"].items()) or "none"
    lines = [
        f"controller: {role(shown)}, policy {shown['policy']}, {shown['ticks']} ticks{amiss}",
        f"thresholds: {codes}",
    ]
    others = [(other, switch) for other, switch in told["switches"].items() if other != name]
    if others:
        roles = Counter(role(switch) for _, switch in others)
        counts = ", ".join(f"{kind} of {count}" for kind, count in roles.items())
        troubled = "".join(
            f"; wrong: {other} ({', '.join(each['conditions'])})" for other, each in others if each["conditions"]
        )
        lines.append(f"of the {len(others)} others: {counts}{troubled}")
    return Text("\n".join(lines), no_wrap=True, overflow="ellipsis")


def _ports(seen: Observation, rates: Mapping[int, int], most: int) -> RenderableType:
    seconds = seen.interval_ns / 1e9
    sent: dict[int, list[int]] = {port: [0] * LEVELS for port in rates}
    for cell, count in seen.port_level.items():
        sent.setdefault(cell.port, [0] * LEVELS)[cell.level] += count.bytes
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("port", "Mb/s", "load", *(f"L{level}" for level in reversed(range(LEVELS)))):
        table.add_column(heading, justify="right", no_wrap=True, min_width=5)
    busiest = sorted(sent, key=lambda port: (-sum(sent[port]), port))[:most]
    for port in sorted(busiest):
        total = sum(sent[port])
        bits = total * 8 / seconds
        load = f"{bits / rates[port]:.0%}" if port in rates else "?"
        levels = [f"{count / total:.0%}" if count else "." for count in reversed(sent[port])]
        table.add_row(str(port), f"{bits / 1e6:,.1f}", load, *levels)
    if len(sent) <= len(busiest):
        return table
    return Group(table, Text(f"and {len(sent) - len(busiest)} ports with less"))


def _stages(seen: Observation) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("stage")
    for heading in ("flows/s", "late", *(f"{share:.0%} have less left, ms" for share in SHARES)):
        table.add_column(heading, justify="right", no_wrap=True)
    for stage in STAGES:
        late = seen.late_share(stage)
        slacks = [_slack_ms(seen.slack_code_at(share, stage)) for share in SHARES]
        flows = seen.completed(stage) * 1e9 / seen.interval_ns
        table.add_row(stage.name, f"{flows:,.1f}", "" if late is None else f"{late:.0%}", *slacks)
    return table


def _slack_ms(code: int | None) -> str:
    """Return the slack of a code, eight of which double it, in milliseconds."""
    return "" if code is None else f"{2 ** (code / 8) / 1000:,.3g}"


def _agent(path: str, told: Mapping[str, Any]) -> Text:
    if "error" in told:
        return Text(f"agent: {told['error']}", no_wrap=True, overflow="ellipsis")
    flows: Sequence[Any] = told["flows"]
    return Text(
        f"agent {told['interface']} ({path}): {len(flows)} flows open, {told['counters']['stamped']:,} packets stamped",
        no_wrap=True,
        overflow="ellipsis",
    )
