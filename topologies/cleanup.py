"""What a crash left in the kernel, removed: each part of the project that leaves something has a cleaner here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module

CLEANERS: tuple[str, ...] = (
    "topologies.namespaces:clean_all",
    "topologies.namespaces:clean_mininet",
    "host_agent.daemon.hooks:clean",
)
"""``module:function`` of each, in the order in which they are called. A function takes nothing, removes what its part
has left, and returns the names of what was there. One whose module is not installed has left nothing."""


def clean(cleaners: Iterable[str] = CLEANERS) -> list[str]:
    """Call the cleaners; the names of all that was removed.

    Raises:
        TopologyError: no root; or whatever a cleaner raises.
    """
    removed: list[str] = []
    for cleaner in cleaners:
        module, _, function = cleaner.partition(":")
        try:
            call: Callable[[], list[str]] = getattr(import_module(module), function)
        except ModuleNotFoundError:
            continue
        removed += call()
    return removed
