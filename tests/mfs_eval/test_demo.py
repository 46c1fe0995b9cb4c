"""``mfs demo`` as users see it: files, determinism, one-line errors; and the report and its plots."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from mfs_ctrl import cli
from mfs_eval.demo import POLICIES, print_tables
from mfs_eval.results import plots, report
from mfs_eval.results.schema import Occupancy, Results, Run, StageMeans, TunerPoint, read
from mfs_eval.serving.trace import SAMPLE_PATH
from mfs_eval.setup.scenario import SCENARIOS
from p4src import artifact

TINY = ("--scenario", "testbed", "--policy", "mfs", "--requests", "3", "--jobs", "1", "--seeds", "7")

Mfs = Callable[..., int]


@pytest.fixture
def mfs(monkeypatch: pytest.MonkeyPatch) -> Mfs:
    """The command in this process; returns its exit status."""

    def call(*arguments: str | Path) -> int:
        monkeypatch.setattr("sys.argv", ["mfs", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert isinstance(ended.value.code, int)
        return ended.value.code

    return call


def test_report_and_numbers_are_the_same_bytes_for_the_same_seed(
    mfs: Mfs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for out in ("first", "second"):
        assert mfs("demo", *TINY, "--out", tmp_path / out) == 0
    printed = capsys.readouterr().out
    assert "8 servers" in printed
    assert f"rates and bytes divided by {SCENARIOS['testbed'].scale:,}" in printed
    for name in ("report.html", "results.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()

    results = read(tmp_path / "first" / "results.json")
    assert [run.request_rate for run in results.runs] == list(SCENARIOS["testbed"].request_rates)
    assert all((run.scenario, run.policy, run.seed, run.requests) == ("testbed", "mfs", 7, 2) for run in results.runs)
    for run in json.loads((tmp_path / "first" / "results.json").read_text())["runs"]:
        wanted = {"scenario", "policy", "request_rate", "seed", "slo_attainment", "ttft_mean_s", "ttft_p99_s"}
        assert wanted <= run.keys()

    assert results.settings["trace"] == SAMPLE_PATH.name
    program = artifact.load().config
    assert results.provenance.program_digest == hashlib.sha256(program).hexdigest()[:16]
    assert results.provenance.trace_digest == hashlib.sha256(SAMPLE_PATH.read_bytes()).hexdigest()[:16]
    assert results.provenance.version

    html = (tmp_path / "first" / "report.html").read_text("utf-8")
    assert SAMPLE_PATH.name in html
    assert results.provenance.program_digest in html
    assert "mfs demo --scenario testbed" in html
    assert html.index("real-tcp.md") < html.index("<figure"), "what real sockets give comes first"
    # The file is self-contained; its scripts mention such elements.
    page = re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)
    assert not any(word in page for word in ("<link", "<img", "<script src"))


def one_error(capsys: pytest.CaptureFixture[str]) -> str:
    """The only line on stderr."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


