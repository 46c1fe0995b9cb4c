"""Byte strings, arbitration rules and packet headers of the P4Runtime server, without a network."""

from __future__ import annotations

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from p4.config.v1 import p4info_pb2
from p4.v1 import p4runtime_pb2

from soft_switch.p4runtime import bytestrings
from soft_switch.p4runtime.arbitration import Arbiter, Notice
from soft_switch.p4runtime.digest_data import digest_shapes
from soft_switch.p4runtime.p4info import Field, ProgramInfo
from soft_switch.p4runtime.packet_io import ShortPacketError, header_bytes, pack_packet_out, unpack_packet_in
from soft_switch.p4runtime.status import ALREADY_EXISTS, INVALID_ARGUMENT, NOT_FOUND, OK, OUT_OF_RANGE, RequestError


# Specification, tables "Examples of Valid (Invalid) Bytestring Encoding".
@pytest.mark.parametrize(
    ("width", "data", "value", "canonical"),
    [
        (8, b"\x63", 99, True),
        (16, b"\x00\x63", 99, False),
        (16, b"\x63", 99, True),
        (16, b"\x30\x64", 12388, True),
        (16, b"\x00\x30\x64", 12388, False),
        (12, b"\x00\x63", 99, False),
        (12, b"\x00\x00\x63", 99, False),
    ],
)
def test_the_examples_of_the_specification(width: int, data: bytes, value: int, canonical: bool) -> None:
    assert bytestrings.decode(data, width, "field") == value
    assert (bytestrings.encode(value) == data) is canonical


@pytest.mark.parametrize(
    ("width", "data"),
    [
        (8, b"\x01\x63"),
        (8, b""),
        (16, b"\x01\x00\x63"),
        (12, b"\x10\x63"),
        (12, b"\x01\x00\x63"),
        (12, b"\x00\x40\x63"),
    ],
)
def test_a_value_that_does_not_fit_is_out_of_range(width: int, data: bytes) -> None:
    with pytest.raises(RequestError, match=r"ipv4\.ttl") as caught:
        bytestrings.decode(data, width, "ipv4.ttl")
    assert caught.value.code == OUT_OF_RANGE


@pytest.mark.parametrize(
    ("value", "data"), [(99, b"\x63"), (-99, b"\x9d"), (-739, b"\xfd\x1d"), (0, b"\x00"), (128, b"\x00\x80")]
)
def test_the_signed_examples_of_the_specification(value: int, data: bytes) -> None:
    assert bytestrings.encode_signed(value) == data


@given(st.integers(1, 300).flatmap(lambda w: st.tuples(st.just(w), st.integers(0, (1 << w) - 1))), st.integers(0, 4))
def test_values_survive_a_round_trip_with_any_padding(width_and_value: tuple[int, int], padding: int) -> None:
    width, value = width_and_value
    shortest = bytestrings.encode(value)
    assert len(shortest) == 1 or shortest[0] != 0
    assert bytestrings.decode(bytes(padding) + shortest, width, "field") == value


@given(st.integers(1, 100).flatmap(lambda w: st.tuples(st.just(w), st.integers(0, (1 << w) - 1))))
def test_signed_values_survive_a_round_trip(width_and_value: tuple[int, int]) -> None:
    width, value = width_and_value
    signed = bytestrings.to_signed(value, width)
    data = bytestrings.encode_signed(signed)
    assert int.from_bytes(data, "big", signed=True) == signed
    assert signed % (1 << width) == value
    if len(data) > 1:
        assert not (data[0] == 0 and data[1] < 0x80)
        assert not (data[0] == 0xFF and data[1] >= 0x80)


HEADERS = st.lists(st.integers(1, 64), min_size=0, max_size=6).map(
    lambda widths: tuple(Field(number, f"f{number}", width) for number, width in enumerate(widths, 1))
)


@given(HEADERS, st.data(), st.binary(max_size=20))
def test_controller_headers_round_trip(fields: tuple[Field, ...], data: st.DataObject, payload: bytes) -> None:
    packet = p4runtime_pb2.PacketOut(payload=payload)
    for field in fields:
        value = data.draw(st.integers(0, (1 << field.width) - 1))
        packet.metadata.add(metadata_id=field.id, value=bytestrings.encode(value))
    packed = pack_packet_out(fields, packet)
    assert len(packed) == header_bytes(fields) + len(payload)
    back = unpack_packet_in(fields, packed)
    assert back.payload == payload
    assert list(back.metadata) == list(packet.metadata)


def test_header_fields_are_packed_most_significant_bit_first() -> None:
    fields = (Field(1, "port", 9), Field(2, "reason", 7), Field(3, "queue", 3))
    packet = p4runtime_pb2.PacketOut()
    for number, value in ((3, b"\x05"), (1, b"\x01\x01"), (2, b"\x02")):
        packet.metadata.add(metadata_id=number, value=value)
    assert pack_packet_out(fields, packet) == bytes((0b10000000, 0b10000010, 0b10100000))


def test_a_packet_shorter_than_its_header_is_an_error() -> None:
    with pytest.raises(ShortPacketError, match="2 bytes"):
        unpack_packet_in((Field(1, "port", 9),), b"\x01")


def codes(arbiter_notices: list[Notice[str]]) -> dict[str, int]:
    return {notice.client: notice.code for notice in arbiter_notices}


