"""bmv2's ``simple_switch_grpc`` as a process. Standard library only, for Mininet."""

from __future__ import annotations

import shutil
from collections.abc import Mapping

from topologies.errors import TopologyError

PROGRAM = "simple_switch_grpc"
QUEUES = 8


def command(address: str, ports: Mapping[int, str], device_id: int, thrift_port: int) -> list[str]:
    """What runs it, without a program as yet, with a queue for each level and P4Runtime at ``address``.

    ``ports`` are interfaces by port number. Its Thrift server must not meet that of another switch.

    Raises:
        TopologyError: it is not installed.
    """
    program = shutil.which(PROGRAM)
    if program is None:
        raise TopologyError(
            f"there is no {PROGRAM} on the PATH; install bmv2 (docs/guide/deploy.md), or use the embedded switch"
        )
    interfaces = [word for port, name in ports.items() for word in ("-i", f"{port}@{name}")]
    own = ["--grpc-server-addr", address, "--priority-queues", str(QUEUES)]
    return [
        program,
        "--device-id",
        str(device_id),
        "--no-p4",
        "--thrift-port",
        str(thrift_port),
        *interfaces,
        "--",
        *own,
    ]
