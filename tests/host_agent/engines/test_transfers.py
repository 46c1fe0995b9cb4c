"""Pushes and fetches over real sockets, without an engine: what arrives, what is refused, what a failure leaves."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from host_agent.engines.channel import Channel, Pool, dial, layer_frame
from host_agent.engines.errors import RefusedError, TransferError
from host_agent.engines.fetch import Fetch, Lookups
from host_agent.engines.flows import Announcer
from host_agent.engines.gate import Gate
from host_agent.engines.params import Address
from host_agent.engines.push import Means, Push, PushTarget, Staging
from host_agent.engines.receive import Receiver
from host_agent.engines.records import Records
from host_agent.engines.store import Store
from host_agent.engines.wire import VERSION, Frame, Kind, Layout

LAYOUT = Layout("model", 3, 16, 1000, "uint8", (1000,))
SECRET = b"a secret"
TIMEOUT_S = 20.0


def payload(layer: int, first: int, blocks: int) -> memoryview:
    """Bytes that name their layer and block."""
    return memoryview(b"".join(bytes([16 * layer + first + number]) * 1000 for number in range(blocks)))


class Cache:
    """A KV cache of a decode engine."""

    def __init__(self) -> None:
        self.blocks: dict[tuple[int, int], bytes] = {}

    def write(self, layer: int, block_ids: Sequence[int], data: memoryview) -> None:
        for number, block in enumerate(block_ids):
            self.blocks[layer, block] = bytes(data[number * 1000 : (number + 1) * 1000])


class Agent:
    """A socket that answers like the host agent and keeps the requests."""

    def __init__(self, path: Path) -> None:
        self.requests: list[dict[str, Any]] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rwb") as stream:
            for line in stream:
                self.requests.append(json.loads(line))
                stream.write(b'{"ok": true, "flow": %d, "number": 9}\n' % len(self.requests))
                stream.flush()

    def of(self, operation: str) -> list[dict[str, Any]]:
        return [request for request in self.requests if request["op"] == operation]


class Ends:
    """A sender and a receiver, with what they record."""

    def __init__(self, folder: Path, host: str = "127.0.0.1", agent: str = "", **changes: Any) -> None:
        self.log = folder / "log.jsonl"
        records = Records(str(self.log))
        self.cache = Cache()
        secret = changes.pop("secret", SECRET)
        receive_timeout_s = changes.pop("receive_timeout_s", TIMEOUT_S)
        timeout_s = changes.pop("timeout_s", TIMEOUT_S)
        self.receiver = Receiver(
            Address(host, 0), LAYOUT, SECRET, self.cache.write, records, timeout_s, receive_timeout_s
        )
        self.address = Address(host, self.receiver.port)
        self.pool = Pool(secret, timeout_s)
        self.announcer = Announcer(agent)
        self.staging = Staging(changes.pop("staging_bytes", 1 << 20))
        layout = replace(LAYOUT, **changes)
        self.means = Means(layout, self.pool, self.announcer, self.staging, records, timeout_s)

    def push(self, transfer: str, blocks: int = 4) -> tuple[Push, threading.Event]:
        ended = threading.Event()
        target = PushTarget("p-" + transfer, self.address, transfer, blocks, 7, time.monotonic_ns() + 10**9)
        push = Push(target, self.means, lambda _: ended.set())
        push.start()
        return push, ended

    def results(self) -> tuple[set[str], set[str]]:
        """The first results that are not empty."""

        def some() -> tuple[set[str], set[str]] | None:
            results = self.receiver.results()
            return results if any(results) else None

        return until(some)  # type: ignore[no-any-return]

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def close(self) -> None:
        self.receiver.close()
        self.pool.close()
        self.announcer.stop()


def until(condition: Callable[[], Any]) -> Any:
    """Wait until ``condition()`` is true, and return it."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.005)
    raise AssertionError("it did not happen in time")


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[Callable[..., Ends]]:
    made: list[Ends] = []

    def make(**options: Any) -> Ends:
        made.append(Ends(tmp_path, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_push_arrives_in_the_blocks_of_its_request(ends: Callable[..., Ends], host: str) -> None:
    each = ends(host=host)
    push, ended = each.push("t")
    # In chunks, and before the request has blocks.
    for layer in range(3):
        push.add(layer, 0, 3, payload(layer, 0, 3))
    for layer in range(3):
        push.add(layer, 3, 1, payload(layer, 3, 1))
    push.finish()
    each.receiver.expect("d", "t", [20, 10, 30, 40], first=0)
    assert each.results() == ({"d"}, set())
    assert ended.wait(TIMEOUT_S)
    assert each.cache.blocks == {
        (layer, block): bytes([16 * layer + number]) * 1000
        for layer in range(3)
        for number, block in enumerate([20, 10, 30, 40])
    }
    assert each.staging.used == 0
    assert {(record["role"], record["payload_bytes"], record["error"]) for record in each.records()} == {
        ("push", 12_000, ""),
        ("receive", 12_000, ""),
    }


def test_blocks_that_the_prefix_cache_has_are_not_sent(ends: Callable[..., Ends]) -> None:
    each = ends()
    each.receiver.expect("d", "t", [1, 2, 3, 4], first=2)
    push, _ = each.push("t")
    for layer in range(3):
        push.add(layer, 0, 4, payload(layer, 0, 4))
    push.finish()
    assert each.results() == ({"d"}, set())
    assert {block for _, block in each.cache.blocks} == {3, 4}
    assert until(lambda: each.log.exists() and len(each.records()) == 2)
    assert {record["payload_bytes"] for record in each.records()} == {6_000}


def test_the_flow_of_a_push_is_opened_advanced_and_closed_and_its_connection_reused(
    ends: Callable[..., Ends], tmp_path: Path
) -> None:
    agent = Agent(tmp_path / "agent.sock")
    each = ends(agent=str(tmp_path / "agent.sock"))
    for number in range(2):
        each.receiver.expect("d", f"t{number}", [1, 2, 3, 4], first=1)
        push, ended = each.push(f"t{number}")
        for layer in range(3):
            push.add(layer, 0, 4, payload(layer, 0, 4))
            each.announcer.advance(7, layer + 1)
        push.finish()
        assert ended.wait(TIMEOUT_S)
    opened = agent.of("open")
    assert [
        (one["batch"], one["stage"], one["total_bytes"], one["target_layer"], one["message_bytes"]) for one in opened
    ] == [(7, "P2D", 9_000, 3, 3_000)] * 2
    assert opened[0]["match"] == opened[1]["match"]
    assert len(agent.of("close")) == 2
    assert until(lambda: {one["layer"] for one in agent.of("advance")} >= {3})
    assert each.receiver.connections == 1
    assert all(record["stamped"] for record in each.records() if record["role"] == "push")


def test_without_an_agent_data_goes_unstamped_and_this_is_said_once(
    ends: Callable[..., Ends], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    each = ends(agent=str(tmp_path / "nobody.sock"))
    for number in range(3):
        each.receiver.expect("d", f"t{number}", [1], first=0)
        push, ended = each.push(f"t{number}", blocks=1)
        for layer in range(3):
            push.add(layer, 0, 1, payload(layer, 0, 1))
            each.announcer.advance(7, layer + 1)
        push.finish()
        assert ended.wait(TIMEOUT_S)
    assert each.results() == ({"d"}, set())
    assert [record.message for record in caplog.records if "without stamps" in record.message] == [
        f"no agent answers at {tmp_path}/nobody.sock: No such file or directory; transfers go on without stamps"
    ]
    assert not any(record["stamped"] for record in each.records())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"secret": b"wrong"}, "secret"),
        ({"secret": b""}, "secret"),
        ({"model": "other"}, "model 'other' instead of 'model'"),
        ({"block_bytes": 500}, "block_bytes"),
        ({"ranks": 2}, "ranks"),
    ],
)
def test_a_peer_with_another_secret_or_layout_is_refused(
    ends: Callable[..., Ends], change: dict[str, Any], words: str
) -> None:
    each = ends(**change, receive_timeout_s=1.0)
    each.receiver.expect("d", "t", [1], first=0)
    _, ended = each.push("t", blocks=1)
    assert ended.wait(TIMEOUT_S)
    # The request is not lost: the engine computes its prompt.
    assert each.results() == (set(), {"d"})
    [record] = [record for record in each.records() if record["role"] == "push"]
    assert words in record["error"]
    assert each.cache.blocks == {}


