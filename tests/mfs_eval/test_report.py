"""The report: what it says, and what a browser makes of it."""

from __future__ import annotations

import csv
import io
import itertools
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from mfs_eval.cli import report as command
from mfs_eval.demo import POLICIES
from mfs_eval.errors import EvaluationError
from mfs_eval.live.live_rows import FILE, Row
from mfs_eval.report import load, page_of, write_report
from mfs_eval.results import cluster_picture, command_log, findings, palette, plots, report
from mfs_eval.results.page import html
from mfs_eval.results.row_page import names_of
from mfs_eval.results.rows import RowStore
from mfs_eval.results.schema import Occupancy, Provenance, Results, Run, StageMeans, TunerPoint
from mfs_eval.results.statistics import Estimate
from mfs_eval.serve import serve_rows
from mfs_eval.setup.scenario import SCENARIOS, Scenario
from tests.support.chromium import MISSING, Page, browser
from tests.support.live_rows import live_row
from tests.support.serve_rows import serve_row

MOST_BYTES = 3_000_000
LEAST_CONTRAST = 3.0
"""Of graphical objects (WCAG 2.2, 1.4.11); text needs 4.5 (1.4.3)."""


def run_of(policy: str, rate: float = 25.0, seed: int = 1, in_time: int = 5, requests: int = 10) -> Run:
    ttfts = [0.1] * in_time + [0.4] * (requests - in_time)
    return Run(
        scenario="testbed",
        policy=policy,
        request_rate=rate,
        seed=seed,
        requests=requests,
        slo_attainment=in_time / requests,
        ttft_mean_s=sum(ttfts) / requests,
        ttft_p50_s=0.1,
        ttft_p99_s=0.4,
        collective_completion_mean_s=0.01,
        p2d_earliness_mean_s=0.0,
        network_share=0.5,
        packets=1000,
        packets_lost=0,
        packets_reordered=0,
        reordered_per_million=0.0,
        reordered_within_message=0,
        stranded_bytes=0,
        stranding_delay_mean_s=0.0,
        ttft_s=ttfts,
        objective_s=[0.2] * requests,
        stages=StageMeans(queued_s=0.05, reuse_s=0.01, compute_s=0.04, collective_s=0.06, hand_over_s=0.04),
        occupancy=[Occupancy(time_s=at / 20, bytes_by_level=[at * 100] * 8) for at in range(20)],
        promotions=[at % 3 for at in range(20)],
        tuner=[
            TunerPoint(time_s=at, mlu_threshold=1 / at, tight_slack_s=at / 10, late_share=None, rho_max=0.3)
            for at in range(1, 4)
        ],
    )


def results_of(**changed: int) -> Results:
    runs = [
        run_of(policy, rate, in_time=changed.get(policy, 5) + index)
        for index, rate in enumerate((22.0, 25.0))
        for policy in POLICIES
    ]
    settings: dict[str, str | int | float] = {
        "trace": "a trace",
        "scenario testbed": SCENARIOS["testbed"].description,
    }
    return Results(settings=settings, provenance=Provenance(), runs=runs)


def test_the_finding_is_a_paired_difference_with_its_interval() -> None:
    runs = [run_of("fifo", in_time=3), run_of("static-reuse", in_time=8), run_of("mfs", in_time=8)]
    told = findings.finding(runs)
    assert "At 25 requests per second, mfs serves 80% of the requests in time, fifo 30%, static-reuse 80%." in told
    # Five of ten requests change: 0.5 ± t(0.975, 9) * sqrt(0.25 * 10 / 9 / 10).
    assert "50 ± 38 points more than fifo." in told
    assert "The same requests are in time under static-reuse." in told


def test_a_difference_within_its_interval_is_said_to_be_one() -> None:
    told = findings.finding([run_of("fifo", in_time=4), run_of("mfs", in_time=5)])
    assert "10 ± 23 points more than fifo; the interval includes no difference." in told


def test_with_several_seeds_the_interval_is_of_the_seeds() -> None:
    here = [run_of("mfs", seed=seed, in_time=5 + seed) for seed in (1, 2)]
    base = [run_of("fifo", seed=seed, in_time=5) for seed in (1, 2)]
    found = findings.difference(here, base)
    assert found is not None
    assert found.mean == pytest.approx(0.15)
    assert found.half == pytest.approx(12.706 * 0.05, rel=1e-3)


def test_runs_of_different_requests_are_not_paired() -> None:
    assert findings.difference([run_of("mfs", requests=10)], [run_of("fifo", requests=20)]) is None


