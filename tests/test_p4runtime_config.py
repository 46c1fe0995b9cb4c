"""SetForwardingPipelineConfig and GetForwardingPipelineConfig over gRPC."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import grpc
import pytest
from p4.v1 import p4runtime_pb2

from soft_switch.p4runtime.server import P4RuntimeServer
from tests.p4runtime_support import (
    Client,
    SetConfig,
    action,
    connected,
    entry,
    ethernet,
    exact,
    features_config,
)

GetConfig = p4runtime_pb2.GetForwardingPipelineConfigRequest
KNOWN = "ingress.known_sources"
ENTRY = entry(KNOWN, exact(KNOWN, "source", b"\x01"), call=action("NoAction"))


@pytest.fixture
def empty() -> Iterator[tuple[P4RuntimeServer, Client]]:
    with connected(with_program=False) as pair:
        yield pair


@pytest.fixture
def loaded() -> Iterator[tuple[P4RuntimeServer, Client]]:
    with connected() as pair:
        yield pair


def refused(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), caught.value.details()


def test_before_any_config(empty: tuple[P4RuntimeServer, Client]) -> None:
    _, client = empty
    assert not client.get_config().HasField("config")
    assert refused(lambda: client.insert(ENTRY))[0] == grpc.StatusCode.FAILED_PRECONDITION
    assert refused(lambda: client.read_entries(KNOWN))[0] == grpc.StatusCode.FAILED_PRECONDITION
    assert refused(lambda: client.set_config(SetConfig.COMMIT))[0] == grpc.StatusCode.NOT_FOUND


def test_verify_changes_nothing(empty: tuple[P4RuntimeServer, Client]) -> None:
    server, client = empty
    client.set_config(SetConfig.VERIFY, features_config())
    assert not client.get_config().HasField("config")
    assert server.device.switch.pipeline is None


def test_commit_clears_the_entries(loaded: tuple[P4RuntimeServer, Client]) -> None:
    server, client = loaded
    client.insert(ENTRY)
    before = server.device.switch.pipeline
    client.set_config(SetConfig.VERIFY_AND_COMMIT, features_config(cookie=42))
    assert client.read_entries(KNOWN) == []
    assert server.device.switch.pipeline is not before


def test_get_returns_what_was_set(empty: tuple[P4RuntimeServer, Client]) -> None:
    _, client = empty
    config = features_config(cookie=42)
    client.set_config(SetConfig.VERIFY_AND_COMMIT, config)
    assert client.get_config(GetConfig.ALL).config == config
    only_cookie = client.get_config(GetConfig.COOKIE_ONLY).config
    assert only_cookie.cookie.cookie == 42
    assert not only_cookie.HasField("p4info")
    assert not only_cookie.p4_device_config
    with_p4info = client.get_config(GetConfig.P4INFO_AND_COOKIE).config
    assert (with_p4info.p4info, with_p4info.p4_device_config) == (config.p4info, b"")
    with_json = client.get_config(GetConfig.DEVICE_CONFIG_AND_COOKIE).config
    assert (with_json.HasField("p4info"), with_json.p4_device_config) == (False, config.p4_device_config)
    client.set_config(SetConfig.VERIFY_AND_COMMIT, features_config())
    assert not client.get_config().config.HasField("cookie")


def test_saved_config_takes_writes_and_runs_only_after_commit(loaded: tuple[P4RuntimeServer, Client]) -> None:
    server, client = loaded
    running = server.device.switch.pipeline
    client.set_config(SetConfig.VERIFY_AND_SAVE, features_config(cookie=5))
    assert server.device.switch.pipeline is running
    client.insert(ENTRY)  # Goes to the saved config,
    assert list(running.tables[KNOWN].entries()) == []  # not to the one that runs.
    client.set_config(SetConfig.COMMIT)
    assert server.device.switch.pipeline is not running
    assert len(client.read_entries(KNOWN)) == 1
    assert len(list(server.device.switch.pipeline.tables[KNOWN].entries())) == 1
    assert refused(lambda: client.set_config(SetConfig.COMMIT))[0] == grpc.StatusCode.NOT_FOUND


def test_commit_takes_no_config(loaded: tuple[P4RuntimeServer, Client]) -> None:
    _, client = loaded
    client.set_config(SetConfig.VERIFY_AND_SAVE, features_config())
    status = refused(lambda: client.set_config(SetConfig.COMMIT, features_config()))
    assert status[0] == grpc.StatusCode.INVALID_ARGUMENT


def test_reconcile_is_refused_by_name(loaded: tuple[P4RuntimeServer, Client]) -> None:
    _, client = loaded
    code, message = refused(lambda: client.set_config(SetConfig.RECONCILE_AND_COMMIT, features_config()))
    assert code == grpc.StatusCode.UNIMPLEMENTED
    assert "RECONCILE_AND_COMMIT" in message


def test_only_the_primary_sets_a_config(loaded: tuple[P4RuntimeServer, Client]) -> None:
    server, _ = loaded
    stranger = Client(server.port, election_id=77)
    status = refused(lambda: stranger.set_config(SetConfig.VERIFY, features_config()))
    assert status[0] == grpc.StatusCode.PERMISSION_DENIED


def wrong_table(config: p4runtime_pb2.ForwardingPipelineConfig) -> None:
    config.p4info.tables[0].preamble.name = "ingress.elsewhere"


def wrong_width(config: p4runtime_pb2.ForwardingPipelineConfig) -> None:
    table = next(t for t in config.p4info.tables if t.preamble.name == "ingress.routes")
    table.match_fields[0].bitwidth = 31


def wrong_kind(config: p4runtime_pb2.ForwardingPipelineConfig) -> None:
    table = next(t for t in config.p4info.tables if t.preamble.name == "ingress.routes")
    table.match_fields[0].match_type = 2  # exact


def wrong_field_count(config: p4runtime_pb2.ForwardingPipelineConfig) -> None:
    table = next(t for t in config.p4info.tables if t.preamble.name == "ingress.classes")
    del table.match_fields[0]


def wrong_parameter(config: p4runtime_pb2.ForwardingPipelineConfig) -> None:
    forward = next(a for a in config.p4info.actions if a.preamble.name == "ingress.forward")
    forward.params[0].bitwidth = 16


def wrong_counter_size(config: p4runtime_pb2.ForwardingPipelineConfig) -> None:
    config.p4info.counters[0].size = 17


def wrong_digest(config: p4runtime_pb2.ForwardingPipelineConfig) -> None:
    del config.p4info.type_info.structs["learn_t"].members[0]


def wrong_action_reference(config: p4runtime_pb2.ForwardingPipelineConfig) -> None:
    config.p4info.tables[0].action_refs[0].id = 12345


def no_json(config: p4runtime_pb2.ForwardingPipelineConfig) -> None:
    config.p4_device_config = b""


def not_json(config: p4runtime_pb2.ForwardingPipelineConfig) -> None:
    config.p4_device_config = b"\x00\x01 not JSON"


def no_p4info(config: p4runtime_pb2.ForwardingPipelineConfig) -> None:
    config.ClearField("p4info")


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (wrong_table, "ingress.elsewhere"),
        (wrong_width, "31 bits"),
        (wrong_kind, "destination of ingress.routes is exact"),
        (wrong_field_count, "ingress.classes"),
        (wrong_parameter, "port of ingress.forward"),
        (wrong_counter_size, "ingress.port_counter"),
        (wrong_digest, "learn_t"),
        (wrong_action_reference, "12345"),
        (no_json, "p4_device_config"),
        (not_json, "device config"),
        (no_p4info, "p4info"),
    ],
)
def test_config_that_does_not_fit_is_refused_and_the_old_one_stays(
    loaded: tuple[P4RuntimeServer, Client],
    spoil: Callable[[p4runtime_pb2.ForwardingPipelineConfig], None],
    named: str,
) -> None:
    server, client = loaded
    client.insert(ENTRY)
    before = server.device.switch.pipeline
    config = features_config()
    spoil(config)
    for kind in (SetConfig.VERIFY, SetConfig.VERIFY_AND_SAVE, SetConfig.VERIFY_AND_COMMIT):
        code, message = refused(lambda kind=kind: client.set_config(kind, config))
        assert code == grpc.StatusCode.INVALID_ARGUMENT
        assert named in message
    assert server.device.switch.pipeline is before
    assert len(client.read_entries(KNOWN)) == 1
    server.device.switch.receive(0, ethernet(), 0)


def test_unset_action_and_unset_config(loaded: tuple[P4RuntimeServer, Client]) -> None:
    _, client = loaded
    assert refused(lambda: client.set_config(SetConfig.VERIFY_AND_COMMIT))[0] == grpc.StatusCode.INVALID_ARGUMENT
    assert refused(lambda: client.set_config(0, features_config()))[0] == grpc.StatusCode.INVALID_ARGUMENT
