"""Covers machine code: it does what Python does, stays within its bounds, and says why it is not possible."""

from __future__ import annotations

import functools
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from host_agent.protocol.level import bias_code
from host_agent.protocol.scapy_layer import MFS
from mfs_ctrl import policies
from p4src import artifact
from soft_switch.backend import ENVIRONMENT_VARIABLE, Backend, BackendError, backend_of_environment
from soft_switch.model.externs import MeterConfig
from soft_switch.model.replication import CloneSession, Reentry, Replica
from soft_switch.native import library
from soft_switch.native.engine import MachineCode
from soft_switch.native.errors import NativeError
from soft_switch.native.forwarder import Forwarder
from soft_switch.pipeline import Pipeline
from soft_switch.queues.traffic_manager import QUEUES, Port, QueueConfig
from soft_switch.switch import Switch
from soft_switch.tables.matches import ActionCall, Exact, Lpm, Range, Ternary
from tests.support.native import no_machine_code
from tests.support.p4_programs import program_text
from tests.support.program import Program, ipv4_to, ipv6_to

machine_code = pytest.mark.skipif(bool(no_machine_code()), reason=no_machine_code() or "nothing is missing")
SMALL = ("state", "matching", "parsing", "variants", "copies", "loops", "stacks", "p4runtime_features")
PACKETS = 1500


def filled(pipeline: Pipeline) -> Pipeline:
    """The pipeline with some entries in every table, and with meters, groups, sessions and value sets."""
    draw = random.Random(5)
    for table in pipeline.tables.values():
        if table.is_const or not table.key_widths or table.profile is not None:
            continue
        for number in range(12):
            match = []
            for kind, width in zip(table.match_kinds, table.key_widths, strict=True):
                value = draw.choice((draw.randrange(4), draw.getrandbits(width))) & ((1 << width) - 1)
                bits = draw.randrange(width + 1)
                match.append(
                    {
                        "exact": Exact(value),
                        "lpm": Lpm(value, bits),
                        "ternary": Ternary(value, draw.getrandbits(width)),
                        "range": Range(value // 2, value),
                    }[kind]
                )
            name = draw.choice(sorted(table.actions))
            args = tuple(draw.getrandbits(width) for width in table.actions[name][1])
            priority = number if table.prioritised else 0
            if table.get(tuple(match), priority) is None and number < table.size:
                entry = table.insert(tuple(match), priority, ActionCall(name, args))
                if table.meter_name:
                    entry.meter = MeterConfig(1000, 300, 3000, 500)
    for meter in pipeline.meters.values():
        meter.configs[: meter.size // 2] = [MeterConfig(10, 20, 20, 50)] * (meter.size // 2)
    for number in range(8):
        pipeline.replication.groups[number] = (Replica(1, number), Replica(2, 7))
        pipeline.replication.sessions[number] = CloneSession(
            (Replica(3, 9),), number if number % 2 else None, class_of_service=number % 3, most_bytes=7 * (number % 4)
        )
    for members in pipeline.value_sets.values():
        members.set([(Exact(0x40),), (Exact(1),)])
    return pipeline


def outcome(pipeline: Pipeline, port: int, data: bytes, now_ns: int) -> list[Any]:
    """The packets that result from a packet, including copies, or the error that stops it."""
    result: list[Any] = []
    digests: list[Any] = []
    pipeline.on_digest = lambda name, values: digests.append((name, values))
    try:
        todo = [pipeline.ingress(port, data, now_ns)]
        for _ in range(200):
            while pipeline.spawned:
                made = pipeline.spawned.pop(0)
                todo.append(pipeline.reenter(made, now_ns) if isinstance(made, Reentry) else made)
            if not todo:
                break
            packet = todo.pop(0)
            if packet is not None:
                sent = pipeline.egress(packet, now_ns, now_ns + 12_345_678, 3, 2)
                result.append((packet.egress_port, packet.priority, packet.length, sent))
            else:
                result.append(None)
    except Exception as error:
        result.append((type(error), str(error)))
        pipeline.spawned.clear()
    return [result, digests]


def held(pipeline: Pipeline) -> list[Any]:
    """All state that packets may change."""
    cells: list[Any] = [register.values[:] for register in pipeline.registers.values()]
    cells += [side for counter in pipeline.counters.values() for side in (counter.packets, counter.bytes)]
    entries = [
        (e.match, e.packets, e.bytes, e.last_hit_ns) for table in pipeline.tables.values() for e in table.entries()
    ]
    return [cells, entries, pipeline.replication.too_many_rounds]


@machine_code
@pytest.mark.parametrize("name", SMALL)
def test_random_packets_have_the_same_fate(name: str) -> None:
    one, other = (filled(Pipeline.load(program_text(name), run_as)) for run_as in ("python", "c"))
    assert (one.machine_code is None, other.why_python) == (True, "")
    draw = random.Random(9)
    for number in range(PACKETS):
        data = bytes(draw.choice((draw.randrange(12), draw.randrange(256))) for _ in range(draw.randrange(64)))
        now_ns = number * 1_234_567
        assert outcome(one, number % 4, data, now_ns) == outcome(other, number % 4, data, now_ns), data.hex()
    assert held(one) == held(other)


def mfs_pair() -> tuple[Program, Program]:
    programs = []
    backends: tuple[Backend, Backend] = ("python", "c")
    for backend in backends:
        program = Program(backend=backend)
        program.set_rules(policies.mfs().rules)
        program.set_bias(bias_code(100e9))
        program.trust(1, police_floor=5, police_level=3)
        program.pipeline.meters["police"].configs[1] = MeterConfig(10_000, 3000, 20_000, 5000)
        programs.append(program)
    return programs[0], programs[1]


@pytest.fixture(scope="module")
def both() -> tuple[Program, Program]:
    return mfs_pair()


@machine_code
@settings(max_examples=120)
@given(data=st.data())
def test_packets_have_the_same_fate_in_the_mfs_program(both: tuple[Program, Program], data: st.DataObject) -> None:
    word, short = st.integers(0, 0xFFFFFFFF), st.integers(0, 255)
    stamp = MFS(
        version=data.draw(st.sampled_from((1, 1, 1, 2))),
        stage=data.draw(st.integers(0, 4)),
        flags=data.draw(short),
        batch=data.draw(st.integers(0, 3)),
        flow=data.draw(st.integers(0, 3)),
        target_layer=data.draw(short),
        current_layer=data.draw(short),
        slack=data.draw(st.one_of(st.integers(-1000, 100_000), st.integers(-(1 << 31), (1 << 31) - 1))),
        remaining=data.draw(st.one_of(st.integers(0, 1000), word)),
    )
    make = data.draw(st.sampled_from((ipv4_to, ipv6_to)))
    one, other = both
    frame = bytearray(
        bytes(make(one.topology, data.draw(st.integers(0, 3)), data.draw(st.sampled_from((stamp, None)))))
    )
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, len(frame) - 1), short), max_size=2)):
        frame[at] = value
    sent = bytes(frame[: data.draw(st.one_of(st.just(len(frame)), st.integers(0, len(frame))))])
    port, now_ns = data.draw(st.integers(0, 5)), data.draw(st.integers(0, 1 << 45))
    assert outcome(one.pipeline, port, sent, now_ns) == outcome(other.pipeline, port, sent, now_ns)
    assert held(one.pipeline) == held(other.pipeline)


