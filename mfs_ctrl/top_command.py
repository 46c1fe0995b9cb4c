"""``mfs top``: switch, controller and agents on one screen that follows them, by reading alone."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from host_agent.command_line import Positive
from mfs_ctrl.reading import of_system, reading
from mfs_ctrl.status_command import agents_in, ask, or_error, targets, titled

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mfs_ctrl.counters import Cells
    from mfs_ctrl.p4rt.p4info import P4InfoIndex
    from mfs_ctrl.p4rt.reader import Reader


@click.command(short_help="Follow switch, controller and agents on one screen.")
@of_system
@click.option(
    "--switch", "named", metavar="NAME", help="Of the controller's switches, the one to show.  [default: first]"
)
@click.option("--interval", type=Positive(0.1, 3600), default=1.0, show_default=True, help="Seconds between reads.")
@click.option("--once", is_flag=True, help="Print what one interval gives, and end.")
def top(
    address: str | None,
    device_id: int,
    controller: str,
    tls_ca: Path | None,
    run_dir: Path,
    named: str | None,
    interval: float,
    once: bool,
) -> None:
    """Follow what leaves a switch by port and level, how flows finish, thresholds, and agents. Ctrl-C ends it.

    It only reads, and takes nobody's place. Columns L7 to L0 are the levels' shares of a port's bytes. The slack that
    flows had left when they finished is to an octave.
    """
    from rich.console import Console
    from rich.live import Live

    if address is not None and named is not None:
        raise click.UsageError("--switch chooses among the controller's switches: leave out --address.")
    found = targets(or_error(lambda: ask(controller, tls_ca)[0]), address, device_id)
    shown = [target for target in found if named in (None, target[0])]
    if not shown:
        raise click.UsageError(f"no switch {named!r}; there are {', '.join(name for name, _, _ in found)}.")
    name, where, device = shown[0]
    console = Console()
    with reading(where, device, tls_ca) as (reader, index):
        follower = _Follower(reader, index, name)
        look = functools.partial(follower.look, controller, tls_ca, run_dir)
        time.sleep(interval)
        if once:
            console.print(look(console.height))
            return
        # Another screen only where there is one; in a pipe each view follows the one before.
        with Live(look(console.height), console=console, screen=console.is_terminal, auto_refresh=False) as live:
            while True:
                time.sleep(interval)
                live.update(look(console.height), refresh=True)


class _Follower:
    """Reads the counters of a switch again and again. The first read is at the beginning."""

    def __init__(self, reader: Reader, index: P4InfoIndex, name: str) -> None:
        from mfs_ctrl.counters import COMPLETION, DISCARDED, PORT_LEVEL, cells_of_ports

        self._reader = reader
        self._index = index
        self._name = name
        self._rates = reader.port_rates()
        of_ports = cells_of_ports(self._rates) if self._rates else None
        self._wanted = {PORT_LEVEL: of_ports, COMPLETION: None, DISCARDED: None}
        self._before: Cells = reader.read_counters(index, self._wanted)
        self._read_ns = time.monotonic_ns()

    def look(self, controller: str, tls_ca: Path | None, run_dir: Path, height: int) -> RenderableType:
        """Return the view of what was counted since the last read."""
        from mfs_ctrl.counters import observe
        from mfs_ctrl.top import screen

        after = self._reader.read_counters(self._index, self._wanted)
        now_ns = time.monotonic_ns()
        seen = observe(self._before, after, now_ns - self._read_ns)
        self._before, self._read_ns = after, now_ns
        told = or_error(lambda: ask(controller, tls_ca)[0])
        where = titled(self._name, self._reader.address)
        title = f"mfs top  {where}  {time.strftime('%H:%M:%S')}  over {seen.interval_ns / 1e9:.1f} s"
        return screen(title, seen, self._rates, told, self._name, agents_in(run_dir), height)