def test_results_that_do_not_say_which_requests_were_in_time_have_a_finding_without_intervals() -> None:
    runs = [run_of(policy).model_copy(update={"objective_s": []}) for policy in ("fifo", "mfs")]
    assert findings.finding(runs) == "At 25 requests per second, mfs serves 50% of the requests in time, fifo 50%."


def test_tables_have_units_and_a_csv_with_the_same_rows() -> None:
    [section] = report.page_of(results_of()).sections
    for table in section.tables:
        parsed = list(csv.reader(io.StringIO(table.csv)))
        assert tuple(parsed[0]) == table.headings
        assert len(parsed) == 1 + len(table.rows)
        assert {len(row) for row in (*parsed, *table.rows)} == {len(table.headings)}
        assert all(", ms" in heading for heading in table.headings if "TTFT" in heading and "share" not in heading)


def luminance(colour: str) -> float:
    """Relative luminance of ``#rrggbb`` (WCAG 2.2)."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in channels]
    return sum(weight * one for weight, one in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_policies_stand_out_from_the_page_and_differ_in_colour_dash_and_shape() -> None:
    styles = palette.styles(list(POLICIES))
    for style in styles.values():
        assert contrast(style.colour, palette.LIGHT_PAGE) >= LEAST_CONTRAST
        assert contrast(style.colour, palette.DARK_PAGE) >= LEAST_CONTRAST
    for one, other in itertools.combinations(styles.values(), 2):
        assert one.colour != other.colour
        assert one.dash != other.dash
        assert one.shape != other.shape


def test_pictures_of_studies_have_the_colours_of_the_report() -> None:
    names = ["mfs", "static-reuse", "levels-2"]
    estimates = {rate: [(name, Estimate(0.5, 0.1)) for name in names] for rate in (1.0, 2.0)}
    drawn = (
        plots.ablation(estimates),
        plots.sweep({name: [(1.0, 0.9), (2.0, 0.5)] for name in names}),
        plots.attainment([run_of(name) for name in names]),
    )
    for picture in drawn:
        for style in palette.styles(names).values():
            assert style.colour in picture
        assert "#1f77b4" not in picture, "a colour of Matplotlib's own"


def test_twenty_policies_without_a_style_differ() -> None:
    styles = palette.styles([f"policy {number}" for number in range(20)]).values()
    assert len(set(styles)) == 20
    for style in styles:
        assert contrast(style.colour, palette.LIGHT_PAGE) >= LEAST_CONTRAST
        assert contrast(style.colour, palette.DARK_PAGE) >= LEAST_CONTRAST


def test_the_page_is_the_same_for_the_same_results_and_stays_small() -> None:
    first = html(report.page_of(results_of()))
    assert first == html(report.page_of(results_of()))
    assert len(first.encode()) < MOST_BYTES


def test_a_folder_without_results_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"has none of results\.json.*run mfs demo"):
        load(tmp_path)


ORIGIN = Provenance(trace_digest="digest-of-t", program_digest="digest-of-p", version="v")


def test_results_of_mfs_live_are_drawn_from_their_rows(tmp_path: Path) -> None:
    store = RowStore(tmp_path / FILE, Row, ORIGIN)
    for command_line in ("mfs live --seeds 1", "mfs live --seeds 2"):
        command_log.record(tmp_path, command_line, "a trace")
        command_log.record(tmp_path, command_line, "a trace")
    for seed in (1, 2):
        store.append(live_row("fifo", seed, slo_attainment=0.3))
        store.append(live_row("mfs-tail", seed, slo_attainment=0.3 + 0.1 * seed))
    result = CliRunner().invoke(command, [str(tmp_path)], catch_exceptions=False)
    assert result.exit_code == 0
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "mfs-tail serves 45% of the requests in time, fifo 30%" in page
    assert "each server: 4 GPUs, 1 NIC of 20 Mb/s" in page
    for origin in ("mfs live --seeds 1; mfs live --seeds 2", "digest-of-t", "digest-of-p", "<dt>seeds</dt><dd>1, 2"):
        assert origin in page
    assert "slo attainment" not in page.partition("Where this comes from")[2].partition("</main>")[0]


def test_results_of_mfs_serve_are_drawn_from_their_requests(tmp_path: Path) -> None:
    store = RowStore(tmp_path / serve_rows.FILE, serve_rows.Row, ORIGIN)
    for number in range(4):
        store.append(serve_row("fifo", f"r{number}", 1500.0 if number == 0 else 3000.0))
        store.append(serve_row("mfs", f"r{number}", 900.0 if number else None))
    [section] = page_of(tmp_path / serve_rows.FILE).sections
    assert section.finding.startswith("At 0.4 requests per second, mfs serves 75% of the requests in time, fifo 25%.")
    assert "50 ± 159 points more than fifo; the interval includes no difference." in section.finding
    results, stages = section.tables
    assert results.values[1][:4] == ["mfs", 4, 1, 0.75]
    assert stages.values == [["fifo", 0.0, 400.0, 2225.0], ["mfs", 0.0, 400.0, 500.0]]
    assert [chart.name for chart in section.charts] == ["attainment", "ttft", "stages"]
    assert "s4: store" in section.picture


def test_a_command_log_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / command_log.FILE).write_text('{"command": 1}')
    with pytest.raises(EvaluationError, match=r"commands\.json: .*remove the file"):
        command_log.record(tmp_path, "mfs live", "a trace")


def test_sections_are_named_by_what_differs() -> None:
    assert list(names_of([("dbrx", 256, 1, 3.0), ("dbrx", 256, 2, 3.0)]).values()) == ["dbrx-1", "dbrx-2"]
    assert list(names_of([("dbrx", 256, 1, 3.0)]).values()) == ["dbrx"]


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=list(SCENARIOS))
def test_the_picture_of_a_cluster_says_in_words_what_it_shows(scenario: Scenario) -> None:
    drawn = ElementTree.fromstring(cluster_picture.of_scenario(scenario))
    title, description = drawn[0], drawn[1]
    assert (title.tag, description.tag) == ("title", "desc")
    assert drawn.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"
    said = description.text or ""
    for unit in range(1, len(scenario.cluster.units) + 1):
        assert f"prefill {unit}" in said
    texts = [element.text for element in drawn.iter("text")]
    assert [text for text in texts if re.fullmatch(r"s\d+", text or "")] == [
        f"s{number}" for number in range(1, scenario.cluster.servers + 1)
    ]
    assert len(drawn.findall("rect[@class='nic']")) == scenario.cluster.hosts
    assert ("two racks" in said) == bool(scenario.uplinks)


def test_a_scenario_that_has_changed_since_is_not_drawn() -> None:
    [section] = report.page_of(results_of()).sections
    assert section.picture
    old = results_of().model_copy(update={"settings": {"scenario testbed": "9 servers"}})
    [section] = report.page_of(old).sections
    assert section.picture == ""


def test_two_results_are_compared(tmp_path: Path) -> None:
    for name, result in (("before", results_of()), ("after", results_of(mfs=8))):
        (tmp_path / name).mkdir()
        result.write(tmp_path / name / "results.json")
    arguments = [str(tmp_path / "before"), str(tmp_path / "after")]
    CliRunner().invoke(command, arguments, catch_exceptions=False)
    page = (tmp_path / "before" / "compared.html").read_text("utf-8")
    assert "mfs at 25: +30 ± 35 points" not in page, "within the interval"
    assert "+30.0 ± 35" in page
    assert "<strong>testbed:</strong> no change in requests in time is larger than its interval." in page


def test_two_folders_of_rows_are_compared_by_seed(tmp_path: Path) -> None:
    for name, gain in (("before", 0.0), ("after", 0.2)):
        (tmp_path / name).mkdir()
        store = RowStore(tmp_path / name / FILE, Row, ORIGIN)
        for seed in (1, 2, 3):
            store.append(live_row("fifo", seed, slo_attainment=0.3))
            store.append(live_row("mfs-tail", seed, slo_attainment=0.3 + gain + 0.01 * seed * (gain > 0)))
    arguments = [str(tmp_path / "before"), str(tmp_path / "after")]
    CliRunner().invoke(command, arguments, catch_exceptions=False)
    page = (tmp_path / "before" / "compared.html").read_text("utf-8")
    assert "<strong>testbed:</strong> mfs-tail at 14: +22 ± 2 points." in page


def test_results_of_two_commands_are_not_compared(tmp_path: Path) -> None:
    for name in ("before", "after"):
        (tmp_path / name).mkdir()
    results_of().write(tmp_path / "before" / "results.json")
    RowStore(tmp_path / "after" / FILE, Row, ORIGIN).append(live_row())
    with pytest.raises(EvaluationError, match="two results of mfs demo can be compared, or two of mfs ablate"):
        write_report(tmp_path / "before", tmp_path / "after")


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    if MISSING:
        pytest.skip(MISSING)
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    written = tmp_path_factory.mktemp("report") / "report.html"
    report.write(results_of(), written)
    return written


CURVES = "document.querySelectorAll('[data-chart=testbed-attainment] .layer_1_marks path').length"


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_draws_all_charts_without_errors_or_overflow(page: Page, file: Path, width: int, dark: bool) -> None:
    page.open(file, width, dark)
    assert page.problems == []
    assert page.run("document.querySelectorAll('.chart svg').length") == page.run(
        "document.querySelectorAll('figure').length"
    )
    assert page.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    wider = (
        "[...document.querySelectorAll('.chart svg')].filter((svg) => svg.getBoundingClientRect().right > innerWidth)"
    )
    assert page.run(f"{wider}.length") == 0
    assert page.run("document.querySelectorAll('.chart svg text').length") > 50
    assert page.run("performance.getEntriesByType('resource').length") == 0, "the file needs nothing else"


MEASURED = ("ablation/ablation.csv", "live/live.csv", "paper/full/sweep.csv")
"""Rows of the documentation's studies."""


