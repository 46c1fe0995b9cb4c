"""Random requests, for a few seconds; ``python -m tests.support.p4runtime_fuzz`` runs them for longer."""

from __future__ import annotations

import gc
import random
import time
import tracemalloc

import grpc
import pytest
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st
from p4.v1 import p4runtime_pb2

from tests.support.p4runtime import DEVICE_ID, Client, SetConfig, program_config, running_server
from tests.support.p4runtime_fuzz import PRIMARY, PROGRAMS, fuzzer_of
from tests.support.p4runtime_requests import Generator

SEEDS = st.integers(0, 1 << 32)


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.sampled_from(PROGRAMS))
def test_random_requests_break_nothing(seed: int, name: str) -> None:
    fuzzer = fuzzer_of(name, seed)
    for _ in range(15):
        fuzzer.step()


@settings(max_examples=12, deadline=None)
@given(SEEDS, st.sampled_from(PROGRAMS))
def test_random_pipeline_configs_break_nothing(seed: int, name: str) -> None:
    rnd = random.Random(seed)
    fuzzer_of(name, seed).config(rnd)


def test_memory_does_not_grow() -> None:
    """The same requests repeated: what they leave behind is replaced, not accumulated."""
    fuzzer = fuzzer_of(PROGRAMS[0], 7)
    fuzzer.watches_state = False
    start = fuzzer._rnd.getstate()

    def again() -> int:
        fuzzer._rnd.setstate(start)
        for _ in range(60):
            fuzzer.step()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        again()
        first = again()
        last = [again() for _ in range(3)][-1]
    finally:
        tracemalloc.stop()
    assert last - first < 50_000


def test_random_requests_over_grpc() -> None:
    """The same through gRPC: clients see the right statuses, and the server keeps running."""
    rnd = random.Random(3)
    config = program_config("p4runtime_features")
    generator = Generator(config.p4info, rnd)
    forbidden = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
    with running_server() as server:
        client = Client(server.port).primary((PRIMARY << 64) | PRIMARY)

        def attempt(call: object, request: Message) -> None:
            try:
                response = call(request, timeout=60)
                if hasattr(response, "__iter__"):
                    list(response)
            except grpc.RpcError as error:
                # UNKNOWN is only for batches, and has the details of each element.
                details = "grpc-status-details-bin" in dict(error.trailing_metadata())
                if error.code() in forbidden or (error.code() == grpc.StatusCode.UNKNOWN and not details):
                    pytest.fail(f"{error} for {request}")

        for _ in range(60):
            update = generator.update()
            for _ in range(rnd.randrange(3)):
                generator.mutate(update)
            write = p4runtime_pb2.WriteRequest(
                device_id=DEVICE_ID, updates=[update], election_id={"high": PRIMARY, "low": PRIMARY}
            )
            attempt(client.stub.Write, write)
            attempt(client.stub.Read, p4runtime_pb2.ReadRequest(device_id=DEVICE_ID, entities=[update.entity]))
            other = Client(server.port, election_id=None, channel=client.channel).open()
            message = generator.stream_request()
            generator.mutate(message)
            other._outbox.put(message)
            other._outbox.put(None)
        got = client.get_config().config
        client.set_config(SetConfig.VERIFY_AND_COMMIT, got)
        assert client.read_entries("ingress.routes") == []
        for _ in range(500):  # Streams that ended are forgotten.
            if len(server.device._sessions._roles) == 1:
                break
            time.sleep(0.02)
        assert len(server.device._sessions._roles) == 1


@pytest.mark.parametrize("data", [b"\xff" * 20, b"\x08\x07\x12"])
def test_bytes_that_are_not_a_message_are_refused(data: bytes) -> None:
    with running_server() as server:
        channel = grpc.insecure_channel(f"127.0.0.1:{server.port}")
        call = channel.unary_unary("/p4.v1.P4Runtime/Write")
        with pytest.raises(grpc.RpcError) as caught:
            call(data, timeout=60)
        assert caught.value.code() == grpc.StatusCode.INTERNAL  # gRPC's own answer to bytes that it cannot parse.
        assert Client(server.port).read_entries("ingress.routes") == []
        channel.close()
