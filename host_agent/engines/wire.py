"""Frames between engines: a fixed head, a JSON object of fields, and a payload of raw bytes.

A push (stage 3, or to a store) is BEGIN, answered by ACCEPT or REFUSE; LAYER frames; END, answered by DONE. A fetch
(stage 1) is FETCH, answered by ACCEPT or REFUSE; LAYER frames from the other side; END, answered by DONE. LOOKUP is
answered by ACCEPT. A connection carries one of these after another. HELLO and PROOF open it
(:mod:`host_agent.engines.handshake`).
"""

from __future__ import annotations

import enum
import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from host_agent.engines.errors import RefusedError, TransferError

VERSION = 1
_MAGIC = b"MFSK"
_HEAD = struct.Struct("!4sBBHIQ")
HEAD_BYTES = _HEAD.size
"""Magic, version, kind, two zero bytes, length of the fields, length of the payload; network byte order."""
FIELDS_MAX = 1 << 20
PAYLOAD_MAX = 1 << 40


class Kind(enum.IntEnum):
    """Kinds of frames."""

    HELLO = 1
    PROOF = 2
    BEGIN = 3
    ACCEPT = 4
    LAYER = 5
    END = 6
    DONE = 7
    REFUSE = 8
    FETCH = 9
    LOOKUP = 10


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame, without its payload's bytes.

    Attributes:
        kind: what it says.
        fields: JSON object.
        payload_bytes: length of the payload that follows.
    """

    kind: Kind
    fields: Mapping[str, Any] = field(default_factory=dict)
    payload_bytes: int = 0

    def pack(self) -> bytes:
        """Encode head and fields.

        Raises:
            TransferError: the fields are too long.
        """
        text = json.dumps(dict(self.fields), separators=(",", ":")).encode()
        if len(text) > FIELDS_MAX:
            raise TransferError(f"a frame's fields have {len(text)} bytes, more than {FIELDS_MAX}")
        return _HEAD.pack(_MAGIC, VERSION, self.kind, 0, len(text), self.payload_bytes) + text

    def integer(self, name: str, lowest: int, highest: int) -> int:
        """Return the field ``name``, an integer in ``lowest..highest``.

        Raises:
            TransferError: it is not.
        """
        value = self.fields.get(name)
        if type(value) is not int or not lowest <= value <= highest:
            raise TransferError(f"{self.kind.name}: {name} {value!r} is not an integer in {lowest}..{highest}")
        return value

    def text(self, name: str) -> str:
        """Return the field ``name``, a string.

        Raises:
            TransferError: it is not.
        """
        value = self.fields.get(name)
        if not isinstance(value, str):
            raise TransferError(f"{self.kind.name}: {name} {value!r} is not a string")
        return value

    def texts(self, name: str) -> list[str]:
        """Return the field ``name``, a list of strings.

        Raises:
            TransferError: it is not.
        """
        value = self.fields.get(name)
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise TransferError(f"{self.kind.name}: {name} is not a list of strings")
        return value


@dataclass(frozen=True, slots=True)
class Head:
    """The fixed head of a frame.

    Attributes:
        kind: what it says.
        fields_bytes, payload_bytes: lengths of what follows.
    """

    kind: Kind
    fields_bytes: int
    payload_bytes: int


def unpack_head(data: bytes | bytearray) -> Head:
    """Decode the first :data:`HEAD_BYTES` bytes of a frame.

    A refusal is read whatever its version, so that the reason for it can be shown.

    Raises:
        RefusedError: the peer speaks another version.
        TransferError: this is not a frame.
    """
    try:
        magic, version, kind, _, fields_bytes, payload_bytes = _HEAD.unpack(data)
    except struct.error as error:
        raise TransferError(f"a frame's head has {HEAD_BYTES} bytes: {error}") from None
    if magic != _MAGIC:
        raise TransferError("the peer does not speak the protocol of MfsConnector; check host and port")
    if version != VERSION and kind != Kind.REFUSE:
        raise RefusedError(
            f"the peer speaks version {version} of the protocol, this engine version {VERSION}; "
            "install the same version of mfs-switch on both"
        )
    if kind not in iter(Kind) or fields_bytes > FIELDS_MAX or payload_bytes > PAYLOAD_MAX:
        raise TransferError(f"invalid frame: kind {kind}, {fields_bytes} bytes of fields, payload {payload_bytes}")
    return Head(Kind(kind), fields_bytes, payload_bytes)


def unpack(head: Head, text: bytes | bytearray) -> Frame:
    """Decode a frame from its head and its fields.

    Raises:
        TransferError: the fields are not a JSON object.
    """
    try:
        values = json.loads(text)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise TransferError(f"{head.kind.name}: the fields are not a JSON object")
    return Frame(head.kind, values, head.payload_bytes)


@dataclass(frozen=True, slots=True)
class Layout:
    """Layout of an engine's KV cache. Two engines exchange blocks only if all of it is equal.

    Attributes:
        model: name of the model, or a hash of its configuration.
        layers: number of layers.
        block_tokens: tokens per block.
        block_bytes: bytes of a block in one layer, of this rank.
        dtype: element type.
        shape: of a block in one layer.
        rank, ranks: tensor-parallel rank and their number.
    """

    model: str
    layers: int
    block_tokens: int
    block_bytes: int
    dtype: str
    shape: tuple[int, ...]
    rank: int = 0
    ranks: int = 1

    def to_json(self) -> dict[str, Any]:
        """Return the layout as fields of a frame."""
        return {**asdict(self), "shape": list(self.shape)}

    def mismatch(self, other: object) -> str | None:
        """Compare with the layout that a peer sent, and return what differs; None if nothing does."""
        if not isinstance(other, dict):
            return "the peer sent no layout"
        own = self.to_json()
        different = [
            f"{each.name} {other.get(each.name)!r} instead of {own[each.name]!r}"
            for each in fields(self)
            if own[each.name] != other.get(each.name)
        ]
        return "the KV caches differ: " + ", ".join(different) if different else None
