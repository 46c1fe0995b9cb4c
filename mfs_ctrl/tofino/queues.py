"""Queue settings of a Tofino switch for MFS, computed from the same parameters as its entries.

A setting is a row of a table of the traffic manager in BF Runtime. These tables identify a queue by the group of its
port and a number in that group (:class:`Placement`), which the switch reports. Rates are in kbit/s, bursts in bytes,
buffer in cells.

Strict priority is ``max_priority``, the order in which queues get the remaining rate of the port. The guaranteed share
is ``min_rate``, which is served first if ``min_rate_enable`` is set, in the order of ``min_priority``. There are no
thresholds for explicit congestion notification (ECN): the program marks by queueing time (table ``ecn``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from host_agent.protocol.stamp import LEVELS
from mfs_ctrl.desired import FULL_FRAME_WIRE_BYTES, SwitchParameters
from mfs_ctrl.errors import TofinoError

Value = int | bool | str

SHARED_POOL = "EG_APP_POOL_0"
"""The buffer pool that all queues share; the other three pools are for lossless traffic."""
OWN_FRAMES = 2
"""Full frames of buffer that are reserved for each queue, so that no queue is starved of buffer."""
GUARANTEED_BURST_BYTES = 16_384
"""Burst at the guaranteed rate: about ten full frames, the chip's default."""
PORT_BURST_BYTES = 9_216
"""Burst of a shaped port: one jumbo frame, the chip's default."""
PORTS_PER_PIPE = 128
ROUNDING = 0.01
"""Bound of what the chip changes of a rate or a burst."""
_PRIORITIES = {"LOW": "0", "HIGH": str(LEVELS - 1)}
"""Other names that the switch has for priorities."""
KBPS_MAX = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Chip:
    """A generation of the chip: the prefix of its table names and the bytes of a buffer cell."""

    name: str
    prefix: str
    cell_bytes: int

    def table(self, name: str) -> str:
        """Return the full name of the traffic manager's table ``name``."""
        return f"{self.prefix}.tm.{name}"


CHIPS = {chip.name: chip for chip in (Chip("tofino", "tf1", 80), Chip("tofino2", "tf2", 176))}


@dataclass(frozen=True, slots=True)
class Placement:
    """The group of a port, and the numbers of its queues in that group, by queue id from 0."""

    pg_id: int
    pg_queues: tuple[int, ...]

    def queue(self, dev_port: int, level: int) -> int:
        """Return the number in the group of the queue of ``level``; the queue id equals the level.

        Raises:
            TofinoError: the port has fewer queues than there are levels.
        """
        if len(self.pg_queues) < LEVELS or len(set(self.pg_queues[:LEVELS])) < LEVELS:
            raise TofinoError(
                f"port {dev_port} needs {LEVELS} different queues for queue ids 0..{LEVELS - 1} but has "
                f"{list(self.pg_queues)}; assign {LEVELS} with tm.port.group, or use fewer ports of its group"
            )
        return self.pg_queues[level]


@dataclass(frozen=True, slots=True)
class Setting:
    """A row to change: its ``data``, with ``action`` if the table has actions; ``level`` is None for a port's row."""

    table: str
    dev_port: int
    level: int | None
    data: Mapping[str, Value]
    action: str = ""

    @property
    def pipe(self) -> int:
        """The pipe of the port; the traffic manager has its tables once per pipe."""
        return self.dev_port // PORTS_PER_PIPE

    def key(self, placement: Placement) -> dict[str, int]:
        """Return the row's key.

        Raises:
            TofinoError: the port has too few queues.
        """
        if self.level is None:
            return {"dev_port": self.dev_port}
        return {"pg_id": placement.pg_id, "pg_queue": placement.queue(self.dev_port, self.level)}

    def describe(self, placement: Placement | None = None) -> str:
        """Describe the row in one line, with its key if ``placement`` is given."""
        where = f"port {self.dev_port}" + ("" if self.level is None else f" level {self.level}")
        key = "" if placement is None else "".join(f" {name}={number}" for name, number in self.key(placement).items())
        action = f" {self.action}" if self.action else ""
        return f"{where}: {self.table} pipe={self.pipe}{key}{action}: {text(self.data)}"


def holds(held: Mapping[str, Value], setting: Setting) -> bool:
    """Return whether ``held``, the row as read, is what the chip makes of ``setting``."""
    return all(name in held and _same(held[name], value) for name, value in setting.data.items())


