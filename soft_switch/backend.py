"""Backends: programs run as machine code, or as Python."""

from __future__ import annotations

import os
from typing import Literal, TypeAlias, get_args

from soft_switch.errors import SwitchError

Backend: TypeAlias = Literal["auto", "python", "c"]
"""``c`` is machine code, which takes a C compiler; ``auto`` is machine code where possible, otherwise Python."""
BACKENDS: tuple[Backend, ...] = get_args(Backend)
ENVIRONMENT_VARIABLE = "MFS_PIPELINE"
"""Read by command lines and tests. The library never reads it: there, the backend is a parameter."""


class BackendError(SwitchError):
    """The environment names a backend that does not exist."""


def backend_of_environment() -> Backend:
    """Return the backend that :data:`ENVIRONMENT_VARIABLE` names, ``auto`` where it is unset.

    Raises:
        BackendError: it names another.
    """
    word = os.environ.get(ENVIRONMENT_VARIABLE, "").strip().lower() or "auto"
    if word not in BACKENDS:
        raise BackendError(f"{ENVIRONMENT_VARIABLE} is {word!r}; it must be one of {', '.join(BACKENDS)}")
    return word
