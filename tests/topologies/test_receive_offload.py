"""Interfaces of namespaces that merge the frames of a flow."""

from __future__ import annotations

import contextlib
import socket
from functools import partial

import pytest

from soft_switch.realtime import offloads
from tests.support.agent import INTERFACE, Host, linked
from topologies import receive_offload
from topologies.errors import TopologyError

RATE_BPS = 100_000_000
FULL_FRAME = 1514


def longest_frame(sender: Host, receiver: Host) -> int:
    """The longest frame of a bulk transfer as the receiver's TCP sees it, in bytes."""
    with contextlib.closing(receiver.capture(outgoing=False)) as capture:
        with receiver.inside(lambda: socket.create_server((receiver.address, 0))) as server:
            sending = sender.inside(lambda: socket.create_connection(server.getsockname(), timeout=10))
            receiving, _ = server.accept()
        with sending, receiving:
            receiving.settimeout(10)
            sending.sendall(bytes(100_000))
            sending.shutdown(socket.SHUT_WR)
            while receiving.recv(1 << 16):
                pass
        return max(map(len, capture.frames()))


def test_frames_of_a_flow_are_merged() -> None:
    with linked() as (sender, receiver):
        for host in (sender, receiver):
            host.inside(partial(offloads.turn_off, INTERFACE))
        assert longest_frame(sender, receiver) == FULL_FRAME
        receive_offload.turn_on(receiver.name, INTERFACE, RATE_BPS)
        assert longest_frame(sender, receiver) > FULL_FRAME


def test_frames_are_held_for_a_time_that_follows_the_rate() -> None:
    assert receive_offload.hold_ns(20_000_000) == pytest.approx(3.7e6, rel=0.05)
    assert receive_offload.hold_ns(200_000_000) * 10 == pytest.approx(receive_offload.hold_ns(20_000_000), rel=0.01)


def test_an_interface_that_does_not_exist_is_named() -> None:
    with linked() as (_, receiver), pytest.raises(TopologyError, match=f"nosuch of {receiver.name} does not merge"):
        receive_offload.turn_on(receiver.name, "nosuch", RATE_BPS)