def test_the_highest_election_id_is_primary_and_everyone_is_told() -> None:
    arbiter: Arbiter[str] = Arbiter()
    assert codes(arbiter.update("a", 5)) == {"a": OK}
    assert codes(arbiter.update("b", 3)) == {"b": ALREADY_EXISTS}
    notices = arbiter.update("c", 9)
    assert [notice.client for notice in notices][-1] == "c"
    assert codes(notices) == {"a": ALREADY_EXISTS, "b": ALREADY_EXISTS, "c": OK}
    assert {notice.election_id for notice in notices} == {9}


def test_without_a_primary_an_id_at_least_as_high_as_the_highest_so_far_is_needed() -> None:
    arbiter: Arbiter[str] = Arbiter()
    arbiter.update("a", 5)
    arbiter.update("b", 3)
    assert codes(arbiter.leave("a")) == {"b": NOT_FOUND}
    assert codes(arbiter.update("b", 4)) == {"b": NOT_FOUND}
    assert not arbiter.is_primary(4)
    assert codes(arbiter.update("b", 5)) == {"b": OK}
    assert arbiter.is_primary(5)


def test_a_primary_can_step_down() -> None:
    arbiter: Arbiter[str] = Arbiter()
    arbiter.update("a", 5)
    arbiter.update("b", 3)
    assert codes(arbiter.update("a", 2)) == {"a": NOT_FOUND, "b": NOT_FOUND}
    assert arbiter.primary is None


def test_an_unset_election_id_is_never_primary() -> None:
    arbiter: Arbiter[str] = Arbiter()
    notices = arbiter.update("a", None)
    assert codes(notices) == {"a": NOT_FOUND}
    assert notices[0].election_id is None
    assert not arbiter.is_primary(None)
    assert codes(arbiter.update("b", 0)) == {"a": ALREADY_EXISTS, "b": OK}


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.one_of(st.just("leave"), st.none(), st.integers(0, 6))), max_size=30)
)
def test_there_is_at_most_one_primary_with_the_highest_id_so_far(
    steps: list[tuple[str, int | str | None]],
) -> None:
    arbiter: Arbiter[str] = Arbiter()
    highest: int | None = None
    told: dict[str, int] = {}
    for client, step in steps:
        if step == "leave":
            notices = arbiter.leave(client)
            told.pop(client, None)
        else:
            assert step is None or isinstance(step, int)
            taken = step is not None and any(held == step for c, held in arbiter.clients.items() if c != client)
            if taken:
                with pytest.raises(RequestError) as caught:
                    arbiter.update(client, step)
                assert caught.value.code == INVALID_ARGUMENT
                continue
            notices = arbiter.update(client, step)
            assert client in codes(notices)
            if step is not None:
                highest = step if highest is None else max(highest, step)
        told.update(codes(notices))
        # What each client was told last is true.
        primary = [c for c, held in arbiter.clients.items() if held is not None and held == highest]
        for name, code in told.items():
            assert code == (OK if [name] == primary else ALREADY_EXISTS if primary else NOT_FOUND)


DIGEST_TYPES = """
digests {
  preamble { id: 9 name: "report" }
  type_spec { struct { name: "report_t" } }
}
type_info {
  structs { key: "report_t" value {
    members { name: "port" type_spec { new_type { name: "port_t" } } }
    members { name: "delta" type_spec { bitstring { int { bitwidth: 12 } } } }
    members { name: "inner" type_spec { struct { name: "inner_t" } } }
    members { name: "pair" type_spec { tuple {
      members { bitstring { bit { bitwidth: 8 } } }
      members { serializable_enum { name: "kind_t" } }
    } } }
  } }
  structs { key: "inner_t" value { members { name: "seen" type_spec { bool { } } } } }
  new_types { key: "port_t" value { original_type { bitstring { bit { bitwidth: 9 } } } } }
}
"""


def test_digest_values_have_the_shape_of_their_type() -> None:
    shape = digest_shapes(text_format.Parse(DIGEST_TYPES, p4info_pb2.P4Info()))[9]
    assert (shape.name, shape.count) == ("report", 5)
    port, delta, inner, pair = shape.encode((511, (1 << 12) - 739, 1, 7, 3)).struct.members
    assert port.bitstring == b"\x01\xff"
    assert delta.bitstring == b"\xfd\x1d"
    assert inner.struct.members[0].bool is True
    assert [pair.tuple.members[0].bitstring, pair.tuple.members[1].enum_value] == [b"\x07", b"\x03"]


def test_a_digest_type_that_cannot_be_sent_is_refused() -> None:
    p4info = text_format.Parse(DIGEST_TYPES.replace("bool { }", "error { }"), p4info_pb2.P4Info())
    with pytest.raises(RequestError, match="member seen"):
        digest_shapes(p4info)


def test_types_translated_to_strings_are_refused_by_name() -> None:
    text = """
      actions { preamble { id: 1 name: "forward" } params { id: 1 name: "port" type_name { name: "port_t" } } }
      type_info { new_types { key: "port_t" value { translated_type { uri: "x" sdn_string { } } } } }
    """
    with pytest.raises(RequestError, match="port_t is translated to strings"):
        ProgramInfo(text_format.Parse(text, p4info_pb2.P4Info()))
