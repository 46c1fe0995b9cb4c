"""What the commands that only look at a running system have in common: options, and the switch with its program."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from host_agent.protocol.paths import RUN_DIRECTORY
from host_agent.protocol.units import DEFAULT_P4RUNTIME_ADDRESS

if TYPE_CHECKING:
    from mfs_ctrl.p4rt.p4info import P4InfoIndex
    from mfs_ctrl.p4rt.reader import Reader

Option = Callable[[Any], Any]

DEFAULT_CONTROLLER = "http://127.0.0.1:9560"

_ADDRESS: Option = click.option(
    "--address",
    default=DEFAULT_P4RUNTIME_ADDRESS,
    envvar="MFS_ADDRESS",
    show_default=True,
    show_envvar=True,
    help="P4Runtime address of the switch.",
)
_SWITCH: tuple[Option, ...] = (
    click.option("--device-id", type=click.IntRange(0, 2**64 - 1), default=1, show_default=True),
    click.option(
        "--tls-ca",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Connect over TLS; authorities (PEM) of the other side's certificate.",
    ),
)
_OTHERS: tuple[Option, ...] = (
    click.option(
        "--address",
        help="P4Runtime address of a switch, to look at that one alone.  [default: the switches of the controller]",
    ),
    click.option(
        "--controller",
        metavar="URL",
        default=DEFAULT_CONTROLLER,
        envvar="MFS_CONTROLLER",
        show_default=True,
        show_envvar=True,
        help="Where the controller serves the policy (mfs ctrl --policy-listen).",
    ),
    click.option(
        "--run-dir",
        type=click.Path(path_type=Path, file_okay=False),
        default=RUN_DIRECTORY,
        show_default=True,
        help="Directory with the sockets of this machine's agents.",
    ),
)


def of_switch(command: Any) -> Any:
    """Add ``--address``, ``--device-id`` and ``--tls-ca``."""
    for option in reversed((_ADDRESS, *_SWITCH)):
        command = option(command)
    return command


def of_system(command: Any) -> Any:
    """Add ``--address`` without a default, ``--device-id``, ``--tls-ca``, ``--controller`` and ``--run-dir``."""
    for option in reversed((*_OTHERS, *_SWITCH)):
        command = option(command)
    return command


@contextmanager
def reading(address: str, device_id: int, tls_ca: Path | None) -> Iterator[tuple[Reader, P4InfoIndex]]:
    """Read from the switch at ``address``, by the P4Info of the program that it runs.

    Raises:
        PipelineError: it runs none.
        SessionError: it does not answer, or refuses.
    """
    from mfs_ctrl.errors import PipelineError
    from mfs_ctrl.p4rt.channel import TlsFiles
    from mfs_ctrl.p4rt.p4info import P4InfoIndex
    from mfs_ctrl.p4rt.reader import Reader

    with Reader(address, device_id, tls=TlsFiles(tls_ca) if tls_ca else None) as reader:
        held = reader.program()
        if held is None:
            raise PipelineError(f"the switch at {address} runs no program; start a controller: mfs ctrl")
        yield reader, P4InfoIndex(held.p4info)
