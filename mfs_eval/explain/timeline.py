"""A request's time as Chrome trace events (JSON object format), which Perfetto and chrome://tracing open.

Tracks: the request, the batches of its prefill unit, its flows, and the NICs and switch ports that they cross, with the
bytes that wait by level. Times are in microseconds since the start of the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from host_agent.protocol.stamp import LEVELS
from mfs_eval.explain.account import spans
from mfs_eval.explain.explanation import STAGE_NAMES, Explanation, played_steps
from mfs_eval.explain.names import Names, layers_named
from mfs_eval.explain.recording import Recording
from mfs_eval.packet_level.flight_recorder import REASONS, Place, RecordedFlow, Transmission

REQUEST, UNITS, FLOWS, NICS, PORTS = range(1, 6)
"""Process numbers of the groups of tracks, in the order in which they are shown."""
_GROUPS = {REQUEST: "request", UNITS: "prefill unit", FLOWS: "flows", NICS: "NICs", PORTS: "switch ports"}

LANE = 100_000
"""Added to the number of a link's track for each further lane."""

Event = dict[str, Any]


def trace_events(recorder: Recording, names: Names, one: Explanation) -> dict[str, Any]:
    """Return the document for one request, ready for :func:`json.dumps`."""
    record = recorder.requests[one.request]
    start_ns, end_ns = record.arrival_ns, record.arrival_ns + record.ttft_ns
    batches = [number for number, batch in sorted(recorder.batches.items()) if one.request in batch.requests]
    flows = [flow for flow in recorder.flows if flow.spec.batch in batches and flow.spec.request in (None, one.request)]
    places = sorted(
        {Place(None, flow.source) for flow in flows} | {place for flow in flows for place, _ in flow.passages},
        key=lambda place: (place.switch is not None, place),
    )
    events = [
        *group_names(f"request {one.request} under {one.policy}"),
        *_request(one, start_ns),
        *_unit(recorder, names, record.unit, start_ns, end_ns),
        *_flows(names, flows),
    ]
    for place in places:
        links = [each for each in recorder.links[place] if each.end_ns > start_ns and each.queued_ns < end_ns]
        events += _link(names, place, links)
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {
            "scenario": one.scenario,
            "policy": one.policy,
            "request rate": one.request_rate,
            "seed": one.seed,
            "request": one.request,
            "TTFT, ms": one.ttft_ms,
            "objective, ms": one.objective_ms,
        },
    }


def complete(group: int, track: int, name: str, start_ns: int, end_ns: int, **arguments: Any) -> Event:
    """Return a slice of a track."""
    return {
        "ph": "X",
        "pid": group,
        "tid": track,
        "name": name,
        "ts": start_ns / 1e3,
        "dur": (end_ns - start_ns) / 1e3,
        "args": arguments,
    }


def track_name(group: int, track: int, name: str, order: int) -> Iterator[Event]:
    """Yield what names a track, and places it within its group."""
    yield {"ph": "M", "pid": group, "tid": track, "name": "thread_name", "args": {"name": name}}
    yield {"ph": "M", "pid": group, "tid": track, "name": "thread_sort_index", "args": {"sort_index": order}}


def group_names(request: str) -> Iterator[Event]:
    """Yield what names the groups of tracks, the first by ``request``."""
    for group, name in _GROUPS.items():
        shown = request if group == REQUEST else name
        yield {"ph": "M", "pid": group, "tid": 0, "name": "process_name", "args": {"name": shown}}
        yield {"ph": "M", "pid": group, "tid": 0, "name": "process_sort_index", "args": {"sort_index": group}}


def _request(one: Explanation, start_ns: int) -> Iterator[Event]:
    yield from track_name(REQUEST, 1, "stages", 1)
    end_ns = start_ns + round(one.ttft_ms * 1e6)
    yield complete(REQUEST, 1, f"request {one.request}", start_ns, end_ns, tokens=one.computed_tokens)
    at = start_ns
    queued_ns = round(one.stages.queued * 1e6)
    if queued_ns:
        yield complete(REQUEST, 1, STAGE_NAMES["queued"], at, at + queued_ns)
        at += queued_ns
    for step in one.steps:
        # Stages follow each other, whatever a real clock says of the calls between them.
        at = max(at, start_ns + round(step.start_ms * 1e6))
        for name, ms in (("reuse", step.reuse_ms), ("compute", step.compute_ms), ("collective", step.collective_ms)):
            until = min(at + round(ms * 1e6), end_ns)
            if until > at:
                yield complete(REQUEST, 1, STAGE_NAMES[name], at, until, layers=step.layers, batch=step.batch)
            at = until
    if one.stages.hand_over and at < end_ns:
        yield complete(REQUEST, 1, STAGE_NAMES["hand_over"], at, end_ns)
    deadline_us = (start_ns + one.objective_ms * 1e6) / 1e3
    yield {"ph": "i", "pid": REQUEST, "tid": 1, "name": "deadline", "ts": deadline_us, "s": "p"}


