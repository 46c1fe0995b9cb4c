"""Checks documents against the Trace Event Format, in its JSON object form, and against what its viewers need besides.

Perfetto's own parser is its trace processor, a program that the package ``perfetto`` fetches when it is first used, so
that no test can rely on it. The rules here are those of the format's description ("Trace Event Format", sections JSON
Object Format, Complete, Instant, Counter and Metadata Events), for the kinds of events that ``mfs explain`` writes.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

_TOP = {"traceEvents", "displayTimeUnit", "otherData"}
_COMMON = {"ph", "pid", "tid", "name"}
_FIELDS = {
    "X": _COMMON | {"ts", "dur", "args"},
    "i": _COMMON | {"ts", "s", "args"},
    "C": _COMMON | {"ts", "args"},
    "M": _COMMON | {"args"},
}
"""Fields of each phase: complete, instant, counter, metadata. ``args`` is optional but where it is the content."""
_METADATA = {
    "process_name": ("name", str),
    "thread_name": ("name", str),
    "process_sort_index": ("sort_index", int),
    "thread_sort_index": ("sort_index", int),
}
ROUNDING_US = 1e-3
"""Times are microseconds with three decimals."""


def check(document: Mapping[str, Any]) -> None:
    """Fail if ``document``, as read from its JSON text, breaks a rule."""
    assert document.keys() <= _TOP
    assert document["displayTimeUnit"] in ("ms", "ns")
    events = document["traceEvents"]
    assert events
    slices: dict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
    threads, processes = set(), set()
    for event in events:
        phase = event["ph"]
        assert phase in _FIELDS, event
        assert _FIELDS[phase] - {"args"} <= event.keys() <= _FIELDS[phase], event
        assert type(event["pid"]) is int, event
        assert type(event["tid"]) is int, event
        assert isinstance(event["name"], str), event
        assert event["name"], event
        assert isinstance(event.get("args", {}), dict), event
        if phase != "M":
            assert _is_time(event["ts"]), event
        if phase == "X":
            assert _is_time(event["dur"]), event
            slices[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
        elif phase == "i":
            assert event["s"] in ("g", "p", "t"), event
        elif phase == "C":
            assert event["args"], event
            assert all(_is_time(value) for value in event["args"].values()), event
        else:
            argument, kind = _METADATA[event["name"]]
            assert event["args"].keys() == {argument}, event
            assert isinstance(event["args"][argument], kind), event
            (threads if event["name"].startswith("thread") else processes).add((event["pid"], event["tid"]))
    assert slices.keys() <= threads, "a track without a name"
    assert {pid for pid, _ in slices} <= {pid for pid, _ in processes}, "a group of tracks without a name"
    for track in slices.values():
        _check_nesting(track)


def _is_time(value: object) -> bool:
    """Whether it is a finite number of at least 0; counters are such numbers too."""
    return type(value) in (int, float) and math.isfinite(value) and value >= 0  # type: ignore[arg-type, operator]


def _check_nesting(slices: Iterable[tuple[float, float]]) -> None:
    """Slices of a track must contain each other or be apart: viewers drop what overlaps in part."""
    open_until: list[float] = []
    for start, end in sorted(slices, key=lambda one: (one[0], -one[1])):
        while open_until and open_until[-1] <= start + ROUNDING_US:
            open_until.pop()
        assert not open_until or end <= open_until[-1] + ROUNDING_US
        open_until.append(end)