def test_a_push_of_another_prompt_length_is_refused(ends: Callable[..., Ends]) -> None:
    each = ends()
    each.receiver.expect("d", "t", [1, 2], first=0)
    _, ended = each.push("t", blocks=3)
    assert ended.wait(TIMEOUT_S)
    assert each.results() == (set(), {"d"})
    assert any("3 blocks, the request 2" in record["error"] for record in each.records())


def test_another_version_is_refused_with_words_that_the_peer_can_read(ends: Callable[..., Ends]) -> None:
    each = ends()
    with socket.create_connection((each.address.host, each.address.port)) as connection:
        hello = bytearray(Frame(Kind.HELLO, {"nonce": "00"}).pack())
        hello[4] = VERSION + 1
        connection.sendall(hello)
        with pytest.raises(RefusedError, match=f"version {VERSION + 1}"):
            Channel(connection, TIMEOUT_S, "peer").receive(Kind.HELLO)


def test_a_sender_that_dies_in_the_middle_fails_its_request_at_once(ends: Callable[..., Ends]) -> None:
    each = ends()
    each.receiver.expect("d", "t", [1, 2], first=0)
    channel = dial(each.address, SECRET, TIMEOUT_S)
    channel.send(Frame(Kind.BEGIN, {"transfer": "t", "blocks": 2, "layout": LAYOUT.to_json()}))
    assert channel.receive(Kind.ACCEPT).fields == {"first": 0}
    channel.send(layer_frame(0, 0, 2, 2000), [payload(0, 0, 2)])
    channel.socket.sendall(layer_frame(1, 0, 2, 2000).pack() + bytes(100))
    channel.close()
    assert each.results() == (set(), {"d"})


