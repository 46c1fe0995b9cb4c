"""``mfs agent``: the host agent of a server."""

from __future__ import annotations

from pathlib import Path

import click

from host_agent.command_line import JSON, BitRate, Positive, logging_options
from host_agent.daemon.options import (
    CARRIERS,
    INGRESS_MODES,
    SEGMENTATIONS,
    Carrier,
    Ingress,
    InterfaceOptions,
    Segmentation,
    ServiceOptions,
)
from host_agent.protocol.paths import AGENT_SOCKET, RUN_DIRECTORY
from host_agent.protocol.stamp import LEVELS


def _octal(_context: click.Context, _parameter: click.Parameter, value: str) -> int:
    """Read file permissions as in ``chmod``."""
    try:
        mode = int(value, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o777:
        raise click.BadParameter(f"{value!r} is not a file mode in 000..777.")
    return mode


_interface = click.option("--interface", required=True, help="Interface whose traffic is stamped.")
_socket = click.option(
    "--socket",
    type=click.Path(path_type=Path),
    default=AGENT_SOCKET,
    show_default=True,
    help="Unix socket of the agent.",
)
_state = click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=RUN_DIRECTORY,
    show_default=True,
    help="Directory of the interface's state and the last policy.",
)


@click.group()
def agent() -> None:
    """Stamp and order the traffic of a server (Linux, root)."""


_FILE = click.Path(path_type=Path, dir_okay=False)


