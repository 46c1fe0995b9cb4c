"""Chooses whether a pipeline runs as machine code or as Python."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from soft_switch.backend import Backend
from soft_switch.ir.program import Generated
from soft_switch.model.replication import Replication
from soft_switch.native.engine import MachineCode, with_field
from soft_switch.native.errors import NativeError

_LOG = logging.getLogger("soft_switch.native")


def machine_code(
    backend: Backend, generated: Generated, externs: Mapping[str, Any], replication: Replication
) -> tuple[MachineCode | None, str]:
    """Return the machine code of a program and "", or None and the reason; ``replication`` then works on its states.

    Raises:
        NativeError: ``backend`` is ``c``, and machine code is not possible.
    """
    if backend == "python":
        return None, "Python was requested"
    try:
        made = MachineCode(generated, externs)
    except NativeError as error:
        if backend == "c":
            raise
        _LOG.info("the pipeline runs as Python: %s", error)
        return None, str(error)
    replication.rid_at, replication.priority_at, replication.with_field = made.rid_at, made.priority_at, with_field
    return made, ""