@pytest.mark.parametrize("measured", MEASURED)
def test_rows_of_studies_make_pages_that_fit_a_phone(page: Page, tmp_path: Path, measured: str) -> None:
    source = Path(__file__).parents[2] / "docs" / "studies" / measured
    shutil.copy(source, tmp_path)
    CliRunner().invoke(command, [str(tmp_path)], catch_exceptions=False)
    drawn = tmp_path / "report.html"
    assert drawn.stat().st_size < MOST_BYTES
    page.open(drawn, 390, dark=True)
    assert page.problems == []
    assert page.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert page.run("document.querySelectorAll('.chart svg').length") == page.run(
        "document.querySelectorAll('figure').length"
    )
    assert page.run("document.querySelectorAll('.cluster svg').length") == page.run(
        "document.querySelectorAll('section').length"
    )
    heights = "[...document.querySelectorAll('.cluster text')].map((one) => one.getBoundingClientRect().height)"
    assert min(page.run(heights)) >= 11


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_has_enough_contrast_to_the_page(page: Page, file: Path, dark: bool) -> None:
    page.open(file, dark=dark)
    written = "p, dd, dt, td, a, h1, h2, figcaption"
    colours = page.run(
        "[getComputedStyle(document.body).backgroundColor,"
        f" ...[...document.querySelectorAll('{written}')].map((one) => getComputedStyle(one).color),"
        " ...[...document.querySelectorAll('.chart svg text, .cluster text')].map((one) => getComputedStyle(one).fill)]"
    )
    as_hex = ["#" + "".join(f"{int(part):02x}" for part in colour[4:-1].split(",")) for colour in colours]
    background = palette.DARK_PAGE if dark else palette.LIGHT_PAGE
    assert as_hex[0] == background
    assert min(contrast(colour, background) for colour in as_hex[1:]) >= 4.5


