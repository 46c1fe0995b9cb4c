"""``mfs study tofino-cost``: the Tofino resources that each feature of the program takes (docs/reference/tofino.md).

The program is compiled as it is, and again without each feature. The difference between the compiler's reports is the
cost of the feature. Costs do not add up: what shares a stage, a table or a gateway with others costs nothing alone.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import click

from mfs_eval import options
from mfs_eval.errors import EvaluationError
from mfs_eval.results.markdown import table
from mfs_eval.results.output import write_atomically, writing
from mfs_eval.studies.tofino_features import FEATURES, Feature, write_without
from p4src.artifact import TOFINO, TOFINO_2
from p4src.build import TOFINO_COMPILER, make_tofino

CHIPS = {"tofino": TOFINO, "tofino2": TOFINO_2}
COMPLETE = "complete program"
REDUCED = "none of these"
STAGES = re.compile(r"Number of stages for (ingress|egress) table allocation: (\d+)")
HEADINGS = (
    "without", "stages in ingress", "in egress", "SRAM", "TCAM", "map RAM", "hash bits", "stateful and meter units",
    "logical tables", "PHV bits",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Resources:
    """Resources of a compiled program: stages, blocks of memory, bits of hashes, units, tables, bits of PHV."""

    ingress: int
    egress: int
    srams: int
    tcams: int
    map_rams: int
    hash_bits: int
    units: int
    tables: int
    phv_bits: int


def read_reports(folder: Path) -> Resources:
    """Read the compiler's reports in its output ``folder``.

    Raises:
        EvaluationError: a report is missing, or lacks a figure.
    """
    logs = folder / "pipe" / "logs"
    try:
        summary = (logs / "table_summary.log").read_text("utf-8")
        stages = {gress: int(count) for gress, count in STAGES.findall(summary)}
        metrics = json.loads((logs / "metrics.json").read_text("utf-8"))
        described = json.loads((logs / "resources.json").read_text("utf-8"))["resources"]["mau"]["mau_stages"]
        return Resources(
            stages["ingress"],
            stages["egress"],
            metrics["mau"]["srams"],
            metrics["mau"]["tcams"],
            metrics["mau"]["map_rams"],
            sum(len(stage["hash_bits"]["bits"]) for stage in described),
            sum(len(stage["meter_alus"]["meters"]) for stage in described),
            metrics["mau"]["logical_tables"],
            _phv_bits(metrics["phv"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EvaluationError(f"the compiler's reports in {logs} are not as expected: {error!r}") from None


def _phv_bits(described: Any) -> int:
    return sum(size["bits_occupied"] for kind in described.values() for size in kind)


def compiled_without(features: Iterable[Feature], name: str) -> Resources | None:
    """Compile the artifact ``name`` without ``features``; None if the compiler cannot place it.

    Raises:
        EvaluationError: the sources have changed, or the reports are not as expected.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "p4src"
        write_without(features, folder)
        build = folder / "build"
        build.mkdir()
        try:
            make_tofino(name, build)
        except subprocess.CalledProcessError:
            return None
        return read_reports(build / name)


def markdown(rows: Sequence[tuple[str, Resources | None]]) -> str:
    """Return the table in Markdown: the first row as it is, the others as differences to it."""
    whole = rows[0][1]
    if whole is None:
        raise EvaluationError("the complete program does not compile; see the compiler's messages above")
    lines = [(rows[0][0], *map("{:,}".format, astuple(whole)))]
    for name, left in rows[1:]:
        if left is None:
            cells = ["does not fit", *[""] * (len(HEADINGS) - 2)]
        else:
            pairs = zip(astuple(left), astuple(whole), strict=True)
            cells = [f"{here - there:+,}" if here != there else "" for here, there in pairs]
        lines.append((name, *cells))
    return table(HEADINGS, lines)


@click.command(short_help="Tofino resources of each feature (needs p4c).")
@options.out_folder(None, "cost-CHIP.md")
@click.option("--chip", type=click.Choice(list(CHIPS)), default="tofino", show_default=True, help="Target chip.")
@options.JOBS
def tofino_cost(out: Path, chip: str, jobs: int | None) -> None:
    """Compile the program without each of its features, and write the cost of each to cost-CHIP.md."""
    if shutil.which(TOFINO_COMPILER) is None:
        raise EvaluationError(f"{TOFINO_COMPILER} is not on the PATH; docs/guide/deploy.md says where to get p4c")
    variants: dict[str, tuple[Feature, ...]] = {
        COMPLETE: (),
        **{one.name: (one,) for one in FEATURES},
        REDUCED: FEATURES,
    }

    def compiled(name: str) -> tuple[str, Resources | None]:
        left = compiled_without(variants[name], CHIPS[chip])
        click.echo(f"{name}: done", err=True)
        return name, left

    with ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
        rows = markdown(list(pool.map(compiled, variants)))
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / f"cost-{chip}.md", rows)
    click.echo(rows, nl=False)
