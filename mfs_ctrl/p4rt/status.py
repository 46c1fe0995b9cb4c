"""The per-update errors that P4Runtime and BF Runtime put into the details of a gRPC status."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from google.rpc import code_pb2, status_pb2

_DETAILS_KEY = "grpc-status-details-bin"


def update_errors(error: Any, message_class: Callable[[], Any]) -> Iterator[Any]:
    """Yield the errors of a failed batch as ``message_class``: one per update in order; None where the type differs."""
    status = status_pb2.Status()
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY:
            status.ParseFromString(value)
    for detail in status.details:
        message = message_class()
        yield message if detail.Unpack(message) else None


def is_ok(code: int) -> bool:
    """Return whether a canonical code says that an update was applied."""
    return bool(code == code_pb2.OK)


def code_name(code: int) -> str:
    """Return the name of a canonical code, such as ``NOT_FOUND``; a number without a name stays a number."""
    try:
        return str(code_pb2.Code.Name(code))
    except ValueError:
        return str(code)
