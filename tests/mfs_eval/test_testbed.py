"""The testbed with the compiled program: who learns of progress when, and what an adversary costs others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from host_agent.protocol.flow_spec import FlowSpec
from host_agent.protocol.stamp import TOP_LEVEL, Stage, Stamp
from mfs_ctrl import policies
from mfs_eval.packet_level.hosts.frames import SEGMENT_BYTES
from mfs_eval.packet_level.testbed import Testbed, open_testbed
from mfs_eval.setup.run_settings import AdversarySettings, ControlSettings, HostSettings, RunSettings
from mfs_eval.setup.scenario import SCENARIOS
from tests.support.mfs_levels import LAST_LATER, REUSE_LATER, REUSE_SOON

SECOND_NS = 1_000_000_000
MS_NS = 1_000_000
SMALL = replace(SCENARIOS["testbed"], scale=1000)
"""A link sends a full packet in about 0.12 ms."""
SHIM = slice(14, 38)
OWN, REMOTE = 0, 4
"""A host of the batch's unit, and a host of another unit that sends it reused KV."""
LAYER = 8


def spec(destination: int, byte_count: int, stage: Stage, **fields: int) -> FlowSpec:
    values = {"batch": 1, "deadline_ns": 100 * SECOND_NS, **fields}
    return FlowSpec(destination, stage=stage, total_bytes=byte_count, **values)


def promoted_at_ns(settings: RunSettings) -> tuple[int, set[int]]:
    """Return when the switch first sends a long reuse flow at the level of relative layer index (RLI) 0.

    The batches that its stamps carry are returned too.

    The batch reaches the flow's layer at 20 ms.
    """
    risen: list[int] = []
    batches: set[int] = set()
    with open_testbed(SMALL, policies.mfs(), settings) as built:
        network = built.network
        port = network.switches[0].ports[OWN + 1]

        def watch(now_ns: int, place: str, data: bytes) -> None:
            if place == f"host {REMOTE + 1} out":
                batches.add(Stamp.unpack(data[SHIM]).batch)
            if port.counters[REUSE_SOON].dequeued_packets and not risen:
                risen.append(now_ns)

        network.network.trace = watch
        flow = spec(OWN, 1000 * SEGMENT_BYTES, Stage.KV_REUSE, target_layer=LAYER)
        built.serving_network.start_flow(REMOTE, flow, lambda _: None)
        network.clock.run(20 * MS_NS)
        assert not risen
        built.serving_network.advance((OWN,), 1, LAYER)
        network.clock.run(200 * MS_NS)
    return risen[0], batches


def test_without_progress_in_the_switch_a_remote_sender_promotes_after_the_delay() -> None:
    tracked_ns, shown = promoted_at_ns(RunSettings())
    assert shown == {1}
    assert 20 * MS_NS < tracked_ns < 23 * MS_NS, "an acknowledgement tells it at once"
    for delay_ns in (0, 10 * MS_NS, 50 * MS_NS):
        late_ns, shown = promoted_at_ns(RunSettings(control=ControlSettings(progress_delay_ns=delay_ns)))
        assert shown == {0}, "the switch has no batch to track"
        assert 20 * MS_NS + delay_ns <= late_ns < 22 * MS_NS + delay_ns


def test_a_sender_whose_next_layer_waits_learns_that_the_layer_is_due() -> None:
    """No packet of the waiting flow leaves, so no acknowledgement of one could tell it."""
    with open_testbed(SMALL, policies.mfs(), RunSettings(HostSettings(rerank_interval_ns=SECOND_NS))) as built:
        network, left = built.serving_network, []

        def watch(now_ns: int, place: str, data: bytes) -> None:
            if place == f"host {REMOTE + 1} out" and (stamp := Stamp.unpack(data[SHIM])).target_layer == LAYER:
                left.append((now_ns, stamp.current_layer))

        built.network.network.trace = watch
        busy = spec(OWN + 1, 1000 * SEGMENT_BYTES, Stage.KV_REUSE, batch=2)
        first = spec(OWN, SEGMENT_BYTES, Stage.KV_REUSE, batch=1)
        following = spec(OWN, 10 * SEGMENT_BYTES, Stage.KV_REUSE, batch=1, target_layer=LAYER)
        for flow in (first, busy, following):
            network.start_flow(REMOTE, flow, lambda _: None)
        built.network.clock.run(20 * MS_NS)
        assert len(left) <= 1, "apart from its guaranteed share it waits for the busy flow"
        left.clear()
        network.advance((OWN,), 1, LAYER)
        built.network.clock.run(24 * MS_NS)
        assert len(left) == 10
        assert left[0] == (left[0][0], LAYER)


