"""The same multicast groups and clone sessions, written over P4Runtime to bmv2 and to the embedded switch."""

from __future__ import annotations

import random
import shutil

import grpc
import pytest

from tests.soft_switch.p4runtime.test_p4runtime_replication import (
    CLONE_AT_EGRESS,
    CLONE_AT_INGRESS,
    MULTICAST,
    group,
    sent,
    session,
)
from tests.support.bmv2 import differences, running
from tests.support.p4runtime import DELETE, INSERT, MODIFY, Client, SetConfig, batch_errors, connected, program_config
from topologies import bmv2

pytestmark = pytest.mark.skipif(shutil.which(bmv2.PROGRAM) is None, reason="bmv2 is not installed")

UPDATES = [
    (INSERT, group(1, [(b"\x01", 1), (b"\x02", 2), (b"\x02", 3)])),
    (INSERT, group(2, [(b"\x03", 0)])),
    (INSERT, group(1, [(b"\x01", 1)])),
    (MODIFY, group(2, [(b"\x01", 7), (b"\x03", 8)])),
    (MODIFY, group(9, [(b"\x01", 7)])),
    (INSERT, group(3, [(b"\x01", 1)])),
    (DELETE, group(3)),
    (DELETE, group(3)),
    (INSERT, session(1, [(b"\x02", 4)])),
    (INSERT, session(2, [(b"\x01", 5), (b"\x03", 6)])),
    (INSERT, session(2, [(b"\x01", 5)])),
    (MODIFY, session(1, [(b"\x03", 9)])),
    (INSERT, session(4, [(b"\x01", 1)])),
    (DELETE, session(4)),
    (DELETE, session(4)),
]


def codes(client: Client) -> list[int]:
    """The status code of each update alone."""
    found = []
    for update in UPDATES:
        try:
            client.write(update)
        except grpc.RpcError as error:
            found.append(batch_errors(error)[0][0])
        else:
            found.append(0)
    return found


def canonical(client: Client) -> list[bytes]:
    """All groups and sessions as read; the order of replicas does not matter."""
    found = client.read(group(0)) + client.read(session(0))
    for entity in found:
        message = entity.packet_replication_engine_entry
        kind = message.WhichOneof("type")
        getattr(message, kind).replicas.sort(key=lambda replica: (replica.port, replica.instance))
    return sorted(entity.SerializeToString(deterministic=True) for entity in found)


def test_copies_leave_both_switches_identically() -> None:
    draw = random.Random(3)
    whats = (CLONE_AT_INGRESS, CLONE_AT_EGRESS, MULTICAST, 0)
    packets = [
        bytes([draw.choice(whats), draw.randrange(5), 0, 0]) + draw.randbytes(draw.randrange(60)) for _ in range(400)
    ]
    with connected(name="copies") as (server, client):
        our_codes, our_entries = codes(client), canonical(client)
        each = [sent(server, data[0], data[1], data[4:]) for data in packets]
    ours = {(port,): sorted(frame for frames in each for frame in frames.get(port, ())) for port in range(4)}
    with running(range(4)) as switch:
        other = Client(int(switch.address.rpartition(":")[2]), device_id=1).primary()
        other.set_config(SetConfig.VERIFY_AND_COMMIT, program_config("copies"))
        their_codes, their_entries = codes(other), canonical(other)
        frames = switch.send([(0, data) for data in packets], [sum(map(len, found.values())) for found in each])
        other.close()
    theirs = {(port,): sorted(frames[port]) for port in range(4)}
    assert our_codes == their_codes
    assert our_entries == their_entries
    assert differences(ours, theirs) == []
    assert sum(map(len, ours.values())) > len(packets)
