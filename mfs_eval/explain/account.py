"""Where the time of a flow went: from its opening until its last byte arrived, split into intervals without gaps.

What counts is the segment that arrived last. Until it leaves its NIC, the flow sends, waits for the link, or awaits
acknowledgements; those are late because its earlier segments wait in switch queues. Then the segment waits itself.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from operator import attrgetter

from mfs_eval.packet_level.flight_recorder import Place, RecordedFlow, Transmission

SENDING = "sending"
NIC = "waiting for the NIC"
QUEUE = "in a switch queue"
ON_THE_WAY = "on the way"
UNSEEN = "sending or waiting"
"""State of a flow of a real network, whose packets are not seen."""

Interval = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Span:
    """An interval of a flow's time, in nanoseconds; ``place`` and ``level`` where it waits, None elsewhere."""

    start_ns: int
    end_ns: int
    state: str
    place: Place | None = None
    level: int | None = None


def spans(flow: RecordedFlow) -> list[Span]:
    """Return the intervals of a complete flow, in order; they cover its time exactly."""
    if not flow.sent:
        return [Span(flow.opened_ns, flow.completed_ns, UNSEEN)]
    hops = _hops(flow)
    leaves = [one for one in flow.sent if one.sequence == flow.last_sequence]
    before = hops[0][1].queued_ns if hops else flow.completed_ns
    last = max((one for one in leaves if one.start_ns <= before), key=attrgetter("start_ns"), default=None)
    end_ns = last.start_ns if last is not None else flow.opened_ns
    found = [*_until_last(flow, end_ns), *(_after_last(flow, last, hops) if last is not None else ())]
    return sorted((span for span in found if span.end_ns > span.start_ns), key=attrgetter("start_ns"))


def clipped(parts: Iterable[Span], start_ns: int, end_ns: int) -> list[Span]:
    """Return what of ``parts`` lies between two times."""
    return [
        replace(span, start_ns=max(span.start_ns, start_ns), end_ns=min(span.end_ns, end_ns))
        for span in parts
        if span.start_ns < end_ns and span.end_ns > start_ns
    ]


def served(
    links: Mapping[Place, Sequence[Transmission]], span: Span, flow: RecordedFlow
) -> dict[tuple[RecordedFlow | None, int], int]:
    """Return the nanoseconds that the link of a span's place served others, by flow and level.

    Of a flow whose packets are not seen: the nanoseconds for which others shared its NIC, or its receiver's port.
    """
    if span.state == UNSEEN:
        return _beside(links, span, flow)
    if span.place is None:
        return {}
    there = links[span.place]
    times: defaultdict[tuple[RecordedFlow | None, int], int] = defaultdict(int)
    # The first may have begun before.
    first = max(0, bisect_left(there, span.start_ns, key=attrgetter("start_ns")) - 1)
    for one in takewhile(lambda one: one.start_ns < span.end_ns, map(there.__getitem__, range(first, len(there)))):
        overlap = min(one.end_ns, span.end_ns) - max(one.start_ns, span.start_ns)
        if overlap > 0 and one.flow is not flow:
            times[one.flow, one.level] += overlap
    return dict(times)


def _beside(
    links: Mapping[Place, Sequence[Transmission]], span: Span, flow: RecordedFlow
) -> dict[tuple[RecordedFlow | None, int], int]:
    shared: dict[tuple[RecordedFlow | None, int], int] = {}
    for place in (Place(None, flow.source), *(place for place, _ in flow.passages)):
        for one in links[place]:
            overlap = min(one.end_ns, span.end_ns) - max(one.start_ns, span.start_ns)
            if overlap > 0 and one.flow is not flow:
                shared[one.flow, one.level] = max(overlap, shared.get((one.flow, one.level), 0))
    return shared


def _hops(flow: RecordedFlow) -> list[tuple[Place, Transmission]]:
    """Return the last segment's passage of each switch port, the last one where it was sent again."""
    last = {
        place: passage
        for place, passage in flow.passages
        if passage.sequence == flow.last_sequence and passage.start_ns <= flow.completed_ns
    }
    return sorted(last.items(), key=lambda hop: hop[1].queued_ns)


def _until_last(flow: RecordedFlow, end_ns: int) -> list[Span]:
    """Return the intervals until the last segment leaves its NIC."""
    sending = _clip(((one.start_ns, one.end_ns) for one in flow.sent), flow.opened_ns, end_ns)
    blocked = _without(_clip(flow.blocked, flow.opened_ns, end_ns), sending)
    waiting = _without(_without([(flow.opened_ns, end_ns)], sending), blocked)
    found = [Span(*one, SENDING) for one in sending]
    for one in waiting:
        found += _by_level(flow, *one)
    for one in blocked:
        found += _while_blocked(flow, *one)
    return found


def _by_level(flow: RecordedFlow, start_ns: int, end_ns: int) -> list[Span]:
    """Split a wait at the NIC where the flow's level changed."""
    place = Place(None, flow.source)
    changes = [change for change in flow.changes if change.place == place]
    # Before its first packet a flow has the level of that packet.
    level = changes[0].after if changes else None
    found, at = [], start_ns
    for change in changes:
        if change.time_ns <= start_ns:
            level = change.after
        elif change.time_ns < end_ns:
            found.append(Span(at, change.time_ns, NIC, place, level))
            at, level = change.time_ns, change.after
    return [*found, Span(at, end_ns, NIC, place, level)]


def _while_blocked(flow: RecordedFlow, start_ns: int, end_ns: int) -> list[Span]:
    """Split a time without a segment to send: earlier segments wait in switch queues, or are on the way."""
    found, at = [], start_ns
    for place, passage in flow.passages:
        begin_ns, until_ns = max(passage.queued_ns, at), min(passage.start_ns, end_ns)
        if begin_ns < until_ns:
            found += [Span(at, begin_ns, ON_THE_WAY), Span(begin_ns, until_ns, QUEUE, place, passage.level)]
            at = until_ns
    return [*found, Span(at, end_ns, ON_THE_WAY)]


def _after_last(flow: RecordedFlow, last: Transmission, hops: Iterable[tuple[Place, Transmission]]) -> list[Span]:
    found = [Span(last.start_ns, last.end_ns, SENDING)]
    at = last.end_ns
    for place, passage in hops:
        found += [
            Span(at, passage.queued_ns, ON_THE_WAY),
            Span(passage.queued_ns, passage.start_ns, QUEUE, place, passage.level),
        ]
        at = passage.start_ns
    return [*found, Span(at, flow.completed_ns, ON_THE_WAY)]


def _clip(intervals: Iterable[Interval], start_ns: int, end_ns: int) -> list[Interval]:
    return [(max(one, start_ns), min(other, end_ns)) for one, other in intervals if one < end_ns and other > start_ns]


def _without(intervals: Iterable[Interval], holes: Sequence[Interval]) -> list[Interval]:
    """Return ``intervals`` without ``holes``, both in order and each free of overlaps."""
    found = []
    for start_ns, end_ns in intervals:
        at = start_ns
        for hole_start_ns, hole_end_ns in holes:
            if hole_end_ns <= at or hole_start_ns >= end_ns:
                continue
            if hole_start_ns > at:
                found.append((at, hole_start_ns))
            at = hole_end_ns
        if at < end_ns:
            found.append((at, end_ns))
    return found
