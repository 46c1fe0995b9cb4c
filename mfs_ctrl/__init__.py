"""The switch's controller: policies as data, what the switch should hold, and the P4Runtime client that writes it.

The public face, imported on first use, so that the base install needs neither gRPC nor pydantic:

- :class:`Controller` of one switch;
- :class:`Policy` and its :class:`Thresholds`;
- :mod:`policies <mfs_ctrl.policies>`: the built-in policies, and policies from files.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mfs_ctrl import policies
    from mfs_ctrl.controller import Controller
    from mfs_ctrl.policy.policy import Policy, Thresholds

__all__ = ["Controller", "Policy", "Thresholds", "policies"]

_HOMES = {
    "Controller": "mfs_ctrl.controller",
    "Policy": "mfs_ctrl.policy.policy",
    "Thresholds": "mfs_ctrl.policy.policy",
}


def __getattr__(name: str) -> Any:
    if name == "policies":
        return importlib.import_module("mfs_ctrl.policies")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
