"""``mfs switch``: alone it runs the embedded switch; its commands look into any switch, by reading alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from host_agent.command_line import LazyGroup
from host_agent.protocol.units import DEFAULT_P4RUNTIME_ADDRESS
from soft_switch.cli import switch as run

if TYPE_CHECKING:
    from mfs_ctrl.p4rt.p4info import P4InfoIndex
    from mfs_ctrl.p4rt.reader import Reader

_FILE = click.Path(path_type=Path, dir_okay=False)
_address = click.option(
    "--address", default=DEFAULT_P4RUNTIME_ADDRESS, show_default=True, help="Address of the switch's P4Runtime server."
)
_device_id = click.option("--device-id", type=click.IntRange(0, 2**64 - 1), default=1, show_default=True)
_tls_ca = click.option("--tls-ca", type=_FILE, help="Connect over TLS; authorities (PEM) of the switch's certificate.")
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.pass_context
def _run(ctx: click.Context, /, **options: Any) -> None:
    if ctx.invoked_subcommand is None:
        ctx.invoke(run, **options)


switch = LazyGroup(
    "switch",
    params=run.params,
    callback=_run,
    help=run.help,
    short_help=run.short_help,
    invoke_without_command=True,
    table={"entries": "mfs_ctrl.switch_command:entries", "counters": "mfs_ctrl.switch_command:counters"},
)


@click.command(short_help="Show the entries of a running switch.")
@click.argument("tables", nargs=-1, metavar="[TABLE]...")
@_address
@_device_id
@_tls_ca
@_json
def entries(tables: tuple[str, ...], address: str, device_id: int, tls_ca: Path | None, as_json: bool) -> None:
    """Show what a running switch holds: entries, default actions, groups, meters; of TABLEs alone, if given.

    It only reads, and never takes the place of a controller. It works with the embedded switch, bmv2 and others that
    serve P4Runtime, and with any program.
    """
    from mfs_ctrl.p4rt.entries import DefaultAction, TableEntry

    with _reading(address, device_id, tls_ca) as (reader, index):
        for name in tables:
            index.tables.named(name)
        held = [
            entity
            for entity in reader.read_state(index)
            if not tables or (isinstance(entity, TableEntry | DefaultAction) and entity.table in tables)
        ]
    lines = [str(entity) for entity in held]
    click.echo(json.dumps(lines) if as_json else "\n".join(lines) or "no entries")


@click.command(short_help="Show the counters of a running switch.")
@click.argument("names", nargs=-1, metavar="[COUNTER]...")
@_address
@_device_id
@_tls_ca
@_json
def counters(names: tuple[str, ...], address: str, device_id: int, tls_ca: Path | None, as_json: bool) -> None:
    """Show the counter cells of a running switch that are not zero; of COUNTERs alone, if given. It only reads."""
    from mfs_ctrl.counters import meaning

    with _reading(address, device_id, tls_ca) as (reader, index):
        wanted = {index.counters.named(name).name: None for name in names or index.counters.by_name}
        counts = reader.read_counters(index, wanted)
    rows = [
        {"counter": name, "index": cell, "meaning": meaning(name, cell), "packets": count.packets, "bytes": count.bytes}
        for name, cells in counts.items()
        for cell, count in sorted(cells.items())
        if count.packets or count.bytes
    ]
    if as_json:
        click.echo(json.dumps(rows))
    else:
        for row in rows:
            what = f" ({row['meaning']})" if row["meaning"] else ""
            click.echo(f"{row['packets']:>12} packets {row['bytes']:>15} bytes  {row['counter']}[{row['index']}]{what}")
        if not rows:
            click.echo("all counters are zero")


@contextmanager
def _reading(address: str, device_id: int, tls_ca: Path | None) -> Iterator[tuple[Reader, P4InfoIndex]]:
    from mfs_ctrl.errors import PipelineError
    from mfs_ctrl.p4rt.channel import TlsFiles
    from mfs_ctrl.p4rt.p4info import P4InfoIndex
    from mfs_ctrl.p4rt.reader import Reader

    with Reader(address, device_id, tls=TlsFiles(tls_ca) if tls_ca else None) as reader:
        held = reader.program()
        if held is None:
            raise PipelineError(f"the switch at {address} runs no program; start a controller: mfs ctrl")
        yield reader, P4InfoIndex(held.p4info)
