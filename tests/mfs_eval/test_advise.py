"""``mfs advise``: clusters with a known answer, what is offered to links, the search for goodput, and bad files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from click.testing import CliRunner

from mfs_ctrl.cli import mfs
from mfs_ctrl.errors import ConfigError
from mfs_eval.advise import cluster_file
from mfs_eval.advise.advice import COMPARED, GOOD, STEPS, WORTH, Advice, advise, attained, highest_rate, judge
from mfs_eval.advise.cluster_file import Described, parse
from mfs_eval.advise.report import as_json, as_text
from mfs_eval.advise.windows import GPUS, Window, cut, prepare
from mfs_eval.errors import EvaluationError
from mfs_eval.serving.trace import TRACE_PATH, Request, load_trace

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "cluster.toml"
TESTBED = """
[prefill]
units = 2
servers_per_unit = 2
[decode]
servers = 4
[server]
gpus = 4
nics = 2
nic_rate = "100G"
[gpu]
name = "B200"
[model]
name = "Mixtral-8x7B"
[requests]
rates = [28]
longest_prompt = 16384
"""


@cache
def trace() -> tuple[Request, ...]:
    return tuple(load_trace(TRACE_PATH))


def advised(cluster: Described, windows: int = 4, count: int = 60) -> Advice:
    return advise(cluster, trace(), windows, count, goodput=False, jobs=1)


@cache
def window(cluster: Described, count: int = 40) -> Window:
    return prepare(cluster, 1, *cut(cluster.scenario, trace(), 3, count)[1])


def test_a_cluster_whose_network_is_never_short_needs_nothing() -> None:
    slow_gpus = TESTBED.replace("B200", "A100").replace('"100G"', '"400G"').replace("[28]", "[3]")
    (at,) = advised(parse(slow_gpus)).at
    assert at.deploy == "fifo"
    assert at.advice.startswith("Deploy nothing: contention in the network costs")
    assert max(load for name, load in at.loads.items() if name != GPUS) < at.loads[GPUS]


def test_static_classes_are_enough_where_they_give_nearly_all() -> None:
    (at,) = advised(parse(TESTBED)).at
    assert at.deploy == "static-reuse"
    assert at.advice.startswith("Three static classes are enough: +")


def test_a_hot_prefix_holder_needs_the_switch() -> None:
    cluster = cluster_file.read(EXAMPLE)
    scenario = replace(cluster.scenario, request_rates=(72.0,))
    (at,) = advised(replace(cluster, scenario=scenario), windows=6, count=80).at
    assert at.deploy == "mfs"
    assert at.advice.startswith("Deploy order in hosts and in the switch (`mfs`)")
    assert "Begin with three DSCP classes" in at.advice
    assert at.loads["prefill NICs, sending"] > 1


def test_nothing_helps_an_overloaded_cluster() -> None:
    (at,) = advised(parse(TESTBED.replace("B200", "A100").replace("[28]", "[400]")), windows=3, count=40).at
    assert at.deploy == "fifo"
    assert at.advice.startswith("Nothing helps in the network")
    assert at.loads[GPUS] > 1
    assert f"Busiest: {max(at.loads, key=lambda name: at.loads[name])}" in at.advice


def test_interfaces_of_a_server_count_as_one_where_that_changes_nothing() -> None:
    merged = parse(TESTBED)
    # All four NICs of a unit carry a request's KV by default, too.
    apart = parse(TESTBED + "[parallelism]\nkv_nics = 4\n")
    assert (merged.scenario.cluster.nics_per_server, apart.scenario.cluster.nics_per_server) == (1, 2)
    assert {name: one.highest_s for name, one in window(merged).offered.items()} == pytest.approx(
        {name: one.highest_s for name, one in window(apart).offered.items()}, rel=0.01
    )
    for policy in ("fifo", "mfs"):
        shares = [attained(cluster, window(cluster), policy, 28) for cluster in (merged, apart)]
        assert shares[0] == pytest.approx(shares[1], abs=1 / 32)


@pytest.mark.parametrize("more", ["", "[network]\nservers_per_rack = 2\noversubscription = 2\n"])
def test_what_is_sent_is_received(more: str) -> None:
    offered = {name: one.mean_s * one.count for name, one in window(parse(TESTBED + more)).offered.items()}
    sent = offered["prefill NICs, sending"]
    assert sent == pytest.approx(offered["prefill NICs, receiving"] + offered["decode NICs, receiving"])
    if more:
        assert offered["uplinks of racks, up"] == pytest.approx(offered["uplinks of racks, down"])
        # Units are behind one switch each, so collectives stay in their racks, and all KV crosses uplinks.
        assert offered["decode NICs, receiving"] < offered["uplinks of racks, up"] < sent


def test_colocated_servers_decode_on_the_interfaces_that_prefill() -> None:
    cluster = parse(TESTBED.replace("servers = 4\n[server]", "colocated = true\n[server]"))
    assert cluster.scenario.cluster.servers == 4
    offered = window(cluster).offered
    assert "decode NICs, receiving" not in offered
    totals = [offered[f"prefill NICs, {way}"].mean_s for way in ("sending", "receiving")]
    assert totals[0] == pytest.approx(totals[1])


def test_a_cache_aware_router_fetches_less() -> None:
    units = TESTBED.replace("units = 2", "units = 4")
    aware = parse(units.replace("servers_per_unit = 2", 'servers_per_unit = 2\nrouting = "cache-aware"'))
    fetched = [
        sum(placement.reuse.remote_tokens for placement in window(cluster).work.placements.values())
        for cluster in (aware, parse(units))
    ]
    assert fetched[0] < fetched[1]


def test_objectives_may_be_in_seconds() -> None:
    cluster = parse(TESTBED + "slo_seconds = 0.5\n")
    assert set(window(cluster).work.slo_ns.values()) == {500_000_000}


def test_goodput_is_a_rate_at_which_nine_in_ten_are_in_time() -> None:
    cluster = parse(TESTBED)
    found = {policy: highest_rate(cluster, window(cluster), policy) for policy in ("fifo", "ceiling")}
    assert found["fifo"] < found["ceiling"]
    for policy, rate in found.items():
        assert attained(cluster, window(cluster), policy, rate) >= GOOD


def test_windows_do_not_overlap_and_reach_the_end_of_the_trace() -> None:
    parts = cut(parse(TESTBED).scenario, trace(), 10, 100)
    firsts, lasts = [part[0].index for part, _ in parts], [part[-1].index for part, _ in parts]
    assert len(parts) == 10
    assert all(last < following for last, following in zip(lasts, firsts[1:], strict=False))
    assert lasts[-1] > 0.99 * len(trace())
    assert all(before[-1].index == part[0].index - 1 for part, before in parts)


def test_a_trace_that_is_too_short_for_windows_is_refused() -> None:
    with pytest.raises(EvaluationError, match=r"3 windows need 360; use a longer trace or fewer --requests"):
        cut(parse(TESTBED).scenario, trace()[:1200], 10, 120)


def judged(ceiling: float, **shares: float) -> tuple[str, str]:
    """The policy and the advice, where policies attain these shares, a little different in each window."""
    means = dict.fromkeys(STEPS, shares["fifo"]) | {name.replace("_", "-"): share for name, share in shares.items()}
    found: Mapping[str, dict[int, float]] = {
        name: {number: share + 0.01 * number for number in (-1, 0, 1)} for name, share in means.items()
    } | {"ceiling": dict.fromkeys((-1, 0, 1), ceiling)}
    at = judge(10, found, {"uplinks": 1.2, GPUS: 0.3})
    return at.deploy, at.advice


def test_the_switch_is_advised_where_it_adds_to_static_classes() -> None:
    deploy, told = judged(0.9, fifo=0.4, static_reuse=0.6, static_bands=0.6, mfs_marks=0.55, mfs=0.6 + 2 * WORTH)
    assert deploy == "mfs"
    assert "(`mfs`): +26.0 ± 0.0 points over nothing, +6.0 ± 0.0 over three static classes. Begin with" in told


def test_the_least_work_is_advised_that_more_work_hardly_betters() -> None:
    gains = {"static_reuse": 1.2 * WORTH, "static_bands": 1.6 * WORTH, "mfs": 2 * WORTH}
    assert judged(0.9, fifo=0.4, **{name: 0.4 + gain for name, gain in gains.items()})[0] == "static-reuse"


def test_what_gains_nothing_is_not_advised_because_classes_lose() -> None:
    assert judged(0.9, fifo=0.5, static_reuse=0.3, static_bands=0.51, mfs_marks=0.51, mfs=0.53 + WORTH)[0] == "mfs"


def test_classes_that_do_harm_are_named() -> None:
    deploy, told = judged(0.9, fifo=0.5, static_reuse=0.3, mfs=0.6)
    assert deploy == "mfs"
    assert "Three static classes alone do harm: -20.0 ± 0.0 points." in told


def test_order_that_leaves_most_requests_late_comes_after_capacity() -> None:
    deploy, told = judged(0.9, fifo=0.1, static_reuse=0.3)
    assert deploy == "static-reuse"
    assert "Even so only 30% are in time: capacity comes first. Busiest: uplinks, offered 1.20" in told


def test_a_gain_that_differs_from_window_to_window_is_not_advised() -> None:
    names = [name for name in COMPARED if name != "mfs"]
    found = {name: dict.fromkeys((1, 2, 3), 0.9 if name == "ceiling" else 0.5) for name in names}
    at = judge(10, found | {"mfs": {1: 0.5, 2: 0.9, 3: 0.5}}, {"uplinks": 1.2})
    assert at.deploy == "fifo"
    assert "no order of flows clearly wins" in at.advice
    assert "Not clear in these windows: `mfs`, +13.3" in at.advice
    classes = judge(
        10, found | {"fifo": dict.fromkeys((1, 2, 3), 0.2), "mfs": {1: 0.5, 2: 0.9, 3: 0.5}}, {"uplinks": 1.2}
    )
    assert classes.deploy == "static-reuse"
    assert "enough" not in classes.advice
    assert "+13.3 ± 57.4, which these windows do not settle" in classes.advice


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("units = 2", "units = 0", r"line 3: \[prefill\], units: must be greater than or equal to 1, not 0"),
        ('"100G"', '"fast"', r"line 10: \[server\], nic_rate: must be bits per second"),
        ("[28]", "[]", r"line 16: \[requests\], rates: must have at least 1 item"),
        ("B200", "B300", r"line 12: \[gpu\], name: give flops, .* or one of A100, H100, B200, not 'B300'"),
        (
            "Mixtral-8x7B",
            "Mine",
            r"line 14: \[model\], name: 'Mine' is none of .*; for another model also give head_dim",
        ),
        ("servers = 4", "servers = 4\ncolocated = true", r"line 5: \[decode\]: needs either servers = NUMBER"),
        ("[decode]\nservers = 4\n", "", r"\[decode\]: is missing"),
        ("gpus = 4", "gpu = 4", r"line 8: \[server\], gpu: unknown key; the keys are gpus, nic_rate, nics"),
        ("[gpu]", "[GPU]", r"line 11: \[GPU\]: unknown table"),
        (
            "[28]",
            "[28]\nslo_factor = 3\nslo_seconds = 1",
            r"line 18: \[requests\], slo_seconds: contradicts slo_factor",
        ),
        ("16384", "16384\n[parallelism]\nkv_nics = 3", r"line 19: \[parallelism\], kv_nics: must divide the 4 NICs"),
        (
            "16384",
            "16384\n[network]\noversubscription = 2",
            r"line 19: \[network\], oversubscription: needs several racks",
        ),
        (
            "16384",
            "16384\n[network]\nservers_per_rack = 2\noversubscription = 3",
            r"line 20: \[network\], oversubscription: must divide the 4 NICs of a rack",
        ),
        (
            "units = 2",
            'units = 2\nrouting = "cache-aware"\nhot_prefix = 0.4',
            r'line 5: \[prefill\], hot_prefix: needs routing = "balanced"',
        ),
    ],
)
def test_a_mistake_is_reported_with_its_line_and_key(old: str, new: str, message: str) -> None:
    assert old in TESTBED
    with pytest.raises(ConfigError, match=message):
        parse(TESTBED.replace(old, new))


def test_the_command_prints_json_on_stdout_and_progress_on_stderr(tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text(TESTBED.replace("[28]", "[5, 28]"), "utf-8")
    options = ["--windows", "3", "--requests", "10", "--no-goodput", "--jobs", "1", "--json"]
    result = CliRunner().invoke(mfs, ["advise", str(file), *options])
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert [one["request_rate"] for one in answer["at"]] == [5, 28]
    assert [step["policy"] for step in answer["at"][0]["steps"]] == list(STEPS)
    assert "runs at your request rates" in result.stderr


def test_the_report_shows_every_policy_and_marks_what_is_short() -> None:
    found = advise(parse(TESTBED.replace("[28]", "[60]")), trace(), 3, 10, jobs=1)
    text = as_text(found)
    assert all(text.count(f"`{name}`") >= 2 for name in COMPARED)
    assert "short |" in text
    assert json.loads(as_json(found))["goodput"].keys() == set(COMPARED)


def test_a_file_that_is_not_there_is_an_error_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: No such file"):
        cluster_file.read(tmp_path / "none.toml")