def settings(
    rates_bps: Mapping[int, int], parameters: SwitchParameters, chip: Chip, shape: bool = False
) -> tuple[Setting, ...]:
    """Return all rows for the ports ``rates_bps`` (bits per second by port), in the order of writing.

    ``shape`` limits each port to its rate, for links that are faster than the network behind them.

    Raises:
        TofinoError: there is no port, a queue limit is below the reserved buffer, or a rate or share is too high.
    """
    if not rates_bps:
        raise TofinoError("no port to set up; name them with --dev-port")
    if LEVELS * parameters.guaranteed_share > 1:
        raise TofinoError(
            f"{LEVELS} levels cannot each have a guaranteed share of {parameters.guaranteed_share:g} of a port's rate; "
            f"the most is {1 / LEVELS:g}"
        )
    return tuple(
        setting
        for dev_port, rate_bps in sorted(rates_bps.items())
        for setting in _port_settings(dev_port, rate_bps, parameters, chip, shape)
    )


def buffer_cells(rates_bps: Iterable[int], parameters: SwitchParameters, chip: Chip) -> tuple[int, int]:
    """Return the cells reserved for the queues of all ports, and the sum of the queues' limits."""
    queues = LEVELS * len(list(rates_bps))
    return queues * _own_cells(chip), queues * _limit_cells(parameters, chip)


def _port_settings(
    dev_port: int, rate_bps: int, parameters: SwitchParameters, chip: Chip, shape: bool
) -> Iterator[Setting]:
    for level in range(LEVELS):
        yield from _queue_settings(dev_port, level, rate_bps, parameters, chip)
    if shape:
        rate: dict[str, Value] = {
            "unit": "BPS",
            "provisioning": "LOWER",
            "max_rate": _kbps(rate_bps, dev_port),
            "max_burst_size": PORT_BURST_BYTES,
        }
        yield Setting(chip.table("port.sched_shaping"), dev_port, None, rate)
        yield Setting(chip.table("port.sched_cfg"), dev_port, None, {"max_rate_enable": True})


def _queue_settings(
    dev_port: int, level: int, rate_bps: int, parameters: SwitchParameters, chip: Chip
) -> Iterator[Setting]:
    own, limit = _own_cells(chip), _limit_cells(parameters, chip)
    if limit <= own:
        raise TofinoError(
            f"a queue limit of {parameters.queue_bytes} bytes is {limit} cells of {chip.cell_bytes} bytes; it must be "
            f"more than the {own} cells that are reserved for {OWN_FRAMES} full frames"
        )
    buffer: dict[str, Value] = {
        "guaranteed_cells": own,
        "pool_id": SHARED_POOL,
        "pool_max_cells": limit - own,
        "dynamic_baf": "DISABLE",
        "tail_drop_enable": True,
    }
    yield Setting(chip.table("queue.buffer"), dev_port, level, buffer, "shared_pool")
    guaranteed = _kbps(rate_bps * parameters.guaranteed_share, dev_port)
    if guaranteed:
        # Rounded up: never less than the guaranteed rate.
        share: dict[str, Value] = {
            "unit": "BPS",
            "provisioning": "UPPER",
            "min_rate": guaranteed,
            "min_burst_size": GUARANTEED_BURST_BYTES,
        }
        yield Setting(chip.table("queue.sched_shaping"), dev_port, level, share)
    order: dict[str, Value] = {
        "max_priority": str(level),
        "min_priority": str(level),
        "min_rate_enable": guaranteed > 0,
        "max_rate_enable": False,
        "scheduling_enable": True,
    }
    yield Setting(chip.table("queue.sched_cfg"), dev_port, level, order)


def _same(held: Value, wanted: Value) -> bool:
    if isinstance(held, str):
        return _PRIORITIES.get(held, held) == wanted
    if isinstance(held, bool) or isinstance(wanted, str):
        return held == wanted
    return abs(held - wanted) <= wanted * ROUNDING


def _own_cells(chip: Chip) -> int:
    return math.ceil(OWN_FRAMES * FULL_FRAME_WIRE_BYTES / chip.cell_bytes)


def _limit_cells(parameters: SwitchParameters, chip: Chip) -> int:
    return parameters.queue_bytes // chip.cell_bytes


def _kbps(rate_bps: float, dev_port: int) -> int:
    kbps = math.ceil(rate_bps / 1000)
    if kbps > KBPS_MAX:
        raise TofinoError(f"port {dev_port}: a rate of {kbps} kbit/s does not fit in the chip's 32 bits")
    return kbps


def text(row: Mapping[str, Value]) -> str:
    """Return the fields of a row as ``name=value``."""
    return ", ".join(
        f"{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in row.items()
    )
