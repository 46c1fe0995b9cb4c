"""``mfs topology`` and ``mfs clean``: topologies as network namespaces, and what a crash left of them."""

from __future__ import annotations

import click

from host_agent.command_line import BitRate

servers_option = click.option(
    "--servers", type=click.IntRange(1, 200), default=8, show_default=True, help="How many servers."
)
nics_option = click.option(
    "--nics", type=click.IntRange(1, 8), default=1, show_default=True, help="Interfaces of each server."
)
rate_option = click.option(
    "--rate", type=BitRate(), default="20M", show_default=True, help="Bits per second of each host's link."
)
prefix_option = click.option("--prefix", help="Begin names with this; by default each topology has its own.")


@click.group()
def topology() -> None:
    """Set topologies up as network namespaces, and take them down."""


@topology.command()
@click.argument("name")
@servers_option
@nics_option
@rate_option
@prefix_option
def up(name: str, servers: int, nics: int, rate: int, prefix: str | None) -> None:
    """Set the topology NAME up, and say how to start its switches."""
    from topologies import catalogue, namespaces

    switches = catalogue.switches(name, servers, nics, rate)
    realised = namespaces.up(list(switches.values()), prefix or catalogue.CATALOGUE[name].prefix)
    click.echo(f"namespaces: {', '.join(realised.namespaces.values())}")
    shape = f"--topology {name} --servers {servers} --nics {nics} --rate {rate}"
    for number, (node, of_switch) in enumerate(switches.items()):
        address = f"127.0.0.1:{9559 + number}"
        click.echo(f"\n# {node}")
        click.echo(f"mfs switch --address {address} {' '.join(realised.switch_options(of_switch, number))}")
        click.echo(f"mfs ctrl --address {address} {shape}{f' --node {node}' if len(switches) > 1 else ''}")


@topology.command()
@click.argument("name")
@prefix_option
def down(name: str, prefix: str | None) -> None:
    """Take the topology NAME down."""
    from topologies import catalogue, namespaces

    catalogue.switches(name)
    tell(namespaces.clean(prefix or catalogue.CATALOGUE[name].prefix))


@topology.command("list")
def list_topologies() -> None:
    """Say which topologies there are, and which are up."""
    from topologies import catalogue, namespaces

    standing = namespaces.prefixes()
    for name, named in catalogue.CATALOGUE.items():
        state = "up" if named.prefix in standing else "down"
        click.echo(f"{name:12} {state:5} {named.about}")


@topology.command()
@click.argument("interface")
@click.option("--rate", type=BitRate(), required=True, help="Bits per second on the wire.")
def link(interface: str, rate: int) -> None:
    """Make INTERFACE, behind a port of bmv2, a link of a rate, with a class for each level (by DSCP)."""
    from topologies import port_classes

    port_classes.put_link(interface, rate)


@click.command()
@click.option("--prefix", help="Only namespaces and interfaces whose names begin with this and a dash.")
def clean(prefix: str | None) -> None:
    """Remove what a crash left: namespaces, interfaces, queues and programs of this project.

    What still runs loses them too.
    """
    from topologies import cleanup, namespaces

    tell(namespaces.clean(prefix) if prefix else cleanup.clean())


def tell(removed: list[str]) -> None:
    """Say what was removed."""
    click.echo(f"removed {', '.join(removed)}" if removed else "nothing to remove")
