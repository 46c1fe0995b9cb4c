"""The cluster of a scenario as an SVG element: servers by role, their NICs, switches, and links between racks.

Roles differ in outline and are written below the servers, so that colours carry nothing. The page's style sheet gives
the colours.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

from mfs_eval.serving.cluster import Cluster
from mfs_eval.setup.scenario import Scenario

WIDTH, MARGIN, GAP = 400, 6, 44
"""Of the drawing, its sides, and the space between two racks, in units of which a character has about 6."""
_SWITCH, _SERVER = (30, 34), (100, 30)
"""Top and height."""
IDLE = "idle"
DRAWN_EDGES = 4
"""Edge switches of a fat-tree that are drawn."""


@dataclass(frozen=True, slots=True)
class Role:
    """What a server does: ``words`` in lines, and ``kind``, its class in the style sheet."""

    words: tuple[str, ...]
    kind: str

    @property
    def name(self) -> str:
        """The words in one line."""
        return " ".join(self.words)


def gigabits(bits_per_second: float) -> str:
    """Return a rate for readers."""
    return f"{bits_per_second / 1e9:g} Gb/s" if bits_per_second >= 1e9 else f"{bits_per_second / 1e6:g} Mb/s"


def of_scenario(scenario: Scenario) -> str:
    """Draw the racks of a packet-level scenario."""
    cluster, link = scenario.cluster, gigabits(scenario.cluster.nic_bits_per_second)
    between = f"{scenario.uplinks} links of {link}" if scenario.uplinks else ""
    return racks(scenario.name, cluster, servers_of(cluster, link), scenario.uplinks, between)


def servers_of(cluster: Cluster, link: str) -> str:
    """Return what each server has, its links at the rate ``link``."""
    gpus, nics = (
        f"{count} {what}{'s' if count > 1 else ''}"
        for count, what in ((cluster.gpus_per_server, "GPU"), (cluster.nics_per_server, "NIC"))
    )
    return f"each server: {gpus}, {nics} of {link}"


def racks(name: str, cluster: Cluster, caption: str, uplinks: int = 0, between: str = "", others: str = IDLE) -> str:
    """Draw the servers around a top-of-rack (ToR) switch, or around two that are joined by ``uplinks``.

    Args:
        name: unique in the page.
        cluster: servers and their roles. With uplinks the second rack begins with the first decode server.
        caption: what each server has.
        uplinks: links between two racks; 0 for one rack.
        between: these links in words.
        others: what servers without a role do.
    """
    roles = [_role(cluster, server, others) for server in range(cluster.servers)]
    second = min(cluster.decode_servers) if uplinks else cluster.servers
    gap = GAP if uplinks else 0
    step = (WIDTH - 2 * MARGIN - gap) / cluster.servers
    left = [MARGIN + step * server + gap * (server >= second) for server in range(cluster.servers)]
    shapes: list[str] = []
    parts = [range(second), range(second, cluster.servers)] if uplinks else [range(cluster.servers)]
    for number, servers in enumerate(parts, 1):
        start, end = left[servers[0]], left[servers[-1]] + step
        called = f"ToR switch {number}" if uplinks else "ToR switch"
        shapes.append(_box("switch", start + 2, _SWITCH, end - start - 4))
        shapes.append(_text((start + end) / 2, _SWITCH[0] + 22, called, "strong"))
        for server in servers:
            shapes += _server(f"s{server + 1}", roles[server], left[server], step, cluster.nics_per_server)
        shapes += _groups([roles[server] for server in servers], start, step)
    if uplinks:
        end, begin = left[second - 1] + step - 2, left[second] + 2
        for one in range(uplinks):
            y = _SWITCH[0] + _SWITCH[1] * (one + 0.5) / uplinks
            shapes.append(f'<path class="link" d="M{end:g} {y:g}H{begin:g}"/>')
        shapes.append(_text((end + begin) / 2, 20, between, ""))
    bottom = 164 + 15 * max(len(role.words) for role in roles)
    shapes.append(_text(WIDTH / 2, bottom, caption, "soft"))
    joined = f"; {between} join two racks" if uplinks else ""
    said = f"{_said(roles)}; {caption}{joined}."
    return _svg(name, f"The cluster of {name}", said, bottom + 10, shapes)


def fat_tree(name: str, cluster: Cluster, servers_per_edge: int, edges_per_pod: int, oversubscription: int) -> str:
    """Draw the first edge switches of a three-tier fat-tree, each with its servers, and say how many there are."""
    edges = [
        [_role(cluster, server, IDLE) for server in range(start, min(start + servers_per_edge, cluster.servers))]
        for start in range(0, cluster.servers, servers_per_edge)
    ]
    drawn = edges[:DRAWN_EDGES]
    step = (WIDTH - 2 * MARGIN) / len(drawn)
    shapes = [_box("switch", MARGIN + 2, (4, 28), WIDTH - 2 * MARGIN - 4)]
    shapes.append(_text(WIDTH / 2, 23, "core switches", "strong"))
    shapes.append(_box("switch", MARGIN + 2, (48, 28), WIDTH - 2 * MARGIN - 4))
    shapes.append(_text(WIDTH / 2, 67, f"aggregation switches of a pod ({edges_per_pod} edge switches)", "strong"))
    for number, roles in enumerate(drawn):
        left, middle = MARGIN + step * number, MARGIN + step * (number + 0.5)
        for shift in (-12, 0, 12):
            shapes.append(f'<path class="link" d="M{middle + shift:g} 32V48M{middle + shift:g} 76V94"/>')
            shapes.append(f'<path class="link" d="M{middle + shift:g} 120V136"/>')
        shapes.append(_box("switch", left + 2, (94, 26), step - 4))
        shapes.append(_text(middle, 112, f"edge {number + 1}", "strong"))
        shapes.append(_box(roles[0].kind, left + 4, (136, 52), step - 8))
        shapes.append(_text(middle, 156, f"{len(roles)} server{'s' if len(roles) > 1 else ''}", ""))
        kinds = {role.name for role in roles}
        shapes.append(_text(middle, 174, kinds.pop() if len(kinds) == 1 else "several units", ""))
    rate = gigabits(cluster.nic_bits_per_second)
    ratio = f"oversubscribed {oversubscription}:1" if oversubscription > 1 else "not oversubscribed"
    lines = (
        f"{len(edges)} edge switches, {cluster.servers} servers, {len(cluster.units)} prefill units",
        f"each server: {cluster.gpus_per_server} GPUs, {cluster.nics_per_server} NICs of {rate}; {ratio}",
    )
    shapes += [_text(WIDTH / 2, 208 + 18 * number, line, "soft") for number, line in enumerate(lines)]
    said = f"A fat-tree of three tiers. {lines[0]}; {lines[1]}."
    return _svg(name, f"The cluster of {name}", said, 236, shapes)


def _role(cluster: Cluster, server: int, others: str) -> Role:
    unit = next((number for number, servers in enumerate(cluster.units, 1) if server in servers), None)
    decodes = server in cluster.decode_servers
    if unit is not None:
        return Role((f"prefill {unit}", "+ decode"), "both") if decodes else Role((f"prefill {unit}",), "prefill")
    return Role(("decode",), "decode") if decodes else Role((others,), "other")


def _said(roles: Sequence[Role]) -> str:
    """Return which servers have which role."""
    parts, server = [], 1
    for role, same in groupby(roles):
        count = len(list(same))
        named = f"s{server}" if count == 1 else f"s{server} to s{server + count - 1}"
        parts.append(f"{named}: {role.name}")
        server += count
    return "Servers " + ", ".join(parts)


def _server(called: str, role: Role, left: float, step: float, nics: int) -> Iterator[str]:
    top, width = _SERVER[0], step - 6
    for nic in range(nics):
        x = left + 3 + width * (nic + 0.5) / nics
        yield f'<path class="link" d="M{x:g} {_SWITCH[0] + _SWITCH[1]}V{top}"/>'
        yield f'<rect class="nic" x="{x - 3:g}" y="{top - 3}" width="6" height="6"/>'
    yield _box(role.kind, left + 3, _SERVER, width)
    yield _text(left + step / 2, top + 20, called, "")


def _groups(roles: Sequence[Role], left: float, step: float) -> Iterator[str]:
    """Yield a bracket with its words below each group of servers."""
    at = left
    for role, same in groupby(roles):
        width = step * len(list(same))
        yield f'<path class="bracket" d="M{at + 4:g} 138v4H{at + width - 4:g}v-4"/>'
        for number, word in enumerate(role.words):
            yield _text(at + width / 2, 158 + 15 * number, word, "")
        at += width


def _box(kind: str, left: float, vertical: tuple[int, int], width: float) -> str:
    top, height = vertical
    return f'<rect class="{kind}" x="{left:g}" y="{top}" width="{width:g}" height="{height}" rx="4"/>'


def _text(x: float, y: float, words: str, kind: str) -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x:g}" y="{y:g}">{escape(words)}</text>'


def _svg(name: str, title: str, description: str, height: int, shapes: Iterable[str]) -> str:
    key = escape(name)
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="{key}-cluster-title {key}-cluster-text">'
        f'<title id="{key}-cluster-title">{escape(title)}</title>'
        f'<desc id="{key}-cluster-text">{escape(description)}</desc>{"".join(shapes)}</svg>'
    )
