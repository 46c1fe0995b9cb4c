"""The commands ``mfs tofino ...``."""

from __future__ import annotations

from pathlib import Path

import click

DEFAULT_BF_RUNTIME = "127.0.0.1:50052"
"""The port that BF Runtime's service has by default."""
BUFFER_BYTES_MAX = 64 << 20
"""No chip of the family has a larger buffer."""


@click.group()
def tofino() -> None:
    """Tofino switches: the program's device config, and the queues.

    Entries, counters and tuning need none of this: they go over P4Runtime, with `mfs ctrl`.
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
    """Make a P4Runtime device config of the compiler's output.

    CONF is the file NAME.conf in the compiler's output folder. Give the result to `mfs ctrl --device-config`.
    """
    from mfs_ctrl.tofino.device_config import read_conf, to_pi, to_stratum

    config = read_conf(conf)
    data = to_stratum(config) if kind == "stratum" else to_pi(config)
    _write(out, data)
    click.echo(f"{out}: {config.p4_name}, {len(config.profiles)} pipelines, {len(data):,} bytes")


@tofino.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="The folder for what is in it."
)
def unpack(file: Path, out: Path) -> None:
    """Write the files within Stratum's device config FILE to a folder."""
    from mfs_ctrl.errors import TofinoError
    from mfs_ctrl.tofino import device_config

    try:
        config = device_config.from_stratum(file.read_bytes())
        files = device_config.unpack(config, out)
    except OSError as error:
        raise TofinoError(f"{error.filename}: {error.strerror}") from None
    for path in files:
        click.echo(str(path))


@tofino.command()
@click.option("--dev-port", "dev_ports", type=click.IntRange(0, 511), multiple=True, help="A port; may be repeated.")
@click.option("--rate", type=click.FloatRange(0.001, 4000), default=100.0, show_default=True, help="Gb/s of a port.")
@click.option(
    "--chip",
    "chip_name",
    type=click.Choice(["tofino", "tofino2"]),
    default="tofino",
    show_default=True,
    help="Which chip, where no switch is asked.",
)
@click.option(
    "--queue-bytes",
    type=click.IntRange(1, BUFFER_BYTES_MAX),
    help="Byte limit of a queue; by default the controller's number.",
)
@click.option(
    "--guaranteed-share",
    type=click.FloatRange(0, 0.125),
    help="Share of the port's rate that each level always gets; by default the controller's number.",
)
@click.option("--shape", is_flag=True, help="Slow the ports down to their rate.")
@click.option("--stratum", is_flag=True, help="Show it as text for Stratum's chassis config, and do no more.")
@click.option("--address", help=f"BF Runtime service to ask where queues are, such as {DEFAULT_BF_RUNTIME}.")
@click.option("--device-id", type=click.IntRange(0, 255), default=0, show_default=True)
@click.option("--apply", is_flag=True, help="Write, after showing. Without it nothing is changed.")
def queues(
    dev_ports: tuple[int, ...],
    rate: float,
    chip_name: str,
    queue_bytes: int | None,
    guaranteed_share: float | None,
    shape: bool,
    stratum: bool,
    address: str | None,
    device_id: int,
    apply: bool,
) -> None:
    """Show, or write, what the queues of a Tofino switch must be set to.

    Eight queues a port: strict priority, a guaranteed share for each, a limit of the buffer for each. P4Runtime does
    not cover them, BF Runtime does, and so does Stratum's chassis config (--stratum). The numbers are those with which
    the controller reckons.
    """
    from mfs_ctrl.tofino.set_up import parameters_with, set_up_queues, show_for_stratum

    rates_bps = dict.fromkeys(dev_ports, round(rate * 1e9))
    parameters = parameters_with(queue_bytes, guaranteed_share)
    if stratum:
        if address or apply or shape:
            raise click.UsageError("--stratum goes with none of --address, --apply and --shape.")
        show_for_stratum(rates_bps, parameters, chip_name, click.echo)
    else:
        set_up_queues(rates_bps, parameters, chip_name, shape, address, device_id, apply, click.echo)


def _write(path: Path, data: bytes) -> None:
    from mfs_ctrl.errors import TofinoError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise TofinoError(f"{path}: {error.strerror}") from None
