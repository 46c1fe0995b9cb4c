"""``mfs study soak``: random faults under load for a long time, and whether memory and descriptors stay flat."""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click

from host_agent.command_line import Positive, logging_options
from mfs_eval import options
from mfs_eval.errors import EvaluationError
from mfs_eval.live.fault_rack import PARTS, FaultRack, fault_rack
from mfs_eval.results.markdown import table
from mfs_eval.results.output import write_atomically, writing
from mfs_eval.studies.faults import CLOCK, ENDING, FAULTS, Row, csv_text, planned

PAUSE_S = (2.0, 15.0)
"""Shortest and longest pause between two faults."""
GROWTH = 1.1
"""Memory at the end over memory at half time that counts as flat."""
PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024


@dataclass(frozen=True, slots=True)
class Use:
    """What a process uses: resident memory and open descriptors."""

    pid: int
    memory_kib: int
    descriptors: int


def use(pid: int) -> Use:
    """Return what a process uses.

    Raises:
        OSError: there is no such process.
    """
    folder = Path("/proc", str(pid))
    resident = int((folder / "statm").read_text("ascii").split()[1])
    return Use(pid, resident * PAGE_KIB, len(os.listdir(folder / "fd")))


def is_flat(half: Use, end: Use) -> bool:
    """Whether a process that lived from half time to the end uses no more memory, and no more descriptors."""
    return half.pid == end.pid and end.memory_kib <= GROWTH * half.memory_kib and end.descriptors <= half.descriptors


def next_fault(draw: random.Random, ending: bool) -> tuple[str, str]:
    """Draw a fault and its part; without ``ending``, one that ends no part."""
    return draw.choice(
        [each for each in planned(list(FAULTS), PARTS) if each[0] != CLOCK and (ending or each[0] not in ENDING)]
    )


def by_fault(outcomes: Sequence[Row]) -> Iterable[tuple[str, ...]]:
    """Yield for each fault and part: how often, packets lost, and the longest time until all was right."""
    for fault, part in dict.fromkeys((fault, part) for fault, part, _ in outcomes):
        found = [outcome for *which, outcome in outcomes if which == [fault, part]]
        lost, right_s = sum(outcome.lost for outcome in found), max(outcome.right_s for outcome in found)
        yield fault, part, str(len(found)), f"{lost:,}", f"{right_s:.1f}"


def memory_cells(half: Use, end: Use) -> tuple[str, ...]:
    """Return the cells of the table that compare half time and end."""
    memory = (f"{one.memory_kib / 1024:.1f}" for one in (half, end))
    return *memory, str(half.descriptors), str(end.descriptors)


def used(rack: FaultRack) -> dict[str, Use]:
    """Return what each part uses now."""
    return {part: use(process.pid) for part, process in rack.parts.items()}


def play(rack: FaultRack, draw: random.Random, until_s: float, ending: bool) -> list[Row]:
    """Let faults happen until a time on the monotonic clock."""
    outcomes = []
    while time.monotonic() < until_s:
        time.sleep(draw.uniform(*PAUSE_S))
        fault, part = next_fault(draw, ending)
        outcomes.append((fault, part, rack.measured(partial(FAULTS[fault], rack, part))))
        click.echo(f"{fault}, {part}: {outcomes[-1][2].lost} packets lost", err=True)
    return outcomes


@contextlib.contextmanager
def logs_kept(rack: FaultRack, folder: Path) -> Iterator[None]:
    """Copy the logs of all parts to ``folder`` if something does not become right, and say so."""
    try:
        yield
    except EvaluationError as error:
        with writing(folder):
            rack.keep_logs(folder)
        raise EvaluationError(f"{error}; the logs of all parts are in {folder}") from None


@click.command(short_help="Random faults for an hour: is memory flat (root).")
@options.out_folder(None, "soak.csv and soak.md")
@click.option("--minutes", type=Positive(0.5, 10_000), default=60.0, show_default=True, help="How long.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Seed of the faults.")
@logging_options
def soak(out: Path, minutes: float, seed: int) -> None:
    """Let parts fail at random under load, as in mfs study faults, and measure memory and open descriptors.

    The faults of the second half end no part, so that the processes of half time are those of the end. The exit status
    is 1 if one of them grew.
    """
    draw, began_s = random.Random(seed), time.monotonic()
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    with fault_rack() as rack, logs_kept(rack, out / "logs"):
        outcomes = play(rack, draw, began_s + minutes * 30, ending=True)
        half = used(rack)
        outcomes += play(rack, draw, began_s + minutes * 60, ending=False)
        end = used(rack)
    text = table(("fault", "of", "times", "packets lost", "right after at most, s"), by_fault(outcomes))
    headings = ("process", "MiB at half time", "MiB at the end", "descriptors at half time", "descriptors at the end")
    text += "\n" + table(headings, [(part, *memory_cells(half[part], end[part])) for part in half])
    with writing(out):
        write_atomically(out / "soak.csv", csv_text(outcomes))
        write_atomically(out / "soak.md", text)
    click.echo(text, nl=False)
    if grown := [part for part in half if not is_flat(half[part], end[part])]:
        raise EvaluationError(f"not flat: {', '.join(grown)}; soak.md has the figures")
