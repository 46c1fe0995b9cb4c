"""Whether a pipeline runs as machine code or as Python."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, get_args

from soft_switch.codegen.functions import Generated
from soft_switch.model.replication import Replication
from soft_switch.native.engine import MachineCode
from soft_switch.native.errors import NativeError

Wish: TypeAlias = Literal["auto", "python", "c"]
WISHES: tuple[Wish, ...] = get_args(Wish)
VARIABLE = "MFS_PIPELINE"
"""The environment variable that says how pipelines run for which nobody else does: one of :data:`WISHES`."""
_LOG = logging.getLogger("soft_switch.native")


def wish_of_environment() -> Wish:
    """What :data:`VARIABLE` says, ``auto`` if it says nothing.

    Raises:
        NativeError: it says something else.
    """
    word = os.environ.get(VARIABLE, "").strip().lower() or "auto"
    if word not in WISHES:
        raise NativeError(f"{VARIABLE} is {word!r}; it must be one of {', '.join(WISHES)}")
    return word


def machine_code(
    wish: Wish | None, generated: Generated, externs: Mapping[str, Any], replication: Replication
) -> tuple[MachineCode | None, str]:
    """The machine code of a program if it is wished for and can be had, and why it is not otherwise.

    Raises:
        NativeError: ``wish`` is ``c`` and it cannot be had, or the environment's wish is not known.
    """
    wish = wish or wish_of_environment()
    if wish == "python":
        return None, "Python was asked for"
    try:
        return MachineCode(generated, externs, replication), ""
    except NativeError as error:
        if wish == "c":
            raise
        _LOG.info("the pipeline runs as Python: %s", error)
        return None, str(error)
