"""The commands ``mfs tofino ...``."""

from __future__ import annotations

from pathlib import Path

import click

from host_agent.command_line import BitRate

DEFAULT_BF_RUNTIME = "127.0.0.1:50052"
"""The default port of BF Runtime's service."""
BUFFER_BYTES_MAX = 64 << 20
"""Buffer of the largest chip of the family."""


@click.group(short_help="Device configs and queues of Tofino switches.")
def tofino() -> None:
    """Make device configs for Tofino switches, and set up their queues.

    Entries, counters and tuning use P4Runtime on Tofino as well: see `mfs ctrl`.
    """


@tofino.command()
@click.argument("conf", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The file to write.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["stratum", "pi"]),
    default="stratum",
    show_default=True,
    help="Stratum's protobuf message, or the older format of the PI library.",
)
def pack(conf: Path, out: Path, kind: str) -> None:
    """Make a P4Runtime device config from the compiler's output.

    CONF is the file NAME.conf in the compiler's output folder. Pass the result to `mfs ctrl --device-config`.
    """
    from mfs_ctrl.tofino.device_config import read_conf, to_pi, to_stratum

    config = read_conf(conf)
    data = to_stratum(config) if kind == "stratum" else to_pi(config)
    _write(out, data)
    click.echo(f"{out}: {config.p4_name}, {len(config.profiles)} pipelines, {len(data):,} bytes")


@tofino.command(short_help="Extract the files in a device config.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="The folder to write to.")
def unpack(file: Path, out: Path) -> None:
    """Extract the files in FILE, a device config for Stratum, to a folder."""
    from mfs_ctrl.errors import TofinoError
    from mfs_ctrl.tofino import device_config

    try:
        config = device_config.from_stratum(file.read_bytes())
        files = device_config.unpack(config, out)
    except OSError as error:
        raise TofinoError(f"{error.filename}: {error.strerror}") from None
    for path in files:
        click.echo(str(path))


@tofino.command(short_help="Show or write the queue settings of a switch.")
@click.option(
    "--dev-port",
    "dev_ports",
    type=click.IntRange(0, 511),
    multiple=True,
    help="Number of a port on the chip; may be repeated.",
)
@click.option("--rate", type=BitRate(), default="100G", show_default=True, help="Rate of each port.")
@click.option(
    "--chip",
    "chip_name",
    type=click.Choice(["tofino", "tofino2"]),
    default="tofino",
    show_default=True,
    help="The chip, if --address is not given.",
)
@click.option(
    "--queue-bytes",
    type=click.IntRange(1, BUFFER_BYTES_MAX),
    help="Limit of a queue in bytes; by default the controller's.",
)
@click.option(
    "--guaranteed-share",
    type=click.FloatRange(0, 0.125),
    help="Share of the port's rate that is guaranteed to each level; by default the controller's.",
)
@click.option("--shape", is_flag=True, help="Limit the ports to their rate.")
@click.option("--stratum", is_flag=True, help="Print text for Stratum's chassis config instead.")
@click.option(
    "--address", help=f"The switch's BF Runtime service, such as {DEFAULT_BF_RUNTIME}: look up the queues there."
)
@click.option(
    "--device-id",
    type=click.IntRange(0, 255),
    default=0,
    show_default=True,
    help="BF Runtime device id of the chip.",
)
@click.option("--apply", is_flag=True, help="Write the settings to the switch. Without this option nothing is changed.")
def queues(
    dev_ports: tuple[int, ...],
    rate: int,
    chip_name: str,
    queue_bytes: int | None,
    guaranteed_share: float | None,
    shape: bool,
    stratum: bool,
    address: str | None,
    device_id: int,
    apply: bool,
) -> None:
    """Show the queue settings of a Tofino switch, and write them with --apply.

    Each port has eight queues in strict priority, each with a guaranteed share and a limit of the buffer. They are set
    up over BF Runtime, or by Stratum's chassis config (--stratum), because P4Runtime does not cover queues. The
    settings match the controller's defaults.
    """
    from mfs_ctrl.tofino.set_up import parameters_with, planned_rows, set_up_queues, stratum_text

    if stratum and (address or apply or shape):
        raise click.UsageError("--stratum excludes --address, --apply and --shape.")
    if apply and address is None:
        raise click.UsageError("--apply needs --address, the switch's BF Runtime service.")
    rates_bps = dict.fromkeys(dev_ports, rate)
    parameters = parameters_with(queue_bytes, guaranteed_share)
    if stratum:
        lines = stratum_text(rates_bps, parameters, chip_name)
    elif address is None:
        lines = planned_rows(rates_bps, parameters, chip_name, shape)
    else:
        lines = set_up_queues(rates_bps, parameters, shape, address, device_id, apply)
    for line in lines:
        click.echo(line)


def _write(path: Path, data: bytes) -> None:
    from mfs_ctrl.errors import TofinoError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise TofinoError(f"{path}: {error.strerror}") from None
