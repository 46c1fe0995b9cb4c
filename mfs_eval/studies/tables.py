"""``mfs study tables``: the tables of the documentation, computed from committed rows and written between markers."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click

from mfs_eval.errors import EvaluationError
from mfs_eval.flow_level import sweep_rows
from mfs_eval.live import live_rows, live_tables
from mfs_eval.results import markdown
from mfs_eval.results.output import write_atomically, writing
from mfs_eval.results.rows import read_rows
from mfs_eval.studies import (
    ablation_rows,
    ablation_tables,
    faults,
    negative_tables,
    paper_tables,
    rdma,
    stranding,
    tcp_policies,
    window_tables,
)

COMMAND = "mfs study tables --write"


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a page.

    Attributes:
        source: the CSV file that it is computed from, relative to docs/studies.
        make: returns the table, in Markdown, given the path of the file.
    """

    source: str
    make: Callable[[Path], str]


def _of_ablation(make: Callable[[list[ablation_rows.Row]], str], folder: str = "ablation") -> Table:
    return Table(f"{folder}/{ablation_rows.FILE}", lambda path: make(read_rows(path, ablation_rows.Row)))


def _of_sweep(folder: str, make: Callable[[list[sweep_rows.Row]], str]) -> Table:
    return Table(f"paper/{folder}/{sweep_rows.FILE}", lambda path: make(read_rows(path, sweep_rows.Row)))


def _of_live(folder: str, make: Callable[[list[live_rows.Row]], str]) -> Table:
    return Table(f"{folder}/{live_rows.FILE}", lambda path: make(read_rows(path, live_rows.Row)))


TABLES = {
    **{f"ablation-{name}": _of_ablation(make) for name, make in ablation_tables.TABLES.items()},
    **{f"windows-{name}": _of_ablation(make, "windows") for name, make in window_tables.TABLES.items()},
    **{f"negative-{name}": _of_ablation(make) for name, make in negative_tables.TABLES.items()},
    "faults": Table(faults.FILE, lambda path: faults.markdown(faults.read(path))),
    "live": _of_live("live", live_tables.summary),
    "live-differences": _of_live("live", lambda rows: live_tables.differences(rows, "mfs-tcp")),
    "live-bands-differences": _of_live("live", lambda rows: live_tables.differences(rows, "mfs-tcp-bands")),
    "live-headline": _of_live("live", live_tables.headline),
    "live-shim": _of_live("live-shim", live_tables.summary),
    "rdma": Table("rdma.csv", lambda path: rdma.markdown(rdma.read(path))),
    "stranding": Table("stranding.csv", lambda path: stranding.markdown(stranding.read(path))),
    "tcp-policies": Table(
        f"tcp-policies/{tcp_policies.FILE}", lambda path: tcp_policies.markdown(read_rows(path, tcp_policies.Row))
    ),
    "paper-all-cases": _of_sweep("all-cases", paper_tables.attainment),
    "paper-full-size": _of_sweep("full", paper_tables.attainment),
    "paper-two-cases": _of_sweep("two-cases", paper_tables.two_cases),
    "paper-tenants": _of_sweep("two-cases", paper_tables.tenants),
    "paper-slo-factors": _of_sweep("sensitivity", paper_tables.slo_factors),
    "paper-ranking": _of_sweep("sensitivity", paper_tables.ranking),
    "paper-parameters": _of_sweep("sensitivity", paper_tables.parameters),
}
"""By the name in the markers ``<!-- begin NAME -->`` and ``<!-- end NAME -->``."""
_STUDIED = ("results", "negative", "paper", "rdma", "stranding", "real-tcp", "faults")
PAGES = tuple(map(Path, ("README.md", *(f"docs/studies/{name}.md" for name in _STUDIED))))
_STUDIES = Path("docs/studies")


def computed(page: Path, name: str) -> str:
    """Return the table ``name`` for ``page``, in Markdown.

    Raises:
        EvaluationError: there is no such table, or its rows cannot be read.
    """
    if name not in TABLES:
        raise EvaluationError(f"{page}: there is no table {name!r}; there are {', '.join(TABLES)}")
    source = page.parent / _source(page, name)
    try:
        return TABLES[name].make(source)
    except OSError as error:
        raise EvaluationError(f"cannot read {source}: {error.strerror}") from None


def origin(page: Path, name: str) -> str:
    """Return a line that says which command made the table, and from which rows of which commit."""
    source = _source(page, name).as_posix()
    commit = _last_commit(page.parent / source)
    of_commit = f" of commit {commit}" if commit else ""
    return f"\nBy `{COMMAND} {page.as_posix()}`, from [{source}]({source}){of_commit}.\n"


def _source(page: Path, name: str) -> Path:
    """Return the path of a table's rows, relative to the folder of ``page``: a study or the README."""
    source = Path(TABLES[name].source)
    return _STUDIES / source if (page.parent / _STUDIES).is_dir() else source


def _last_commit(path: Path) -> str:
    """Return the commit that last changed the content of ``path``; empty if git does not know."""
    if shutil.which("git") is None:
        return ""
    log = ["git", "log", "-1", "--follow", "--diff-filter=AM", "--abbrev=10", "--format=%h", "--", path.name]
    done = subprocess.run(log, cwd=path.parent, capture_output=True, text=True, check=False)
    return done.stdout.strip()


@click.command(short_help="Tables of the documentation, from committed rows.")
@click.argument("pages", nargs=-1, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--write", is_flag=True, help="Replace the tables in the pages instead of printing them.")
def tables(pages: tuple[Path, ...], write: bool) -> None:
    """Compute the tables of PAGES, by default those of the README and of docs/studies.

    A table goes between <!-- begin NAME --> and <!-- end NAME -->.
    """
    for page in pages or PAGES:
        try:
            text = page.read_text("utf-8")
        except OSError as error:
            raise EvaluationError(f"cannot read {page}: {error.strerror}") from None
        made = {name: computed(page, name) for name in markdown.blocks(text)}
        if not write:
            for name, one in made.items():
                click.echo(f"{name}\n\n{one}")
            continue
        with writing(page):
            write_atomically(
                page, markdown.with_blocks(text, {name: one + origin(page, name) for name, one in made.items()})
            )
        click.echo(f"{page}: {len(made)} tables written")
