"""Log output of long-running commands: time, level, logger and message on stderr, as text or as JSON lines."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

FORMATS = ("text", "json")
_LEVELS = {-1: logging.WARNING, 0: logging.INFO}
_PACKAGES = ("host_agent", "soft_switch", "mfs_ctrl", "topologies", "mfs_eval", "p4src")


def configure(verbose: int = 0, log_format: str = "text") -> None:
    """Send the log of this project's packages to stderr.

    Args:
        verbose: -1 logs at WARNING, 0 at INFO, 1 at DEBUG, 2 includes DEBUG messages of libraries.
        log_format: one of :data:`FORMATS`.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if verbose > 1 else logging.WARNING)
    for package in _PACKAGES:
        logging.getLogger(package).setLevel(_LEVELS.get(verbose, logging.DEBUG))


class TextFormatter(logging.Formatter):
    """``2026-11-30T08:00:00.123Z INFO mfs_ctrl.service: message``, then the traceback if there is one."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002
        """Return the time in UTC, ISO 8601, with milliseconds."""
        return _timestamp(record)


class JsonFormatter(logging.Formatter):
    """One JSON object per line: ``time``, ``level``, ``logger``, ``message``, and ``exception`` if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """See :meth:`logging.Formatter.format`."""
        fields = {
            "time": _timestamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)


def _timestamp(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
