"""``python -m evaluation.tofino_cost``: what each feature of the program takes of a Tofino (docs/tofino.md).

The program is compiled as it is and once more without each feature; what the compiler's reports then no longer count
is what the feature takes. That is not a sum: what shares a stage, a table or a gateway with others costs nothing alone.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from evaluation.errors import EvaluationError
from evaluation.tofino_features import FEATURES, Feature, write_without
from mfs_ctrl.cli import reporting_errors
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


def compiled_without(features: Iterable[Feature], name: str, keep: Path | None = None) -> Resources:
    """What the artifact ``name`` takes without ``features``; ``keep`` is a new folder for all that is made of it.

    Raises:
        EvaluationError: it does not compile, or does not fit.
    """
    features = tuple(features)
    with tempfile.TemporaryDirectory() as temporary:
        folder = keep or Path(temporary) / "p4src"
        write_without(features, folder)
        build = folder / "build"
        build.mkdir()
        try:
            make_tofino(name, build)
        except subprocess.CalledProcessError as error:
            left_out = ", ".join(feature.name for feature in features) or "anything left out"
            raise EvaluationError(f"without {left_out}: {error.cmd[0]} ended with {error.returncode}") from None
        return read_reports(build / name)


def markdown(rows: Sequence[tuple[str, Resources]]) -> str:
    """The table for people: the first row as it is, the others as differences to it."""
    lines = ["| " + " | ".join(HEADINGS) + " |", "|---" * len(HEADINGS) + "|"]
    whole = rows[0][1]
    for name, resources in rows:
        if resources is whole:
            cells = [f"{count:,}" for count in asdict(resources).values()]
        else:
            base = asdict(whole)
            cells = [
                f"{count - base[kind]:+,}" if count != base[kind] else "" for kind, count in asdict(resources).items()
            ]
        lines.append("| " + " | ".join((name, *cells)) + " |")
    return "\n".join(lines) + "\n"


@click.command()
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder for cost-CHIP.md.")
@click.option("--chip", type=click.Choice(list(CHIPS)), default="tofino", show_default=True)
def tofino_cost(out: Path, chip: str) -> None:
    """Compile without each feature, and write what each takes."""
    if shutil.which(TOFINO_COMPILER) is None:
        raise EvaluationError(f"{TOFINO_COMPILER} is not on the PATH; see docs/deploy.md for where to get p4c")
    variants = {WHOLE: (), **{feature.name: (feature,) for feature in FEATURES}, NONE: FEATURES}
    rows = []
    for name, features in variants.items():
        rows.append((name, compiled_without(features, CHIPS[chip])))
        click.echo(f"{name}: done", err=True)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"cost-{chip}.md").write_text(markdown(rows), "utf-8")
    except OSError as error:
        raise EvaluationError(f"cannot write {out}: {error.strerror}; choose another folder with --out") from None
    click.echo(markdown(rows), nl=False)


if __name__ == "__main__":
    reporting_errors(tofino_cost)
