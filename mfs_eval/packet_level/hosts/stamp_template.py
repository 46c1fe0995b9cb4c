"""Stamps of a flow at packet rate: constant fields are packed once, the others are patched in.

:mod:`host_agent.protocol.stamp` is the reference; a test compares both field by field.
"""

from __future__ import annotations

import struct

from host_agent.protocol.stamp import STAMP_BYTES, Flags, Stage, Stamp

_FLAGS_OFFSET = 1
_CURRENT_LAYER_OFFSET = 11
_SLACK_REMAINING = struct.Struct("!iI")
_SLACK_OFFSET = 12
_PROGRESS = struct.Struct("!B3xI3xB")
_STAGE_MASK = 0x0F


class StampTemplate:
    """The stamps of one flow."""

    __slots__ = ("_template",)

    def __init__(self, stage: Stage, batch: int, flow: int, target_layer: int, next_type: int = 0x0800) -> None:
        """Pack the fields that are the same in all packets of the flow.

        Raises:
            StampError: a field does not fit its width.
        """
        self._template = bytearray(Stamp(stage, Flags.NONE, next_type, batch, flow, target_layer).pack())

    def stamp(self, flags: int, current_layer: int, slack_us: int, remaining: int) -> bytes:
        """Return a stamp; ``remaining`` is in stamp units. Each value must fit its field."""
        template = self._template
        template[_FLAGS_OFFSET] = flags
        template[_CURRENT_LAYER_OFFSET] = current_layer
        _SLACK_REMAINING.pack_into(template, _SLACK_OFFSET, slack_us, remaining)
        return bytes(template)


def progress_in(data: bytes, offset: int) -> tuple[int, int, int]:
    """Return stage, batch and current layer of the stamp at ``offset`` of ``data``.

    Raises:
        ValueError: ``data`` is too short.
    """
    if len(data) < offset + STAMP_BYTES:
        raise ValueError(f"a stamp at offset {offset} does not fit into {len(data)} bytes")
    version_stage, batch, layer = _PROGRESS.unpack_from(data, offset)
    return version_stage & _STAGE_MASK, batch, layer
