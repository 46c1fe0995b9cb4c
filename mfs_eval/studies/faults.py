"""``mfs study faults``: what becomes of the traffic when a part of the system fails."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, fields
from functools import partial
from pathlib import Path

import click

from host_agent.command_line import logging_options
from mfs_eval import options
from mfs_eval.live.fault_rack import PARTS, FaultRack, Outcome, fake_time_library, fault_rack
from mfs_eval.results.csv_text import cells_of, text_of
from mfs_eval.results.markdown import table
from mfs_eval.results.output import write_atomically, writing

ENDING = ("kill -9", "SIGTERM")
"""Faults that end the part."""
FILE = "faults.csv"
COLUMNS = ("fault", "of", *(field.name for field in fields(Outcome)))
HEADINGS = ("fault", "of", "packets", "lost", "longest silence, s", "sent again", "right after, s", "entries written")
CLOCK, MANAGEMENT, DISK = "clock an hour ahead for 10 s", "management network down for 10 s", "disk full for 10 s"
FAULTS: dict[str, Callable[[FaultRack, str], float]] = {
    "kill -9": lambda rack, part: rack.ended(part, signal.SIGKILL),
    "SIGTERM": lambda rack, part: rack.ended(part, signal.SIGTERM),
    "SIGSTOP for 10 s": FaultRack.stopped,
    CLOCK: FaultRack.clock_stepped,
    MANAGEMENT: FaultRack.network_lost,
    DISK: FaultRack.disk_full,
}
ALL_PARTS = "all"


def planned(faults: Sequence[str], parts: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each fault with the part that it is of. A full disk is one for all parts."""
    for fault in faults:
        for part in (ALL_PARTS,) if fault == DISK else parts:
            if fault == MANAGEMENT and part == "switch":
                # It is the other end of the controller's.
                continue
            yield fault, part


def measure(rack: FaultRack, fault: str, part: str) -> Outcome:
    """Let a fault happen."""
    if fault == CLOCK:
        rack.fake_time(part)
    outcome = rack.measured(partial(FAULTS[fault], rack, part))
    if fault == CLOCK:
        rack.measured(partial(rack.ended, part, signal.SIGTERM))
    return outcome


Row = tuple[str, str, Outcome]
"""A fault, the part that it was of, and what became of the traffic."""


def cells(fault: str, part: str, found: Outcome) -> tuple[str, ...]:
    """Return a row of the table."""
    return (
        fault, part, f"{found.packets:,}", f"{found.lost:,}", f"{found.silence_s:.2f}", f"{found.sent_again:,}",
        f"{found.right_s:.1f}", f"{found.entries:,}",
    )  # fmt: skip


def markdown(rows: Sequence[Row]) -> str:
    """Return the table in Markdown."""
    return table(HEADINGS, (cells(*row) for row in rows))


def csv_text(rows: Sequence[Row]) -> str:
    """Return the rows as CSV, unrounded."""
    return text_of(COLUMNS, ((fault, part, *astuple(found)) for fault, part, found in rows))


def read(path: Path) -> list[Row]:
    """Read the rows that :func:`csv_text` wrote.

    Raises:
        EvaluationError: the file is not such a table.
        OSError: it cannot be read.
    """
    return [
        (fault, part, Outcome(int(packets), int(lost), float(silence), int(again), float(right), int(entries)))
        for fault, part, packets, lost, silence, again, right, entries in cells_of(path, COLUMNS, "mfs study faults")
    ]


@click.command(short_help="What faults of each part cost (root).")
@options.out_folder(None, "faults.md and faults.csv")
@click.option("--fault", "faults", type=click.Choice(list(FAULTS)), multiple=True, help="Fault; may be repeated.")
@click.option("--part", "parts", type=click.Choice(PARTS), multiple=True, help="Part that fails; may be repeated.")
@logging_options
def faults(out: Path, faults: tuple[str, ...], parts: tuple[str, ...]) -> None:
    """Let each part fail in each way, under load, and write faults.md and faults.csv (Linux, root).

    Two servers with agents behind the embedded switch exchange 400 packets a second, and a stamped connection takes
    half of a link of 20 Mb/s. Parts that end are started again after a second, as their units do.
    """
    chosen = list(faults or FAULTS)
    if CLOCK in chosen and fake_time_library() is None:
        click.echo(f"left out: {CLOCK}: libfaketime is not installed (apt-get install libfaketime)", err=True)
        chosen.remove(CLOCK)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    with fault_rack() as rack:
        for fault, part in planned(chosen, parts or PARTS):
            rows.append((fault, part, measure(rack, fault, part)))
            click.echo("  ".join(cells(*rows[-1])), err=True)
            with writing(out):
                write_atomically(out / FILE, csv_text(rows))
                write_atomically(out / "faults.md", markdown(rows))
    click.echo(markdown(rows), nl=False)
