"""``python -m mfs_eval.studies.tofino_cost``: what each feature of the program takes of a Tofino
(docs/reference/tofino.md).

The program is compiled as it is and once more without each feature; what the compiler's reports then no longer count
is what the feature takes. That is not a sum: what shares a stage, a table or a gateway with others costs nothing alone.
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

from mfs_ctrl.cli import reporting_errors
from mfs_eval.errors import EvaluationError
from mfs_eval.studies.tofino_features import FEATURES, Feature, write_without
from p4src.artifact import TOFINO, TOFINO_2
from p4src.build import TOFINO_COMPILER, make_tofino

CHIPS = {"tofino": TOFINO, "tofino2": TOFINO_2}
WHOLE = "all of it"
NONE = "none of these"
STAGES = re.compile(r"Number of stages for (ingress|egress) table allocation: (\d+)")
HEADINGS = (
    "without", "stages in ingress", "in egress", "SRAM", "TCAM", "map RAM", "hash bits", "stateful and meter units",
    "logical tables", "PHV bits",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Resources:
    """What a compiled program takes: stages by gress, blocks of memory, bits of hashes, units, tables, bits of PHV."""

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
    """What the compiler reports in its output ``folder``.

    Raises:
        EvaluationError: a report is missing, or says nothing of what is asked.
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
    """What the artifact ``name`` takes without ``features``; None if the compiler finds no place for it.

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
    """The table for people: the first row as it is, the others as differences to it."""
    whole = rows[0][1]
    if whole is None:
        raise EvaluationError("the program does not compile as it is; the compiler's messages are above")
    lines = [_line(HEADINGS), "|---" * len(HEADINGS) + "|", _line((rows[0][0], *map("{:,}".format, astuple(whole))))]
    for name, left in rows[1:]:
        if left is None:
            cells = ["no place found", *[""] * (len(HEADINGS) - 2)]
        else:
            pairs = zip(astuple(left), astuple(whole), strict=True)
            cells = [f"{here - there:+,}" if here != there else "" for here, there in pairs]
        lines.append(_line((name, *cells)))
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


@click.command()
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder for cost-CHIP.md.")
@click.option("--chip", type=click.Choice(list(CHIPS)), default="tofino", show_default=True)
@click.option("--jobs", type=click.IntRange(min=1), default=os.cpu_count() or 1, help="Compilations at a time.")
def tofino_cost(out: Path, chip: str, jobs: int) -> None:
    """Compile without each feature, and write what each takes."""
    if shutil.which(TOFINO_COMPILER) is None:
        raise EvaluationError(f"{TOFINO_COMPILER} is not on the PATH; see docs/guide/deploy.md for where to get p4c")
    variants: dict[str, tuple[Feature, ...]] = {WHOLE: (), **{one.name: (one,) for one in FEATURES}, NONE: FEATURES}

    def compiled(name: str) -> tuple[str, Resources | None]:
        left = compiled_without(variants[name], CHIPS[chip])
        click.echo(f"{name}: done", err=True)
        return name, left

    with ThreadPoolExecutor(jobs) as pool:
        table = markdown(list(pool.map(compiled, variants)))
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"cost-{chip}.md").write_text(table, "utf-8")
    except OSError as error:
        raise EvaluationError(f"cannot write {out}: {error.strerror}; choose another folder with --out") from None
    click.echo(table, nl=False)


if __name__ == "__main__":
    reporting_errors(tofino_cost)
