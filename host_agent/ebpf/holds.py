"""Holds of flows: what each flow may send, and what its peer acknowledged, in memory shared with the programs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from host_agent.ebpf.bpf import Map
from host_agent.ebpf.errors import KernelError
from host_agent.ebpf.layout import (
    HEARD,
    HOLD,
    STATE,
    Heard,
    decode_connection,
    decode_five_tuple,
    encode_connection,
    encode_five_tuple,
    encode_hold,
)
from host_agent.protocol.flow_request import FiveTuple

_HEARD_OFFSET = 16
_SCALE_OFFSET = _HEARD_OFFSET + HEARD.size
_WORD = 8
NOTHING = Heard(0, 0, 0, 0, 0, 0, 0)


class HoldTable:
    """Ties flows to connections, reads what their peers said, and writes what they may send.

    Reading and granting take no system call.
    """

    def __init__(self, maps: dict[str, Map]) -> None:
        """Share the maps ``states`` and ``holds``.

        Raises:
            KernelError: the kernel cannot share maps (Linux before 5.5).
        """
        self._connections = maps["connections"]
        self._states = maps["states"].view()
        self._holds = maps["holds"].view()
        # A word is written at once.
        self._words = self._holds.cast("Q")

    def tie(self, flow: int, addresses: FiveTuple, scale: int) -> None:
        """Let the acknowledgements of a connection count for ``flow``, which is not held yet."""
        key = encode_five_tuple(addresses)
        value = self._connections.get(key)
        heard = NOTHING if value is None else decode_connection(value)[0]
        start = flow * HOLD.size
        self._holds[start : start + HOLD.size] = encode_hold(0, 0, heard, scale)
        self._connections.put(key, encode_connection(heard, flow + 1))

    def untie(self, flow: int, addresses: FiveTuple) -> None:
        """End what :meth:`tie` began, unless the connection belongs to another flow by now."""
        self.grant(flow, 0, 0)
        key = encode_five_tuple(addresses)
        value = self._connections.get(key)
        if value is not None and decode_connection(value)[1] == flow + 1:
            with suppress(KernelError):
                self._connections.put(key, encode_connection(self.heard(flow), 0))

    def ties(self) -> Iterator[tuple[int, FiveTuple, int]]:
        """Iterate over the ties that another process left: flow, addresses and window scale."""
        for key in list(self._connections.keys()):
            value = self._connections.get(key)
            hold = 0 if value is None else decode_connection(value)[1]
            if hold:
                yield hold - 1, decode_five_tuple(key), self._holds[(hold - 1) * HOLD.size + _SCALE_OFFSET]

    def grant(self, flow: int, grant: int, expires_ns: int) -> None:
        """Write what ``flow`` may send (:func:`host_agent.ebpf.layout.grant_of`) until ``expires_ns``."""
        word = flow * (HOLD.size // _WORD)
        self._words[word + 1] = expires_ns
        self._words[word] = grant

    def heard(self, flow: int) -> Heard:
        """Return what the peer of ``flow`` said last."""
        start = flow * HOLD.size + _HEARD_OFFSET
        return Heard(*HEARD.unpack(bytes(self._holds[start : start + HEARD.size])))

    def sent(self, flow: int) -> tuple[int, int | None]:
        """Return the bytes that ``flow`` has sent, and the sequence number that follows them; None before the first."""
        start = flow * STATE.size
        value = bytes(self._states[start : start + STATE.size])
        sent_bytes, _, next_sequence, known, *_ = STATE.unpack(value)
        return sent_bytes, next_sequence if known else None
