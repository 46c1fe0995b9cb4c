"""Tables over windows of the trace, and of the parts that earn nothing, from rows made up for the purpose."""

from __future__ import annotations

from mfs_eval.results.rows import PROVENANCE
from mfs_eval.studies import negative_tables, window_tables
from mfs_eval.studies.ablation_rows import Row


def row(variant: str, rate: float, seed: int, attained: float, scenario: str = "incast") -> Row:
    numbers = dict.fromkeys(Row.columns(), 1) | dict.fromkeys(PROVENANCE, "x")
    names = {"scenario": scenario, "engine": "flows", "prompts": "windows", "policy": "p", "variant": variant}
    return Row.model_validate(numbers | names | {"request_rate": rate, "seed": seed, "slo_attainment": attained})


ROWS = [
    row(variant, rate, seed, share + seed / 100)
    for variant, shares in {
        "fifo": (0.8, 0.6),
        "static-reuse": (0.92, 0.7),
        "static-bands": (0.94, 0.72),
        "mfs": (0.95, 0.8),
    }.items()
    for rate, share in zip((20.0, 30.0), shares, strict=True)
    for seed in (1, 3)
]


def test_attainment_has_a_line_for_each_rate_and_a_column_for_each_policy_that_ran() -> None:
    lines = window_tables.attainment(ROWS).splitlines()
    assert lines[0] == "| scenario | requests/s | fifo | static-reuse | static-bands | mfs | windows |"
    assert lines[2] == "| `incast` | 20 | 82 | 94 | 96 | 97 | 2 |"
    assert lines[3] == "| `incast` | 30 | 62 | 72 | 74 | 82 | 2 |"


def test_gains_are_paired_by_window() -> None:
    lines = window_tables.gains([*ROWS, row("mfs", 30.0, 9, 0.0)]).splitlines()
    # A window that only one of the two has does not count, and shares that move together have no interval.
    assert lines[3] == "| `incast` | 30 | +20.0 ± 0.0 | +10.0 ± 0.0 | +8.0 ± 0.0 |"


def test_a_part_is_judged_over_all_pairs_and_by_its_extremes() -> None:
    pairs = {("testbed", 22.0): 0.0, ("incast", 34.0): 0.02}
    rows = [
        row(variant, rate, seed, 0.5 + gain * (variant == part.having), scenario)
        for part in negative_tables.PARTS
        for variant in (part.having, part.lacking)
        for (scenario, rate), gain in pairs.items()
        for seed in (1, 2)
    ]
    line = negative_tables.parts(rows[:8]).splitlines()[2]
    assert "| 4 | +1.00 | +0.0 ± 0.0 `testbed` 22/s | +2.0 ± 0.0 `incast` 34/s |" in line
