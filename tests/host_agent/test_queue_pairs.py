"""Queue pairs as ``rdma resource`` prints them, by iproute2's source: no RDMA device has printed these."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from host_agent.daemon.queue_pairs import KernelQueuePair, describe, parse, read
from host_agent.protocol.errors import AgentError

LINK = {"ifindex": 0, "ifname": "mlx5_0", "port": 1}
CONNECTED = {**LINK, "lqpn": 263, "pdn": 5, "rqpn": 6699, "type": "RC", "state": "RTS", "rq-psn": 1, "sq-psn": 2}
KERNEL = {**LINK, "lqpn": 1, "type": "GSI", "state": "RTS", "sq-psn": 0, "pid": 0, "comm": "[ib_core]"}
FOUND = [
    KernelQueuePair("mlx5_0", 263, 6699, "RC", "RTS", 77, "ib_write_bw"),
    KernelQueuePair("mlx5_0", 1, None, "GSI", "RTS", 0, "[ib_core]"),
]


@pytest.mark.parametrize("nested", [False, True])
def test_queue_pairs_are_found_however_they_are_nested(nested: bool) -> None:
    entries = [{**CONNECTED, "pid": 77, "comm": "ib_write_bw"}, KERNEL]
    text = json.dumps([[entry] for entry in entries] if nested else entries)
    assert parse(text) == FOUND
    assert parse("") == parse("[]") == []


def test_each_has_a_line() -> None:
    head, first, second = describe(FOUND).splitlines()
    assert head.split() == ["device", "local", "remote", "type", "state", "process", "command"]
    assert first.split() == ["mlx5_0", "263", "6699", "RC", "RTS", "77", "ib_write_bw"]
    assert second.split()[2] == "-"


def test_what_is_not_json_is_refused() -> None:
    with pytest.raises(AgentError, match="does not print JSON"):
        parse("link mlx5_0/1 lqpn 1")


def test_a_host_without_rdma_is_told_so() -> None:
    if shutil.which("rdma") is None:
        with pytest.raises(AgentError, match="cannot run rdma"):
            read()
    elif os.path.isdir("/sys/class/infiniband"):
        assert isinstance(read(), list)
    else:
        with pytest.raises(AgentError, match="does this host have an RDMA device"):
            read()
