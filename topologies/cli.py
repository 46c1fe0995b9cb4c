"""``mfs topology`` and ``mfs clean``: topologies as network namespaces, and removal of what a crash left."""

from __future__ import annotations

import click

from host_agent.command_line import JSON, BitRate
from host_agent.protocol.units import P4RUNTIME_PORT

servers_option = click.option(
    "--servers", type=click.IntRange(1, 200), default=8, show_default=True, help="Number of servers."
)
nics_option = click.option(
    "--nics", type=click.IntRange(1, 8), default=1, show_default=True, help="Interfaces per server."
)
rate_option = click.option("--rate", type=BitRate(), default="20M", show_default=True, help="Rate of each host's link.")
prefix_option = click.option(
    "--prefix", help="Prefix of the names of namespaces and interfaces.  [default: by topology]"
)


@click.group(short_help="Topologies as network namespaces (Linux, root).")
def topology() -> None:
    """Set up and take down topologies as network namespaces (Linux, root)."""


@topology.command(short_help="Set up the topology NAME.")
@click.argument("name")
@servers_option
@nics_option
@rate_option
@prefix_option
def up(name: str, servers: int, nics: int, rate: int, prefix: str | None) -> None:
    """Set up the topology NAME, and print the commands that start its switches."""
    from topologies import catalogue, namespaces

    switches = catalogue.switches(name, servers, nics, rate)
    realised = namespaces.up(list(switches.values()), prefix or catalogue.CATALOGUE[name].prefix)
    click.echo(f"namespaces: {', '.join(realised.namespaces.values())}")
    shape = f"--topology {name} --servers {servers} --nics {nics} --rate {rate}"
    for number, (node, of_switch) in enumerate(switches.items()):
        address = f"127.0.0.1:{P4RUNTIME_PORT + number}"
        click.echo(f"\n# {node}")
        click.echo(f"mfs switch --address {address} {' '.join(realised.switch_options(of_switch, number))}")
    if len(switches) > 1:
        click.echo("\n# the controller of all of them")
    click.echo(f"mfs ctrl --address 127.0.0.1:{P4RUNTIME_PORT} {shape}")


@topology.command()
@click.argument("name")
@prefix_option
def down(name: str, prefix: str | None) -> None:
    """Take down the topology NAME."""
    from topologies import catalogue, namespaces

    catalogue.switches(name)
    tell(namespaces.clean(prefix or catalogue.CATALOGUE[name].prefix))


@topology.command("list")
@JSON
def list_topologies(as_json: bool) -> None:
    """List the topologies, and whether they are up."""
    import json

    from topologies import catalogue, namespaces

    standing = namespaces.prefixes()
    found = [
        {"name": name, "up": kind.prefix in standing, "description": kind.description}
        for name, kind in catalogue.CATALOGUE.items()
    ]
    if as_json:
        click.echo(json.dumps(found))
        return
    for each in found:
        click.echo(f"{each['name']:12} {'up' if each['up'] else 'down':5} {each['description']}")


@topology.command(short_help="Add a link with traffic classes behind a port of bmv2.")
@click.argument("interface")
@click.option("--rate", type=BitRate(), required=True, help="Rate of the link, in bits on the wire.")
def link(interface: str, rate: int) -> None:
    """Turn INTERFACE, behind a port of bmv2, into a link with a rate and a traffic class for each level (by DSCP)."""
    from topologies import port_classes

    port_classes.add_link(interface, rate)


@click.command(short_help="Remove what a crash left in the kernel (Linux, root).")
@click.option("--prefix", help="Remove only namespaces and interfaces whose names start with this prefix and a dash.")
@click.option("--dry-run", is_flag=True, help="Name the namespaces and interfaces that would be removed, and end.")
def clean(prefix: str | None, dry_run: bool) -> None:
    """Remove namespaces, interfaces, queues and programs that a crash left.

    Running topologies are removed too.
    """
    from topologies import cleanup, namespaces

    if dry_run:
        names = namespaces.found(prefix)
        click.echo(f"would remove {', '.join(names)}" if names else "nothing to remove")
        return
    tell(namespaces.clean(prefix) if prefix else cleanup.clean())


def tell(removed: list[str]) -> None:
    """Print what was removed."""
    click.echo(f"removed {', '.join(removed)}" if removed else "nothing to remove")
