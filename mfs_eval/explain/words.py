"""An explanation in words, and two beside each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from mfs_eval.explain.account import UNSEEN
from mfs_eval.explain.explanation import MS, STAGE_NAMES, Ahead, Explanation, Hop, RunName, Wait
from mfs_eval.serving.metrics import RequestRecord

SHOWN_WAITS = 3
SHOWN_HOPS = 4
SHOWN_SHARE = 0.01
"""Parts below this share of the time to first token (TTFT) are not mentioned."""
_PARTS = {
    "queued_ns": "queued",
    "stage1_wait_ns": "reuse",
    "compute_ns": "compute",
    "stage2_ns": "collective",
    "tail_ns": "hand_over",
}


def told(one: Explanation) -> str:
    """Return the explanation of one request, in lines."""
    return "\n".join([*_heading(one), "", *_stages(one), *_queued(one), *_network(one), *_longest(one)])


def compared(before: Explanation, after: Explanation) -> str:
    """Return what changed for one request from one policy to another, in lines."""
    faster = before.ttft_ms - after.ttft_ms
    verdict = (
        f"first token {abs(faster):.0f} ms {'earlier' if faster > 0 else 'later'} under {after.policy} than under "
        f"{before.policy}"
    )
    rows = [(name, getattr(before.stages, key), getattr(after.stages, key)) for key, name in STAGE_NAMES.items()]
    biggest = max(rows, key=lambda row: abs(row[1] - row[2]))
    run = f"{before.scenario}, {before.request_rate:g} requests/s, seed {before.seed}"
    lines = [
        f"Request {before.request} ({run}): {verdict}.",
        f"Most of the difference: {biggest[0]}, {biggest[1]:.1f} -> {biggest[2]:.1f} ms.",
        "",
        f"{'ms':24}{before.policy:>14}{after.policy:>14}{'change':>10}",
    ]
    rows += [("TTFT", before.ttft_ms, after.ttft_ms), ("after the deadline", before.late_ms, after.late_ms)]
    lines += [f"{name:24}{old:14.1f}{new:14.1f}{new - old:+10.1f}" for name, old, new in rows]
    places = sorted(
        {(hop.state, hop.place) for one in (before, after) for hop in one.hops if hop.place is not None},
        key=lambda key: -abs(_at(before.hops, key) - _at(after.hops, key)),
    )
    if places:
        lines += ["", "Waiting of the flows that it waited for:"]
        lines += [
            f"{_where(*place):44}{_at(before.hops, place):10.1f} -> {_at(after.hops, place):.1f} ms"
            for place in places[:SHOWN_HOPS]
        ]
    return "\n".join(lines)


def _at(hops: Iterable[Hop], key: tuple[str, str | None]) -> float:
    return sum(hop.ms for hop in hops if (hop.state, hop.place) == key)


def _where(state: str, place: str | None) -> str:
    if place is None:
        return state
    return f"in the queue of the {place}" if place.startswith(("switch", "uplink", "rack")) else f"waiting for {place}"


def _heading(one: Explanation) -> list[str]:
    verdict = f"{one.late_ms:.0f} ms late" if one.late_ms > 0 else f"in time by {-one.late_ms:.0f} ms"
    fetched = f", {one.fetched_tokens:,} fetched from another unit" if one.fetched_tokens else ""
    return [
        f"Request {one.request} under {one.policy} ({one.scenario}, {one.request_rate:g} requests/s, seed {one.seed}"
        f"{', as recorded' if one.recorded else ''}): "
        f"first token after {one.ttft_ms:.0f} ms, objective {one.objective_ms:.0f} ms: {verdict}.",
        f"It arrived at {one.arrival_s:.3f} s at the prefill unit of {one.unit}; {one.decode_server} decodes it. "
        f"Of its prompt {one.computed_tokens:,} tokens were computed, {one.local_tokens:,} reused in place{fetched}.",
    ]


def _stages(one: Explanation) -> list[str]:
    lines = ["Where its time went:"]
    for key, name in STAGE_NAMES.items():
        ms = getattr(one.stages, key)
        lines.append(f"  {name:24}{ms:9.1f} ms {ms / max(one.ttft_ms, 1e-9):6.0%}")
    return lines


def _queued(one: Explanation) -> list[str]:
    if not one.queued_behind:
        return []
    lines = ["", f"It waited for the GPUs of {one.unit} while they computed:"]
    for batch in one.queued_behind:
        others = f"{len(batch.requests)} request{'s' if len(batch.requests) > 1 else ''}"
        lines.append(
            f"  batch {batch.batch} ({others}): {batch.ms:.1f} ms, of which {batch.compute_ms:.1f} computing, "
            f"{batch.reuse_ms:.1f} waiting for reused KV, {batch.collective_ms:.1f} in collectives"
        )
    return lines


def _network(one: Explanation) -> list[str]:
    hops = [hop for hop in one.hops if hop.ms >= SHOWN_SHARE * one.ttft_ms]
    if not hops:
        return []
    return ["", "What the flows that it waited for did in that time:", *_hop_lines(hops[:SHOWN_HOPS])]


def _hop_lines(hops: Sequence[Hop]) -> list[str]:
    lines = []
    for hop in hops:
        level = f" at level {hop.level}" if hop.level is not None else ""
        lines.append(f"  {hop.ms:8.1f} ms {_where(hop.state, hop.place)}{level}")
        if hop.behind:
            ahead = "; ".join(map(_ahead, hop.behind))
            meanwhile = "beside" if hop.state == UNSEEN else "while it served"
            lines.append(f"  {'':11} {meanwhile} {ahead}")
    return lines


def _ahead(other: Ahead) -> str:
    level = f" (level {other.level})" if other.level is not None else ""
    return f"{other.ms:.1f} ms of {other.what}{level}"


def _longest(one: Explanation) -> list[str]:
    waits = [wait for wait in one.waits if wait.ms >= SHOWN_SHARE * one.ttft_ms][:SHOWN_WAITS]
    if not waits:
        return ["", "It waited for no flow for long."]
    return ["", "Its longest waits for flows:", *(line for wait in waits for line in _wait(wait, one.ttft_ms))]


def _wait(wait: Wait, ttft_ms: float) -> list[str]:
    lost = f", {wait.dropped} packets dropped" if wait.dropped else ""
    lines = [
        f"  {wait.ms:.1f} ms of {wait.stage}, {wait.layers}, from {wait.start_ms:.1f} ms after its arrival:",
        f"    {wait.flow}, {wait.bytes:,} bytes{lost}",
    ]
    lines += [f"  {line}" for line in _hop_lines([hop for hop in wait.hops if hop.ms >= SHOWN_SHARE * ttft_ms])]
    for change in wait.changes:
        if change.before is None:
            lines.append(f"    began at level {change.after} at the {change.place} ({change.inputs})")
        else:
            verb = "rose" if change.after > change.before else "fell"
            lines.append(
                f"    {verb} from level {change.before} to {change.after} at the {change.place} "
                f"{change.time_ms:.1f} ms after the request's arrival: {change.reason} ({change.inputs})"
            )
    return lines


def listed(runs: Sequence[RunName], records: Sequence[Mapping[int, RequestRecord]], most: int) -> str:
    """Return the requests of a run, or of two policies, as a table; the latest of the last one first."""
    order = sorted(records[-1].values(), key=lambda record: record.earliness_ns)[:most]
    run = runs[-1]
    late = sum(not record.in_time for record in records[-1].values())
    lines = [
        f"{run.scenario}, {run.request_rate:g} requests/s, seed {run.seed}: {late} of {len(records[-1])} requests were "
        f"late under {run.policy}, those of the warm-up included. The latest {len(order)}:",
        "",
        f"{'request':>8}{'objective, ms':>15}"
        + "".join(f"{'TTFT ' + one.policy + ', ms':>24}" for one in runs)
        + f"{'late by, ms':>13}  most of its time",
    ]
    for record in order:
        ttfts = "".join(f"{known[record.index].ttft_ns / MS:24.0f}" for known in records)
        longest = STAGE_NAMES[_PARTS[max(_PARTS, key=lambda part: getattr(record, part))]]
        objective, late_by = (record.deadline_ns - record.arrival_ns) / MS, -record.earliness_ns / MS
        lines.append(f"{record.index:8}{objective:15.0f}{ttfts}{late_by:13.0f}  {longest}")
    return "\n".join(lines)