def test_a_push_that_ends_early_is_not_taken_for_complete(ends: Callable[..., Ends]) -> None:
    each = ends()
    each.receiver.expect("d", "t", [1, 2], first=0)
    channel = dial(each.address, SECRET, TIMEOUT_S)
    channel.send(Frame(Kind.BEGIN, {"transfer": "t", "blocks": 2, "layout": LAYOUT.to_json()}))
    channel.receive(Kind.ACCEPT)
    channel.send(Frame(Kind.END))
    with pytest.raises(RefusedError, match="6 blocks missing"):
        channel.receive(Kind.DONE)
    assert each.results() == (set(), {"d"})


def test_an_aborted_request_gets_no_more_writes(ends: Callable[..., Ends]) -> None:
    each = ends()
    each.receiver.expect("d", "t", [1, 2], first=0)
    push, ended = each.push("t", blocks=2)
    push.add(0, 0, 2, payload(0, 0, 2))
    until(lambda: len(each.cache.blocks) == 2)
    each.receiver.cancel("d")
    assert each.receiver.results() == (set(), {"d"})
    push.add(1, 0, 2, payload(1, 0, 2))
    push.finish()
    assert ended.wait(TIMEOUT_S)
    assert len(each.cache.blocks) == 2
    assert each.staging.used == 0


def test_a_push_that_is_aborted_fails_its_receiver(ends: Callable[..., Ends]) -> None:
    each = ends()
    each.receiver.expect("d", "t", [1, 2], first=0)
    push, ended = each.push("t", blocks=2)
    push.add(0, 0, 2, payload(0, 0, 2))
    push.abort("the client left")
    assert ended.wait(TIMEOUT_S)
    assert each.results() == (set(), {"d"})
    assert push.failed
    assert each.staging.used == 0


