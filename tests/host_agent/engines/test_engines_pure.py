"""What engines exchange, and how it is decided: frames, secrets, parameters, coverage, plans. No I/O."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host_agent.engines import handshake
from host_agent.engines.coverage import PushedBlocks, ReceivedBlocks
from host_agent.engines.errors import ParamsError, RefusedError, TransferError
from host_agent.engines.params import Address, ConnectorOptions, TransferParams, deadline_ns, objective_ms
from host_agent.engines.plan import Planner, StepPlan, batch_numbers
from host_agent.engines.prefix import prefix_keys
from host_agent.engines.wire import HEAD_BYTES, VERSION, Frame, Kind, Layout, unpack, unpack_head
from host_agent.protocol.flow_request import BATCH_MAX

LAYOUT = Layout("model", 4, 128, 1 << 17, "torch.bfloat16", (2, 128, 4, 64))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 53), 1 << 53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.sampled_from(Kind), st.dictionaries(st.text(), JSON, max_size=5), st.integers(0, 1 << 40))
def test_a_frame_is_read_as_it_was_written(kind: Kind, fields: dict[str, object], payload: int) -> None:
    data = Frame(kind, fields, payload).pack()
    head = unpack_head(data[:HEAD_BYTES])
    assert len(data) == HEAD_BYTES + head.fields_bytes
    assert unpack(head, data[HEAD_BYTES:]) == Frame(kind, fields, payload)


@given(st.binary(min_size=HEAD_BYTES, max_size=HEAD_BYTES))
def test_random_bytes_are_no_frame(data: bytes) -> None:
    with pytest.raises(TransferError):
        unpack_head(data)


def test_another_version_is_refused_with_both_versions_but_its_refusal_is_read() -> None:
    data = bytearray(Frame(Kind.HELLO).pack())
    data[4] = VERSION + 1
    with pytest.raises(RefusedError, match=f"version {VERSION + 1} .* this engine version {VERSION}"):
        unpack_head(data[:HEAD_BYTES])
    data[5] = Kind.REFUSE
    assert unpack_head(data[:HEAD_BYTES]).kind is Kind.REFUSE


@pytest.mark.parametrize("text", [b"[]", b"{", b"\xff", b""])
def test_fields_that_are_no_object_are_refused(text: bytes) -> None:
    head = unpack_head(Frame(Kind.END).pack()[:HEAD_BYTES])
    with pytest.raises(TransferError, match="not a JSON object"):
        unpack(head, text)


@pytest.mark.parametrize(
    ("change", "named"),
    [({"model": "other"}, "model"), ({"layers": 5}, "layers"), ({"shape": (1,)}, "shape"), ({"ranks": 2}, "ranks")],
)
def test_layouts_that_differ_say_in_what(change: dict[str, object], named: str) -> None:
    assert LAYOUT.mismatch(LAYOUT.to_json()) is None
    assert named in str(LAYOUT.mismatch(replace(LAYOUT, **change).to_json()))  # type: ignore[arg-type]
    assert LAYOUT.mismatch(None) is not None


@given(st.binary(), st.binary())
def test_a_proof_needs_the_secret_and_its_own_side(secret: bytes, other: bytes) -> None:
    client, server = handshake.nonce(), handshake.nonce()
    proof = handshake.proof(secret, handshake.CLIENT, client, server)
    assert handshake.proves(secret, handshake.CLIENT, client, server, proof)
    assert not handshake.proves(secret, handshake.SERVER, client, server, proof)
    assert not handshake.proves(secret, handshake.CLIENT, server, client, proof)
    assert not handshake.proves(secret, handshake.CLIENT, client, server, None)
    # HMAC pads short keys with zero bytes.
    if secret.rstrip(b"\0") != other.rstrip(b"\0"):
        assert not handshake.proves(other, handshake.CLIENT, client, server, proof)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.2.1:7100", Address("10.0.2.1", 7100)),
        ("decode:1", Address("decode", 1)),
        ("[fd00::2:1]:7100", Address("fd00::2:1", 7100)),
    ],
)
def test_addresses_are_read_as_they_are_written(text: str, address: Address) -> None:
    assert Address.parse(text, "to") == address
    assert str(address) == text
    assert address.of_rank(3) == Address(address.host, address.port + 3)


@pytest.mark.parametrize("text", ["", "host", "host:0", "host:70000", "fd00::1:7100", "[x]:1", None, 7, ["h", 1]])
def test_other_addresses_are_refused_by_name(text: object) -> None:
    with pytest.raises(ParamsError, match="to "):
        Address.parse(text, "to")


def test_parameters_are_read_from_a_request() -> None:
    given = {"mfs": {"transfer": "t", "to": "h:1", "store": "s:2", "fetch": "s:2", "deadline_ms": 300}}
    assert TransferParams.from_request(given) == TransferParams(
        "t", Address("h", 1), False, Address("s", 2), Address("s", 2), 300.0
    )
    assert TransferParams.from_request({"do_remote_decode": True}) is None
    assert TransferParams.from_request(None) is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"to": "h:1"}, "need"),
        ({"receive": True}, "need"),
        ({"transfer": "t", "receive": True, "to": "h:1"}, "either"),
        ({"transfer": 7}, "not a string"),
        ({"receive": 1}, "true or false"),
        ({"deadline_ms": 0}, "deadline_ms"),
        ({"deadline_ms": True}, "deadline_ms"),
        ({"deadline_ms": 1e12}, "deadline_ms"),
        ({"deadline": 1}, "deadline_ms, fetch"),
    ],
)
def test_wrong_parameters_are_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ParamsError, match=words):
        TransferParams.from_request({"mfs": fields})


def test_the_deadline_comes_from_the_most_specific_source() -> None:
    defaults = {"": 10_000.0, "big": 20_000.0}
    params = TransferParams(deadline_ms=100.0)
    extra, hints = {"mfs_deadline_ms": 200}, {"mfs_deadline_ms": 300}
    assert objective_ms(params, extra, hints, defaults, "big") == 100
    assert objective_ms(TransferParams(), extra, hints, defaults, "big") == 200
    assert objective_ms(None, {"mfs_deadline_ms": "soon"}, hints, defaults, "big") == 300
    assert objective_ms(None, None, None, defaults, "big") == 20_000
    assert objective_ms(None, None, None, defaults, "small") == 10_000
    assert deadline_ns(100.0, arrival_s=1000.0, now_s=1000.04, now_ns=5_000_000_000) == 5_060_000_000


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"port": 1}, "does not take port"),
        ({"listen": "h"}, "listen"),
        ({"agent": 1}, "agent"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"deadlines_ms": 5}, "deadlines_ms"),
        ({"deadlines_ms": {"m": -1}}, "deadline_ms"),
    ],
)
def test_wrong_options_are_refused(config: dict[str, object], words: str) -> None:
    with pytest.raises(ParamsError, match=words):
        ConnectorOptions.from_config(config)


def test_options_have_defaults_and_a_missing_secret_is_named() -> None:
    options = ConnectorOptions.from_config({"listen": "[::1]:7100", "deadlines_ms": {"m": 500}, "secret_file": "/no"})
    assert options.listen == Address("::1", 7100)
    assert options.deadlines_ms == {"": 10_000.0, "m": 500.0}
    with pytest.raises(ParamsError, match="/no"):
        options.secret()
    assert ConnectorOptions().secret() == b""


PROMPTS = st.integers(1, 1000)
STEPS = st.lists(st.tuples(st.integers(1, 300), st.booleans()), max_size=30)


@given(PROMPTS, st.sampled_from([1, 16, 128]), STEPS)
def test_every_block_is_pushed_once_however_the_prompt_is_computed(
    prompt: int, block_tokens: int, steps: list[tuple[int, bool]]
) -> None:
    pushed = PushedBlocks(prompt, block_tokens)
    computed, blocks, lasts = 0, [], []
    for tokens, preempted in [*steps, (prompt, False), (prompt, False)]:
        computed = 0 if preempted else computed
        computed = min(prompt, computed + tokens)
        if (part := pushed.computed(computed)) is not None:
            # A block is whole when it is pushed.
            assert part.end * block_tokens <= computed or part.last
            blocks += range(part.first, part.end)
            lasts.append(part.last)
    assert blocks == list(range(-(-prompt // block_tokens)))
    assert lasts == [False] * (len(lasts) - 1) + [True]


@given(st.integers(1, 4), st.integers(0, 5), st.integers(1, 6), st.randoms(use_true_random=False))
def test_a_transfer_is_complete_when_each_block_of_each_layer_is_there(
    layers: int, first: int, count: int, random: object
) -> None:
    arrived = ReceivedBlocks(layers, first, first + count)
    parts = list(itertools.product(range(layers), range(first, first + count)))
    random.shuffle(parts)  # type: ignore[attr-defined]
    for number, (layer, block) in enumerate(parts):
        assert arrived.missing == len(parts) - number
        arrived.add(layer, block, 1)
        arrived.add(layer, block, 1)
    assert arrived.missing == 0


@pytest.mark.parametrize(("layer", "first", "blocks"), [(2, 1, 1), (-1, 1, 1), (0, 0, 1), (0, 2, 2), (0, 1, 0)])
def test_blocks_outside_a_transfer_are_refused(layer: int, first: int, blocks: int) -> None:
    with pytest.raises(TransferError, match="outside the transfer"):
        ReceivedBlocks(2, 1, 3).add(layer, first, blocks)


@given(st.lists(st.integers(0, 1000), max_size=60), st.lists(st.integers(0, 1000), max_size=60))
def test_names_of_blocks_are_equal_as_long_as_the_prompts_are(one: list[int], other: list[int]) -> None:
    keys = prefix_keys("seed", 8, one), prefix_keys("seed", 8, other)
    assert len(keys[0]) == len(one) // 8
    equal = len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))))
    same = len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], zip(*keys, strict=False))))
    assert same == equal // 8
    if keys[0]:
        assert keys[0][0] != prefix_keys("other tenant", 8, one)[0]


TO = TransferParams(transfer="t", to=Address("d", 1))


def planner() -> Planner:
    return Planner(16, batch_numbers(41))


def step(plan: Planner, *scheduled: tuple[str, int, tuple[int, ...]]) -> StepPlan:
    for request, computed, blocks in scheduled:
        plan.scheduled(request, computed, blocks, replaced=False)
    return plan.take()


def test_requests_computed_in_one_step_share_a_batch_and_its_effective_deadline() -> None:
    plan = planner()
    fetching = replace(TO, fetch=Address("s", 2))
    plan.prefill("a", fetching, 40, 1000, ("k0", "k1"))
    plan.prefill("b", TO, 16, 3000, ())
    plan.fetch("a", 0, 32)
    found = step(plan, ("a", 40, (7, 8, 9)), ("b", 16, (4,)), ("unknown", 5, (1,)))
    assert [(each.request, each.block_ids, each.last, each.batch) for each in found.pushes] == [
        ("a", (7, 8, 9), True, 42),
        ("b", (4,), True, 42),
    ]
    assert found.computing == [42]
    [fetch] = found.fetches
    assert (fetch.keys, fetch.block_ids, fetch.batch, fetch.deadline_ns) == (("k0", "k1"), (7, 8), 42, 2000)
    assert step(plan) == StepPlan()


def test_a_request_in_chunks_is_a_batch_of_its_own_that_advances_in_its_last_chunk() -> None:
    plan = planner()
    plan.prefill("long", TO, 70, 1000, ())
    first = step(plan, ("long", 40, (1, 2, 3)))
    plan.prefill("short", TO, 10, 1000, ())
    second = step(plan, ("long", 70, (4, 5)), ("short", 10, (9,)))
    assert [(each.first, each.block_ids, each.last) for each in first.pushes] == [(0, (1, 2), False)]
    assert first.computing == []
    assert [(each.request, each.first, each.block_ids, each.last) for each in second.pushes] == [
        ("long", 2, (3, 4, 5), True),
        ("short", 0, (9,), True),
    ]
    batches = {each.request: each.batch for each in second.pushes}
    assert batches["long"] == first.pushes[0].batch != batches["short"]
    assert sorted(second.computing) == sorted(batches.values())


def test_a_preempted_request_continues_with_its_new_blocks() -> None:
    plan = planner()
    plan.prefill("a", TO, 64, 1000, ())
    assert step(plan, ("a", 32, (1, 2))).pushes[0].block_ids == (1, 2)
    plan.scheduled("a", 32, (5, 6), replaced=True)
    assert plan.take().pushes == []
    assert step(plan, ("a", 64, (7, 8))).pushes[0].block_ids == (7, 8)


def test_a_request_that_ends_is_forgotten_and_reported() -> None:
    plan = planner()
    plan.prefill("a", TO, 64, 1000, ())
    plan.scheduled("a", 32, (1, 2), replaced=False)
    plan.ended("a")
    found = plan.take()
    assert (found.pushes, found.ended) == ([], ["a"])


def test_batch_numbers_wrap_without_zero() -> None:
    assert list(itertools.islice(batch_numbers(BATCH_MAX - 1), 3)) == [BATCH_MAX, 1, 2]
