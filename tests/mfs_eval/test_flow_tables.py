"""Tables of a sweep, and tenants: the objectives that they state, and those that they are judged by."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mfs_eval.errors import ClusterError, EvaluationError, ServingError
from mfs_eval.flow_level.cases import CASES, case_requests
from mfs_eval.flow_level.data_centre import PACKED, SPREAD, data_centre
from mfs_eval.flow_level.sweep_report import picture_of
from mfs_eval.flow_level.sweep_rows import Row
from mfs_eval.flow_level.tenants import TENANTS, jain, outcome, tenants_named
from mfs_eval.results.rows import PROVENANCE
from mfs_eval.serving.metrics import RequestRecord
from mfs_eval.serving.router import route
from mfs_eval.serving.trace import Request
from mfs_eval.studies.pooling import DEALINGS, routed_in_groups
from mfs_eval.studies.sweep_tables import attainment, differences, equal_attainment, tenants


def row(variant: str, rate: float, seed: int, share: float, **changes: object) -> Row:
    values: dict[str, object] = (
        dict.fromkeys(Row.columns(), 0)
        | dict.fromkeys(PROVENANCE, "x")
        | {
            "scenario": "dbrx-agent",
            "policy": variant,
            "variant": variant,
            "seed": seed,
            "rate_per_gpu": rate,
            "slo_attainment": share,
            "servers": 32,
            "oversubscription": 1,
            "slo_factor": 3.0,
            "layout": PACKED,
            "tenants": "alike",
        }
    )
    return Row.model_validate(values | changes)


def cells(table: str, begin: str) -> list[str]:
    [line] = [line for line in table.splitlines() if line.startswith(f"| {begin}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


ROWS = [
    *(row("fifo", rate, seed, share) for seed in (1, 2) for rate, share in ((1.0, 0.8), (2.0, 0.4))),
    *(row("karuna-paced", rate, seed, share) for seed in (1, 2) for rate, share in ((1.0, 0.9), (2.0, 0.5))),
    *(row("mfs", rate, seed, share + seed / 50) for seed in (1, 2) for rate, share in ((1.0, 0.97), (2.0, 0.57))),
]


def test_attainment_is_a_mean_over_seeds_with_ratios() -> None:
    lines = attainment(reversed(ROWS)).splitlines()
    assert lines[0] == (
        "| case | what else | requests/s per GPU | `fifo` | `karuna-paced` | `mfs` | mfs / fifo | mfs / karuna |"
    )
    assert lines[2] == "| `dbrx-agent` | 32 servers | 1 | 80 | 90 | 100 | 1.25 | 1.11 |"
    assert lines[3] == "| `dbrx-agent` | 32 servers | 2 | 40 | 50 | 60 | 1.50 | 1.20 |"


def test_differences_are_by_seed_with_their_interval() -> None:
    # 19 and 21 points at 1.0: a mean of 20, and with two seeds an interval of 12.7 times the standard error of 1.
    assert cells(differences(ROWS), "`fifo`")[1:] == ["-20 ± 13", "-20 ± 13"]
    assert cells(differences(ROWS[:4] + ROWS[-4:-2]), "`fifo`")[1] == "-19"
    assert cells(differences(ROWS), "`mfs` itself")[1:] == ["100 ± 13", "60 ± 13"]


def test_rates_at_equal_attainment_are_left_out_where_a_curve_does_not_cross() -> None:
    found = equal_attainment(ROWS, share_of=(0.9, 0.7, 0.3))
    # mfs attains 70 % at 1.75, the other at 1.5.
    assert cells(found, "`dbrx-agent`")[3:] == ["1.25", "1.17", ""]


def test_each_group_has_its_own_line_that_says_how_it_differs() -> None:
    spread = row("mfs", 1.0, 1, 0.5, layout=SPREAD, oversubscription=4, slo_factor=1.5)
    assert "| `dbrx-agent` | 32 servers, 4:1, SLO x 1.5, spread | 1 |" in attainment([*ROWS, spread])
    told = tenants([row("mfs", 1.0, 1, 0.5, tenants="loose", attainment_first=0.2, attainment_second=0.8)])
    assert cells(told, "`dbrx-agent`")[1:7] == ["32 servers, loose", "1", "`mfs`", "50", "20", "80"]


def test_a_picture_has_curves_or_intervals() -> None:
    curves, intervals = picture_of(ROWS), picture_of([one for one in ROWS if one.rate_per_gpu == 1.0])
    assert curves.startswith("<svg")
    assert intervals.startswith("<svg")
    # Error bars are collections of lines, curves are lines.
    assert "LineCollection" in intervals
    assert "LineCollection" not in curves


REQUESTS = [Request(index, 0, 100 * index + 16, 1, (index,)) for index in range(40)]
SLO_NS = {one.index: 900 for one in REQUESTS}


@pytest.mark.parametrize("name", TENANTS)
def test_tenants_divide_the_requests(name: str) -> None:
    second = TENANTS[name].second(REQUESTS)
    assert 0 < len(second) < len(REQUESTS)
    assert second == TENANTS[name].second(REQUESTS)


def test_bulk_is_the_longest_quarter() -> None:
    assert TENANTS["bulk"].second(REQUESTS) == frozenset(range(30, 40))


def test_stated_objectives_may_differ_from_those_that_count() -> None:
    second = frozenset({3})
    stated = {name: one.stated_ns(SLO_NS, second)[3] for name, one in TENANTS.items()}
    wanted = {name: one.wanted_ns(SLO_NS, second)[3] for name, one in TENANTS.items()}
    assert stated == {"alike": 900, "loose": 2700, "eager": 300, "bulk": 900}
    assert wanted == {"alike": 900, "loose": 2700, "eager": 900, "bulk": 900}
    assert all(one.stated_ns(SLO_NS, second)[2] == 900 for one in TENANTS.values())
    with pytest.raises(EvaluationError, match="no tenants 'poor'; there are alike"):
        tenants_named("poor")


RECORD = RequestRecord(1, 0, 0, 0, 200, 200, 1, 1, 0, 0, 0, 200, 0, 0, 0)


def test_the_outcome_of_a_tenant_is_that_of_its_records() -> None:
    records = [RECORD, replace(RECORD, index=2, ttft_ns=400)]
    got = outcome(records, {1: 100.0, 2: 100.0})
    assert (got.attainment, got.progress, got.ttft_p99_s) == (0.5, pytest.approx(0.375), 4e-7)
    assert outcome([], {}).attainment == 0.0


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=5))
def test_jains_index_is_between_one_over_n_and_one(values: list[float]) -> None:
    assert 1 / len(values) - 1e-9 <= jain(values) <= 1 + 1e-9
    assert jain([values[0]] * 3) == pytest.approx(1)
    assert jain([values[0], 0.0, 0.0, 0.0]) == pytest.approx(1 / 4)


def test_spread_units_have_the_same_servers_each_at_another_edge_switch() -> None:
    packed, spread = data_centre(64, 4), data_centre(64, 4, SPREAD)
    assert sorted(sum(spread.units, ())) == sorted(sum(packed.units, ()))
    assert spread.decode_servers == packed.decode_servers
    assert all(len({server // 4 for server in unit}) == 4 for unit in spread.units)
    assert all(len({server // 4 for server in unit}) == 1 for unit in packed.units)
    with pytest.raises(ClusterError, match="no layout 'round'"):
        data_centre(64, 4, "round")


def test_groups_have_their_own_units_and_all_requests_a_place() -> None:
    before, requests = case_requests(CASES["dbrx-agent"], 60, 1)
    one = routed_in_groups(requests, 8, before, 1, "in turn", 1)
    assert one == route(requests, 8, before)
    for dealing in DEALINGS:
        placed = routed_in_groups(requests, 8, before, 4, dealing, 1)
        assert placed.keys() == one.keys()
        for place in placed.values():
            assert place.reuse.holder is None or place.reuse.holder // 2 == place.unit // 2
    in_turn = routed_in_groups(requests, 8, before, 4, "in turn", 1)
    assert all(in_turn[request.index].unit // 2 == position % 4 for position, request in enumerate(requests))
    with pytest.raises(ServingError, match="8 units cannot be divided into 3 groups"):
        routed_in_groups(requests, 8, before, 3, "in turn", 1)