def test_a_push_that_never_comes_fails_after_the_timeout(ends: Callable[..., Ends]) -> None:
    each = ends(receive_timeout_s=0.05)
    each.receiver.expect("d", "t", [1], first=0)
    assert each.results() == (set(), {"d"})


def test_a_transfer_is_taken_once(ends: Callable[..., Ends]) -> None:
    each = ends()
    each.receiver.expect("d", "t", [1], first=0)
    push, ended = each.push("t", blocks=1)
    for layer in range(3):
        push.add(layer, 0, 1, payload(layer, 0, 1))
    push.finish()
    assert ended.wait(TIMEOUT_S)
    assert each.results() == ({"d"}, set())
    each.receiver.expect("other", "t", [2], first=0)
    assert each.results() == (set(), {"other"})
    again, ended = each.push("t", blocks=1)
    assert ended.wait(TIMEOUT_S)
    assert again.failed
    assert {block for _, block in each.cache.blocks} == {1}


def test_a_full_staging_memory_slows_the_engine_and_a_dead_peer_frees_it(ends: Callable[..., Ends]) -> None:
    each = ends(staging_bytes=2500, timeout_s=0.5)
    push, ended = each.push("nobody waits for it")
    push.add(0, 0, 2, payload(0, 0, 2))
    began = time.monotonic()
    push.add(0, 2, 2, payload(0, 2, 2))
    assert time.monotonic() > began
    assert ended.wait(TIMEOUT_S)
    assert push.failed
    until(lambda: each.staging.used == 0)


def test_a_connection_that_the_peer_closed_meanwhile_is_replaced(ends: Callable[..., Ends]) -> None:
    each = ends()
    for number in range(2):
        each.receiver.expect("d", f"t{number}", [1], first=0)
        push, ended = each.push(f"t{number}", blocks=1)
        for layer in range(3):
            push.add(layer, 0, 1, payload(layer, 0, 1))
        push.finish()
        assert ended.wait(TIMEOUT_S)
        assert each.results() == ({"d"}, set())
        for channel in list(each.receiver._server._channels):
            channel.break_off()
        until(lambda: each.receiver.connections == 0)


def test_random_aborts_at_both_ends_leave_nothing_behind(ends: Callable[..., Ends]) -> None:
    each = ends(staging_bytes=200_000, receive_timeout_s=3.0)
    chance = random.Random(5)
    requests = [f"r{number}" for number in range(300)]
    over = []
    for name in requests:
        each.receiver.expect(name, name, [1, 2], first=0)
        push, ended = each.push(name, blocks=2)
        over.append(ended)
        fate = chance.choice(["whole", "sender aborts", "receiver aborts", "connection dies"])
        for layer in range(3):
            push.add(layer, 0, 2, payload(layer, 0, 2))
            if layer == 1 and fate == "sender aborts":
                push.abort("the client left")
            if layer == 1 and fate == "receiver aborts":
                each.receiver.cancel(name)
            if layer == 1 and fate == "connection dies":
                for channel in sorted(each.receiver._server._channels, key=id)[:1]:
                    channel.break_off()
        push.finish()
    done: list[str] = []

    def all_over() -> bool:
        complete, failed = each.receiver.results()
        done.extend([*complete, *failed])
        return len(done) >= len(requests)

    until(all_over)
    assert sorted(done) == sorted(requests)
    assert all(ended.wait(TIMEOUT_S) for ended in over)
    assert each.staging.used == 0
    each.pool.close()
    until(lambda: each.receiver.connections == 0)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("mfs-push")]


def store(tmp_path: Path, agent: str = "", capacity_bytes: int = 1 << 20) -> Store:
    records = Records(str(tmp_path / "store.jsonl"))
    return Store(Address("127.0.0.1", 0), SECRET, Announcer(agent), records, TIMEOUT_S, capacity_bytes)


def keep(each: Ends, at: Address, keys: tuple[str, ...]) -> None:
    """Push blocks to a store."""
    ended = threading.Event()
    target = PushTarget("p", at, "", len(keys), 7, 0, keys)
    push = Push(target, each.means, lambda _: ended.set())
    push.start()
    for layer in range(3):
        push.add(layer, 0, len(keys), payload(layer, 0, len(keys)))
    push.finish()
    assert ended.wait(TIMEOUT_S)


