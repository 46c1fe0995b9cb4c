"""A software switch for compiled P4 programs (v1model), with queues and links that keep time.

:class:`Testbench` is the place to start: a program between ports, on a virtual clock. :class:`Pipeline` is a program
alone, :class:`Switch` a program with ports, to be moved by your own driver. A P4Runtime server for either is
:class:`soft_switch.p4runtime.server.P4RuntimeServer`, which needs gRPC; nothing here does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from soft_switch.backend import Backend
    from soft_switch.errors import (
        ArtifactError,
        InvalidEntryError,
        SwitchError,
        TableError,
        UnsupportedConstructError,
    )
    from soft_switch.model.externs import MeterConfig
    from soft_switch.pipeline import Pipeline
    from soft_switch.queues.queue_trace import QueueEvent
    from soft_switch.queues.traffic_manager import PortConfigError, QueueConfig
    from soft_switch.sim.events import ClockError, VirtualClock
    from soft_switch.sim.network import Link, VirtualNetwork
    from soft_switch.switch import PortError, Switch
    from soft_switch.tables.matches import ActionCall, Exact, Group, Lpm, Member, Range, Ternary
    from soft_switch.tables.named_table import NamedTable
    from soft_switch.testbench import Frame, Testbench

_HOMES = {
    "ActionCall": "tables.matches",
    "ArtifactError": "errors",
    "Backend": "backend",
    "ClockError": "sim.events",
    "Exact": "tables.matches",
    "Frame": "testbench",
    "Group": "tables.matches",
    "InvalidEntryError": "errors",
    "Link": "sim.network",
    "Lpm": "tables.matches",
    "Member": "tables.matches",
    "MeterConfig": "model.externs",
    "NamedTable": "tables.named_table",
    "Pipeline": "pipeline",
    "PortConfigError": "queues.traffic_manager",
    "PortError": "switch",
    "QueueConfig": "queues.traffic_manager",
    "QueueEvent": "queues.queue_trace",
    "Range": "tables.matches",
    "Switch": "switch",
    "SwitchError": "errors",
    "TableError": "errors",
    "Ternary": "tables.matches",
    "Testbench": "testbench",
    "UnsupportedConstructError": "errors",
    "VirtualClock": "sim.events",
    "VirtualNetwork": "sim.network",
}

__all__ = [
    "ActionCall",
    "ArtifactError",
    "Backend",
    "ClockError",
    "Exact",
    "Frame",
    "Group",
    "InvalidEntryError",
    "Link",
    "Lpm",
    "Member",
    "MeterConfig",
    "NamedTable",
    "Pipeline",
    "PortConfigError",
    "PortError",
    "QueueConfig",
    "QueueEvent",
    "Range",
    "Switch",
    "SwitchError",
    "TableError",
    "Ternary",
    "Testbench",
    "UnsupportedConstructError",
    "VirtualClock",
    "VirtualNetwork",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
