"""The command ``mfs``. Each subcommand imports what it needs when it runs: the base install has no gRPC."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import click

from mfs_ctrl import sweep_commands, topology_commands
from mfs_ctrl.agent_cli import agent
from mfs_ctrl.live_command import live
from mfs_ctrl.options import BitRate, PortAtInterface, Positive
from mfs_ctrl.tofino.command import tofino

EXTRAS = {
    "agent": "net",
    "demo": "eval",
    "ablate": "eval",
    "sweep": "eval",
    "report": "eval",
    "switch": "ctrl",
    "ctrl": "ctrl",
    "tofino": "ctrl",
    "live": "eval,net",
    "topology": "net",
    "clean": "net",
}
"""Which extra of the distribution each subcommand needs."""

DEFAULT_ADDRESS = "127.0.0.1:9559"
"""The port that IANA assigned to P4Runtime."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="mfs-switch")
def mfs() -> None:
    """Multi-stage flow scheduling for LLM serving, in a P4 switch.

    Start with `mfs demo`: it replays a trace of LLM requests as stamped packets through the compiled P4 program, under
    five scheduling policies, and shows what each does to the time to first token (TTFT).
    """


@mfs.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("out/demo"),
    show_default=True,
    help="Folder for report.html and results.json.",
)
@click.option(
    "--scenario", "scenarios", multiple=True, help="Run this scenario, not the default ones; may be repeated."
)
@click.option("--policy", "policies", multiple=True, help="Only this policy; may be repeated.")
@click.option(
    "--trace",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Another Mooncake trace (JSONL) than the one that comes along.",
)
@click.option("--requests", type=click.IntRange(min=1), help="Requests per run.")
@click.option(
    "--seed",
    "seeds",
    type=click.IntRange(min=0),
    multiple=True,
    default=(1,),
    show_default=True,
    help="Seed of the arrivals; may be repeated, tables then pool the runs.",
)
@click.option("--jobs", type=click.IntRange(min=1), help="Processes; by default one per core.")
@click.option(
    "--order",
    type=click.Choice(["both", "hosts", "switch"]),
    default="both",
    show_default=True,
    help="Who orders by the policy; where it is not followed, all is one queue.",
)
def demo(
    out: Path,
    scenarios: tuple[str, ...],
    policies: tuple[str, ...],
    trace: Path | None,
    requests: int | None,
    seeds: tuple[int, ...],
    jobs: int | None,
    order: str,
) -> None:
    """Replay requests on a rack of 8 servers and report TTFT per policy."""
    from evaluation.demo import run_demo

    run_demo(out, scenarios, policies, trace, requests, seeds, jobs, order)


@mfs.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("out/ablation"),
    show_default=True,
    help="Folder for ablation.csv and the pictures; runs that are in it are not run again.",
)
@click.option("--scenario", "scenarios", multiple=True, help="Only this scenario; may be repeated.")
@click.option("--variant", "variants", multiple=True, help="Only this variant; may be repeated.")
@click.option(
    "--load",
    "loads",
    type=click.Choice(["0.6", "0.4", "0.2"]),
    multiple=True,
    help="Only the scenario's rate at which fair sharing attains about this share; may be repeated.",
)
@click.option(
    "--rate", "rates", type=Positive(0.001, 1e6), multiple=True, help="This rate, requests/s; may be repeated."
)
@click.option(
    "--seeds", type=click.IntRange(min=1), default=10, show_default=True, help="How many seeds, the same for all."
)
@click.option("--first-seed", type=click.IntRange(min=0), default=1, show_default=True, help="The first of them.")
@click.option("--requests", type=click.IntRange(min=1), default=120, show_default=True, help="Requests per run.")
@click.option(
    "--scale",
    type=click.IntRange(min=1),
    default=2000,
    show_default=True,
    help="Rates and bytes are divided by this: the finer, the truer and the slower.",
)
@click.option("--jobs", type=click.IntRange(min=1), help="Processes; by default one per core.")
def ablate(
    out: Path,
    scenarios: tuple[str, ...],
    variants: tuple[str, ...],
    loads: tuple[str, ...],
    rates: tuple[float, ...],
    seeds: int,
    first_seed: int,
    requests: int,
    scale: int,
    jobs: int | None,
) -> None:
    """Show what each part of the scheduler is worth.

    Runs the scheduler, the same without one of its parts, and the policies that it is compared with, over several
    seeds. Stopped, it goes on where it was when called again.
    """
    from evaluation.ablation import run_ablation

    chosen_loads = [float(load) for load in loads]
    run_ablation(out, scenarios, variants, chosen_loads, rates, seeds, first_seed, requests, scale, jobs)


mfs.add_command(sweep_commands.sweep)
mfs.add_command(sweep_commands.report)


@mfs.command()
@click.option("--address", default=DEFAULT_ADDRESS, show_default=True, help="Where to serve P4Runtime.")
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


@mfs.command()
@click.option("--address", default=DEFAULT_ADDRESS, show_default=True, help="The switch's P4Runtime address.")
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
    from mfs_ctrl import policy
    from mfs_ctrl.desired import SwitchParameters
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


mfs.add_command(agent)
mfs.add_command(live)
topology_commands.register(mfs)


mfs.add_command(tofino)


def foreseen() -> tuple[type[Exception], ...]:
    """The errors whose message is all that a user needs, of the packages that are installed."""
    from evaluation.errors import EvaluationError
    from host_agent.client import AgentError
    from host_agent.ebpf.errors import HostError
    from mfs_ctrl.errors import ControlError
    from p4src.artifact import ArtifactError
    from soft_switch.errors import SwitchError
    from topologies.errors import TopologyError

    return EvaluationError, AgentError, HostError, ControlError, ArtifactError, SwitchError, TopologyError


def reporting_errors(command: click.Command) -> None:
    """Run ``command`` on the process's arguments; a foreseen error is one line on stderr and exit status 1."""
    # gRPC would print an account of its own beside ours.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        command()
    except ModuleNotFoundError as error:
        extra = next((EXTRAS[word] for word in sys.argv[1:] if word in EXTRAS), "eval")
        click.echo(f"error: {error}; install it with: pip install 'mfs-switch[{extra}]'", err=True)
        sys.exit(1)
    except foreseen() as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)


def main() -> None:
    """The entry point of ``mfs``."""
    reporting_errors(mfs)