def fetch(each: Ends, at: Address, keys: Sequence[str], cache: Cache, first: int = 0) -> Fetch:
    ids = list(range(100 + first, 100 + len(keys)))
    found = Fetch(
        "r", at, keys, first, ids, 5, time.monotonic_ns() + 10**9, LAYOUT, each.pool, each.means.records, cache.write
    )
    found.start()
    return found


def test_a_prefix_is_kept_looked_up_and_fetched_layer_by_layer(ends: Callable[..., Ends], tmp_path: Path) -> None:
    agent = Agent(tmp_path / "agent.sock")
    each, kept, cache = ends(), store(tmp_path, str(tmp_path / "agent.sock")), Cache()
    at = Address("127.0.0.1", kept.port)
    keep(each, at, ("a", "b", "c"))
    keep(each, at, ("a", "b", "c"))
    lookups = Lookups(each.pool)
    asked = until(lambda: lookups.blocks("r", at, ["a", "b", "x"]))
    assert asked == 2
    found = fetch(each, at, ["a", "b"], cache, first=1)
    assert all(found.wait(layer, TIMEOUT_S) for layer in range(3))
    assert cache.blocks == {(layer, 101): bytes([16 * layer + 1]) * 1000 for layer in range(3)}
    opened = until(lambda: agent.of("open") if agent.of("close") else None)
    assert [
        (one["batch"], one["stage"], one.get("target_layer", 0), one["total_bytes"], one.get("beyond_bytes", 0))
        for one in opened
    ] == [(5, "KV_REUSE", layer, 2000, 2000 * (2 - layer)) for layer in range(3)]
    lookups.close()
    kept.close()


def test_a_fetch_of_what_the_store_has_dropped_fails(ends: Callable[..., Ends], tmp_path: Path) -> None:
    each, kept = ends(), store(tmp_path, capacity_bytes=6000)
    at = Address("127.0.0.1", kept.port)
    keep(each, at, ("a", "b"))
    keep(each, at, ("c",))
    assert kept.blocks.used == 6000
    found = fetch(each, at, ["a", "b"], Cache())
    assert not found.wait(0, TIMEOUT_S)
    assert "0 of 2 blocks" in found.failed
    kept.close()


def test_a_store_that_is_gone_fails_lookups_and_fetches(ends: Callable[..., Ends], tmp_path: Path) -> None:
    each, kept = ends(), store(tmp_path)
    at = Address("127.0.0.1", kept.port)
    kept.close()
    lookups = Lookups(each.pool)
    assert until(lambda: lookups.blocks("r", at, ["a"]) is not None)
    assert lookups.blocks("r", at, ["a"]) == 0
    assert not fetch(each, at, ["a"], Cache()).wait(0, TIMEOUT_S)


class Computing:
    """What a GPU computes: done when it is said to be."""

    def __init__(self) -> None:
        self.done = threading.Event()

    def query(self) -> bool:
        return self.done.is_set()


def test_what_waits_for_a_gpu_goes_in_order_and_does_not_wait_in_the_step(caplog: pytest.LogCaptureFixture) -> None:
    gate, called = Gate(), []
    events = [Computing() for _ in range(4)]

    def fail() -> None:
        raise ValueError("a broken transfer")

    for number, event in enumerate(events):
        gate.submit(event, fail if number == 1 else partial(called.append, number))
    for event in events[1:]:
        event.done.set()
    assert called == []
    events[0].done.set()
    until(lambda: called == [0, 2, 3])
    assert "a broken transfer" in caplog.text
    gate.close()


def test_an_address_in_use_is_named(ends: Callable[..., Ends]) -> None:
    each = ends()
    with pytest.raises(TransferError, match=f"cannot listen at {each.address}"):
        Receiver(each.address, LAYOUT, b"", each.cache.write, Records(None), 1.0, 1.0)
