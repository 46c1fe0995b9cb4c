"""Turns of the holder on real maps, with a clock and a kicker of the test. Needs root and eBPF, but no interface."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from host_agent.daemon.holding import QUIET_NS, Holder, HoldOptions, Levels
from host_agent.daemon.permits import SEGMENTS
from host_agent.ebpf.bpf import Programs
from host_agent.ebpf.errors import KernelError
from host_agent.ebpf.flows import FlowTable
from host_agent.ebpf.holds import HoldTable
from host_agent.ebpf.layout import (
    HEARD_SCALED,
    INDEX,
    STATE,
    Config,
    GrantKind,
    Heard,
    encode_connection,
    encode_five_tuple,
    grant_of,
)
from host_agent.ebpf.object import load
from host_agent.protocol.flow_request import Connection, FiveTuple, FlowRequest, FlowUpdate, Match
from host_agent.protocol.level import LevelRule
from host_agent.protocol.stamp import LEVELS, SCAVENGER, Stage

SEGMENT = 1514 - 78
BUDGET = SEGMENTS * SEGMENT
SCALE = 7
ACKNOWLEDGED, WINDOW = 0xFFFFFF00, 5000
LATE_NS = 1 << 40
RULES = (
    LevelRule(Stage.P2D, SCAVENGER, late=(1, 1)),
    LevelRule(Stage.KV_REUSE, 6),
    LevelRule(Stage.P2D, 2),
)
OPEN = WINDOW << SCALE


class Scene:
    """A holder; ``kicks`` has the ports and windows in bytes of its kicks."""

    def __init__(self, below: int = LEVELS) -> None:
        self.programs = Programs.load(load())
        self.maps = self.programs.maps
        self.table = FlowTable(self.maps, Config(0, 1514, 1, share=True, kick_mark=1))
        self.told: list[tuple[int, int]] = []
        self.kicks = 0
        self.now_ns = 0
        levels = Levels(100)
        levels.set_rules(RULES)
        holds = HoldTable(self.maps)
        self.holder = Holder(
            self.table, holds, self, levels, HoldOptions(20_000_000, 1514, below), clock=lambda: self.now_ns
        )
        self.table.on_close = self.holder.closed

    def kick(self, addresses: FiveTuple, _heard: Heard, window: int) -> None:
        self.told.append((addresses.source_port, window << SCALE))

    def open(self, port: int, stage: Stage, total_bytes: int = 1 << 30) -> int:
        ends = FiveTuple("tcp", "10.0.0.1", port, "10.0.0.2", 80)
        heard = Heard(ACKNOWLEDGED, 1, 0, 0, WINDOW, HEARD_SCALED, 0)
        self.maps["connections"].put(encode_five_tuple(ends), encode_connection(heard, 0))
        request = FlowRequest(Match(cookie=port), 1, stage, LATE_NS, total_bytes, connection=Connection(ends, SCALE))
        flow = self.table.open(request)
        self.holder.opened(flow)
        return flow

    def sent(self, flow: int, count: int) -> None:
        """Let the egress program have sent this much, of which nothing is acknowledged."""
        self.maps["states"].put(INDEX.pack(flow), STATE.pack(count, 1, (ACKNOWLEDGED + count) % (1 << 32), 1, 1, 0))

    def grant(self, flow: int) -> int:
        return int.from_bytes((self.maps["holds"].get(INDEX.pack(flow)) or b"")[:8], "little")

    def turn(self, after_ns: int = 3_000_000) -> list[tuple[int, int]]:
        """The kicks of a turn."""
        self.now_ns += after_ns
        self.told.clear()
        self.holder.turn()
        return list(self.told)


def scene_or_skip(below: int = LEVELS) -> Scene:
    if os.geteuid():
        pytest.skip("loading eBPF programs needs root")
    try:
        return Scene(below)
    except KernelError as error:
        pytest.skip(str(error))


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = scene_or_skip()
    yield scene
    scene.programs.close()


def window(count: int) -> int:
    return grant_of(GrantKind.WINDOW, count)


def rounded(count: int) -> int:
    return -(-count >> SCALE) << SCALE


def test_the_budget_moves_to_a_more_urgent_flow_and_back(scene: Scene) -> None:
    low = scene.open(1, Stage.P2D)
    assert scene.grant(low) == window(BUDGET)
    assert scene.told == [], "a window that only shrinks is left to acknowledgements"
    scene.sent(low, BUDGET)
    high = scene.open(2, Stage.KV_REUSE, total_bytes=BUDGET)
    assert scene.grant(high) == window(BUDGET)
    # What is in flight stays so, across the wrap of sequence numbers; nothing follows it.
    assert scene.grant(low) == grant_of(GrantKind.UP_TO, (ACKNOWLEDGED + BUDGET) % (1 << 32))
    third = scene.open(3, Stage.P2D)
    assert scene.grant(third) == window(0)
    assert scene.told == [(3, 0)]
    assert scene.holder.status() == {"held": 1, "kicks": 0, "without_scale": 0}
    scene.sent(high, BUDGET // 2)
    assert scene.turn() == []
    scene.told.clear()
    scene.table.close(high)
    scene.table.close(low)
    assert scene.turn() == [(3, rounded(BUDGET))]
    assert scene.grant(high) == scene.grant(low) == 0


def test_a_flow_without_data_is_told_again_and_leaves_its_share(scene: Scene) -> None:
    scene.open(1, Stage.KV_REUSE)
    low = scene.open(2, Stage.P2D)
    assert scene.grant(low) == window(0)
    kicks = scene.turn(QUIET_NS)
    assert (2, rounded(BUDGET - 2 * SEGMENT)) in kicks
    assert scene.grant(low) == window(BUDGET - 2 * SEGMENT)
    assert scene.turn(1) == []


def test_a_level_falls_only_to_the_scavenger_and_exempt_levels_are_free(scene: Scene) -> None:
    other = scene_or_skip(below=6)
    free, held = other.open(1, Stage.KV_REUSE), other.open(2, Stage.P2D)
    assert (other.grant(free), other.grant(held)) == (0, window(BUDGET))
    other.programs.close()
    first, second = (scene.open(port, Stage.P2D) for port in (1, 2))
    assert (scene.grant(first), scene.grant(second)) == (window(BUDGET), window(0))
    scene.table.update(first, FlowUpdate(pruned=True))
    scene.turn()
    assert (scene.grant(first), scene.grant(second)) == (window(0), window(BUDGET))


def test_the_end_of_the_agent_lifts_everything(scene: Scene) -> None:
    flows = [scene.open(port, Stage.P2D) for port in (1, 2)]
    scene.told.clear()
    scene.holder.lift()
    assert scene.told == [(2, OPEN)]
    assert [scene.grant(flow) for flow in flows] == [0, 0]
    assert not scene.holder.busy
