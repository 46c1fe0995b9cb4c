"""State of counters, meters and registers, shared by the generated code and the control plane.

The generated code holds references to the cells: set values by writing into them; never replace them.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from soft_switch.model.cells import Cells, cells

GREEN: Final = 0
YELLOW: Final = 1
RED: Final = 2
_NANO: Final = 1_000_000_000


@dataclass(slots=True)
class CounterArray:
    """Indirect counters. As in bmv2, packets and bytes are always counted; ``unit`` is what the program asks for."""

    name: str
    size: int
    unit: str = "both"
    packets: Cells = field(init=False)
    bytes: Cells = field(init=False)

    def __post_init__(self) -> None:
        self.packets, self.bytes = cells(self.size), cells(self.size)


@dataclass(slots=True)
class RegisterArray:
    """Registers of ``width`` bits each, unsigned."""

    name: str
    size: int
    width: int
    values: Cells = field(init=False)

    def __post_init__(self) -> None:
        self.values = cells(self.size, self.width)

    def set_all(self, values: Iterable[int]) -> None:
        """Set all registers, in order."""
        for index, value in enumerate(values):
            self.values[index] = value


@dataclass(frozen=True, slots=True)
class MeterConfig:
    """Rates of a meter in units (packets or bytes) per second, and burst sizes in units."""

    cir: int
    cburst: int
    pir: int
    pburst: int


METER_WORDS: Final = 10
"""Words of a meter in memory: its state, the four numbers of its configuration, and machine code's own data."""
METER_OFF: Final = 0
METER_FRESH: Final = 2
"""Configured; the buckets are filled when the next packet arrives."""


def describe_meter(words: array[int], at: int, config: MeterConfig | None) -> None:
    """Write a meter's configuration into memory from word ``at`` on."""
    if config is None:
        words[at] = METER_OFF
    else:
        words[at + 1 : at + 5] = array("Q", (config.cir, config.cburst, config.pir, config.pburst))
        words[at] = METER_FRESH


class MeterBuckets:
    """The two token buckets of a meter: RFC 2698, colour-blind. Tokens are counted in billionths of a unit."""

    __slots__ = ("_committed", "_last_ns", "_peak", "config")

    def __init__(self, config: MeterConfig, now_ns: int) -> None:
        self.config = config
        self._committed = config.cburst * _NANO
        self._peak = config.pburst * _NANO
        self._last_ns = now_ns

    def execute(self, units: int, now_ns: int) -> int:
        """Return the colour of a packet of ``units`` at ``now_ns`` and take its tokens. Time must not go backwards."""
        config = self.config
        elapsed = now_ns - self._last_ns
        if elapsed > 0:
            self._last_ns = now_ns
            self._peak = min(self._peak + elapsed * config.pir, config.pburst * _NANO)
            self._committed = min(self._committed + elapsed * config.cir, config.cburst * _NANO)
        need = units * _NANO
        if self._peak < need:
            return RED
        self._peak -= need
        if self._committed < need:
            return YELLOW
        self._committed -= need
        return GREEN


class MeterConfigs(list[MeterConfig | None]):
    """The configurations of an array of meters; each change is also written into the memory of the meters."""

    def __init__(self, size: int) -> None:
        super().__init__([None] * size)
        self.words: array[int] = array("Q", bytes(8 * METER_WORDS * size))

    def __setitem__(self, index: Any, value: Any) -> None:
        places = range(len(self))[index]
        before = {place: self[place] for place in (places if isinstance(places, range) else (places,))}
        super().__setitem__(index, value)
        for place, config in before.items():
            if self[place] is not config:
                describe_meter(self.words, place * METER_WORDS, self[place])


class MeterArray:
    """Indirect meters. Setting ``configs[i]``, even to an equal object, starts that meter with full buckets.

    ``words`` is their memory, for machine code.
    """

    def __init__(self, name: str, size: int, unit: str) -> None:
        self.name = name
        self.size = size
        self.unit = unit
        self.configs = MeterConfigs(size)
        self.words = self.configs.words
        self._buckets: dict[int, MeterBuckets] = {}

    def execute(self, index: int, length: int, now_ns: int) -> int:
        """Return 0 (green), 1 (yellow) or 2 (red) for a packet of ``length`` bytes; green without a configuration."""
        config = self.configs[index]
        if config is None:
            return GREEN
        buckets = self._buckets.get(index)
        if buckets is None or buckets.config is not config:
            buckets = self._buckets[index] = MeterBuckets(config, now_ns)
        return buckets.execute(1 if self.unit == "packets" else length, now_ns)


class DirectMeter:
    """The meter of every entry of a table; configuration and buckets are in the entry."""

    def __init__(self, name: str, unit: str) -> None:
        self.name = name
        self.unit = unit

    def execute(self, entry: Any, length: int, now_ns: int) -> int:
        """Return the colour of a packet that hit ``entry`` (a :class:`~soft_switch.tables.entry.Entry`)."""
        config = entry.meter
        if config is None:
            return GREEN
        buckets = entry.buckets
        if buckets is None or buckets.config is not config:
            buckets = entry.buckets = MeterBuckets(config, now_ns)
        color: int = buckets.execute(1 if self.unit == "packets" else length, now_ns)
        return color
