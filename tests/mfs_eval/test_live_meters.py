"""What is measured beside a run over real sockets: TCP's counters, idle links, and the table of the rows."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mfs_eval.live.link_meter import FlowTime, LinkMeter, Load, stalls
from mfs_eval.live.live import LiveSettings
from mfs_eval.live.live_rows import key_of, mismatch
from mfs_eval.live.live_tables import differences, headline, summary
from mfs_eval.live.tcp_counters import TcpCounters, read_tcp_counters
from tests.support.live_rows import live_row

STEP_S = 0.01


def loads(up: str, down: str) -> list[Load]:
    """A host at port 1 sends to one at port 2; ``#`` is a busy step."""
    return [Load({1: a == "#", 2: False}, {1: False, 2: b == "#"}) for a, b in zip(up, down, strict=True)]


def times(count: int) -> list[float]:
    return [number * STEP_S for number in range(count + 1)]


def test_a_flow_stalls_while_neither_of_its_links_is_busy() -> None:
    up, down = "##.......#..........", "#........##......###"
    flow = FlowTime(0.0, len(up) * STEP_S, 1, 2)
    found = stalls([flow], times(len(up)), loads(up, down))
    assert found.longest_s == pytest.approx(0.07)
    assert found.total_s == pytest.approx(0.07 + 0.06)
    assert found.flows == 1


def test_a_busy_link_and_a_short_pause_are_no_stall() -> None:
    up = "#...#####..........."
    down = "#...............####"
    # The receiver's link is busy with other flows, or the sender's is.
    assert stalls([FlowTime(0, 0.09, 1, 2)], times(20), loads(up, down)).flows == 0
    assert stalls([FlowTime(0.16, 0.2, 1, 2)], times(20), loads(up, down)).flows == 0
    assert stalls([FlowTime(0, 0.2, 1, 2)], times(20), loads(up, down)).flows == 1
    assert stalls([], [], []).longest_s == 0


@given(st.text("#.", min_size=1, max_size=60))
def test_stalls_of_one_flow_add_up_to_the_idle_time_of_long_gaps(pattern: str) -> None:
    found = stalls([FlowTime(0, len(pattern) * STEP_S, 1, 2)], times(len(pattern)), loads(pattern, "." * len(pattern)))
    gaps = [len(gap) * STEP_S for gap in pattern.split("#")]
    assert found.longest_s == pytest.approx(max(gaps))
    # Five steps are as long as the shortest stall, which rounding may undercut.
    assert found.total_s <= sum(gap for gap in gaps if gap > 0.045) + 1e-9
    assert found.total_s >= sum(gap for gap in gaps if gap > 0.055) - 1e-9


def test_the_meter_sees_the_traffic_of_an_interface() -> None:
    interfaces, rates = {1: "lo"}, {1: 1_000_000}
    with LinkMeter(interfaces, rates) as meter, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        start = time.monotonic()
        for _ in range(30):
            sender.sendto(bytes(20_000), ("127.0.0.1", 9))
            time.sleep(STEP_S)
        busy = time.monotonic()
        time.sleep(0.3)
        quiet = time.monotonic()
    assert meter.stalls([FlowTime(start, busy, 1, 1)]).total_s < 0.15
    with pytest.raises(OSError, match="no-such"):
        LinkMeter({1: "no-such"}, rates)
    assert quiet > busy


def test_counters_are_read_by_name(tmp_path: Path) -> None:
    (tmp_path / "snmp").write_text("Ip: Forwarding\nIp: 1\nTcp: RtoAlgorithm OutSegs RetransSegs\nTcp: 1 70 6\n")
    (tmp_path / "netstat").write_text("TcpExt: PAWSEstab TCPTimeouts TCPLossProbes\nTcpExt: 2 3 4\n")
    found = read_tcp_counters(tmp_path)
    assert found == TcpCounters(segments=70, retransmitted=6, timeouts=3, probes=4, too_old=2)
    assert found - found == TcpCounters()
    assert (found + found).timeouts == 6


def test_this_kernel_has_the_counters() -> None:
    before = read_tcp_counters()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        pass
    assert (read_tcp_counters() - before).segments > 0


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def table_of(text: str) -> list[dict[str, str]]:
    head, _, *lines = map(cells, text.splitlines())
    return [dict(zip(head, line, strict=True)) for line in lines]


