"""What finsy, unmodified, does with the server. Run by tests/conformance/test_p4runtime_finsy.py with a Python that has
finsy.

python finsy_client.py HOST:PORT DEVICE_ID P4INFO JSON
"""

import asyncio
import contextlib
import sys
from pathlib import Path

import finsy as fy

CPU_PORT = 510


async def entities(switch: fy.Switch) -> None:
    """Entities of every kind are written, read back as they were written, and gone after delete_all."""
    entries = [
        fy.P4TableEntry(
            "routes", match=fy.Match(destination=(0x0A000000, 8)), action=fy.Action("forward", port=2), metadata=b"mine"
        ),
        fy.P4TableEntry(
            "classes",
            match=fy.Match(source=(0x0A000000, 0xFF000000), length=(64, 1500), protocol=6, port=1),
            action=fy.Action("set_class_metered", value=5),
            priority=10,
            meter_config=fy.P4MeterConfig(cir=1, cburst=2, pir=3, pburst=4),
        ),
        fy.P4TableEntry(
            "known_sources", match=fy.Match(source=7), action=fy.Action("NoAction"), idle_timeout_ns=10**12
        ),
        fy.P4TableEntry(
            "balanced",
            match=fy.Match(destination=0x0A000001),
            action=fy.P4IndirectAction(action_set=[(2, fy.Action("set_hop", port=1, destination=1))]),
        ),
    ]
    await switch.insert(entries)
    for entry in entries:
        asked = fy.P4TableEntry(entry.table_id)
        if entry.meter_config is not None:
            asked.meter_config = entry.meter_config
        found = [item async for item in switch.read(asked)]
        assert [item.match for item in found] == [entry.match], (found, entry)
        assert [item.action for item in found] == [entry.action], (found, entry)
        assert [item.priority for item in found] == [entry.priority]
        assert [item.idle_timeout_ns for item in found] == [entry.idle_timeout_ns]
        assert [item.meter_config for item in found] == [entry.meter_config]
    codes = []
    try:
        await switch.insert(entries[:1])
    except fy.P4ClientError as error:
        codes = [detail.canonical_code for detail in error.details.values()]
    assert codes == [fy.GRPCStatusCode.ALREADY_EXISTS]
    await switch.modify([fy.P4TableEntry("routes", is_default_action=True, action=fy.Action("forward", port=3))])

    replicas = [
        fy.P4MulticastGroupEntry(3, replicas=[(1, 5), (2, 6)], metadata=b"m"),
        fy.P4CloneSessionEntry(4, class_of_service=2, packet_length_bytes=64, replicas=[(CPU_PORT, 1)]),
    ]
    await switch.insert(replicas)
    groups = [item async for item in switch.read(fy.P4MulticastGroupEntry())]
    assert [(item.multicast_group_id, item.metadata, len(item.replicas)) for item in groups] == [(3, b"m", 2)]
    sessions = [item async for item in switch.read(fy.P4CloneSessionEntry())]
    assert [(item.session_id, item.class_of_service, item.packet_length_bytes) for item in sessions] == [(4, 2, 64)]
    await switch.delete(replicas)

    counter = fy.P4CounterEntry("port_counter", index=3, data=fy.P4CounterData(packet_count=9, byte_count=99))
    rates = fy.P4MeterConfig(cir=1, cburst=1, pir=2, pburst=2)
    await switch.modify([counter, fy.P4MeterEntry("port_meter", index=2, config=rates)])
    counts = [item.packet_count async for item in switch.read(fy.P4CounterEntry("port_counter"))]
    assert (len(counts), counts[3]) == (16, 9)
    meter = await anext(aiter(switch.read(fy.P4MeterEntry("port_meter", index=2))))
    assert meter.config.pir == 2

    await switch.delete_all()
    left = [item async for item in switch.read(fy.P4TableEntry())]
    assert {item.table_id for item in left} == {"fixed_ports"}, left  # Its entries are constant.
    async for item in switch.read(fy.P4TableEntry("routes", is_default_action=True)):
        assert item.action == fy.Action("drop"), item


async def notifications(switch: fy.Switch) -> None:
    """The switch learns from a packet-out, which returns as a packet-in; an entry that is not hit times out."""
    await switch.write([+fy.P4DigestEntry("learn_t", max_list_size=1, ack_timeout_ns=10**12)])
    digests, packets = switch.read_digests("learn_t"), switch.read_packets()
    idle = switch.read_idle_timeouts()
    waiting = [asyncio.ensure_future(anext(source)) for source in (digests, packets, idle)]
    await asyncio.sleep(0)
    known = fy.Match(source=9)
    await switch.insert(
        [fy.P4TableEntry("known_sources", match=known, action=fy.Action("NoAction"), idle_timeout_ns=10**7)]
    )
    payload = bytes.fromhex("020000000001 0000000000ab 1234") + bytes(46)
    await switch.write([fy.P4PacketOut(payload, egress_port=CPU_PORT, padding=0)])
    digest, packet, notification = await asyncio.wait_for(asyncio.gather(*waiting), 60)
    assert digest.data[0]["source"] == 0xAB, digest
    # The test program puts no packet_in header in front of it, so its first bytes are taken for one.
    assert packet.payload == payload[4:], packet
    assert [entry.match for entry in notification.table_entry] == [known], notification
    await switch.write([fy.P4DigestListAck("learn_t", digest.list_id)])
    # Or it would time out again and again.
    await switch.delete([fy.P4TableEntry("known_sources", match=known)])


async def take_over(address: str, device_id: int) -> None:
    """A second client of the same election id yields; when the first leaves, the second becomes primary."""
    options = fy.SwitchOptions(device_id=device_id)
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(fy.Switch("first", address, options))
        assert first.is_primary
        async with fy.Switch("second", address, options) as second:
            assert not second.is_primary
            assert second.election_id < first.election_id
            became = second.ee.event_future(fy.SwitchEvent.BECOME_PRIMARY)
            await stack.aclose()
            await asyncio.wait_for(became, 60)
            entry = fy.P4TableEntry("known_sources", match=fy.Match(source=1), action=fy.Action("NoAction"))
            await second.insert([entry])
            await second.delete_all()


async def main(address: str, device_id: int, p4info: Path, p4blob: Path) -> None:
    options = fy.SwitchOptions(p4info=p4info, p4blob=p4blob, device_id=device_id)
    async with fy.Switch("whole", address, options) as switch:
        assert switch.is_primary
        await entities(switch)
        await notifications(switch)
    async with fy.Switch("again", address, options) as switch:  # The pipeline is there: the cookie says so.
        assert switch.is_primary
    role = fy.SwitchOptions(device_id=device_id, role_name="routing", role_config=fy.proto.p4r.Role(name="any message"))
    async with fy.Switch("role", address, role) as switch:
        assert (switch.is_primary, switch.role_name) == (True, "routing")
        route = fy.P4TableEntry("routes", match=fy.Match(destination="10.0.0.0/8"), action=fy.Action("drop"))
        await switch.insert([route])
    await take_over(address, device_id)
    print("ok")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])))
