"""What is measured beside a run over real sockets: TCP's counters, idle links, and the table of the rows."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mfs_eval.live.link_meter import FlowTime, LinkMeter, Load, stalls
from mfs_eval.live.live_rows import Row, headline, mismatch, summary
from mfs_eval.live.tcp_counters import TcpCounters, read_tcp_counters

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


def row(policy: str, seed: int, attainment: float, stall_s: float = 0.01) -> Row:
    return Row(
        cluster="testbed", hosts="order", switch="embedded", request_rate=14.0, policy=policy, seed=seed, requests=48,
        rate_bps=20_000_000, stretch=5.0, queue_bytes=1 << 21, slo_attainment=attainment, ttft_mean_s=0.3,
        ttft_p50_s=0.3, ttft_p99_s=0.9, collective_mean_s=0.03, segments=1000, retransmitted=3, timeouts=0, probes=1,
        too_old=0, longest_stall_s=stall_s, stalled_s=0.0, stalled_flows=0, elapsed_s=30.0, worst_delay_s=0.001,
    )  # fmt: skip


def test_the_summary_has_means_paired_differences_and_the_longest_stall() -> None:
    rows = [row("fifo", 1, 0.4), row("fifo", 2, 0.5), row("mfs-tail", 1, 0.55, 0.07), row("mfs-tail", 2, 0.65)]
    lines = summary(rows).splitlines()
    fifo, mfs = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:])
    assert fifo[4:8] == ["2,048", "`fifo`", "2", "45"]
    assert fifo[-1] == ""
    assert mfs[5:8] == ["`mfs-tail`", "2", "60"]
    assert mfs[-1] == "+15 ± 0"
    assert mfs[-2] == "70"


def test_rows_of_other_links_or_windows_are_not_mixed() -> None:
    one = row("fifo", 1, 0.5)
    assert mismatch(one, 20_000_000, 5.0, 48) is None
    assert mismatch(one, 40_000_000, 5.0, 48) == "its rows have links of 20000000 b/s, not 40000000 b/s"
    assert "stretched by 5, not 2" in (mismatch(one, 20_000_000, 2.0, 48) or "")
    assert "per run: 48, not 64" in (mismatch(one, 20_000_000, 5.0, 64) or "")


def test_the_headline_leaves_out_columns() -> None:
    held = [row("fifo", 1, 0.4), row("mfs-tail", 1, 0.55)]
    lines = headline([one.model_copy(update={"hosts": "order-hold"}) for one in held] + held).splitlines()
    assert len(lines) == 4
    names, _, _, last = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    values = dict(zip(names, last, strict=True))
    assert values["policy"] == "`mfs-tail`"
    assert (values["in time, %"], values["TTFT mean, ms"], values["timeouts"]) == ("55", "300", "0")
    assert values["longest stall, ms"] == "10"
