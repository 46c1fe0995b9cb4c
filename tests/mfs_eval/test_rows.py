"""The row store: rows with their provenance, and what it refuses to mix."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from mfs_eval.errors import EvaluationError
from mfs_eval.flow_level import sweep_rows
from mfs_eval.results.rows import PROVENANCE, RowStore, StoredRow, read_rows
from mfs_eval.results.schema import Provenance
from mfs_eval.studies import ablation_rows

HERE = Provenance(trace_digest="a", program_digest="b", version="1")
STUDIES = Path(__file__).parents[2] / "docs" / "studies"


class Point(StoredRow):
    """A made-up run."""

    LEADING: ClassVar[tuple[str, ...]] = ("name", "seed")
    KEY: ClassVar[tuple[str, ...]] = ("name", "seed")

    share: float
    name: str
    seed: int


def store(path: Path, provenance: Provenance = HERE) -> RowStore[Point]:
    return RowStore(path, Point, provenance)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "points.csv"
    filled = store(file)
    filled.append(Point(name="y", seed=1, share=0.5))
    filled.append(Point(name="x", seed=2, share=0.25))
    return file


def test_rows_carry_their_provenance_in_the_last_columns(path: Path) -> None:
    assert path.read_text() == ("name,seed,share,trace_digest,program_digest,version\ny,1,0.5,a,b,1\nx,2,0.25,a,b,1\n")


def test_a_line_that_was_cut_off_is_dropped(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])
    assert list(store(path).rows) == [("y", 1)]
    assert len(path.read_text().splitlines()) == 2


def test_a_sorted_file_keeps_the_rows_of_another_process(path: Path) -> None:
    ours, theirs = store(path), store(path)
    theirs.append(Point(name="a", seed=3, share=1.0))
    ours.sort()
    assert [row.name for row in read_rows(path, Point)] == ["a", "x", "y"]
    assert list(ours.rows) == [("a", 3), ("x", 2), ("y", 1)]


@pytest.mark.parametrize(
    ("field", "named"), [("trace_digest", "trace"), ("program_digest", "compiled program"), ("version", "version")]
)
def test_rows_of_another_provenance_are_refused(path: Path, field: str, named: str) -> None:
    before = path.read_bytes()
    with pytest.raises(EvaluationError, match=rf"another {named}.* not z\); remove the file or choose .*--out"):
        store(path, HERE.model_copy(update={field: "z"}))
    assert path.read_bytes() == before


def test_rows_without_provenance_can_be_read_and_not_extended(path: Path) -> None:
    lines = [line.rsplit(",", len(PROVENANCE))[0] for line in path.read_text().splitlines()]
    path.write_text("\n".join(lines) + "\n")
    assert {row.version for row in read_rows(path, Point)} == {""}
    with pytest.raises(EvaluationError, match="do not say which trace and version they come from"):
        store(path)


def test_values_that_are_not_numbers_are_named_by_line_and_column(path: Path) -> None:
    path.write_text(path.read_text().replace("0.25", "nan"))
    with pytest.raises(EvaluationError, match=r"points\.csv: line 3: share: .*finite number"):
        read_rows(path, Point)


def test_committed_rows_can_be_read() -> None:
    assert len(read_rows(STUDIES / "ablation" / ablation_rows.FILE, ablation_rows.Row)) > 1000
    sweeps = list(STUDIES.glob(f"paper/*/{sweep_rows.FILE}"))
    assert len(sweeps) == 4
    assert all(read_rows(path, sweep_rows.Row) for path in sweeps)
