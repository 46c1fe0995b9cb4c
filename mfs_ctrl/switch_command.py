"""``mfs switch``: alone it runs the embedded switch; its commands look into any switch, by reading alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from host_agent.command_line import JSON, LazyGroup
from mfs_ctrl.reading import of_switch, reading
from soft_switch.cli import switch as run


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
@of_switch
@JSON
def entries(tables: tuple[str, ...], address: str, device_id: int, tls_ca: Path | None, as_json: bool) -> None:
    """Show what a running switch holds: entries, default actions, groups, meters; of TABLEs alone, if given.

    It only reads, and never takes the place of a controller. It works with the embedded switch, bmv2 and others that
    serve P4Runtime, and with any program.
    """
    from mfs_ctrl.p4rt.entries import DefaultAction, TableEntry

    with reading(address, device_id, tls_ca) as (reader, index):
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
@of_switch
@JSON
def counters(names: tuple[str, ...], address: str, device_id: int, tls_ca: Path | None, as_json: bool) -> None:
    """Show the counter cells of a running switch that are not zero; of COUNTERs alone, if given. It only reads."""
    from mfs_ctrl.counters import meaning

    with reading(address, device_id, tls_ca) as (reader, index):
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