def levels_in(built: Testbed, host: int) -> list[int]:
    """Return the levels of packets that have left by the port of ``host``."""
    counters = built.network.switches[0].ports[host + 1].counters
    return [level for level, counted in enumerate(counters) if counted.dequeued_packets]


def test_flows_without_a_batch_are_told_apart_by_their_number() -> None:
    """Two flows of one source and of different batches: the urgent one does not promote the other."""
    with open_testbed(SMALL, policies.mfs(), RunSettings(control=ControlSettings(progress_delay_ns=0))) as built:
        urgent = spec(OWN, 40 * SEGMENT_BYTES, Stage.P2D, batch=1, deadline_ns=4 * MS_NS)
        relaxed = spec(OWN + 1, 20 * SEGMENT_BYTES, Stage.P2D, batch=2)
        for flow in (urgent, relaxed):
            built.serving_network.start_flow(REMOTE, flow, lambda _: None)
        built.network.clock.run(100 * MS_NS)
        assert TOP_LEVEL in levels_in(built, OWN)
        assert levels_in(built, OWN + 1) == [LAST_LATER]


ADVERSARY, DECODE = 14, 12
"""A host without a role, and a host of the decode server, on the same rail."""
INCAST = replace(SCENARIOS["incast"], scale=1000)


def honest_end_ns(**adversary: Any) -> int:
    """Return how long an honest last-stage flow to the decode server takes; about 2.5 ms on a free link."""
    ends: list[int] = []
    with open_testbed(INCAST, policies.mfs(), RunSettings(adversary=AdversarySettings(**adversary))) as built:
        flow = spec(DECODE, 20 * SEGMENT_BYTES, Stage.P2D, deadline_ns=60 * MS_NS)
        built.network.clock.run(10 * MS_NS)  # after the burst that the meter lets pass
        built.serving_network.start_flow(OWN, flow, ends.append)
        built.network.clock.run(SECOND_NS)
    return ends[0] - 10 * MS_NS


def test_policing_takes_away_what_an_adversary_gains() -> None:
    flooding = {"hosts": (ADVERSARY,), "flood_share": 0.9}
    alone_ns = honest_end_ns()
    assert honest_end_ns(police=True) == alone_ns, "honest traffic is not affected"
    assert honest_end_ns(**flooding) > 4 * alone_ns
    # The guaranteed share of the scavenger remains, and what the adversary's port may send at the top level.
    assert honest_end_ns(police=True, **flooding) < 1.3 * alone_ns
    assert honest_end_ns(untrusted_hosts=(ADVERSARY,), **flooding) < 1.15 * alone_ns


def test_an_adversarial_host_claims_the_top_level_for_everything_it_sends() -> None:
    def levels(adversarial: bool) -> list[int]:
        with open_testbed(
            SMALL, policies.mfs(), RunSettings(adversary=AdversarySettings((REMOTE,) if adversarial else ()))
        ) as built:
            reuse = spec(OWN, 20 * SEGMENT_BYTES, Stage.KV_REUSE, target_layer=LAYER)
            built.serving_network.start_flow(REMOTE, reuse, lambda _: None)
            built.network.clock.run(100 * MS_NS)
            return levels_in(built, OWN)

    assert levels(adversarial=False) == [REUSE_LATER]
    assert levels(adversarial=True) == [TOP_LEVEL]


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="flood_share"):
        AdversarySettings(flood_share=1.5)
    with pytest.raises(ValueError, match="progress_delay_ns"):
        ControlSettings(progress_delay_ns=-1)