ROWS = [
    live_row("fifo", 1, slo_attainment=0.4),
    live_row("fifo", 2, slo_attainment=0.5),
    live_row("mfs-tail", 1, slo_attainment=0.55, longest_stall_s=0.07, ttft_mean_s=0.25),
    live_row("mfs-tail", 2, slo_attainment=0.65, ttft_mean_s=0.25),
]


def test_the_summary_has_means_paired_differences_and_the_longest_stall() -> None:
    other = live_row("mfs-tail", 1, hosts="order-kernel-tcp", timeouts=4)
    fifo, mfs, alone = table_of(summary([*ROWS, other]))
    assert (fifo["policy"], fifo["runs"], fifo["in time, %"], fifo["ahead of fifo, points"]) == (
        "`fifo`",
        "2",
        "45",
        "",
    )
    assert (mfs["in time, %"], mfs["ahead of fifo, points"], mfs["longest stall, ms"]) == ("60", "+15 ± 0", "70")
    assert (alone["hosts"], alone["timeouts"], alone["ahead of fifo, points"]) == ("order-kernel-tcp", "4", "")


def test_the_headline_is_of_servers_that_are_set_up_as_recommended() -> None:
    held = [row.model_copy(update={"hosts": "order-hold-option"}) for row in ROWS]
    others = [live_row("fifo", 1, hosts="order-kernel-tcp"), live_row("fifo", 1, hosts="order-hold")]
    slower = live_row("fifo", 1, request_rate=5.0)
    found = table_of(headline([slower, *ROWS, *held, *others, live_row("mine", 1)]))
    assert [(line["requests/s"], line["policy"]) for line in found] == [
        ("14", "`fifo`"), ("14", "`mfs-tail`"), ("5", "`fifo`"),
    ]  # fmt: skip
    assert (found[1]["in time, %"], found[1]["TTFT mean, ms"], found[1]["longest stall, ms"]) == ("60", "250", "70")


def test_differences_are_paired_by_seed() -> None:
    lone = live_row("static-reuse", 2, slo_attainment=0.6)
    found = {line["policies"]: line for line in table_of(differences([*ROWS, lone], "mfs-tail"))}
    assert (found["`mfs-tail` - `fifo`"]["points"], found["`mfs-tail` - `fifo`"]["mean, ms"]) == ("+15 ± 0", "-50 ± 0")
    assert found["`mfs-tail` - `static-reuse`"]["points"] == "+5 ± inf"
    middle = "points where fifo attains 30 to 60 % (windows)"
    assert found["`mfs-tail` - `fifo`"][middle] == "+15 ± 0 (2)"
    easy = [row.model_copy(update={"slo_attainment": 0.7}) if row.seed == 2 else row for row in ROWS]
    (line,) = table_of(differences(easy, "mfs-tail"))
    assert line[middle] == "+15 ± inf (1)"


def test_hosts_that_hold_are_also_compared_with_those_that_do_not() -> None:
    held = [live_row("mfs-tail", seed, hosts="order-hold-option", slo_attainment=0.7) for seed in (1, 2)]
    lines = [line for line in table_of(differences([*ROWS, *held], "mfs-tail")) if line["hosts"] == "order-hold-option"]
    assert [(line["policies"], line["points"]) for line in lines] == [
        ("`mfs-tail` - `fifo` without hold", "+25 ± 64"),
        ("`mfs-tail` - `mfs-tail` without hold", "+10 ± 64"),
    ]


def test_rows_of_other_links_or_windows_are_not_mixed() -> None:
    one = live_row("fifo", 1)
    assert mismatch(one, LiveSettings(), 60) is None
    other = mismatch(one, LiveSettings(rate_bps=40_000_000), 60)
    assert other == "its rows have links of 20000000 b/s, not 40000000 b/s"
    assert "stretched by 5, not 2" in (mismatch(one, LiveSettings(stretch=2.0), 60) or "")
    assert "per run: 60, not 80" in (mismatch(one, LiveSettings(), 80) or "")


def test_runs_of_different_hosts_have_different_keys() -> None:
    variants = [
        LiveSettings(), LiveSettings(stamps=False), LiveSettings(order=False), LiveSettings(kernel_tcp=True),
        LiveSettings(order=False, kernel_tcp=True), LiveSettings(hold=True), LiveSettings(bmv2=True),
        LiveSettings(queue_bytes=1 << 18), LiveSettings(carrier="shim"),
    ]  # fmt: skip
    keys = [key_of("testbed", settings, 14.0, "policies/mine.toml", 1) for settings in variants]
    assert len(set(keys)) == len(keys)
    assert keys[0] == live_row("mine", 1).key
