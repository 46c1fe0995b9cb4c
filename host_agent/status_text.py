"""The agent's status as plain text; the base install has no library for tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_FLOW_COLUMNS = ("flow", "stage", "batch", "number", "slack ms", "layer", "sent", "of", "level", "owner", "match")
_WORDS = {
    "stamped": "packets stamped",
    "shared": "of these, segmented after stamping",
    "too_long": "not stamped: frame too long",
    "segmented": "not stamped: not yet segmented",
    "failed": "not stamped: the kernel made no room",
    "removed": "stamps removed",
    "malformed": "malformed stamps received",
    "learnt": "received stamps with new progress",
}
_OPTION_WORDS = {
    "stamped": "packets stamped",
    "shared": "of these, segmented after stamping",
    "unready": "not stamped: connection older than the agent, or flow just opened",
    "no_room": "not stamped: other TCP options leave no room",
    "not_tcp": "not stamped: not TCP",
    "read": "stamps received",
    "malformed": "malformed stamps received",
    "learnt": "received stamps with new progress",
}
_HOLD_WORDS = {
    "held": "flows held now",
    "kicks": "windows opened or closed at once",
    "without_scale": "flows not held: no TCP connection known",
}

_CARRIERS = {"option": (_OPTION_WORDS, "a TCP option"), "shim": (_WORDS, "a shim")}
_REGISTRATION_WORDS = {
    "sent": "registrations of RDMA flows sent",
    "unresolved": "registrations not sent: next hop unknown",
}


def describe(status: Mapping[str, Any]) -> str:
    """Describe the answer to a status request in several lines."""
    policy, counters = status["policy"], status["counters"]
    origin = f"from {policy['from'] or 'nowhere'}; controller: {policy['controller']}"
    shown, carrier = _CARRIERS[status["carrier"]]
    lines = [
        f"{status['interface']}: {status['rate_bps'] / 1e9:g} Gb/s, agent {status['pid']}, up {status['up_s']:.0f} s",
        f"policy {policy['name'] or 'none yet'}, {origin}",
        f"stamps travel in {carrier}",
        "",
        *(f"{counters[name]:>14}  {words}" for name, words in shown.items()),
    ]
    if hold := status["hold"]:
        lines += [f"{hold[name]:>14}  {words}" for name, words in _HOLD_WORDS.items()]
        lines.append(f"{counters['lowered']:>14}  windows lowered")
    if any(status["registrations"].values()):
        lines += [f"{status['registrations'][name]:>14}  {words}" for name, words in _REGISTRATION_WORDS.items()]
    for name, program in status["programs"].items():
        if program["runs"]:
            lines.append(
                f"{program['run_time_ns'] / program['runs']:>14.0f}  ns per packet, {name} ({program['runs']} runs)"
            )
    levels = list(zip(counters["level_packets"], counters["level_bytes"], strict=True))
    lines += [
        "",
        *_table(("level", "packets", "bytes"), [(level, *levels[level]) for level in reversed(range(len(levels)))]),
    ]
    lines += ["", *_table(_FLOW_COLUMNS, [_flow(flow) for flow in status["flows"]])]
    return "\n".join(lines)


def _flow(flow: Mapping[str, Any]) -> tuple[object, ...]:
    layer = f"{flow['current_layer']}/{flow['target_layer']}"
    level = "-" if flow["level"] is None else flow["level"]
    slack_ms = f"{flow['slack_us'] / 1000:.1f}"
    progress = flow["sent_bytes"], flow["total_bytes"]
    head = flow["flow"], flow["stage"], flow["batch"], flow["number"]
    return *head, slack_ms, layer, *progress, level, flow["owner"], flow["match"]


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    cells = [list(head), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
