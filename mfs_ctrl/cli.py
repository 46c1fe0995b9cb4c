"""The command ``mfs``. Each subcommand imports what it needs when it runs: the base install has no gRPC."""

from __future__ import annotations

import math
import os
import signal
import sys
from pathlib import Path
from typing import Any

import click

from mfs_ctrl.tofino.command import tofino

EXTRAS = {"demo": "eval", "ablate": "eval", "switch": "ctrl", "ctrl": "ctrl", "tofino": "ctrl"}
"""Which extra of the distribution each subcommand needs."""

DEFAULT_ADDRESS = "127.0.0.1:9559"
"""The port that IANA assigned to P4Runtime."""


class Positive(click.FloatRange):
    """A number from ``least`` up to ``most``; unlike click's own range it refuses what is not a number."""

    def __init__(self, least: float, most: float) -> None:
        super().__init__(min=least, max=most)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """See :meth:`click.ParamType.convert`."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value} is not a number.", param, ctx)
        return number


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


@mfs.command()
@click.option("--address", default=DEFAULT_ADDRESS, show_default=True, help="Where to serve P4Runtime.")
@click.option("--device-id", type=click.IntRange(1, 2**64 - 1), default=1, show_default=True)
@click.option("--empty", is_flag=True, help="Start without a program; a controller pushes one.")
def switch(address: str, device_id: int, empty: bool) -> None:
    """Run the embedded switch and serve it over P4Runtime.

    It holds the MFS program unless --empty is given. Its ports carry no traffic yet: it is for controllers and shells.
    Ctrl-C or SIGTERM ends it.
    """
    # Blocked before the server's threads are made, which inherit it, so that the signals wait for sigwait below.
    ending = {signal.SIGINT, signal.SIGTERM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ending)
    try:
        _serve_until(ending, address, device_id, empty)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve_until(ending: set[signal.Signals], address: str, device_id: int, empty: bool) -> None:
    from p4src import artifact
    from soft_switch.p4runtime.server import serve
    from soft_switch.switch import Switch

    if not empty:
        artifact.load()
    name = artifact.BUILD / "mfs_v1model"
    config, p4info = (None, None) if empty else (name.with_suffix(".json"), name.with_suffix(".p4info.txtpb"))
    server = serve(
        Switch(), device_config=config, p4info=p4info, device_id=device_id, address=address, announce=click.echo
    )
    signal.sigwait(ending)
    server.stop(0)
    click.echo("stopped")


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
@click.option("--servers", type=click.IntRange(1, 200), default=8, show_default=True, help="Servers behind the ToR.")
@click.option("--nics", type=click.IntRange(1, 8), default=2, show_default=True, help="Interfaces of each server.")
@click.option("--rate", type=Positive(0.001, 10_000), default=100.0, show_default=True, help="Gb/s of a port.")
@click.option("--interval", type=Positive(0.001, 86_400), default=1.0, show_default=True, help="Seconds between steps.")
@click.option(
    "--device-config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Give the switch this program, with --p4info; by default the one for v1model that comes along.",
)
@click.option("--p4info", type=click.Path(path_type=Path, dir_okay=False), help="P4Info (text) of --device-config.")
@click.option(
    "--port",
    "ports",
    type=click.IntRange(0, 511),
    multiple=True,
    help="Switch port of an interface, one for each in order; by default from 1 on.",
)
def ctrl(
    address: str,
    device_id: int,
    election_id: int,
    policy_name: str,
    servers: int,
    nics: int,
    rate: float,
    interval: float,
    device_config: Path | None,
    p4info: Path | None,
    ports: tuple[int, ...],
) -> None:
    """Run the controller of one switch: write its entries, then tune them."""
    if (device_config is None) != (p4info is None):
        raise click.UsageError("--device-config and --p4info go together.")
    if ports and len(set(ports)) != servers * nics:
        raise click.UsageError(f"--port must name {servers * nics} different ports, one for each interface.")
    from mfs_ctrl import policy
    from mfs_ctrl.service import run_controller
    from p4src.artifact import from_files
    from topologies.topology import tor

    policies = {"mfs": policy.mfs, "static": policy.static, "fifo": policy.fifo}
    run_controller(
        address,
        device_id,
        topology=tor(servers, nics, round(rate * 1e9), ports=ports),
        policy=policies[policy_name](),
        election_id=election_id,
        interval_s=interval,
        say=click.echo,
        artifact=from_files(device_config, p4info) if device_config and p4info else None,
    )


mfs.add_command(tofino)


def foreseen() -> tuple[type[Exception], ...]:
    """The errors whose message is all that a user needs, of the packages that are installed."""
    from evaluation.errors import EvaluationError
    from mfs_ctrl.errors import ControlError
    from p4src.artifact import ArtifactError
    from soft_switch.errors import SwitchError

    return EvaluationError, ControlError, ArtifactError, SwitchError


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
