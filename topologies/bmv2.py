"""Command line of bmv2's ``simple_switch_grpc``. Standard library only, for Mininet."""

from __future__ import annotations

import shutil
from collections.abc import Mapping

from host_agent.protocol.stamp import LEVELS
from topologies.errors import TopologyError

PROGRAM = "simple_switch_grpc"


def command(address: str, ports: Mapping[int, str], device_id: int, thrift_port: int) -> list[str]:
    """Return the command that starts bmv2 without a program, with a queue for each level and P4Runtime at ``address``.

    Args:
        address: HOST:PORT of the P4Runtime server.
        ports: interfaces by port number.
        device_id: P4Runtime device id.
        thrift_port: TCP port of the Thrift server; each switch needs its own.

    Raises:
        TopologyError: bmv2 is not installed.
    """
    program = shutil.which(PROGRAM)
    if program is None:
        raise TopologyError(
            f"{PROGRAM} is not on the PATH; install bmv2 (docs/guide/deploy.md), or use the embedded switch"
        )
    interfaces = [word for port, name in ports.items() for word in ("-i", f"{port}@{name}")]
    target = ["--grpc-server-addr", address, "--priority-queues", str(LEVELS)]
    return [
        program,
        "--device-id",
        str(device_id),
        "--no-p4",
        "--thrift-port",
        str(thrift_port),
        *interfaces,
        "--",
        *target,
    ]
