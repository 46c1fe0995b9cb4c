"""Queue set-up on Tofino: the settings, the output of the commands, and the requests to a BF Runtime service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from click.testing import CliRunner
from google.protobuf import any_pb2
from google.rpc import status_pb2

from host_agent.protocol.stamp import LEVELS
from mfs_ctrl.cli import mfs
from mfs_ctrl.desired import SwitchParameters, policy_rows
from mfs_ctrl.errors import TofinoError
from mfs_ctrl.tofino.bf_runtime import BfRuntime
from mfs_ctrl.tofino.messages import BF_RUNTIME
from mfs_ctrl.tofino.queues import CHIPS, Placement, Setting, settings
from tests.mfs_ctrl.test_tofino_config import field as length_delimited
from topologies.topology import tor

TOFINO, TOFINO_2 = CHIPS["tofino"], CHIPS["tofino2"]
PORT = 132
PIPE, GROUP, QUEUES = 1, 1, (0, 1, 2, 3, 4, 5, 6, 7)
SHAPING, MIN_RATE = 4278517798, 3


def of(kind: str, rows: tuple[Setting, ...]) -> list[Setting]:
    return [row for row in rows if row.table.endswith(kind)]


# The settings.


def test_every_level_has_its_priority_and_its_share() -> None:
    parameters = SwitchParameters(guaranteed_share=1 / 64)
    rows = settings({PORT: 100_000_000_000}, parameters, TOFINO)
    order = of("tf1.tm.queue.sched_cfg", rows)
    assert [row.level for row in order] == list(range(LEVELS))
    assert [row.data["max_priority"] for row in order] == [str(level) for level in range(LEVELS)]
    assert all(row.data["min_rate_enable"] is True and row.data["max_rate_enable"] is False for row in order)
    shares = of("tf1.tm.queue.sched_shaping", rows)
    assert {(row.data["unit"], row.data["min_rate"]) for row in shares} == {("BPS", 1_562_500)}


@pytest.mark.parametrize(("chip", "cell_bytes"), [(TOFINO, 80), (TOFINO_2, 176)])
def test_a_queue_holds_no_more_than_the_controller_assumes(chip: Any, cell_bytes: int) -> None:
    parameters = SwitchParameters()
    for row in of("queue.buffer", settings({PORT: 10**11}, parameters, chip)):
        cells = int(row.data["guaranteed_cells"]) + int(row.data["pool_max_cells"])
        assert 0 <= parameters.queue_bytes - cells * cell_bytes < cell_bytes
        assert row.data["dynamic_baf"] == "DISABLE"


def test_a_full_low_queue_drains_within_the_idle_gap_at_its_guaranteed_rate() -> None:
    parameters = SwitchParameters()
    topology = tor()
    row = of("sched_shaping", settings(topology.rates, parameters, TOFINO))[0]
    drain_us = parameters.queue_bytes * 8 * 1000 / int(row.data["min_rate"])
    assert drain_us <= policy_rows((), topology, parameters).idle_gap_us < drain_us + 1


def test_without_a_share_nothing_is_guaranteed() -> None:
    rows = settings({PORT: 10**11}, SwitchParameters(guaranteed_share=0), TOFINO)
    assert of("sched_shaping", rows) == []
    assert {row.data["min_rate_enable"] for row in of("queue.sched_cfg", rows)} == {False}


def test_ports_are_shaped_only_on_request() -> None:
    assert of("port.sched_shaping", settings({PORT: 10**11}, SwitchParameters(), TOFINO)) == []
    rows = settings({PORT: 25 * 10**9}, SwitchParameters(), TOFINO, shape=True)
    assert [row.data["max_rate"] for row in of("port.sched_shaping", rows)] == [25_000_000]
    assert rows[-1] == Setting("tf1.tm.port.sched_cfg", PORT, None, {"max_rate_enable": True})


@pytest.mark.parametrize(
    ("rates", "parameters", "words"),
    [
        ({}, SwitchParameters(), "--dev-port"),
        ({1: 10**11}, SwitchParameters(queue_bytes=3000), "reserved for 2 full frames"),
        ({1: 10**11}, SwitchParameters(guaranteed_share=0.2), "cannot each have a guaranteed share of 0.2"),
    ],
)
def test_settings_that_the_chip_does_not_support_are_refused(
    rates: dict[int, int], parameters: SwitchParameters, words: str
) -> None:
    with pytest.raises(TofinoError, match=words):
        settings(rates, parameters, TOFINO)


@pytest.mark.parametrize("queues", [(0, 1, 2, 3), (0, 1, 2, 3, 4, 5, 6, 0)])
def test_a_port_with_too_few_queues_is_refused(queues: tuple[int, ...]) -> None:
    row = settings({PORT: 10**11}, SwitchParameters(), TOFINO)[0]
    with pytest.raises(TofinoError, match=r"port 132 needs 8 different queues .*tm\.port\.group"):
        row.key(Placement(GROUP, queues))


# The service, which records the bytes that it receives.


def described(name: str, number: int, kind: str, repeated: bool = False) -> dict[str, Any]:
    return {"id": number, "name": name, "repeated": repeated, "type": {"type": kind}}


def table(name: str, number: int, key: tuple[Any, ...], data: tuple[Any, ...], *actions: Any) -> dict[str, Any]:
    return {
        "name": name,
        "id": number,
        "key": list(key),
        "data": [{"singleton": item} for item in data],
        "action_specs": [
            {"id": index, "name": action, "data": [{"singleton": item} for item in fields]}
            for index, (action, fields) in enumerate(actions, 1)
        ],
    }


def manager(prefix: str) -> bytes:
    """The tables of the traffic manager that are used here, with the numbers of the drivers."""
    port = (described("dev_port", 1, "uint32"),)
    queue = (described("pg_id", 1, "uint8"), described("pg_queue", 2, "uint8"))
    shared = (
        described("pool_id", 4, "string"),
        described("pool_max_cells", 5, "uint32"),
        described("dynamic_baf", 6, "string"),
    )
    tables = [
        table(
            f"{prefix}.tm.port.cfg",
            4278517776,
            port,
            (described("pg_id", 1, "uint8"), described("egress_qid_queues", 5, "uint8", repeated=True)),
        ),
        table(
            f"{prefix}.tm.queue.buffer",
            4278517796,
            queue,
            (described("guaranteed_cells", 1, "uint32"), described("tail_drop_enable", 3, "bool")),
            ("shared_pool", shared),
            ("buffer_only", ()),
        ),
        table(
            f"{prefix}.tm.queue.sched_cfg",
            4278517797,
            queue,
            (
                described("min_priority", 1, "string"),
                described("min_rate_enable", 2, "bool"),
                described("max_priority", 4, "string"),
                described("max_rate_enable", 5, "bool"),
                described("scheduling_enable", 6, "bool"),
            ),
        ),
        table(
            f"{prefix}.tm.queue.sched_shaping",
            4278517798,
            queue,
            (
                described("unit", 1, "string"),
                described("provisioning", 2, "string"),
                described("min_rate", 3, "uint32"),
                described("min_burst_size", 4, "uint32"),
            ),
        ),
    ]
    return json.dumps({"tables": tables}).encode()


@dataclass
class Service:
    """A server of the protocol that answers like a switch with one program, keeps what is written and records it."""

    programs: tuple[str, ...] = ("mfs",)
    info: bytes = manager("tf1")
    refuse_table: int = 0
    other_rate: int = 0
    written: list[bytes] = field(default_factory=list)
    held: dict[tuple[int, bytes], Any] = field(default_factory=dict)

    def description(self, _request: bytes, _context: Any) -> bytes:
        answer = BF_RUNTIME["GetForwardingPipelineConfigResponse"]()
        for name in self.programs:
            answer.config.add(p4_name=name)
        answer.non_p4_config.bfruntime_info = self.info
        return bytes(answer.SerializeToString())

    def read(self, data: bytes, _context: Any) -> Iterator[bytes]:
        request = BF_RUNTIME["ReadRequest"].FromString(data)
        wanted = request.entities[0].table_entry
        answer = BF_RUNTIME["ReadResponse"]()
        if wanted.table_id != 4278517776:
            answer.entities.add().table_entry.data.CopyFrom(self.held[wanted.table_id, wanted.key.SerializeToString()])
        elif wanted.key.fields[0].exact.value == PORT.to_bytes(4, "big") and request.target.pipe_id == PIPE:
            fields = answer.entities.add().table_entry.data.fields
            fields.add(field_id=1).stream = bytes([GROUP])
            fields.add(field_id=5).int_arr_val.val.extend(QUEUES)
        yield bytes(answer.SerializeToString())

    def write(self, data: bytes, context: Any) -> bytes:
        entry = BF_RUNTIME["WriteRequest"].FromString(data).updates[0].entity.table_entry
        if entry.table_id == self.refuse_table:
            reason = any_pb2.Any()
            reason.Pack(BF_RUNTIME["Error"](canonical_code=3, message="no such queue"))
            status = status_pb2.Status(code=2, details=[reason])
            context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
            context.abort(grpc.StatusCode.UNKNOWN, "")
        self.written.append(data)
        self.held[entry.table_id, entry.key.SerializeToString()] = entry.data
        for item in entry.data.fields:
            if item.str_val in ("0", "7"):
                item.str_val = {"0": "LOW", "7": "HIGH"}[item.str_val]
            elif entry.table_id == SHAPING and item.field_id == MIN_RATE and self.other_rate:
                item.stream = self.other_rate.to_bytes(4, "big")
        return b""


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def address(service: Service) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(2))
    handlers = {
        "GetForwardingPipelineConfig": grpc.unary_unary_rpc_method_handler(service.description),
        "Read": grpc.unary_stream_rpc_method_handler(service.read),
        "Write": grpc.unary_unary_rpc_method_handler(service.write),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bfrt_proto.BfRuntime", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(mfs, ["tofino", "queues", "--dev-port", str(PORT), *arguments], catch_exceptions=True)
    if isinstance(done.exception, TofinoError):
        return 1, str(done.exception)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def decoded(data: bytes) -> dict[int, dict[str, Any]]:
    """A written row: table, key, action, and the values of its fields by field number."""
    (update,) = BF_RUNTIME["WriteRequest"].FromString(data).updates
    assert update.type == 2
    entry = update.entity.table_entry
    values = {item.field_id: getattr(item, item.WhichOneof("value")) for item in entry.data.fields}
    key = [int.from_bytes(item.exact.value, "big") for item in entry.key.fields]
    return {"table": entry.table_id, "key": key, "action": entry.data.action_id, **values}


def test_apply_writes_every_row_to_the_service(service: Service, address: str) -> None:
    status, out = run("--address", address, "--apply")
    assert (status, out.splitlines()[-1]) == (0, f"24 rows written to {address} and read back")
    rows = [decoded(data) for data in service.written]
    order = [row for row in rows if row["table"] == 4278517797]
    assert [row["key"] for row in order] == [[GROUP, queue] for queue in QUEUES]
    assert [row[4] for row in order] == [str(level) for level in range(LEVELS)]
    assert {(row[2], row[5], row[6]) for row in order} == {(True, False, True)}
    shares = [row for row in rows if row["table"] == 4278517798]
    assert {(row[1], row[2], int.from_bytes(row[3], "big")) for row in shares} == {("BPS", "UPPER", 390_625)}
    buffers = [row for row in rows if row["table"] == 4278517796]
    assert {(row["action"], row[1], row[4], row[6]) for row in buffers} == {
        (1, b"\0\0\0\x28", "EG_APP_POOL_0", "DISABLE")
    }


def test_a_rate_that_the_chip_rounds_is_taken_for_what_was_asked(service: Service, address: str) -> None:
    service.other_rate = 390_625 - 3_000
    assert run("--address", address, "--apply")[0] == 0


def test_a_row_that_the_switch_holds_otherwise_is_named(service: Service, address: str) -> None:
    service.other_rate = 1
    status, out = run("--address", address, "--apply")
    assert status == 1
    assert (
        "took the row but holds unit=BPS, provisioning=UPPER, min_rate=1, min_burst_size=16384: port 132 level 0" in out
    )


def test_a_written_row_byte_for_byte(service: Service, address: str) -> None:
    rates = {PORT: 10**11}
    (row,) = [row for row in of("sched_cfg", settings(rates, SwitchParameters(), TOFINO)) if row.level == 0]
    with BfRuntime(address) as switch:
        switch.write([(row, switch.placement(PORT))])
    pipe = (
        b"\x10\x01" + b"\x18\xff\x01" + b"\x20\xff\x01"
    )  # pipe_id 1, direction and parser 255; device 0, the default, is omitted
    key = b"".join(
        length_delimited(1, b"\x08" + bytes([number]) + length_delimited(2, length_delimited(1, bytes([value]))))
        for number, value in ((1, GROUP), (2, 0))
    )
    values = (b"\x08\x04\x22\x010", b"\x08\x01\x22\x010", b"\x08\x02\x40\x01", b"\x08\x05\x40\x00", b"\x08\x06\x40\x01")
    data = b"".join(length_delimited(2, value) for value in values)
    table_id = b"\x08\xa5\x80\x94\xf8\x0f"
    entry = table_id + length_delimited(2, key) + length_delimited(3, data)
    update = b"\x08\x02" + length_delimited(2, length_delimited(1, entry))
    expected = (
        length_delimited(1, pipe) + b"\x10\xc6\x9a\x01" + length_delimited(3, update) + length_delimited(5, b"mfs")
    )
    assert service.written == [expected]


def test_without_apply_nothing_is_written(service: Service, address: str) -> None:
    status, out = run("--address", address)
    assert status == 0
    assert service.written == []
    assert (
        "port 132 level 7: tf1.tm.queue.sched_cfg pipe=1 pg_id=1 pg_queue=7: max_priority=7, min_priority=7, "
        "min_rate_enable=true, max_rate_enable=false, scheduling_enable=true"
    ) in out.splitlines()


def test_a_dry_run_needs_no_switch() -> None:
    status, out = run("--chip", "tofino2", "--rate", "400G", "--queue-bytes", "1048576")
    assert status == 0
    lines = out.splitlines()
    assert len(lines) == 25
    assert lines[0] == (
        "port 132 level 0: tf2.tm.queue.buffer pipe=1 shared_pool: guaranteed_cells=18, pool_id=EG_APP_POOL_0, "
        "pool_max_cells=5939, dynamic_baf=DISABLE, tail_drop_enable=true"
    )
    assert lines[-1] == (
        "buffer of 1 ports on tofino2: 144 cells of 176 bytes reserved, queue limits of 8.4 MB in total"
    )
    status, out = run("--apply")
    assert (status, out.splitlines()[-1]) == (2, "Error: --apply needs --address, the switch's BF Runtime service.")


def test_a_refused_row_is_named_with_the_reason(service: Service, address: str) -> None:
    service.refuse_table = 4278517798
    status, out = run("--address", address, "--apply")
    assert status == 1
    assert "refused port 132 level 0: tf1.tm.queue.sched_shaping pipe=1 pg_id=1 pg_queue=0" in out
    assert out.endswith("UNKNOWN, INVALID_ARGUMENT: no such queue")
    assert len(service.written) == 1


def test_each_reason_why_a_switch_is_not_ready_is_reported(service: Service, address: str) -> None:
    service.info = b'{"tables": []}'
    with pytest.raises(TofinoError, match="has no traffic manager of tofino or tofino2"):
        BfRuntime(address)
    service.programs = ()
    with pytest.raises(TofinoError, match="has no program loaded"):
        BfRuntime(address)
    service.programs, service.info = ("mfs",), manager("tf1")
    with BfRuntime(address) as switch, pytest.raises(TofinoError, match="no row for port 5"):
        switch.placement(5)
    with pytest.raises(TofinoError, match=r"nothing serves BF Runtime at 127\.0\.0\.1:1"):
        BfRuntime("127.0.0.1:1")


def test_a_description_larger_than_grpc_accepts_by_default_is_received(service: Service, address: str) -> None:
    service.info = manager("tf1") + b" " * (6 << 20)
    with BfRuntime(address) as switch:
        assert switch.chip == TOFINO


def test_the_chip_is_detected_from_the_switch(service: Service, address: str) -> None:
    service.info = manager("tf2")
    status, out = run("--address", address, "--chip", "tofino")
    assert status == 0
    assert "tf2.tm.queue.sched_cfg" in out
    assert "tf1." not in out


def test_the_same_settings_for_stratum() -> None:
    status, out = run("--stratum", "--dev-port", "140")
    assert status == 0
    assert out.count("queue_configs {") == 2
    assert out.count("queue_mapping {") == 2 * LEVELS
    assert out.count("{") == out.count("}")
    words = out.split()
    queue = words[words.index("PRIO_7") - 4 :]
    assert " ".join(queue[: queue.index("}") + 2]) == (
        "{ queue_id: 7 priority: PRIO_7 weight: 1 minimum_guaranteed_cells: 40 pool: EGRESS_APP_POOL_0 "
        "base_use_limit: 3236 baf: DISABLE_BAF min_rate_bytes { rate_bps: 390625000 burst_bytes: 16384 } }"
    )
    done = CliRunner().invoke(mfs, ["tofino", "queues", "--stratum", "--apply"])
    assert done.exit_code == 2
