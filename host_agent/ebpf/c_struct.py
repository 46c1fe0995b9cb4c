"""C structs that user space and the programs share: one declaration gives the C source and the Python codec."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

_CODES = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q"}
_COMMENT_COLUMN = 30


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a struct.

    Attributes:
        type: ``u8`` to ``u64`` in the machine's byte order, or a struct, which is packed from and unpacked to bytes.
        name: name of the field.
        count: length of an array; 1 for a single value.
        comment: comment in the C source.
        raw: packed from and unpacked to bytes, for integers in network byte order.
        padding: skipped when packed and unpacked.
    """

    type: str | CStruct
    name: str
    count: int = 1
    comment: str = ""
    raw: bool = False
    padding: bool = False

    @property
    def size(self) -> int:
        """Size in bytes."""
        one = self.type.size if isinstance(self.type, CStruct) else struct.calcsize(_CODES[self.type])
        return one * self.count

    @property
    def alignment(self) -> int:
        """Alignment in bytes."""
        return self.type.alignment if isinstance(self.type, CStruct) else struct.calcsize(_CODES[self.type])

    @property
    def code(self) -> str:
        """Format for :mod:`struct`."""
        if self.padding:
            return f"{self.size}x"
        if self.raw or isinstance(self.type, CStruct):
            return f"{self.size}s"
        return f"{self.count}{_CODES[self.type]}"

    def declaration(self) -> str:
        """Return the line of the C source."""
        kind = f"struct {self.type.name}" if isinstance(self.type, CStruct) else self.type
        declared = f"    {kind} {self.name}{f'[{self.count}]' if self.count > 1 else ''};"
        return f"{declared:{_COMMENT_COLUMN}}// {self.comment}" if self.comment else declared


class CStruct:
    """A struct, little endian, without implicit padding.

    Attributes:
        name: name in the C source.
        size, alignment: in bytes.
    """

    def __init__(self, name: str, fields: Iterable[Field], comment: str = "") -> None:
        """Declare the struct; ``comment`` goes before it in the C source.

        Raises:
            ValueError: a C compiler would insert padding; declare it as a field.
        """
        self.name = name
        self._comment = comment
        self._fields = tuple(fields)
        self._codec = struct.Struct("<" + "".join(field.code for field in self._fields))
        self.size = self._codec.size
        self.alignment = max(field.alignment for field in self._fields)
        offset = 0
        for field in self._fields:
            if offset % field.alignment:
                raise ValueError(f"struct {name}: {field.name} at byte {offset} is not aligned; add padding before it")
            offset += field.size
        if offset % self.alignment:
            raise ValueError(f"struct {name} ends at byte {offset}, which is not aligned; add padding at its end")

    def pack(self, *values: Any) -> bytes:
        """Encode the values of all fields but padding.

        Raises:
            struct.error: a value does not fit its field.
        """
        return self._codec.pack(*values)

    def unpack(self, data: bytes) -> tuple[Any, ...]:
        """Decode the values of all fields but padding.

        Raises:
            struct.error: ``data`` has another size.
        """
        return self._codec.unpack(data)

    def source(self) -> str:
        """Return the declaration in C."""
        head = f"// {self._comment}\n" if self._comment else ""
        lines = "".join(f"{field.declaration()}\n" for field in self._fields)
        return f"{head}struct {self.name} {{\n{lines}}};\n"
