"""The timeline of a request of ``mfs serve`` as Chrome trace events; times are since it was sent.

Tracks: the request; the requests that its prefill engine had; its transfers, with the levels of its flows; and, for
each NIC and switch port that they cross, each transfer that crossed it too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mfs_eval.explain.served import MS, STAGE_NAMES, ServedExplanation, Span
from mfs_eval.explain.timeline import FLOWS, NICS, PORTS, REQUEST, UNITS, Event, complete, group_names, track_name


def trace_events(one: ServedExplanation) -> dict[str, Any]:
    """Return the document, ready for :func:`json.dumps`."""
    events = [*group_names(f"request {one.request} under {one.policy}"), *_request(one)]
    for number, shared in enumerate(one.engine_shared_with, 1):
        events += _span(UNITS, number, f"{one.engine}: {shared.what}", shared)
    for number, moved in enumerate(one.transfers, 1):
        name = f"{moved.what}, {moved.source} to {moved.target}"
        events += track_name(FLOWS, number, name, number)
        opened_ns, began_ns, ended_ns = (round(ms * MS) for ms in (moved.opened_ms, moved.began_ms, moved.ended_ms))
        if began_ns > opened_ns:
            events.append(complete(FLOWS, number, "waits for its peer", opened_ns, began_ns))
        if ended_ns > began_ns:
            events.append(complete(FLOWS, number, "on its way", began_ns, ended_ns, bytes=moved.bytes))
        for group, link in ((NICS, moved.links[0]), (PORTS, moved.links[1])):
            for other, beside in enumerate(link.besides, 1):
                events += _span(group, 100 * number + other, f"{link.place}: {beside.what}", beside)
    events += _levels(one)
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {
            "policy": one.policy,
            "seed": one.seed,
            "request": one.request,
            "TTFT, ms": one.ttft_ms,
            "objective, ms": one.objective_ms,
        },
    }


def _request(one: ServedExplanation) -> Iterator[Event]:
    yield from track_name(REQUEST, 1, "stages", 1)
    at = 0
    if one.stages is not None:
        for key, name in STAGE_NAMES.items():
            until = at + round(getattr(one.stages, key) * MS)
            if until > at:
                yield complete(REQUEST, 1, name, at, until)
            at = until
    yield {"ph": "i", "pid": REQUEST, "tid": 1, "name": "deadline", "ts": one.objective_ms * 1e3, "s": "p"}


def _span(group: int, track: int, name: str, span: Span) -> Iterator[Event]:
    yield from track_name(group, track, name, track)
    yield complete(group, track, name, round(span.start_ms * MS), round(span.end_ms * MS), bytes=span.bytes)


def _levels(one: ServedExplanation) -> Iterator[Event]:
    tracks = {
        key: 1000 + number for number, key in enumerate(dict.fromkeys((seen.server, seen.flow) for seen in one.levels))
    }
    for (server, flow), track in tracks.items():
        yield from track_name(FLOWS, track, f"levels of flow {flow} of {server}", track)
    for seen in one.levels:
        yield {
            "ph": "i",
            "pid": FLOWS,
            "tid": tracks[seen.server, seen.flow],
            "name": f"level {seen.level}",
            "ts": seen.time_ms * 1e3,
            "s": "t",
            "args": {"slack, ms": seen.slack_ms, "layers to go": seen.layers_to_go, "sent, bytes": seen.sent_bytes},
        }