def test_an_unknown_scenario_or_policy_is_refused(mfs: Mfs, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert mfs("demo", "--scenario", "moon", "--out", tmp_path) == 1
    assert "no scenario 'moon'; there are testbed, incast" in one_error(capsys)
    assert mfs("demo", "--policy", "lifo", "--out", tmp_path) == 1
    assert "no policy 'lifo'" in one_error(capsys)


def test_a_trace_that_is_too_short_is_refused(mfs: Mfs, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert mfs("demo", *TINY, "--requests", "100000", "--out", tmp_path) == 1
    message = one_error(capsys)
    assert "the run needs 100000" in message
    assert "--requests" in message


def test_a_trace_with_a_malformed_line_is_refused(mfs: Mfs, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    trace = tmp_path / "mine.jsonl"
    trace.write_text(SAMPLE_PATH.read_text().splitlines()[0] + '\n{"timestamp": 5}\n')
    assert mfs("demo", *TINY, "--trace", trace, "--out", tmp_path / "out") == 1
    message = one_error(capsys)
    assert f"{trace}, line 2" in message
    assert "'input_length' is missing" in message
    assert mfs("demo", *TINY, "--trace", tmp_path / "none.jsonl", "--out", tmp_path / "out") == 1
    assert "none.jsonl: cannot be read" in one_error(capsys)


def test_an_unwritable_output_is_reported_before_the_runs(
    mfs: Mfs, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    assert mfs("demo", *TINY, "--out", tmp_path / "file" / "below") == 1
    assert "choose another place with --out" in one_error(capsys)
    (tmp_path / "out" / "report.html").mkdir(parents=True)
    assert mfs("demo", *TINY, "--out", tmp_path / "out") == 1
    assert f"cannot write {tmp_path / 'out' / 'report.html'}" in one_error(capsys)
    # A refused command leaves nothing behind.
    assert not (tmp_path / "out" / "results.json").exists()


@pytest.mark.parametrize(
    "arguments",
    [("--requests", "0"), ("--seeds", "-1"), ("--jobs", "0"), ("--rate", "5"), ("--out", __file__)],
    ids=lambda arguments: arguments[0],
)
def test_invalid_options_are_named(mfs: Mfs, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    assert mfs("demo", *arguments) == 2
    message = capsys.readouterr().err
    assert arguments[0] in message
    assert "Traceback" not in message


def test_a_missing_compiled_program_is_reported(
    mfs: Mfs, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifact, "BUILD", tmp_path)
    assert mfs("demo", *TINY, "--out", tmp_path / "out") == 1
    assert "cannot read the compiled program" in one_error(capsys)
    assert not (tmp_path / "out").exists()


def made_up(**fields: object) -> Run:
    values: dict[str, object] = {
        "scenario": "testbed",
        "policy": "mfs",
        "request_rate": 2.5,
        "seed": 1,
        "requests": 2,
        "slo_attainment": 0.5,
        "ttft_mean_s": 0.2,
        "ttft_p50_s": 0.1,
        "ttft_p99_s": 0.3,
        "collective_completion_mean_s": 0.004,
        "p2d_earliness_mean_s": -0.05,
        "network_share": 0.4,
        "packets": 12_345,
        "packets_lost": 0,
        "packets_reordered": 0,
        "stranded_bytes": 0,
        "stranding_delay_mean_s": 0.0,
        "reordered_per_million": 0.0,
        "reordered_within_message": 0,
        "ttft_s": [0.3, 0.1],
        "occupancy": [],
        "tuner": [],
    }
    return Run.model_validate(values | fields)


OCCUPANCY = [Occupancy(time_s=time / 10, bytes_by_level=[time] * 8) for time in range(3)]
STAGES = StageMeans(queued_s=0.1, reuse_s=0.01, compute_s=0.04, collective_s=0.03, hand_over_s=0.02)
TUNER = [TunerPoint(time_s=1, mlu_threshold=1, tight_slack_s=1, late_share=None, rho_max=0)]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.attainment([]),
        lambda: plots.attainment([made_up()]),
        lambda: plots.attainment([made_up(seed=1), made_up(seed=2), made_up(policy="mine")]),
    ],
)
def test_plots_of_little_data_are_valid_and_reproducible(draw: Callable[[], str]) -> None:
    picture = draw()
    assert picture.startswith("<svg")
    assert picture.rstrip().endswith("</svg>")
    assert draw() == picture


@pytest.mark.parametrize(
    ("runs", "figures"),
    [
        ([], 0),
        ([made_up()], 2),
        ([made_up(policy="fifo")], 2),
        ([made_up(stages=STAGES)], 3),
        ([made_up(tuner=TUNER)], 5),
        ([made_up(occupancy=OCCUPANCY, promotions=[0, 1, 2]), made_up(scenario="incast")], 6),
    ],
)
def test_a_report_has_the_figures_that_its_data_allow(tmp_path: Path, runs: list[Run], figures: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report.write(Results(settings={"trace": "<mine> & yours"}, runs=runs), tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text("utf-8")
    assert html.count("<figure") == figures
    assert html.count(">12,345</td>") == len(runs)
    assert "&lt;mine&gt; &amp; yours" in html


def test_tables_fit_a_terminal_of_80_columns() -> None:
    runs = [made_up(policy=policy, ttft_p99_s=1.857, p2d_earliness_mean_s=-0.473) for policy in POLICIES]
    console = Console(file=io.StringIO(), width=80)
    print_tables(Results(settings={}, runs=runs), console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in printed
    assert [line.split()[0] for line in printed.splitlines()[2:8]] == list(POLICIES)


def test_results_survive_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.json"
    Results(settings={}, runs=[]).write(path)
    before = path.read_bytes()

    def full(self: Path, data: str, *_: object, **__: object) -> int:
        with self.open("w") as file:
            file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left on device"):
        Results(settings={}, runs=[made_up()]).write(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_results_of_earlier_versions_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text('{"settings": {}, "runs": []}')
    assert read(path).provenance.version == ""
