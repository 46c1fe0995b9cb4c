"""SetForwardingPipelineConfig and GetForwardingPipelineConfig over gRPC."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import grpc
import pytest
from p4.v1 import p4runtime_pb2

from soft_switch.p4runtime.server import P4RuntimeServer
from tests.support.p4runtime import (
    BUILD,
    IDS,
    INSERT,
    MODIFY,
    Client,
    SetConfig,
    action,
    connected,
    entry,
    ethernet,
    everything,
    exact,
    features_config,
    lpm,
)

GetConfig = p4runtime_pb2.GetForwardingPipelineConfigRequest
KNOWN, ROUTES = "ingress.known_sources", "ingress.routes"
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


def test_requests_before_any_config_are_refused(empty: tuple[P4RuntimeServer, Client]) -> None:
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


def test_get_returns_the_config_that_was_set(empty: tuple[P4RuntimeServer, Client]) -> None:
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


def test_a_saved_config_takes_writes_and_runs_only_after_commit(loaded: tuple[P4RuntimeServer, Client]) -> None:
    server, client = loaded
    running = server.device.switch.pipeline
    client.set_config(SetConfig.VERIFY_AND_SAVE, features_config(cookie=5))
    assert server.device.switch.pipeline is running
    client.insert(ENTRY)  # Goes to the saved config,
    assert list(running.tables[KNOWN].entries()) == []  # not to the running one.
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


def test_reconcile_preserves_everything_that_was_written(loaded: tuple[P4RuntimeServer, Client]) -> None:
    server, client = loaded
    for entity in some_entities():
        kind = entity.WhichOneof("entity")
        always_there = kind in ("counter_entry", "meter_entry") or entity.table_entry.is_default_action
        client.write((MODIFY if always_there else INSERT, entity))
    fixed = client.read_entries("ingress.fixed_ports")[0]
    before = [item for item in client.read(*everything()) if item.table_entry.table_id != IDS.of["ingress.settings"]]
    running = server.device.switch.pipeline
    running.registers["ingress.last_seen"].set_all([1, 2, 3, 4])
    config = features_config(cookie=8)
    make_larger(config)
    client.set_config(SetConfig.RECONCILE_AND_COMMIT, config)
    assert server.device.switch.pipeline is not running
    assert server.device.switch.pipeline.tables[ROUTES].size == 128
    assert client.get_config().config.cookie.cookie == 8
    assert client.read(*everything()) == before
    assert client.read_entries("ingress.fixed_ports")[0] == fixed
    assert list(server.device.switch.pipeline.registers["ingress.last_seen"].values) == [1, 2, 3, 4]
    # The preserved state is in effect.
    client.delete(*(e for e in client.read(entry(KNOWN))))
    assert client.read_entries(KNOWN) == []


def make_larger(config: p4runtime_pb2.ForwardingPipelineConfig) -> None:
    """Another program: its table of routes is larger, and it declares one table less."""
    text = config.p4_device_config.decode()
    place = text.index('"max_size" : 64', text.index(f'"name" : "{ROUTES}"'))
    config.p4_device_config = (text[:place] + text[place:].replace("64", "128", 1)).encode()
    tables = [table for table in config.p4info.tables if table.preamble.name != "ingress.settings"]
    next(table for table in tables if table.preamble.name == ROUTES).size = 128
    del config.p4info.tables[:]
    config.p4info.tables.extend(tables)


def some_entities() -> list[p4runtime_pb2.Entity]:
    meter = p4runtime_pb2.MeterConfig(cir=1, cburst=2, pir=3, pburst=4)
    hop = action("ingress.set_hop", port=b"\x01", destination=b"\x02")
    counts = p4runtime_pb2.CounterData(packet_count=5, byte_count=6)
    call = action("ingress.forward", port=b"\x03")
    found = [
        ENTRY,
        entry(ROUTES, lpm(ROUTES, "destination", b"\x0a\0\0\0", 8), call=call, counter_data=counts, metadata=b"m"),
        entry(ROUTES, is_default_action=True, call=call),
        entry("ingress.balanced", exact("ingress.balanced", "destination", b"\x01")),
        *(p4runtime_pb2.Entity() for _ in range(5)),
    ]
    found[3].table_entry.action.action_profile_action_set.action_profile_actions.add(weight=2).action.CopyFrom(hop)
    found[4].counter_entry.counter_id = IDS.of["ingress.port_counter"]
    found[4].counter_entry.index.index = 3
    found[4].counter_entry.data.CopyFrom(counts)
    found[5].meter_entry.meter_id = IDS.of["ingress.port_meter"]
    found[5].meter_entry.index.index = 2
    found[5].meter_entry.config.CopyFrom(meter)
    found[6].digest_entry.digest_id = IDS.of["learn_t"]
    found[6].digest_entry.config.max_list_size = 4
    group = found[7].packet_replication_engine_entry.multicast_group_entry
    group.multicast_group_id = 9
    group.replicas.add(port=b"\x01", instance=3)
    session = found[8].packet_replication_engine_entry.clone_session_entry
    session.session_id, session.packet_length_bytes = 8, 64
    return found


def other_fields(config: p4runtime_pb2.ForwardingPipelineConfig) -> None:
    next(t for t in config.p4info.tables if t.preamble.name == KNOWN).match_fields[0].name = "destination"


def other_id(config: p4runtime_pb2.ForwardingPipelineConfig) -> None:
    next(t for t in config.p4info.tables if t.preamble.name == KNOWN).preamble.id = 77


def other_action(config: p4runtime_pb2.ForwardingPipelineConfig) -> None:
    table = next(t for t in config.p4info.tables if t.preamble.name == KNOWN)
    table.action_refs[0].scope = 2  # default only


@pytest.mark.parametrize("change", [other_fields, other_id, other_action])
def test_reconcile_refuses_a_config_if_state_cannot_be_preserved(
    loaded: tuple[P4RuntimeServer, Client], change: Callable[[p4runtime_pb2.ForwardingPipelineConfig], None]
) -> None:
    server, client = loaded
    client.insert(ENTRY)
    running = server.device.switch.pipeline
    config = features_config(cookie=8)
    change(config)
    code, message = refused(lambda: client.set_config(SetConfig.RECONCILE_AND_COMMIT, config))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert KNOWN in message
    assert server.device.switch.pipeline is running
    assert len(client.read_entries(KNOWN)) == 1
    client.set_config(SetConfig.VERIFY, config)  # On its own the config is valid.


def test_reconcile_works_without_a_previous_program(empty: tuple[P4RuntimeServer, Client]) -> None:
    _, client = empty
    client.set_config(SetConfig.RECONCILE_AND_COMMIT, features_config(cookie=8))
    assert client.get_config().config.cookie.cookie == 8
    assert refused(lambda: client.set_config(SetConfig.RECONCILE_AND_COMMIT))[0] == grpc.StatusCode.INVALID_ARGUMENT


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


def cut_json(config: p4runtime_pb2.ForwardingPipelineConfig) -> None:
    config.p4_device_config = config.p4_device_config[: len(config.p4_device_config) // 2]


def json_of_another_program(config: p4runtime_pb2.ForwardingPipelineConfig) -> None:
    config.p4_device_config = (BUILD / "copies.json").read_bytes()


def same_table_id(config: p4runtime_pb2.ForwardingPipelineConfig) -> None:
    config.p4info.tables[1].preamble.id = config.p4info.tables[0].preamble.id


def same_action_name(config: p4runtime_pb2.ForwardingPipelineConfig) -> None:
    config.p4info.actions[1].preamble.name = config.p4info.actions[0].preamble.name


def no_table_id(config: p4runtime_pb2.ForwardingPipelineConfig) -> None:
    config.p4info.tables[1].preamble.id = 0


def same_field_id(config: p4runtime_pb2.ForwardingPipelineConfig) -> None:
    table = next(t for t in config.p4info.tables if t.preamble.name == "ingress.classes")
    table.match_fields[1].id = table.match_fields[0].id


def profile_without_tables(config: p4runtime_pb2.ForwardingPipelineConfig) -> None:
    del config.p4info.action_profiles[0].table_ids[:]


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
        (cut_json, "not JSON"),
        (json_of_another_program, "different programs"),
        (same_table_id, "two tables"),
        (same_action_name, "two actions"),
        (no_table_id, "has no id"),
        (same_field_id, "two match fields"),
        (profile_without_tables, "names the tables []"),
        (no_p4info, "p4info"),
    ],
)
def test_an_inconsistent_config_is_refused_and_the_old_one_stays(
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
    # The old program still runs: it sends this EtherType to the controller.
    server.device.switch.receive(0, ethernet(ether_type=0x88CC), 0)
    assert client.receive().packet.payload == ethernet(ether_type=0x88CC)


def test_an_unset_action_or_config_is_refused(loaded: tuple[P4RuntimeServer, Client]) -> None:
    _, client = loaded
    assert refused(lambda: client.set_config(SetConfig.VERIFY_AND_COMMIT))[0] == grpc.StatusCode.INVALID_ARGUMENT
    assert refused(lambda: client.set_config(0, features_config()))[0] == grpc.StatusCode.INVALID_ARGUMENT
