"""``mfs study tables``: tables in the documentation are those that committed rows give."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from mfs_eval.errors import EvaluationError
from mfs_eval.results.markdown import blocks, table, with_blocks
from mfs_eval.studies.tables import PAGES, TABLES, computed, tables

ROOT = Path(__file__).parents[2]
PAGE = "before\n<!-- begin one -->\nold\n<!-- end one -->\nafter\n"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_pages_show_what_the_rows_say(page: Path) -> None:
    found = blocks((ROOT / page).read_text("utf-8"))
    assert found
    for name, text in found.items():
        assert text.startswith(computed(ROOT / page, name)), name


def test_every_table_is_on_a_page() -> None:
    assert {name for page in PAGES for name in blocks((ROOT / page).read_text("utf-8"))} == set(TABLES)


def test_blocks_are_replaced_and_the_rest_of_the_page_is_kept() -> None:
    assert blocks(PAGE) == {"one": "old\n"}
    new = table(("a", "b"), [("1", "2")])
    assert with_blocks(PAGE, {"one": new}) == PAGE.replace("old\n", "| a | b |\n|---|---|\n| 1 | 2 |\n")
    with pytest.raises(EvaluationError, match="no table 'one'; there are two"):
        with_blocks(PAGE, {"two": new})


def test_a_written_table_names_its_command_and_rows(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- begin paper-slo-factors -->\n<!-- end paper-slo-factors -->\n")
    shutil.copytree(ROOT / "docs/studies/paper/sensitivity", tmp_path / "paper/sensitivity")
    result = CliRunner().invoke(tables, ["--write", str(page)])
    assert result.exit_code == 0, result.output
    assert "| 1.5 | 13 | 4, 29, 5 |" in page.read_text()
    assert f"By `mfs study tables --write {page}`, from [paper/sensitivity/sweep.csv]" in page.read_text()
    before = page.read_text()
    CliRunner().invoke(tables, ["--write", str(page)])
    assert page.read_text() == before
