"""``mfs agent``: the host agent of a server."""

from __future__ import annotations

from pathlib import Path

import click

from host_agent.command_line import BitRate

DEFAULT_SOCKET = Path("/run/mfs/agent.sock")
DEFAULT_STATE = Path("/run/mfs")


def _octal(_context: click.Context, _parameter: click.Parameter, value: str) -> int:
    """File permissions as ``chmod`` takes them."""
    try:
        mode = int(value, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o777:
        raise click.BadParameter(f"{value!r} is not a mode of 000..777.")
    return mode


_interface = click.option("--interface", required=True, help="The interface whose traffic is stamped.")
_socket = click.option(
    "--socket",
    type=click.Path(path_type=Path),
    default=DEFAULT_SOCKET,
    show_default=True,
    help="Of the agent.",
)
_state = click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_STATE,
    show_default=True,
    help="Where the interface's state and the last policy are kept.",
)


@click.group()
def agent() -> None:
    """Stamp and order what a server sends (Linux, root)."""


@agent.command()
@_interface
@click.option("--policy", "policy_url", required=True, metavar="URL", help="Of the controller: http://HOST:PORT.")
@_socket
@click.option(
    "--mode", callback=_octal, default="0660", show_default=True, help="Of the socket: who may write may open flows."
)
@click.option("--group", help="Of the socket, for instance the serving engine's.")
@_state
@click.option("--rate", type=BitRate(), help="Bits per second of the link, e.g. 100G; by default what it says.")
@click.option("--link-mtu", type=click.IntRange(576, 65_535), help="Of the link, the shim's 24 bytes included.")
@click.option("--no-order", is_flag=True, help="Leave the interface's queueing as it is.")
@click.option(
    "--ingress",
    type=click.Choice(["auto", "xdp", "filter", "off"]),
    default="auto",
    show_default=True,
    help="Where stamps are taken off what comes in: in the driver, above it, nowhere.",
)
@click.option(
    "--segmentation",
    type=click.Choice(["kernel", "each", "interface"]),
    default="kernel",
    show_default=True,
    help="Who cuts large packets: the kernel after the stamp, TCP before it, the interface.",
)
@click.option("--keep-checksum", is_flag=True, help="The interface computes checksums also behind a shim.")
@click.option("--interval", type=click.FloatRange(0.05, 3600), default=1.0, show_default=True, help="Of the policy, s.")
@click.option(
    "--grace",
    type=click.FloatRange(0, 86_400),
    default=30.0,
    show_default=True,
    help="After a crash, seconds that clients have to come back.",
)
@click.option("--statistics", is_flag=True, help="Measure the programs' run time (costs some).")
def run(
    interface: str,
    policy_url: str,
    socket: Path,
    mode: int,
    group: str | None,
    state_dir: Path,
    rate: int | None,
    link_mtu: int | None,
    no_order: bool,
    ingress: str,
    segmentation: str,
    keep_checksum: bool,
    interval: float,
    grace: float,
    statistics: bool,
) -> None:
    """Run the agent on an interface until Ctrl-C or SIGTERM, then take everything back."""
    from host_agent.daemon.hooks import Options
    from host_agent.daemon.service import ServiceOptions, run_agent

    run_agent(
        Options(interface, rate, link_mtu, not no_order, ingress, segmentation, keep_checksum),
        ServiceOptions(policy_url, socket, mode, group, state_dir, interval, grace, statistics),
        click.echo,
    )


@agent.command()
@_socket
@click.option("--json", "as_json", is_flag=True, help="All of it, as JSON.")
def status(socket: Path, as_json: bool) -> None:
    """Show the policy, the flows and the counters of the running agent."""
    import json

    from host_agent.client import AgentClient
    from host_agent.status_text import in_words

    with AgentClient(str(socket)) as client:
        found = client.status()
    click.echo(json.dumps(found) if as_json else in_words(found))


@agent.command()
@_interface
@_state
def detach(interface: str, state_dir: Path) -> None:
    """Take back what an agent that was killed left on an interface."""
    from host_agent.daemon.hooks import detach as take_back

    if take_back(interface, state_dir):
        click.echo(f"{interface}: detached")
    else:
        click.echo(f"{interface}: nothing of an agent is there")
