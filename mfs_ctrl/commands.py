"""``mfs ctrl``: the controller from the command line."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from host_agent.command_line import BitRate, Positive, logging_options
from host_agent.protocol.units import DEFAULT_P4RUNTIME_ADDRESS
from mfs_ctrl.options import PolicyOrFile, policy_help
from mfs_ctrl.tofino.command import DEFAULT_BF_RUNTIME

if TYPE_CHECKING:
    from host_agent.http_endpoint import ServerTls
    from mfs_ctrl.fabric import SwitchSpec
    from mfs_ctrl.policy.policy import Policy
    from p4src.artifact import Artifact

_LOG = logging.getLogger(__name__)

_FILE = click.Path(path_type=Path, dir_okay=False)
_OF_CONFIG = ("topology_name", "node", "servers", "nics", "rate")
"""Parameters that ``--config`` replaces."""
_OF_FABRIC = (
    *_OF_CONFIG, "config", "target", "address", "device_id", "tls_ca", "tls_cert", "tls_key", "policy", "dscp",
)  # fmt: skip
"""Parameters that ``--fabric`` replaces."""


@click.command(short_help="Run the controller of one switch, or of a fabric.")
@click.option(
    "--target",
    type=click.Choice(["p4runtime", "bfrt"]),
    default="p4runtime",
    show_default=True,
    help="The switch's service: P4Runtime, or BF Runtime of a Tofino switch whose bf_switchd has loaded the program.",
)
@click.option(
    "--address",
    help=f"Address of that service.  [default: {DEFAULT_P4RUNTIME_ADDRESS}; with --target bfrt {DEFAULT_BF_RUNTIME}]",
)
@click.option("--tls-ca", type=_FILE, help="Connect over TLS; authorities (PEM) that sign the switch's certificate.")
@click.option("--tls-cert", type=_FILE, help="Client certificate (PEM), if the switch requires one; needs --tls-key.")
@click.option("--tls-key", type=_FILE, help="Private key (PEM) of --tls-cert.")
@click.option(
    "--device-id",
    type=click.IntRange(0, 2**64 - 1),
    help="Device id of the switch.  [default: 1, or 0 with --target bfrt]",
)
@click.option(
    "--election-id",
    type=click.IntRange(1, 2**128 - 1),
    default=1,
    show_default=True,
    help="Election id; the controller with the highest is primary. With --target bfrt it only has to be unique, and "
    "the first controller is primary until it leaves.",
)
@click.option(
    "--policy", type=PolicyOrFile(), metavar="NAME|FILE.toml", default="mfs", show_default=True, help=policy_help()
)
@click.option(
    "--config",
    type=_FILE,
    help="A TOML file with the switch's ports and hosts, instead of --topology, --node, --servers, --nics and --rate.",
)
@click.option(
    "--fabric",
    type=_FILE,
    help="A TOML file with all switches of a fabric, their addresses, hosts and links, and the policy.",
)
@click.option(
    "--topology",
    "topology_name",
    default="tor",
    show_default=True,
    help="Name of the topology; see `mfs topology list`.",
)
@click.option(
    "--node",
    help="Name of the switch, in a topology of several.  [default: all, at consecutive ports from --address on]",
)
@click.option("--servers", type=click.IntRange(1, 200), default=8, show_default=True, help="Number of servers.")
@click.option("--nics", type=click.IntRange(1, 8), default=2, show_default=True, help="Interfaces per server.")
@click.option("--rate", type=BitRate(), default="100G", show_default=True, help="Rate of each port.")
@click.option(
    "--dscp", is_flag=True, help="Write levels into the DSCP of outgoing packets, for links that schedule by it."
)
@click.option("--interval", type=Positive(0.001, 86_400), default=1.0, show_default=True, help="Seconds between ticks.")
@click.option(
    "--slack-factor",
    type=Positive(0.001, 1000),
    default=1.0,
    show_default=True,
    help="Multiply the policy's thresholds of slack, for latency objectives that are this many times longer.",
)
@click.option(
    "--policy-listen",
    metavar="[HOST:]PORT",
    help="Address to serve over HTTP the policy in force to host agents, and /status, /metrics, /healthz, /readyz; "
    "PORT alone is of the loopback interface, 0.0.0.0:PORT of all.  [default: [policy_server] of --fabric or --config]",
)
@click.option("--policy-tls-cert", type=_FILE, help="Serve --policy-listen over TLS with this certificate (PEM).")
@click.option("--policy-tls-key", type=_FILE, help="Private key (PEM) of --policy-tls-cert.")
@click.option("--policy-tls-client-ca", type=_FILE, help="Require client certificates that these authorities signed.")
@click.option(
    "--device-config",
    type=_FILE,
    help="Program for the switch, with --p4info; by default the bundled one for v1model.",
)
@click.option("--p4info", type=_FILE, help="P4Info (text) of --device-config.")
@click.option("--replace", is_flag=True, help="Load the program over another one that the switch runs.")
@click.option(
    "--check", "--dry-run", "check", is_flag=True, help="Show what would be written, by reading alone, and end."
)
@logging_options
@click.pass_context
def ctrl(
    ctx: click.Context,
    target: str,
    address: str | None,
    tls_ca: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    device_id: int | None,
    election_id: int,
    policy: Policy,
    config: Path | None,
    fabric: Path | None,
    topology_name: str,
    node: str | None,
    servers: int,
    nics: int,
    rate: int,
    dscp: bool,
    interval: float,
    slack_factor: float,
    policy_listen: str | None,
    policy_tls_cert: Path | None,
    policy_tls_key: Path | None,
    policy_tls_client_ca: Path | None,
    device_config: Path | None,
    p4info: Path | None,
    replace: bool,
    check: bool,
) -> None:
    """Run the controller of one switch or, with --fabric, of several: write their entries, then tune them.

    On SIGHUP, and when the file changes that describes the switches, it is read again.
    """
    over_bfrt = target == "bfrt"
    if over_bfrt and (device_config or p4info):
        raise click.UsageError("--target bfrt excludes --device-config and --p4info: bf_switchd loads the program.")
    if over_bfrt and check:
        raise click.UsageError("--check reads over P4Runtime alone; leave out --target bfrt.")
    if (device_config is None) != (p4info is None):
        raise click.UsageError("--device-config and --p4info go together.")
    if fabric is not None:
        _refuse(ctx, _OF_FABRIC, "--fabric describes all switches")
    if config is not None:
        _refuse(ctx, _OF_CONFIG, "--config describes the whole switch")
    if (tls_cert is None) != (tls_key is None):
        raise click.UsageError("--tls-cert and --tls-key go together.")
    if tls_cert is not None and tls_ca is None:
        raise click.UsageError("--tls-cert needs --tls-ca.")
    policy_tls = _server_tls(policy_tls_cert, policy_tls_key, policy_tls_client_ca)
    from host_agent.http_endpoint import Listen
    from mfs_ctrl import policy_server_table
    from mfs_ctrl.desired import SwitchParameters
    from mfs_ctrl.errors import PolicyError
    from mfs_ctrl.fabric import SwitchSpec
    from mfs_ctrl.p4rt.channel import TlsFiles
    from mfs_ctrl.service import Described, Settings, run
    from p4src.artifact import from_files
    from topologies import catalogue

    tls = TlsFiles(tls_ca, tls_cert, tls_key) if tls_ca else None
    first = address or (DEFAULT_BF_RUNTIME if over_bfrt else DEFAULT_P4RUNTIME_ADDRESS)
    device_id = (0 if over_bfrt else 1) if device_id is None else device_id

    def read() -> list[SwitchSpec]:
        if fabric is not None:
            from mfs_ctrl import fabric_file

            return fabric_file.read(fabric, lambda held: _with_slack_times(held, slack_factor))
        chosen, parameters = policy, SwitchParameters()
        if config is not None:
            from mfs_ctrl import config as configuration

            described = configuration.read(config)
            switches, parameters = {"": described.topology}, described.parameters
            chosen = _tuned(config, policy, described.tuner)
        else:
            switches = dict(catalogue.chosen(topology_name, node, servers, nics, rate))
        try:
            chosen = _with_slack_times(chosen, slack_factor)
        except PolicyError as error:
            raise click.UsageError(f"{error}.") from None
        return [
            SwitchSpec(
                name,
                _nth_address(first, number),
                device_id,
                topology,
                dataclasses.replace(parameters, dscp_ports=frozenset(topology.ports)) if dscp else parameters,
                chosen,
                tls,
                target,
            )
            for number, (name, topology) in enumerate(switches.items())
        ]

    artifact = from_files(device_config, p4info) if device_config and p4info else None
    if check:
        _show_differences(read(), artifact)
        return
    listen = Listen(policy_listen, policy_tls) if policy_listen else None
    path = fabric or config
    if listen is None and path is not None:
        listen = policy_server_table.read(path)
    settings = Settings(interval, election_id, listen, artifact, replace)
    run(Described(read, path), settings, must_connect=fabric is None)


def _show_differences(specs: Sequence[SwitchSpec], artifact: Artifact | None) -> None:
    from mfs_ctrl.dry_run import difference
    from mfs_ctrl.p4rt.reader import Reader
    from p4src.artifact import load

    for spec in specs:
        with Reader(spec.address, spec.device_id, tls=spec.tls) as reader:
            found = difference(reader, artifact or load(), spec.topology, spec.policy, spec.parameters)
        for line in found.lines():
            click.echo(f"{spec.name}: {line}" if spec.name else line)


def _nth_address(first: str, number: int) -> str:
    """Return the address ``number`` ports above the first."""
    host, _, port = first.rpartition(":")
    if number and not port.isdecimal():
        raise click.UsageError(f"--address {first}: write HOST:PORT.")
    return f"{host}:{int(port) + number}" if number else first


def _server_tls(certificate: Path | None, key: Path | None, client_ca: Path | None) -> ServerTls | None:
    if certificate is None or key is None:
        if certificate or key or client_ca:
            raise click.UsageError(
                "--policy-tls-cert and --policy-tls-key go together; --policy-tls-client-ca needs both."
            )
        return None
    from host_agent.http_endpoint import ServerTls

    return ServerTls(certificate, key, client_ca)


def _with_slack_times(policy: Policy, factor: float) -> Policy:
    from mfs_ctrl.errors import PolicyError

    if factor == 1:
        return policy
    if not policy.has_slack_thresholds:
        # Not refused: a script that compares policies may pass the same factor to all of them.
        _LOG.warning("--slack-factor has no effect: policy %s has no threshold of slack", policy.name)
        return policy
    try:
        return policy.with_slack_times(factor)
    except PolicyError as error:
        raise PolicyError(f"--slack-factor {factor:g}: {error}") from None


def _tuned(path: Path, policy: Policy, tuner: Mapping[str, Mapping[str, Any]]) -> Policy:
    from mfs_ctrl.errors import ConfigError, PolicyError

    try:
        return policy.tuned_by(tuner)
    except PolicyError as error:
        raise ConfigError(f"{path}: [tuner]: {error}") from None


def _refuse(ctx: click.Context, names: Collection[str], why: str) -> None:
    given = [
        parameter.opts[0]
        for parameter in ctx.command.params
        if parameter.name in names and ctx.get_parameter_source(parameter.name) is not ParameterSource.DEFAULT
    ]
    if given:
        option = why.partition(" ")[0]
        raise click.UsageError(f"{why}: leave out {', '.join(given)}, or {option}.")
