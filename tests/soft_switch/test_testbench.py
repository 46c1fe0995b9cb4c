"""Covers the testbench, the queue trace, and the example that docs/guide/soft-switch.md shows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soft_switch import ArtifactError, ClockError, PortError, QueueConfig, Testbench
from soft_switch.examples import dscp_queues
from soft_switch.queues.queue_trace import DEQUEUE, DROP, ENQUEUE, QueueTraceError, csv_recorder
from soft_switch.queues.traffic_manager import QUEUES, wire_bytes

RATE_BPS = 10_000_000
LIMIT_BYTES = 4000


def bench(limit_bytes: int = LIMIT_BYTES) -> Testbench:
    """A switch with 10.0.2.0/24 behind port 2, where the DSCPs 0 to 7 choose the queue."""
    made = Testbench.load(dscp_queues.PROGRAM)
    made.add_port(2, RATE_BPS, [QueueConfig(0, limit_bytes)] * QUEUES)
    made.tables["route"].insert(["10.0.2.0/24"], "forward", {"port": 2, "next_hop": 2})
    for queue in range(QUEUES):
        made.tables["queue_of_dscp"].insert({"dscp": queue}, "set_queue", [queue])
    return made


def packet(queue: int, length: int) -> bytes:
    """An IPv4 packet of ``length`` bytes for queue ``queue``."""
    header = bytes([0x45, queue << 2]) + (length - 14).to_bytes(2, "big") + bytes(4) + bytes([64, 17, 0, 0])
    return (bytes(12) + b"\x08\x00" + header + bytes([10, 0, 0, 1, 10, 0, 2, 1])).ljust(length, b"x")


def test_the_example_keeps_the_urgent_queue_short() -> None:
    waits = [event for event in dscp_queues.run().trace if event.event == DEQUEUE]
    packet_ns = wire_bytes(1476) * 8 * 1_000_000_000 // dscp_queues.SLOW_BPS
    assert max(event.waited_ns for event in waits if event.queue == 7) <= packet_ns + 1
    assert max(event.waited_ns for event in waits if event.queue == 0) > 5 * packet_ns


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 7), st.integers(34, 1500), st.integers(0, 3_000_000)), max_size=40))
def test_the_trace_has_the_fate_of_each_packet(arrivals: list[tuple[int, int, int]]) -> None:
    switch = bench()
    for queue, length, at_ns in arrivals:
        switch.send(1, packet(queue, length), at_ns)
    frames = switch.run()
    events = Counter(event.event for event in switch.trace)
    assert events[ENQUEUE] + events[DROP] == len(arrivals)
    assert events[ENQUEUE] == events[DEQUEUE] == len(frames)
    held: Counter[int] = Counter()
    waiting: Counter[int] = Counter()
    for event in switch.trace:
        sign = {ENQUEUE: 1, DEQUEUE: -1, DROP: 0}[event.event]
        held[event.queue] += sign * event.length
        waiting[event.queue] += sign
        assert (event.queue_bytes, event.queue_packets) == (held[event.queue], waiting[event.queue])
        assert event.event != DROP or held[event.queue] + event.length > LIMIT_BYTES
    assert [event.time_ns for event in switch.trace] == sorted(event.time_ns for event in switch.trace)
    busy_ns = sum(wire_bytes(len(frame.data)) for frame in frames) * 8 * 1_000_000_000 // RATE_BPS
    assert not frames or frames[-1].time_ns >= busy_ns


def test_queues_have_strict_priority_and_the_link_its_rate() -> None:
    switch = bench()
    for queue in (0, 3, 7, 3):
        switch.send(1, packet(queue, 1000))
    frames = switch.run()
    packet_ns = wire_bytes(1000) * 8 * 1_000_000_000 // RATE_BPS
    # The first packet found the link free.
    assert [frame.data[15] >> 2 for frame in frames] == [0, 7, 3, 3]
    assert [frame.time_ns for frame in frames] == [packet_ns * (1 + number) for number in range(4)]
    assert {frame.port for frame in frames} == {2}


def test_time_continues_from_run_to_run() -> None:
    switch = bench()
    switch.send(1, packet(0, 1000), at_ns=5_000)
    assert switch.run(until_ns=4_000) == []
    assert switch.now_ns == 4_000
    assert len(switch.run()) == 1
    with pytest.raises(ClockError):
        switch.send(1, packet(0, 1000), at_ns=3_000)


def test_packets_to_the_cpu_port_are_packet_ins() -> None:
    switch = Testbench.load(dscp_queues.PROGRAM, cpu_port=2)
    switch.tables["route"].insert(["10.0.2.0/24"], "forward", [2, 2])
    switch.send(1, packet(0, 100), at_ns=70)
    assert switch.run() == []
    assert [(frame.time_ns, frame.port, len(frame.data)) for frame in switch.packet_ins] == [(70, 2, 100)]


def test_errors_name_the_file_or_port(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"cannot read .*none\.json"):
        Testbench.load(tmp_path / "none.json")
    with pytest.raises(ArtifactError, match="p4c"):
        Testbench.load(Path(__file__))
    with pytest.raises(PortError, match="already has a port 2"):
        bench().add_port(2, RATE_BPS)
    with (
        pytest.raises(QueueTraceError, match=r"cannot write the queue trace .*Is a directory"),
        csv_recorder(tmp_path),
    ):
        pass


def test_the_page_shows_the_output_of_its_code(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "guide" / "soft-switch.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    exec(compile(code, "docs/guide/soft-switch.md", "exec"), {})
    printed = capsys.readouterr().out
    assert printed
    assert "".join(f"    {line}\n" for line in printed.splitlines()) in page
