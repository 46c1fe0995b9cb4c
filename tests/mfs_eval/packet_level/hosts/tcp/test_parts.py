"""Round trips, CUBIC, rate reduction and RACK alone, against the formulas of their RFCs."""

from __future__ import annotations

import math

import pytest

from mfs_eval.packet_level.hosts.tcp.congestion import BETA, C, Cubic, RateReduction
from mfs_eval.packet_level.hosts.tcp.recovery import Rack
from mfs_eval.packet_level.hosts.tcp.rtt import RttEstimator

MS = 1_000_000
S = 1000 * MS


def test_the_timeout_is_the_round_trip_and_the_deviation_of_at_least_the_minimum() -> None:
    rtt = RttEstimator(200 * MS, MS)
    assert rtt.rto_ns == 200 * MS
    rtt.sample(80 * MS, 0)
    assert (rtt.srtt_ns, rtt.min_ns, rtt.rto_ns) == (80 * MS, 80 * MS, 280 * MS)
    rtt.sample(160 * MS, 10 * MS)
    # SRTT moves by an eighth of the error; 4 RTTVAR = 3/4 of 160 + 80.
    assert rtt.srtt_ns == 90 * MS
    assert rtt.rto_ns == (90 + 200) * MS
    rtt.sample(890 * MS, 20 * MS)
    assert rtt.srtt_ns == 190 * MS
    assert rtt.rto_ns == (190 + 950) * MS
    for step in range(200):
        rtt.sample(100 * MS, (100 + 200 * step) * MS)
    assert rtt.rto_ns == pytest.approx(300 * MS, rel=0.05), "the deviation decays to the minimum"


def test_the_timeout_doubles_up_to_120_s_until_a_sample() -> None:
    rtt = RttEstimator(200 * MS, MS)
    rtt.sample(MS, 0)
    seen = []
    for _ in range(12):
        seen.append(rtt.rto_ns)
        rtt.back_off()
    assert seen[:4] == [201 * MS, 402 * MS, 804 * MS, 1608 * MS]
    assert rtt.rto_ns == 120 * S
    rtt.sample(MS, S)
    assert rtt.rto_ns == 201 * MS


def test_slow_start_doubles_per_round_trip() -> None:
    cubic = Cubic(10, S)
    cubic.on_ack(10, 0, 100 * MS)
    assert cubic.cwnd == 20


def test_a_reduced_window_follows_the_cubic_function() -> None:
    cubic = Cubic(1000, S)
    cubic.reduce()
    cubic.cwnd = cubic.ssthresh
    assert cubic.cwnd == pytest.approx(BETA * 1000)
    k = math.cbrt(1000 * (1 - BETA) / C)
    assert k == pytest.approx(9.086, abs=1e-3)
    rtt_ns = 100 * MS
    at: dict[float, float] = {}
    for step in range(201):
        now_ns = step * rtt_ns
        cubic.on_ack(round(cubic.cwnd), now_ns, rtt_ns)
        at[now_ns / S] = cubic.cwnd
    for t in (2.0, 5.0, 9.0, 12.0, 15.0, 20.0):
        # After the acknowledgements of a round trip the window is the target, which is a round trip ahead.
        expected = C * (t + rtt_ns / S - k) ** 3 + 1000
        assert at[t] == pytest.approx(expected, rel=0.01), t
    assert at[9.0] == pytest.approx(1000, rel=0.01), "the plateau is at the former window"


def test_a_short_path_grows_at_least_as_reno_does() -> None:
    cubic = Cubic(20, S)
    cubic.reduce()
    cubic.cwnd = start = cubic.ssthresh
    for step in range(100):
        cubic.on_ack(round(cubic.cwnd), step * MS, MS)
    reno = 3 * (1 - BETA) / (1 + BETA)
    assert cubic.cwnd >= start + 100 * reno * 0.9


def test_fast_convergence_undo_collapse_and_idle_time() -> None:
    cubic = Cubic(100, S)
    cubic.reduce()
    assert cubic.ssthresh == pytest.approx(70)
    cubic.undo()
    assert (cubic.cwnd, cubic.ssthresh) == (100, math.inf)
    cubic.reduce()
    cubic.collapse(1)
    cubic.undo()
    assert (cubic.cwnd, cubic.ssthresh) == (100, math.inf)
    cubic.undo()
    assert cubic.cwnd == 100, "once"
    cubic.reduce()
    cubic.cwnd = cubic.ssthresh
    cubic.on_ack(1, 0, MS)
    before = cubic.cubic_window(S)
    cubic.idled(5 * S)
    cubic.on_ack(1, 6 * S, MS)
    assert cubic.cwnd < 2 * before


def test_rate_reduction_sends_in_proportion_to_what_arrives() -> None:
    reduction = RateReduction(10)
    sent = 0
    for pipe in (9, 8, 8, 7, 7):
        window = reduction.window(1, pipe, 7.0, clean=False)
        assert window is not None
        new = max(0, int(window) - pipe)
        reduction.out += new
        sent += new
    assert 3 <= sent <= 4, "seven of ten"
    assert RateReduction(10).window(0, 5, 7.0, clean=False) is None
    assert RateReduction(10).window(1, 9, 1.0, clean=False) == 10, "at least the first retransmission"


def test_a_segment_is_lost_a_window_after_a_later_one_arrived() -> None:
    rack = Rack()
    assert rack.lost_after_ns(0, 0, 0, 0) is None
    rack.delivered(10 * MS, 5, False, 30 * MS, 20 * MS)
    assert rack.lost_after_ns(11 * MS, 6, 30 * MS, 0) is None, "sent later"
    assert rack.lost_after_ns(9 * MS, 4, 30 * MS, 5 * MS) == 4 * MS
    assert rack.lost_after_ns(9 * MS, 4, 34 * MS, 5 * MS) == 0
    rack.delivered(25 * MS, 4, True, 31 * MS, 20 * MS)
    assert rack.lost_after_ns(20 * MS, 7, 40 * MS, 0) is None, "such a fast answer is to the original"


def test_the_reordering_window_adapts() -> None:
    rack = Rack()
    assert rack.window_ns(False, 2, 8 * MS, 10 * MS) == 2 * MS
    assert rack.window_ns(False, 3, 8 * MS, 10 * MS) == 0
    assert rack.window_ns(True, 0, 8 * MS, 10 * MS) == 0
    rack.reordering_seen = True
    assert rack.window_ns(True, 9, 8 * MS, 10 * MS) == 2 * MS
    rack.duplicate(0, 10 * MS)
    rack.duplicate(9 * MS, 10 * MS)
    assert rack.window_ns(True, 9, 8 * MS, 10 * MS) == 4 * MS, "once per round trip"
    for step in range(1, 10):
        rack.duplicate(step * 10 * MS, 10 * MS)
    assert rack.window_ns(True, 9, 8 * MS, 10 * MS) == 10 * MS, "at most a round trip"
    for _ in range(16):
        rack.recovered()
    assert rack.window_ns(True, 9, 8 * MS, 10 * MS) == 2 * MS
