"""Removal of what a crash left in the kernel, by the cleaners of all parts of the project that may leave something."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module

CLEANERS: tuple[str, ...] = (
    "topologies.namespaces:clean_all",
    "topologies.namespaces:clean_mininet",
    "soft_switch.realtime.saved_offloads:clean",
    "host_agent.daemon.hooks:clean",
    "host_agent.daemon.sockets:clean",
)
"""Cleaners as ``module:function``, in calling order. A function takes no arguments, removes what its part has left, and
returns the names of what it removed. A module that is not installed has left nothing."""


def clean(cleaners: Iterable[str] = CLEANERS) -> list[str]:
    """Call the cleaners and return the names of everything removed.

    Raises:
        TopologyError: not root. Other errors of cleaners pass through.
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
