"""Refusals with a canonical code, and their form in a gRPC status (specification, "Error Reporting Messages")."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from google.rpc import code_pb2, status_pb2
from p4.v1 import p4runtime_pb2

from soft_switch import errors
from soft_switch.errors import SwitchError

_LOG = logging.getLogger(__name__)

OK: int = code_pb2.OK
UNKNOWN: int = code_pb2.UNKNOWN
INVALID_ARGUMENT: int = code_pb2.INVALID_ARGUMENT
NOT_FOUND: int = code_pb2.NOT_FOUND
ALREADY_EXISTS: int = code_pb2.ALREADY_EXISTS
PERMISSION_DENIED: int = code_pb2.PERMISSION_DENIED
RESOURCE_EXHAUSTED: int = code_pb2.RESOURCE_EXHAUSTED
FAILED_PRECONDITION: int = code_pb2.FAILED_PRECONDITION
ABORTED: int = code_pb2.ABORTED
OUT_OF_RANGE: int = code_pb2.OUT_OF_RANGE
UNIMPLEMENTED: int = code_pb2.UNIMPLEMENTED
INTERNAL: int = code_pb2.INTERNAL

DETAILS_KEY = "grpc-status-details-bin"
# A gRPC client accepts 8 KiB of metadata by default; beyond that it sees RESOURCE_EXHAUSTED without details.
DETAILS_BUDGET_BYTES = 6000


class RequestError(SwitchError):
    """A request, or an update of it, is refused; ``code`` is a google.rpc.Code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def invalid(message: str) -> RequestError:
    """Return INVALID_ARGUMENT: the request contradicts the P4Info or the specification."""
    return RequestError(INVALID_ARGUMENT, message)


def not_found(message: str) -> RequestError:
    """Return NOT_FOUND: the object does not exist."""
    return RequestError(NOT_FOUND, message)


def denied(message: str) -> RequestError:
    """Return PERMISSION_DENIED: the object exists, but this client may not make this change."""
    return RequestError(PERMISSION_DENIED, message)


def unimplemented(message: str) -> RequestError:
    """Return UNIMPLEMENTED: part of the specification, but not of this switch."""
    return RequestError(UNIMPLEMENTED, message)


_CODES: tuple[tuple[type[SwitchError], int], ...] = (
    (errors.EntryExistsError, ALREADY_EXISTS),
    (errors.MemberExistsError, ALREADY_EXISTS),
    (errors.GroupExistsError, ALREADY_EXISTS),
    (errors.EntryNotFoundError, NOT_FOUND),
    (errors.MemberNotFoundError, NOT_FOUND),
    (errors.GroupNotFoundError, NOT_FOUND),
    (errors.TableFullError, RESOURCE_EXHAUSTED),
    (errors.ProfileFullError, RESOURCE_EXHAUSTED),
    (errors.GroupTooLargeError, RESOURCE_EXHAUSTED),
    (errors.ProfileInUseError, FAILED_PRECONDITION),
    (errors.ConstTableError, PERMISSION_DENIED),
)


def as_request_error(error: Exception) -> RequestError:
    """Return the refusal for an exception from an update or a read; an unexpected one is logged and INTERNAL."""
    if isinstance(error, RequestError):
        return error
    for kind, code in _CODES:
        if isinstance(error, kind):
            return RequestError(code, str(error))
    if isinstance(error, SwitchError):
        return RequestError(INVALID_ARGUMENT, str(error))
    _LOG.error("unexpected failure while serving a request", exc_info=error)
    return RequestError(INTERNAL, f"internal failure of the switch: {error!r}")


def batch_details(results: Sequence[RequestError | None]) -> tuple[str, bytes]:
    """Return the summary and the serialised google.rpc.Status of a batch: a p4.v1.Error per element, OK where None.

    Codes are always complete. If the whole exceeds what a gRPC client accepts by default, later messages are dropped.
    """
    failed = [(index, error) for index, error in enumerate(results) if error is not None]
    # ABORTED only says that another element failed.
    index, first = next((pair for pair in failed if pair[1].code != ABORTED), failed[0])
    summary = f"{len(failed)} of {len(results)} failed; element {index}: {first.message}"
    # The codes alone: the Any that wraps an empty Error takes 40 bytes.
    budget = DETAILS_BUDGET_BYTES - 44 * len(results) - len(summary)
    status = status_pb2.Status(code=UNKNOWN, message=summary)
    for result in results:
        error = p4runtime_pb2.Error(canonical_code=OK)
        if result is not None:
            error.canonical_code = result.code
            budget -= len(result.message)
            if budget >= 0 or result is first:
                error.message = result.message
                error.space = "soft_switch"
        status.details.add().Pack(error)
    return summary, status.SerializeToString()