def test_charts_have_alternatives_for_screen_readers(page: Page, file: Path) -> None:
    page.open(file)
    labels = page.run("[...document.querySelectorAll('[role=graphics-document]')].map((one) => one.ariaLabel)")
    assert len(labels) == page.run("document.querySelectorAll('figure').length")
    assert all(len(label) > 20 for label in labels)


def test_a_policy_is_hidden_in_all_charts_and_the_address_keeps_it(page: Page, file: Path) -> None:
    page.open(file)
    assert page.run(CURVES) == len(POLICIES)
    page.run("document.querySelector('[data-policy=edf]').click()")
    page.wait(f"{CURVES} === {len(POLICIES) - 1}")
    fragment = page.run("location.hash")
    assert "edf" not in fragment
    page.open(file, fragment=fragment)
    assert page.run(CURVES) == len(POLICIES) - 1
    assert not page.run("document.querySelector('[data-policy=edf]').checked")


def test_a_rate_chosen_in_one_chart_holds_for_the_section_and_the_address(page: Page, file: Path) -> None:
    page.open(file)
    page.run(
        "{const one = document.querySelector('select'); one.value = '22'; one.dispatchEvent(new Event('change'));}"
    )
    assert page.run("[...document.querySelectorAll('select')].map((one) => one.value)") == ["22", "22"]
    page.open(file, fragment=page.run("location.hash"))
    assert page.run("document.querySelector('select').value") == "22"


def test_tables_are_sorted_by_a_click_on_a_heading(page: Page, file: Path) -> None:
    page.open(file)
    column = "[...document.querySelector('tbody').rows].map((row) => Number(row.cells[2].dataset.value))"
    for order in ("ascending", "descending"):
        page.run("document.querySelectorAll('thead button')[2].click()")
        found = page.run(column)
        assert found == sorted(found, reverse=order == "descending")
        assert page.run("document.querySelectorAll('th')[2].getAttribute('aria-sort')") == order
