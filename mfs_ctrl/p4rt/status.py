"""What a failed call says, alike in P4Runtime and BF Runtime: a switch is lost, or an error for each update."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc
from google.rpc import code_pb2, status_pb2

from mfs_ctrl.errors import Refusal, SwitchUnreachableError
from mfs_ctrl.p4rt.updates import Update

UPDATES_PER_WRITE = 100
"""The refusals of a batch travel in gRPC metadata, of which a client accepts 8 KiB."""
_DETAILS_KEY = "grpc-status-details-bin"


def lost(error: Any, address: str, what: str, timeout_s: float) -> SwitchUnreachableError | None:
    """Return the error of a switch that is gone or did not answer ``what`` in time; None if it did answer."""
    if error.code() == grpc.StatusCode.UNAVAILABLE:
        return SwitchUnreachableError(f"the connection to the switch at {address} was lost: {error.details()}")
    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
        return SwitchUnreachableError(f"the switch at {address} did not answer {what} within {timeout_s:g} s")
    return None


def refusals(error: Any, batch: Sequence[Update], message_class: Callable[[], Any]) -> list[Refusal]:
    """Return the refused updates of a failed batch."""
    return [
        Refusal(str(update), code_name(reason.canonical_code), reason.message)
        for update, reason in zip(batch, update_errors(error, message_class), strict=False)
        if reason is not None and not is_ok(reason.canonical_code)
    ]


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