@agent.command(short_help="Run the agent on an interface.")
@_interface
@click.option(
    "--policy-url", required=True, metavar="URL", help="URL of the controller, http://HOST:PORT or https://HOST:PORT."
)
@click.option(
    "--policy-ca",
    type=_FILE,
    help="Authorities (PEM) that sign the controller's certificate.  [default: those of this machine]",
)
@click.option("--policy-cert", type=_FILE, help="Client certificate (PEM), if the controller requires one.")
@click.option("--policy-key", type=_FILE, help="Private key (PEM) of --policy-cert.")
@click.option(
    "--metrics-listen",
    metavar="[HOST:]PORT",
    help="Serve /metrics, /healthz and /readyz over HTTP; PORT alone is of the loopback interface.",
)
@_socket
@click.option(
    "--mode",
    callback=_octal,
    default="0660",
    show_default=True,
    help="Permissions of the socket; users who may write to it may open flows.",
)
@click.option("--group", help="Group of the socket, for instance the serving engine's.")
@_state
@click.option("--rate", type=BitRate(), help="Rate of the link, e.g. 100G.  [default: as reported]")
@click.option("--link-mtu", type=click.IntRange(576, 65_535), help="MTU of the link, the shim's 24 bytes included.")
@click.option(
    "--carrier",
    type=click.Choice(CARRIERS),
    default="auto",
    show_default=True,
    help="What carries the stamp: a TCP option, a shim before IP, or (auto) the option where the kernel can.",
)
@click.option(
    "--cgroup",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Version-2 cgroup whose sockets may be stamped by option.  [default: the root, thus all]",
)
@click.option("--no-order", is_flag=True, help="Leave the interface's queueing unchanged.")
@click.option(
    "--ingress",
    type=click.Choice(INGRESS_MODES),
    default="auto",
    show_default=True,
    help="Where to remove stamps from received packets: in the driver (xdp), above it (filter), or nowhere.",
)
@click.option(
    "--segmentation",
    type=click.Choice(SEGMENTATIONS),
    default="kernel",
    show_default=True,
    help="Who segments large packets: the kernel after stamping, TCP before it (each), or the interface.",
)
@click.option(
    "--keep-checksum", is_flag=True, help="Leave checksum offload on: the interface supports it behind a shim."
)
@click.option(
    "--rto-min",
    type=Positive(0.001, 120),
    metavar="SECONDS",
    help="Shortest retransmission timeout on the interface's IPv4 routes; as long as flows are deferred, such as 1.  "
    "[default: as it is]",
)
@click.option(
    "--interval", type=Positive(0.05, 3600), default=1.0, show_default=True, help="Seconds between policy requests."
)
@click.option(
    "--grace",
    type=Positive(0, 86_400),
    default=30.0,
    show_default=True,
    help="Seconds that clients have to reconnect after a crash of the agent.",
)
@click.option(
    "--hold/--no-hold", default=False, show_default=True, help="Hold flows that cannot be served yet at their source."
)
@click.option(
    "--hold-below",
    type=click.IntRange(1, LEVELS),
    default=LEVELS,
    metavar="LEVEL",
    help="Never hold flows at this level or above.  [default: hold all]",
)
@click.option(
    "--gate-bytes",
    type=click.IntRange(min=1),
    metavar="BYTES",
    help="Bytes of submitted messages in flight.  [default: what the link sends in 1 ms, at least 1 MiB]",
)
@click.option("--statistics", is_flag=True, help="Measure the programs' run time, at a small cost.")
@logging_options
def run(
    interface: str,
    policy_url: str,
    policy_ca: Path | None,
    policy_cert: Path | None,
    policy_key: Path | None,
    metrics_listen: str | None,
    socket: Path,
    mode: int,
    group: str | None,
    state_dir: Path,
    rate: int | None,
    link_mtu: int | None,
    carrier: Carrier,
    cgroup: Path | None,
    no_order: bool,
    ingress: Ingress,
    segmentation: Segmentation,
    keep_checksum: bool,
    rto_min: float | None,
    interval: float,
    grace: float,
    hold: bool,
    hold_below: int,
    gate_bytes: int | None,
    statistics: bool,
) -> None:
    """Run the agent on an interface until Ctrl-C or SIGTERM, then restore the interface."""
    from host_agent.daemon.service import run_agent
    from host_agent.ebpf.policy import ClientTls

    if (policy_cert is None) != (policy_key is None):
        raise click.UsageError("--policy-cert and --policy-key go together.")
    run_agent(
        InterfaceOptions(
            interface,
            rate_bps=rate,
            link_mtu=link_mtu,
            order=not no_order,
            ingress=ingress,
            segmentation=segmentation,
            keep_checksum=keep_checksum,
            rto_min_ms=None if rto_min is None else round(rto_min * 1000),
            hold=hold,
            carrier=carrier,
            cgroup=None if cgroup is None else str(cgroup),
        ),
        ServiceOptions(
            policy_url,
            socket=socket,
            mode=mode,
            group=group,
            state_directory=state_dir,
            interval_s=interval,
            grace_s=grace,
            statistics=statistics,
            hold_below=hold_below,
            gate_bytes=gate_bytes,
            policy_tls=ClientTls(policy_ca, policy_cert, policy_key) if policy_ca or policy_cert else None,
            metrics_listen=metrics_listen,
        ),
    )


@agent.command()
@_socket
@JSON
def status(socket: Path, as_json: bool) -> None:
    """Show policy, flows and counters of the running agent."""
    import json

    from host_agent.client import AgentClient
    from host_agent.status_text import describe

    with AgentClient(socket) as client:
        found = client.status()
    click.echo(json.dumps(found) if as_json else describe(found))


@agent.command()
@_interface
@_state
def detach(interface: str, state_dir: Path) -> None:
    """Restore an interface after its agent was killed."""
    from host_agent.daemon.hooks import detach as restore_interface

    if restore_interface(interface, state_dir):
        click.echo(f"{interface}: detached")
    else:
        click.echo(f"{interface}: no agent left anything there")


@agent.command("queue-pairs")
@JSON
def queue_pairs(as_json: bool) -> None:
    """Show the RDMA queue pairs that the kernel knows."""
    import json
    from dataclasses import asdict

    from host_agent.daemon.queue_pairs import describe, read

    found = read()
    click.echo(json.dumps([asdict(pair) for pair in found]) if as_json else describe(found))