@functools.cache
def native(name: str) -> MachineCode:
    made = Pipeline.load(program_text(name), "c").machine_code
    assert made is not None
    return made


@machine_code
def test_the_loop_in_c_moves_the_packets_that_a_switch_moves() -> None:
    switch = Switch()
    switch.install(Pipeline.load(program_text("state"), "python"))
    in_python, in_c = switch.add_port(2, 10**11), Port[Any](10**11)
    forwarder = Forwarder(native("state"), {2: in_c}, {}, 0)
    for length in range(100):
        switch.receive(1, bytes(length), 0)
        forwarder.receive(1, bytes(length), 0)
    assert forwarder.undeliverable == switch.undeliverable
    while switch.transmit(2, 0) is not None:
        pass
    while forwarder.run(16, 16, 10**9, 0) is not None:
        pass
    forwarder.account()
    assert in_c.sent_packets == in_python.sent_packets > 90
    assert (in_c.sent_bytes, in_c.counters) == (in_python.sent_bytes, in_python.counters)
    forwarder.close()


@machine_code
def test_what_leaves_by_the_cpu_port_goes_to_the_controller() -> None:
    seen: list[bytes] = []
    forwarder = Forwarder(native("state"), {1: Port(1000)}, {}, 0, 2, seen.append)
    pipeline = Pipeline.load(program_text("state"), "python")
    for length in range(20):
        packet = pipeline.ingress(1, bytes(length), 7000)
        forwarder.receive(1, bytes(length), 7000)
        if packet is not None:
            assert seen.pop() == pipeline.egress(packet, 7000, 7000, 0, 0)
        assert seen == []
    assert forwarder.undeliverable == 0


@machine_code
@settings(max_examples=40)
@given(data=st.data())
def test_queues_in_c_behave_like_those_of_a_port(data: st.DataObject) -> None:
    shares = data.draw(st.lists(st.fractions(0, 1 / 8, max_denominator=300), min_size=QUEUES, max_size=QUEUES))
    queues = [QueueConfig(share, data.draw(st.integers(0, 9000))) for share in shares]
    port: Port[int] = Port(data.draw(st.integers(1, 10**11)), queues)
    forwarder = Forwarder(native("parsing"), {7: port}, {}, 0)
    steps = st.one_of(st.none(), st.tuples(st.integers(0, QUEUES - 1), st.integers(1, 1500)))
    for step in data.draw(st.lists(steps, max_size=80)):
        if step is not None:
            priority, length = step
            assert forwarder.enqueue(7, bytes(length), priority, 0) == port.enqueue(0, length, priority, 0)
            continue
        left = port.next()
        found = forwarder.next(7)
        assert (left is None) == (found is None)
        if left is not None and found is not None:
            assert (found[0], *found[2:]) == (left.queue, left.enq_qdepth, left.deq_qdepth)
            assert forwarder.transmission_ns(7, found[1]) == port.transmission_ns(found[1])
    forwarder.close()


