"""A request's timeline as a picture: its stages, and the flows that took longest, in rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from mfs_eval.explain.account import UNSEEN
from mfs_eval.explain.explanation import STAGE_NAMES
from mfs_eval.explain.timeline import FLOWS, REQUEST
from mfs_eval.results import plots

SHOWN_FLOWS = 16
WIDTH_INCHES, ROW_INCHES = 9.0, 0.26
_COLOURS = dict(zip(STAGE_NAMES.values(), ("#8a8f98", "#c98500", "#4c9a5e", "#4f7fd0", "#b05fb0"), strict=True)) | {
    "sending": "#2f6f4f",
    UNSEEN: "#6f9a85",
    "waiting for the NIC": "#d9a441",
    "in a switch queue": "#a03c3c",
    "on the way": "#b8bcc4",
}


def picture(document: Mapping[str, Any]) -> str:
    """Return the SVG element of what :func:`.timeline.trace_events` gives; times in milliseconds after the arrival."""
    slices = [one for one in document["traceEvents"] if one["ph"] == "X" and one["pid"] in (REQUEST, FLOWS)]
    names = {
        (one["pid"], one["tid"]): one["args"]["name"]
        for one in document["traceEvents"]
        if one["name"] == "thread_name" and one["pid"] in (REQUEST, FLOWS)
    }
    start = min(one["ts"] for one in slices if one["pid"] == REQUEST)
    lasting = {
        track: max(one["dur"] for one in slices if (one["pid"], one["tid"]) == track)
        for track in names
        if track[0] == FLOWS
    }
    longest = sorted(sorted(lasting, key=lambda track: -lasting[track])[:SHOWN_FLOWS])
    rows = [track for track in names if track[0] == REQUEST] + longest
    figure = Figure(figsize=(WIDTH_INCHES, 1.2 + ROW_INCHES * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for one in slices:
        track = one["pid"], one["tid"]
        if track in rows and one["name"] in _COLOURS:
            bar = ((one["ts"] - start) / 1e3, one["dur"] / 1e3)
            axes.broken_barh([bar], (rows.index(track) - 0.4, 0.8), facecolors=_COLOURS[one["name"]])
    for one in document["traceEvents"]:
        if one["name"] == "deadline":
            axes.axvline((one["ts"] - start) / 1e3, color="black", linestyle="--")
    axes.set_yticks(range(len(rows)), [names[track] for track in rows], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds after the arrival; dashed: the deadline")
    drawn = {one["name"] for one in slices if (one["pid"], one["tid"]) in rows}
    shown = [Patch(color=colour, label=name) for name, colour in _COLOURS.items() if name in drawn]
    axes.legend(handles=shown, fontsize=7, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return plots.svg(figure)
