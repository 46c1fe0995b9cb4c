"""``mfs switch``: the embedded switch from the command line. The one module here that knows a program: the default."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import click

from host_agent.command_line import BitRate, PortAtInterface
from host_agent.protocol.units import DEFAULT_P4RUNTIME_ADDRESS


@click.command()
@click.option("--address", default=DEFAULT_P4RUNTIME_ADDRESS, show_default=True, help="Where to serve P4Runtime.")
@click.option(
    "--device-id",
    type=click.IntRange(0, 2**64 - 1),
    default=1,
    show_default=True,
    help="The specification forbids 0, which is simple_switch_grpc's default and that of clients made for it.",
)
@click.option(
    "--cpu-port", type=click.IntRange(0, 510), help="The port that is the controller: packet-in and packet-out."
)
@click.option("--empty", is_flag=True, help="Start without a program; a controller pushes one.")
@click.option(
    "--device-config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Run this program, the JSON of p4c-bm2-ss, instead of MFS; with --p4info.",
)
@click.option("--p4info", type=click.Path(path_type=Path, dir_okay=False), help="P4Info (text) of --device-config.")
@click.option(
    "-i",
    "--interface",
    "interfaces",
    type=PortAtInterface(),
    multiple=True,
    help="Put a port on a network interface, e.g. 1@veth1, or 1@veth1@40M with a rate of its own; may be repeated.",
)
@click.option(
    "--rate",
    type=BitRate(),
    default="20M",
    show_default=True,
    help="Bits per second of each port on an interface, preamble, FCS and gap included.",
)
@click.option(
    "--pipeline",
    type=click.Choice(["auto", "python", "c"]),
    envvar="MFS_PIPELINE",
    default="auto",
    show_default=True,
    help="Run programs as machine code (c), which takes a C compiler, or as Python; auto: as machine code if possible.",
)
@click.option(
    "--queue-trace",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a CSV row for each packet that enters or leaves a queue, or is dropped there; with -i.",
)
def switch(
    address: str,
    device_id: int,
    empty: bool,
    device_config: Path | None,
    p4info: Path | None,
    cpu_port: int | None,
    interfaces: tuple[tuple[int, str, int | None], ...],
    rate: int,
    queue_trace: Path | None,
    pipeline: str,
) -> None:
    """Run the embedded switch and serve it over P4Runtime.

    It holds the MFS program, or the one that is named, unless --empty is given. Without -i it has no ports, and is for
    controllers and shells. Ctrl-C or SIGTERM ends it.
    """
    from p4src import artifact
    from soft_switch.native.choice import VARIABLE

    os.environ[VARIABLE] = pipeline
    if (device_config is None) != (p4info is None):
        raise click.UsageError("--device-config and --p4info go together.")
    if empty and device_config is not None:
        raise click.UsageError("--empty and --device-config exclude each other.")
    if not interfaces and queue_trace is not None:
        raise click.UsageError("--queue-trace needs a port: -i PORT@INTERFACE.")
    if not empty and device_config is None:
        artifact.load()
        name = artifact.BUILD / "mfs_v1model"
        device_config, p4info = name.with_suffix(".json"), name.with_suffix(".p4info.txtpb")
    if interfaces:
        from soft_switch.realtime.serving import PortSpec, run_on_interfaces

        ports = [PortSpec(number, interface, own or rate) for number, interface, own in interfaces]
        run_on_interfaces(
            ports,
            cpu_port=cpu_port,
            queue_trace=queue_trace,
            device_config=device_config,
            p4info=p4info,
            device_id=device_id,
            address=address,
            say=click.echo,
        )
    else:
        _serve_until_signalled(address, device_id, cpu_port, device_config, p4info)
    click.echo("stopped")


def _serve_until_signalled(
    address: str, device_id: int, cpu_port: int | None, config: Path | None, p4info: Path | None
) -> None:
    from soft_switch.p4runtime.server import serve
    from soft_switch.switch import Switch

    # Blocked before the server's threads are made, which inherit it, so that the signals wait for sigwait below.
    ending = {signal.SIGINT, signal.SIGTERM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ending)
    try:
        server = serve(
            Switch(cpu_port),
            device_config=config,
            p4info=p4info,
            device_id=device_id,
            address=address,
            announce=click.echo,
        )
        signal.sigwait(ending)
        server.stop(0)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
