"""``mfs ctrl``: the controller from the command line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from host_agent.command_line import BitRate, Positive
from host_agent.protocol.units import DEFAULT_P4RUNTIME_ADDRESS


@click.command()
@click.option("--address", default=DEFAULT_P4RUNTIME_ADDRESS, show_default=True, help="The switch's P4Runtime address.")
@click.option("--device-id", type=click.IntRange(1, 2**64 - 1), default=1, show_default=True)
@click.option(
    "--election-id",
    type=click.IntRange(1, 2**128 - 1),
    default=1,
    show_default=True,
    help="The highest is primary.",
)
@click.option("--policy", "policy_name", type=click.Choice(["mfs", "static", "fifo"]), default="mfs", show_default=True)
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A TOML file with the switch's ports and hosts, instead of topology, node, servers, nics and rate.",
)
@click.option("--topology", "topology_name", default="tor", show_default=True, help="See: mfs topology list.")
@click.option("--node", help="Which switch of the topology this is, where it has several.")
@click.option("--servers", type=click.IntRange(1, 200), default=8, show_default=True, help="Servers in all.")
@click.option("--nics", type=click.IntRange(1, 8), default=2, show_default=True, help="Interfaces of each server.")
@click.option("--rate", type=BitRate(), default="100G", show_default=True, help="Bits per second of a port.")
@click.option("--dscp", is_flag=True, help="Write levels into the DSCP of what leaves, for links that order by it.")
@click.option("--interval", type=Positive(0.001, 86_400), default=1.0, show_default=True, help="Seconds between steps.")
@click.option(
    "--slack-factor",
    type=Positive(0.001, 1000),
    default=1.0,
    show_default=True,
    help="Multiply the mfs policy's thresholds of slack: for objectives so many times longer than tenths of seconds.",
)
@click.option("--policy-listen", metavar="HOST:PORT", help="Serve the policy in force to host agents here, over HTTP.")
@click.option(
    "--device-config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Give the switch this program, with --p4info; by default the one for v1model that comes along.",
)
@click.option("--p4info", type=click.Path(path_type=Path, dir_okay=False), help="P4Info (text) of --device-config.")
def ctrl(
    address: str,
    device_id: int,
    election_id: int,
    policy_name: str,
    config: Path | None,
    topology_name: str,
    node: str | None,
    servers: int,
    nics: int,
    rate: int,
    dscp: bool,
    interval: float,
    slack_factor: float,
    policy_listen: str | None,
    device_config: Path | None,
    p4info: Path | None,
) -> None:
    """Run the controller of one switch: write its entries, then tune them."""
    if (device_config is None) != (p4info is None):
        raise click.UsageError("--device-config and --p4info go together.")
    from mfs_ctrl import config as configuration
    from mfs_ctrl.desired import SwitchParameters
    from mfs_ctrl.policy import policy
    from mfs_ctrl.policy_server import serving
    from mfs_ctrl.service import run_controller
    from p4src.artifact import from_files
    from topologies import catalogue

    policies = {
        "mfs": lambda: policy.mfs(policy.slower(policy.Thresholds(), slack_factor)),
        "static": policy.static,
        "fifo": policy.fifo,
    }
    if config is None:
        topology = catalogue.switch(topology_name, node, servers, nics, rate)
        parameters = SwitchParameters()
    else:
        described = configuration.read(config)
        topology, parameters = described.topology, described.parameters
    if dscp:
        parameters = replace(parameters, dscp_ports=frozenset(topology.ports))
    with serving(policy_listen, click.echo) as on_policy:
        run_controller(
            address,
            device_id,
            topology=topology,
            parameters=parameters,
            policy=policies[policy_name](),
            election_id=election_id,
            interval_s=interval,
            on_policy=on_policy,
            say=click.echo,
            artifact=from_files(device_config, p4info) if device_config and p4info else None,
        )