class TestWithoutMachineCode:
    def test_a_program_without_machine_code_runs_as_python_and_says_why(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CC", "no-such-compiler")
        pipeline = Pipeline.load(program_text("parsing"))
        assert pipeline.machine_code is None
        assert "no-such-compiler" in pipeline.why_python
        with pytest.raises(NativeError, match="no-such-compiler"):
            Pipeline.load(program_text("parsing"), "c")

    def test_without_cffi_a_program_runs_as_python(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "cffi", None)
        library.interface.cache_clear()
        try:
            assert "cffi is not installed" in Pipeline.load(program_text("parsing"), "auto").why_python
        finally:
            library.interface.cache_clear()

    def test_a_compiler_that_fails_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CC", "false")
        assert "false failed" in Pipeline.load(program_text("parsing"), "auto").why_python

    def test_an_unknown_backend_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(ENVIRONMENT_VARIABLE, "rust")
        with pytest.raises(BackendError, match="must be one of auto, python, c"):
            backend_of_environment()

    def test_python_runs_on_request(self) -> None:
        assert Pipeline.load(program_text("parsing"), "python").why_python == "Python was requested"


@machine_code
class TestCache:
    def test_a_source_is_compiled_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(library.CACHE_VARIABLE, str(tmp_path))
        for _ in range(2):
            Pipeline.load(program_text("loops"), "c")
        (path,) = tmp_path.iterdir()
        assert path.suffix == ".so"

    def test_machine_code_runs_without_a_writable_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setenv(library.CACHE_VARIABLE, str(tmp_path / "file" / "below"))
        assert Pipeline.load(program_text("loops"), "c").machine_code is not None

    def test_processes_compile_the_same_source_at_once(self, tmp_path: Path) -> None:
        words = "from tests.support.p4_programs import load; print(load('loops').ingress(0, bytes(40), 0) is not None)"
        environment = {**os.environ, library.CACHE_VARIABLE: str(tmp_path), ENVIRONMENT_VARIABLE: "c"}
        children = [
            subprocess.Popen([sys.executable, "-c", words], env=environment, stdout=subprocess.PIPE, text=True)
            for _ in range(3)
        ]
        assert {child.communicate()[0] for child in children} == {"True\n"}
        assert len(list(tmp_path.iterdir())) == 1


SANITIZED = """
import random
from soft_switch.native import library
library.OPTIONS += ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
from soft_switch.pipeline import Pipeline
from tests.soft_switch.test_native import filled, outcome
from tests.support.p4_programs import program_text
from p4src import artifact
draw = random.Random(3)
for name, start in (("mfs", "02" * 12), ("variants", "")):
    text = artifact.load().config if name == "mfs" else program_text(name)
    pipeline = filled(Pipeline.load(text, "c"))
    for number in range(1000):
        kind = draw.choice(("88b5", "0800", "86dd", "88b510000800", "88b5110086dd")) if start else ""
        data = bytes.fromhex(start + kind) + draw.randbytes(draw.choice((draw.randrange(120), draw.randrange(3000))))
        outcome(pipeline, draw.randrange(6), data[: draw.choice((draw.randrange(90), 5000))], number * 1000)
print("clean", flush=True)
machine_code = pipeline.machine_code
machine_code._library.pipeline_ingress(machine_code._pipeline, 0, b"\\1\\0", 40, 0, machine_code._ffi.NULL)
print("the sanitizer did not see the end of a packet")
"""


@machine_code
def test_machine_code_stays_within_its_bounds(tmp_path: Path) -> None:
    compiler = library.compiler()[0]
    sanitizer = subprocess.run([compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=False)
    if not Path(sanitizer.stdout.strip()).is_absolute():
        pytest.skip(f"{compiler} has no address sanitizer here")
    environment = {
        **os.environ,
        library.CACHE_VARIABLE: str(tmp_path),
        "LD_PRELOAD": sanitizer.stdout.strip(),
        # Every packet in its own memory, with forbidden zones around it; Python itself is not under test.
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": "detect_leaks=0",
    }
    done = subprocess.run(
        [sys.executable, "-c", SANITIZED], env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.stdout == "clean\n", done.stderr[-3000:]
    # The last packet was claimed to be longer than it is: the sanitizer does report what leaves the bounds.
    assert "heap-buffer-overflow" in done.stderr


def test_the_artifact_runs_as_machine_code_wherever_there_is_a_compiler() -> None:
    pipeline = Pipeline.load(artifact.load().config, "auto")
    assert (pipeline.machine_code is None) == bool(no_machine_code())
