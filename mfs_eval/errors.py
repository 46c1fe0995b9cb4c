"""Errors of the evaluation. Each message names the problem and the way out."""

from __future__ import annotations

from host_agent.protocol.errors import MfsError


class EvaluationError(MfsError):
    """Base of all errors that this package raises deliberately."""


class TraceError(EvaluationError):
    """A trace cannot be read or written; the message names file, line and field."""


class ClusterError(EvaluationError):
    """A cluster or fabric description contradicts itself."""


class ServingError(EvaluationError):
    """A serving run is set up inconsistently, or its requests do not complete."""
