"""Digest values as P4Data, shaped by the digest's type in the P4Info ("Representation of Arbitrary P4 Types")."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from p4.config.v1 import p4info_pb2, p4types_pb2
from p4.v1 import p4data_pb2

from soft_switch.p4runtime import bytestrings
from soft_switch.p4runtime.status import invalid


@dataclass(frozen=True, slots=True)
class _Writer:
    """Function that writes ``count`` values from an iterator into a P4Data."""

    count: int
    write: Callable[[Iterator[int], p4data_pb2.P4Data], None]


@dataclass(frozen=True, slots=True)
class DigestShape:
    """The name of a digest, its number of values, and how these become a P4Data."""

    name: str
    count: int
    write: Callable[[Iterator[int], p4data_pb2.P4Data], None]

    def encode(self, values: tuple[int, ...]) -> p4data_pb2.P4Data:
        """Return the P4Data of a digest message; ``values`` are the fields in the order of the program."""
        data = p4data_pb2.P4Data()
        self.write(iter(values), data)
        return data


def digest_shapes(p4info: p4info_pb2.P4Info) -> dict[int, DigestShape]:
    """Return the shape of every digest by id.

    Raises:
        RequestError: INVALID_ARGUMENT for a type that digests cannot carry.
    """
    shapes = {}
    for digest in p4info.digests:
        name = digest.preamble.name
        writer = _writer(digest.type_spec, p4info.type_info, f"digest {name}")
        shapes[digest.preamble.id] = DigestShape(name, writer.count, writer.write)
    return shapes


def _writer(spec: p4types_pb2.P4DataTypeSpec, types: p4types_pb2.P4TypeInfo, what: str) -> _Writer:
    kind = spec.WhichOneof("type_spec")
    if kind == "bitstring":
        return _bitstring_writer(spec.bitstring, what)
    if kind == "bool":
        return _Writer(1, _write_bool)
    if kind == "struct":
        members = [
            _writer(member.type_spec, types, f"{what}, member {member.name}")
            for member in types.structs[spec.struct.name].members
        ]
        return _sequence_writer(members, lambda data: data.struct)
    if kind == "tuple":
        members = [_writer(member, types, what) for member in spec.tuple.members]
        return _sequence_writer(members, lambda data: data.tuple)
    if kind == "serializable_enum":
        return _Writer(1, _write_enum_value)
    if kind == "new_type":
        new_type = types.new_types[spec.new_type.name]
        if new_type.WhichOneof("representation") == "original_type":
            return _writer(new_type.original_type, types, what)
    raise invalid(f"P4Info: {what}: a field of type {kind or 'nothing'} cannot be sent in a digest")


def _bitstring_writer(spec: p4types_pb2.P4BitstringLikeTypeSpec, what: str) -> _Writer:
    kind = spec.WhichOneof("type_spec")
    if kind == "bit":
        return _Writer(1, _write_unsigned)
    if kind == "int":
        width = int(spec.int.bitwidth)

        def write_signed(values: Iterator[int], data: p4data_pb2.P4Data) -> None:
            data.bitstring = bytestrings.encode_signed(bytestrings.to_signed(next(values), width))

        return _Writer(1, write_signed)
    raise invalid(f"P4Info: {what}: a field of type {kind or 'nothing'} cannot be sent in a digest")


def _write_unsigned(values: Iterator[int], data: p4data_pb2.P4Data) -> None:
    data.bitstring = bytestrings.encode(next(values))


def _write_bool(values: Iterator[int], data: p4data_pb2.P4Data) -> None:
    data.bool = bool(next(values))


def _write_enum_value(values: Iterator[int], data: p4data_pb2.P4Data) -> None:
    data.enum_value = bytestrings.encode(next(values))


def _sequence_writer(members: list[_Writer], select: Callable[[p4data_pb2.P4Data], p4data_pb2.P4StructLike]) -> _Writer:
    def write(values: Iterator[int], data: p4data_pb2.P4Data) -> None:
        target = select(data)
        for member in members:
            member.write(values, target.members.add())

    return _Writer(sum(member.count for member in members), write)
