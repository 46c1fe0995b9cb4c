"""The controller over BF Runtime: conversion of entries, and the session against a service that keeps them."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from host_agent.protocol.level import LevelRule
from host_agent.protocol.stamp import Stage
from mfs_ctrl import policies
from mfs_ctrl.cli import mfs
from mfs_ctrl.controller import Controller
from mfs_ctrl.counters import PORT_LEVEL, Count, PortLevel
from mfs_ctrl.desired import SwitchParameters, base_entities, initial_biases, rmlq_row
from mfs_ctrl.errors import PipelineError, SessionError, SwitchUnreachableError, WriteFailedError
from mfs_ctrl.p4rt.entries import ActionCall, Entity, Exact, MeterConfig, TableEntry
from mfs_ctrl.p4rt.p4info import P4InfoIndex
from mfs_ctrl.p4rt.updates import DELETE, INSERT, Update
from mfs_ctrl.tofino import bfrt_convert as convert
from mfs_ctrl.tofino.bfrt_schema import Schema
from mfs_ctrl.tofino.bfrt_session import BfrtSession
from p4src.artifact import TOFINO, V1MODEL, Artifact, p4info
from tests.support.bfrt_service import BfrtService, described
from tests.support.controller import controller_thread
from topologies.topology import two_tors

TOPOLOGY, _ = two_tors(4, 1, 100_000_000_000, 1_000, second_rack_from=3, uplinks=2)
PARAMETERS = SwitchParameters(
    untrusted_ports=frozenset(TOPOLOGY.ports[:1]),
    stamp_unaware_ports=frozenset(TOPOLOGY.ports[:1]),
    dscp_ports=frozenset(TOPOLOGY.ports),
    police_floor=6,
    police_share=0.37,
    ecn_frames=(None, 1, 2, 3, 4, 5, 6, 7),
)
PROGRAM = Artifact(TOFINO, b"", p4info(TOFINO))
INDEX = P4InfoIndex.from_text(PROGRAM.p4info)
SCHEMA = Schema(described(INDEX))


@pytest.fixture
def service() -> Iterator[BfrtService]:
    with BfrtService() as running:
        yield running


def controller(service: BfrtService, election_id: int = 1) -> Controller:
    session = BfrtSession(service.address, election_id=election_id)
    return Controller(session, PROGRAM, TOPOLOGY, policies.mfs(), PARAMETERS)


def name_of(entity: Entity) -> str:
    return str(entity.key[1])


def returned(entity: Entity) -> Entity | None:
    return convert.decode(convert.encode(entity, INDEX, SCHEMA), INDEX, SCHEMA, name_of(entity))


def test_every_entity_of_a_rack_is_read_as_it_was_written() -> None:
    entities = base_entities(TOPOLOGY, PARAMETERS, initial_biases(TOPOLOGY))
    for entity in entities:
        back = returned(entity)
        assert back is not None
        assert convert.holds(back, entity) if isinstance(entity, MeterConfig) else back == entity


@given(
    st.tuples(*[st.tuples(st.integers(0, 255), st.integers(0, 255)).map(sorted).map(tuple)] * 4),
    st.sampled_from([(0, 0), (1, 1), (0, 1)]),
    st.sampled_from(list(Stage)),
    st.integers(1, 512),
    st.integers(0, 7),
)
def test_every_rule_is_read_as_it_was_written(
    ranges: tuple[tuple[int, int], ...], late: tuple[int, int], stage: Stage, priority: int, level: int
) -> None:
    """Ranges of the full width are written, because the service wants every field, and left out when they are read."""
    rli, urgency, slack, remaining = ranges
    row = rmlq_row(LevelRule(stage, level, late, rli, urgency, slack, remaining), 1, priority)
    assert returned(row) == row


@given(st.integers(1, 1 << 37), st.integers(1, 1 << 30))
def test_rates_are_written_in_kbit_rounded_up(cir: int, burst: int) -> None:
    wanted = MeterConfig("police", 3, cir, burst, cir, burst)
    held = returned(wanted)
    assert isinstance(held, MeterConfig)
    assert 0 <= held.cir - cir < convert.BYTES_PER_KBIT
    assert 0 <= held.cburst - burst < convert.BYTES_PER_KBIT
    assert convert.holds(held, wanted)


def test_a_rate_that_the_chip_rounded_is_the_one_that_was_asked_for_and_another_is_not() -> None:
    """The figures are those of the open-source model: 100 Gb/s and 1 Gbit become 99.77 Gb/s and 0.998 Gbit."""
    wanted = MeterConfig("police", 1, 12_500_000_000, 125_000_000, 12_500_000_000, 125_000_000)
    held = MeterConfig("police", 1, 12_471_688_250, 124_780_625, 12_471_688_250, 124_780_625)
    assert convert.holds(held, wanted)
    assert not convert.holds(held, MeterConfig("police", 2, *(125_000_000,) * 4))
    assert not convert.holds(held, MeterConfig("police", 1, 12_000_000_000, 125_000_000, 12_000_000_000, 125_000_000))
    assert convert.is_unset(MeterConfig("police", 0, 5_195_844_125 * 125, 1, 5_195_844_125 * 125, 1))


def test_the_controller_writes_its_entries_and_after_a_restart_none(service: BfrtService) -> None:
    first = controller(service)
    report = first.start()
    first.stop()
    assert report is not None
    assert report.inserts > 0
    assert service.entries("rmlq") == len(policies.mfs().rules)
    again = controller(service).start()
    assert again is not None
    assert again.updates == 0


def test_a_change_of_policy_switches_the_epoch_and_removes_the_old_rows(service: BfrtService) -> None:
    running = controller(service)
    running.start()
    running.set_policy(policies.fifo())
    assert service.entries("rmlq") == len(policies.fifo().rules)
    running.set_policy(policies.mfs())
    assert service.entries("rmlq") == len(policies.mfs().rules)
    running.stop()


def test_a_tick_reads_counters(service: BfrtService) -> None:
    running = controller(service)
    running.start(0)
    port = TOPOLOGY.ports[0]
    service.counters["port_level"] = {PortLevel(port, 5).index: (3, 4500)}
    service.counters["discarded"] = {1: (2, 200)}
    record = running.tick(10**9)
    running.stop()
    assert record is not None
    assert record.level_bytes[5] == 4500
    assert record.discards == {"malformed": 2}


def test_counters_of_one_cell(service: BfrtService) -> None:
    session = BfrtSession(service.address)
    session.connect()
    index, loaded = session.ensure_pipeline(PROGRAM)
    assert not loaded
    service.counters["port_level"] = {9: (1, 64)}
    assert session.read_counters(index, {PORT_LEVEL: [9, 10]}) == {PORT_LEVEL: {9: Count(1, 64), 10: Count(0, 0)}}
    session.close()


def test_the_second_controller_waits_until_the_first_has_left(service: BfrtService) -> None:
    first, second = controller(service, 1), controller(service, 2)
    assert first.start() is not None
    assert second.start() is None
    assert second.tick(1) is None
    first.stop()
    deadline = 100
    while second.tick(2) is None and deadline:
        deadline -= 1
    assert second.primary
    second.stop()


def test_two_clients_with_one_id_are_refused_with_the_way_out(service: BfrtService) -> None:
    first, second = BfrtSession(service.address), BfrtSession(service.address)
    first.connect()
    with pytest.raises(SessionError, match=r"refuses the session: ALREADY_EXISTS.*--election-id"):
        second.connect()
    first.close()


def test_a_refused_entry_is_named_with_the_reason(service: BfrtService) -> None:
    session = BfrtSession(service.address)
    session.connect()
    index, _ = session.ensure_pipeline(PROGRAM)
    row = TableEntry("port_bias", (("egress_port", Exact(3)),), ActionCall("set_bias", (7,)))
    assert session.write([Update(INSERT, row)], index) == 1
    with pytest.raises(WriteFailedError) as caught:
        session.write([Update(INSERT, row)], index)
    assert [(refusal.entity, refusal.code) for refusal in caught.value.refusals] == [
        ("insert port_bias[egress_port=3] -> set_bias(7)", "ALREADY_EXISTS")
    ]
    assert session.write([Update(DELETE, row)], index) == 1
    session.close()


def test_another_program_is_refused(service: BfrtService) -> None:
    service.p4_name = "switch"
    with pytest.raises(PipelineError, match="does not have the program mfs"):
        BfrtSession(service.address).connect()
    service.p4_name, service.info = "mfs", b'{"tables": []}'
    session = BfrtSession(service.address)
    session.connect()
    with pytest.raises(PipelineError, match="has no table"):
        session.ensure_pipeline(PROGRAM)
    session.close()


def test_without_a_service_the_address_is_named() -> None:
    with pytest.raises(SwitchUnreachableError, match=r"nothing serves BF Runtime at 127\.0\.0\.1:1 within"):
        BfrtSession("127.0.0.1:1", timeout_s=0.3).connect()
    session = BfrtSession("127.0.0.1:1")
    with pytest.raises(SwitchUnreachableError, match=r"call connect\(\) first"):
        session.stream_errors()
    with pytest.raises(SessionError, match="election id 0"):
        BfrtSession("127.0.0.1:1", election_id=0)


def test_the_lost_switch_ends_the_session() -> None:
    with BfrtService() as service:
        running = controller(service)
        running.start()
    with pytest.raises(SwitchUnreachableError):
        running.tick(1)
    running.stop()


def test_the_service_runs_the_controller_over_bf_runtime_until_it_is_stopped(service: BfrtService) -> None:
    policy = policies.mfs()
    options = {"parameters": PARAMETERS, "target": "bfrt"}
    with controller_thread(service.address, 0, TOPOLOGY, policy, 0.01, **options) as running:
        while not service.entries("rmlq") and running.is_alive():
            time.sleep(0.01)
    assert service.entries("rmlq") == len(policy.rules)


def test_the_command_refuses_a_program_for_a_switch_that_loads_its_own() -> None:
    words = ["ctrl", "--target", "bfrt", "--device-config", "mfs.pb", "--p4info", "mfs.p4info.txtpb"]
    done = CliRunner().invoke(mfs, words)
    assert done.exit_code == 2
    assert "--target bfrt excludes --device-config and --p4info: bf_switchd loads the program." in done.output


def test_the_programs_for_v1model_and_tofino_have_what_the_controller_needs() -> None:
    v1model = P4InfoIndex.from_text(p4info(V1MODEL))
    entities = base_entities(TOPOLOGY, PARAMETERS, initial_biases(TOPOLOGY))
    assert {name_of(entity) for entity in entities} <= {
        *v1model.tables.by_name,
        *v1model.profiles.by_name,
        *v1model.meters.by_name,
    }