def _unit(recorder: Recording, names: Names, unit: int, start_ns: int, end_ns: int) -> Iterator[Event]:
    yield from track_name(UNITS, 1, f"unit {names.unit(unit)}", 1)
    for number, batch in sorted(recorder.batches.items()):
        if batch.unit != unit or batch.start_ns >= end_ns or batch.end_ns <= start_ns:
            continue
        yield complete(UNITS, 1, names.batch(number), batch.start_ns, batch.end_ns, tokens=batch.tokens)
        for step in played_steps(recorder, number):
            times = (step.begin_ns, step.compute_ns, step.exchange_ns, step.end_ns)
            for name, begin, until in zip(("reuse", "compute", "collective"), times, times[1:], strict=False):
                if until > begin:
                    yield complete(UNITS, 1, STAGE_NAMES[name], begin, until, layers=layers_named(*step.layers))


def _flows(names: Names, flows: Sequence[RecordedFlow]) -> Iterator[Event]:
    """Yield a track for each flow: what it did, and where its level changed."""
    for track, flow in enumerate(flows, 1):
        yield from track_name(FLOWS, track, names.flow(flow), track)
        yield complete(FLOWS, track, names.owner(flow), flow.opened_ns, flow.completed_ns, bytes=flow.spec.total_bytes)
        for span in spans(flow):
            where = {"place": names.place(span.place), "level": span.level} if span.place is not None else {}
            yield complete(FLOWS, track, span.state, span.start_ns, span.end_ns, **where)
        for change in flow.changes:
            was = "begins at" if change.before is None else f"{change.before} ->"
            yield {
                "ph": "i",
                "pid": FLOWS,
                "tid": track,
                "name": f"level {was} {change.after}",
                "ts": change.time_ns / 1e3,
                "s": "t",
                "args": {
                    "place": names.place(change.place),
                    "reason": REASONS[change.reason],
                    **change.inputs._asdict(),
                },
            }


def _link(names: Names, place: Place, links: Sequence[Transmission]) -> Iterator[Event]:
    """Yield the track of a link: whose packets it carried, and at a switch port how many waited by level."""
    group = NICS if place.switch is None else PORTS
    track = place.number + 1 if place.switch is None else place.switch * 1000 + place.number
    named: set[int] = set()
    for lane, run in _lanes(_runs(links)):
        own = track + LANE * lane
        if lane not in named:
            named.add(lane)
            yield from track_name(group, own, names.place(place) + (f" ({lane + 1})" if lane else ""), own)
        first = run[0]
        yield complete(
            group, own, names.owner(first.flow), first.start_ns, run[-1].end_ns, level=first.level, packets=len(run)
        )
    if place.switch is not None and any(one.start_ns > one.queued_ns for one in links):
        yield from _waiting(names.place(place), links)


def _runs(links: Iterable[Transmission]) -> Iterator[list[Transmission]]:
    """Yield packets that left back to back, of one flow at one level."""
    run: list[Transmission] = []
    for one in links:
        if run and (one.flow is not run[-1].flow or one.level != run[-1].level or one.start_ns > run[-1].end_ns + 1):
            yield run
            run = []
        run.append(one)
    if run:
        yield run


def _lanes(runs: Iterable[list[Transmission]]) -> Iterator[tuple[int, list[Transmission]]]:
    """Yield each run with the number of the first lane that is free then: seen from outside, flows overlap."""
    ends: list[int] = []
    for run in runs:
        lane = next((number for number, end in enumerate(ends) if end <= run[0].start_ns + 1), len(ends))
        ends[lane : lane + 1] = [run[-1].end_ns]
        yield lane, run


def _waiting(place: str, links: Iterable[Transmission]) -> Iterator[Event]:
    """Yield the number of packets that wait at a port, by level, whenever it changes."""
    moves = sorted(move for one in links for move in ((one.queued_ns, 1, one.level), (one.start_ns, -1, one.level)))
    waiting = [0] * LEVELS
    for index, (time_ns, change, level) in enumerate(moves):
        waiting[level] += change
        if index + 1 == len(moves) or moves[index + 1][0] != time_ns:
            yield {
                "ph": "C",
                "pid": PORTS,
                "tid": 0,
                "name": f"packets waiting, {place}",
                "ts": time_ns / 1e3,
                "args": {f"level {number}": value for number, value in enumerate(waiting)},
            }
