"""What a switch turned off, kept in a file: the next switch, or ``mfs clean``, restores what a killed one left."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from pathlib import Path

from soft_switch.realtime import offloads
from soft_switch.realtime.claims import claim

DIRECTORY = Path("/run/soft_switch/offloads")


def turn_off(interface: str) -> dict[str, int]:
    """Do as :func:`offloads.turn_off`; what a killed switch had found on counts as on.

    Where no file can be written, nothing is kept.

    Raises:
        InterfaceError: as for :func:`offloads.turn_off`.
    """
    before = _saved(interface) | offloads.turn_off(interface)
    if before:
        path = _path(interface)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            part.write_text(json.dumps(before), "ascii")
            part.replace(path)
    return before


def restore(interface: str, before: dict[str, int]) -> None:
    """Do as :func:`offloads.restore`, and forget the file."""
    offloads.restore(interface, before)
    with contextlib.suppress(OSError):
        _path(interface).unlink()


def forget(interface: str, index: int) -> None:
    """Forget an interface that is gone: nothing of it can be restored, and another may get its index."""
    with contextlib.suppress(OSError):
        _file(interface, index).unlink()


def clean() -> list[str]:
    """Restore the interfaces of this network namespace that a killed switch left; return what was restored."""
    restored = []
    for _, interface in socket.if_nameindex():
        before = _saved(interface)
        if before and not _in_use(interface):
            restore(interface, before)
            restored.append(f"{interface} (offloads)")
    return restored


def _in_use(interface: str) -> bool:
    claimed = claim(interface)
    if claimed is not None:
        claimed.close()
    return claimed is None


def _saved(interface: str) -> dict[str, int]:
    try:
        found = json.loads(_path(interface).read_text("ascii"))
    except (OSError, ValueError):
        return {}
    return {str(name): 1 for name in found} if isinstance(found, dict) else {}


def _path(interface: str) -> Path:
    return _file(interface, socket.if_nametoindex(interface))


def _file(interface: str, index: int) -> Path:
    # Interfaces with one index and name exist in many network namespaces.
    namespace = os.stat("/proc/thread-self/ns/net").st_ino
    return DIRECTORY / f"{namespace}-{index}-{interface}.json"
