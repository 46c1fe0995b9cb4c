"""The serving model over real sockets: host agents stamp, the embedded switch schedules and counts."""

from __future__ import annotations

import logging

import pytest

from host_agent.protocol.flow_spec import FlowSpec
from host_agent.protocol.stamp import Stage
from mfs_ctrl.counters import COMPLETION, PORT_LEVEL, Observation, cells_of_ports, observe
from mfs_ctrl.p4rt.session import Session
from mfs_eval.live.live import LiveSettings, live_rack, prepared, run_live, serve
from mfs_eval.serving.cluster import Cluster
from mfs_eval.serving.trace import with_poisson_arrivals
from tests.support.agent import linked
from tests.support.controller import INDEX
from tests.support.realtime import fresh_prefix, real_kernel

SETTINGS = LiveSettings(rate_bps=20_000_000, stretch=1.0, cluster=Cluster(3, 1, 4, ((0,), (1,)), (2,)))
FLOWS = 4


def observed(address: str) -> Observation:
    session = Session(address, election_id=1)
    session.connect()
    try:
        wanted = {COMPLETION: None, PORT_LEVEL: cells_of_ports(SETTINGS.topology.ports)}
        return observe({}, session.read_counters(INDEX, wanted))
    finally:
        session.close()


@real_kernel
def test_flows_are_stamped_ranked_counted_and_requests_served() -> None:
    with linked():
        # Skips if agents cannot run here.
        pass
    work = prepared(SETTINGS, 5)
    with (
        live_rack(SETTINGS, fresh_prefix()) as rack,
        rack.controlled("mfs", "--election-id", "9"),
        rack.stamping() as stamper,
    ):
        with rack.network(stamper) as network:
            completed: list[int] = []
            for stage in (Stage.KV_REUSE, Stage.COLLECTIVE, Stage.P2D):
                for number in range(FLOWS):
                    spec = FlowSpec(
                        destination=(number + 1) % 3,
                        batch=1,
                        stage=stage,
                        deadline_ns=network.now_ns + 60_000_000_000,
                        total_bytes=20_000,
                        target_layer=32 if stage == Stage.P2D else 0,
                    )
                    network.start_flow(number % 3, spec, completed.append)
            network.run(lambda: len(completed) == 3 * FLOWS)
        seen = observed(rack.address)
        for stage in (Stage.KV_REUSE, Stage.COLLECTIVE, Stage.P2D):
            # A retransmitted last packet may be counted twice.
            assert seen.completed(stage) >= FLOWS
            assert seen.late_share(stage) == 0
        levels = {cell.level for cell, count in seen.port_level.items() if count.packets}
        # Reuse and collectives that a GPU waits for, last-stage flows with slack, acknowledgements.
        assert {1, 4, 7} <= levels
        result = serve("mfs", 1, work, with_poisson_arrivals(work.requests, 20, 1), rack, stamper)
        assert result.summary.requests == 4
        assert result.flows > 0
        assert observed(rack.address).completed(Stage.P2D) > seen.completed(Stage.P2D)


@real_kernel
def test_both_policies_serve_the_same_requests(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Attainment is printed, not checked: a few requests on a busy machine say nothing."""
    with linked():
        pass
    work = prepared(SETTINGS, 15)
    caplog.set_level(logging.INFO, "mfs_eval")
    for result in run_live(("fifo", "mfs"), work, 20, 1, SETTINGS, fresh_prefix(), levels=True):
        assert result.summary.requests == 12
        assert result.summary.ttft_mean_s > 0
        assert result.tcp.segments > 0
        assert len(result.record.requests) == 15
        assert len(result.record.flows) == result.flows
        assert any(flow.levels for flow in result.record.flows), "agents were asked while flows were open"
        with capsys.disabled():
            print(
                f"\n{result.policy}: {result.summary.slo_attainment:.0%} of {result.summary.requests} requests in time"
            )
    assert any(line.startswith("mfs: connected") for line in caplog.messages)
