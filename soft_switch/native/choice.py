"""Whether a pipeline runs as machine code or as Python."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from soft_switch.backend import Backend
from soft_switch.codegen.functions import Generated
from soft_switch.model.replication import Replication
from soft_switch.native.engine import MachineCode
from soft_switch.native.errors import NativeError

_LOG = logging.getLogger("soft_switch.native")


def machine_code(
    backend: Backend, generated: Generated, externs: Mapping[str, Any], replication: Replication
) -> tuple[MachineCode | None, str]:
    """Return the machine code of a program, and otherwise None and the reason.

    Raises:
        NativeError: ``backend`` is ``c``, and machine code is not possible.
    """
    if backend == "python":
        return None, "Python was asked for"
    try:
        return MachineCode(generated, externs, replication), ""
    except NativeError as error:
        if backend == "c":
            raise
        _LOG.info("the pipeline runs as Python: %s", error)
        return None, str(error)
